"""Where what comes with the package lies: nano and the generated stores."""

from pathlib import Path

_IN_WHEEL = Path(__file__).with_name("carried_data")
CARRIED = _IN_WHEEL if _IN_WHEEL.is_dir() else Path(__file__).parents[1] / "data"  # a checkout's
