"""Run folders: written whole or not at all, locked, resumable; see `runs.run`."""

from agenticrec_lite.runs.files import plain, replacing
from agenticrec_lite.runs.run import (
    Run,
    open_run,
    peak_rss_mb,
    read_config,
    read_metrics,
    read_ranks,
    read_result,
    read_trajectories,
    settings_of,
    versions,
)

__all__ = [
    "Run", "open_run", "peak_rss_mb", "plain", "read_config", "read_metrics", "read_ranks", "read_result",
    "read_trajectories", "replacing", "settings_of", "versions",
]  # fmt: skip
