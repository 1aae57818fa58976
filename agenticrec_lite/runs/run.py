"""Run folders: what a run is, what it has done, what it measured.

    runs/<name>/config.yaml         resolved: dataset, profile with all its settings, seed
                state.json          finished stages with what each left behind; re-running skips them
                metrics.csv         a row a training step; columns may appear as the run goes on
                trajectories/       a file a stage, such as rta.jsonl, with a row a trajectory
                checkpoints/        safetensors
                result.json         the figures that tables and notebooks read
                ranks.csv           a row a test task: its user, and the positive's rank under each method

Every file but those of trajectories, which only grow, is written whole or not at all. One process at a time writes to a
folder;
the system frees its lock when that process ends, however it ends. Readers (`read_*`) need no lock. Of several processes
that train together the first writes; the others keep the same record in memory.
"""

import csv
import platform
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from filelock import FileLock, Timeout

from agenticrec_lite.errors import UserError
from agenticrec_lite.profiles import completed
from agenticrec_lite.runs import files, processes
from agenticrec_lite.runs.files import plain, replacing

if TYPE_CHECKING:
    import pandas as pd

WRITTEN = ("config.yaml", "state.json", "metrics.csv", "result.json", "ranks.csv")  # config.yaml before the others
TRAJECTORIES = "trajectories"


class Run(AbstractContextManager):
    """An open run folder; made by `open_run`, closed by `close` or at the end of a `with` block.

    Attributes:
        result: What result.json holds; set by `write_result`.
    """

    def __init__(self, folder: Path, config: dict[str, Any], lock: FileLock | None):
        self.folder, self.config, self._lock = folder, config, lock
        self.checkpoints = folder / "checkpoints"
        self._state = files.read_json(folder / "state.json")
        self.result = files.read_json(folder / "result.json")
        self._metrics = files.read_csv(folder / "metrics.csv")

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the folder free for other processes."""
        if self._lock:
            self._lock.release(force=True)

    def done(self, stage: str) -> bool:
        """Whether `stage` has been marked as finished, now or by an earlier call of the same command."""
        return stage in self._state

    def mark(self, stage: str, payload: Any = None) -> None:
        """Remember that `stage` is finished, and what later stages need of it."""
        state = self._state | {stage: plain(payload)}
        self._write_json("state.json", state)
        self._state = state  # only now: what could not be written is not done

    def payload(self, stage: str) -> Any:
        """What `mark` was given for a finished stage. Raises KeyError if the stage is not finished."""
        return self._state[stage]

    def log_metrics(self, row: Mapping[str, Any]) -> None:
        """Add a row to metrics.csv; a name not seen before becomes a new column, empty in the older rows."""
        self._metrics.append({key: "" if value is None else value for key, value in plain(row).items()})
        self._write_metrics()

    def log_trajectories(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows of one stage to its file of trajectories: all of them, or none if the disk is full."""
        if self._lock and rows:
            (stage,) = {row["stage"] for row in rows}
            files.append_lines(trajectories_of(self.folder, stage), rows)

    def logged_steps(self, stage: str) -> int:
        """The last step that metrics.csv and the trajectories have, with all steps before it; 0 if there is none.

        Of the trajectories only the first and the last row are read.
        """
        measured = {int(float(row.get("step") or 0)) for row in self._metrics if row.get("stage") == stage}
        path = trajectories_of(self.folder, stage)
        first = next((row.get("step") for row in files.read_lines(path)), None)
        last = next((row.get("step") for _, row in files.rows_from_end(path)), 0) if first == 1 else 0
        return min(last, next(step for step in count() if step + 1 not in measured))

    def rewind(self, stage: str, step: int = 0) -> None:
        """Forget the logged rows of `stage` from `step` on (step itself too), before a stage cut off repeats them."""

        def kept(row: Mapping[str, Any]) -> bool:
            return row.get("stage") != stage or float(row.get("step") or 0) < step

        self._metrics = [row for row in self._metrics if kept(row)]
        self._write_metrics()
        if self._lock:
            files.cut_lines(trajectories_of(self.folder, stage), step)

    def write_result(self, **fields: Any) -> None:
        """Set fields of result.json; the peak memory and the versions are kept up to date along with them."""
        peak = max(peak_rss_mb(), self.result.get("peak_rss_mb", 0.0))
        self.result |= plain(fields) | {"peak_rss_mb": peak, "versions": versions()}
        self._write_json("result.json", self.result)

    def write_ranks(self, ranks: "pd.DataFrame") -> None:
        """Write ranks.csv: task_id, user and a column a method; infinite where the positive is not in the list."""
        if self._lock:
            with replacing(self.folder / "ranks.csv") as temporary:
                ranks.to_csv(temporary, index=False)

    @contextmanager
    def timer(self, stage: str) -> Iterator[None]:
        """Add the seconds of the block to result.json's seconds[stage]; all attempts count."""
        started = time.monotonic()
        try:
            yield
        finally:
            seconds = dict(self.result.get("seconds", {}))
            seconds[stage] = round(seconds.get(stage, 0.0) + time.monotonic() - started, 2)
            self.write_result(seconds=seconds)

    def _write_json(self, name: str, value: Any) -> None:
        if self._lock:
            files.write_json(self.folder / name, value)

    def _write_metrics(self) -> None:
        if not self._lock:
            return
        path = self.folder / "metrics.csv"
        if not self._metrics:
            path.unlink(missing_ok=True)
            return
        columns = list(dict.fromkeys(key for row in self._metrics for key in row))
        with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self._metrics)


def open_run(folder: str | Path, config: Mapping[str, Any]) -> Run:
    """Create a run folder, or open the one that is there to go on with the same configuration.

    Args:
        folder: e.g. runs/demo; made if missing. Other files in it stay, but a new run needs a folder without files of
            a run's names.
        config: resolved configuration: dataset, profile (with all its settings), seed.

    Raises:
        UserError: another process writes to the folder, its configuration differs, it holds files of a run's names
            but no config.yaml, or it cannot be written.
    """
    folder, config = Path(folder), plain(completed(config))
    if not processes.is_main():
        return Run(folder, config, None)
    try:
        _check_ours(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # A singleton: a notebook cell that is run again gets the lock which its own kernel already holds.
        lock = FileLock(folder / ".lock", is_singleton=True, thread_local=False)
        lock.acquire(timeout=0)
        try:
            _settle(folder, config)
            return Run(folder, config, lock)
        except BaseException:
            lock.release()  # not by force: this process may hold the folder for a run that goes on
            raise
    except Timeout:
        raise UserError(f"Another process is writing to {folder}; wait for it or choose another folder.") from None
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"Cannot open the run folder {folder}: {reason}; choose one that can be written.") from error


def trajectories_of(folder: Path, stage: str) -> Path:
    """The file of a stage's trajectories in a run folder."""
    return folder / TRAJECTORIES / f"{stage}.jsonl"


def _check_ours(folder: Path) -> None:
    """A run writes its config.yaml first: where there is none, files of a run's names are somebody else's."""
    others = [name for name in WRITTEN[1:] if (folder / name).exists()]
    others += [f"{name}/" for name in ("checkpoints", TRAJECTORIES) if any(files.names_in(folder / name))]
    if others and not (folder / "config.yaml").exists():
        raise UserError(
            f"Cannot open the run folder {folder}: it holds {others[0]}, but no config.yaml of a run; choose another "
            "folder, or move that away."
        )


def _settle(folder: Path, config: dict[str, Any]) -> None:
    """Under the lock: clear what a killed process left half-written, and check or write the configuration."""
    path = folder / "config.yaml"
    if path.exists():
        old, new = _flat(read_config(folder)), _flat(config)
        differing = [key for key in old | new if old.get(key) != new.get(key)]
        if differing:
            changes = ", ".join(f"{key} was {old.get(key)}, now {new.get(key)}" for key in differing[:5])
            raise UserError(f"{folder} holds another run ({changes}); choose another folder or delete that one.")
    else:
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    files.remove_leftovers(folder, "|".join(map(re.escape, WRITTEN)))
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    files.remove_leftovers(checkpoints, r"\w+")  # adapters, each a folder with its stage's name
    for steps in checkpoints.glob("*_steps"):
        files.remove_leftovers(steps, r"\d+\.safetensors")


def read_config(folder: str | Path) -> dict[str, Any]:
    """The config.yaml of a run folder: dataset, profile, seed, settings. Raises UserError if there is none."""
    path = _there(folder, "config.yaml")
    with files.reading(path):
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it holds no settings")
    return completed(config)


def settings_of(config: dict[str, Any]) -> dict[str, dict]:
    """The sections of a run's config: its profile, as it was resolved."""
    return {name: section for name, section in config.items() if isinstance(section, dict) and name != "extensions"}


def read_result(folder: str | Path) -> dict[str, Any]:
    """The result.json of a run folder. Raises UserError if there is none yet."""
    return files.read_json(_there(folder, "result.json"))


def read_metrics(folder: str | Path) -> "pd.DataFrame":
    """The metrics.csv of a run folder, a row a step, NaN where empty. Raises UserError if there is none."""
    return _read_table(folder, "metrics.csv")


def read_ranks(folder: str | Path) -> "pd.DataFrame":
    """The ranks.csv of a finished run folder. Raises UserError if there is none."""
    return _read_table(folder, "ranks.csv")


def read_trajectories(folder: str | Path, stage: str | None = None) -> Iterator[dict[str, Any]]:
    """The logged trajectories of a run, a row each: of one stage in the order written, or stage after stage by name.

    Raises:
        UserError: The run has no trajectories, or a row is damaged.
    """
    logged = _there(folder, TRAJECTORIES)
    paths = sorted(logged.glob("*.jsonl")) if stage is None else [trajectories_of(Path(folder), stage)]
    return (row for path in paths for row in files.read_lines(path))


def peak_rss_mb() -> float:
    """The most memory this process has held resident so far, in MB (10^6 bytes)."""
    if sys.platform == "win32":
        import psutil

        return round(psutil.Process().memory_info().peak_wset / 1e6, 1)
    import resource  # not there on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6, 1)


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that the figures depend on, without importing them."""
    names = ("torch", "transformers", "trl", "peft", "bitsandbytes", "numpy", "pandas")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names."""
    if not isinstance(config, dict):
        return {prefix[:-1]: config}
    return {k: v for key, inner in config.items() for k, v in _flat(inner, f"{prefix}{key}.").items()}


def _read_table(folder: str | Path, name: str) -> "pd.DataFrame":
    import pandas as pd  # here, because the command line's quick answers need no pandas

    path = _there(folder, name)
    with files.reading(path):
        return pd.read_csv(path)


def _there(folder: str | Path, name: str) -> Path:
    """The path of a file that a reader asks for."""
    path = Path(folder) / name
    if not path.exists():
        raise UserError(f"There is no {path}; name the folder of a run that has come that far.")
    return path
