"""Executes the committed notebooks anew: `make notebooks`, or `make notebooks NOTEBOOKS="04 07"` for some.

Each gets its Colab cells, runs from a clean kernel with the default budget, and is committed as it ran.
"""

import os
import sys
import time
from pathlib import Path

import papermill
from clean_notebook import commit
from colab import ROOT, refresh

SOURCES = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
DEMO = ROOT / "runs" / "demo"


def chosen(numbers: list[str]) -> list[Path]:
    """The notebooks with these numbers, all if there are none."""
    known = {path.name[:2]: path for path in SOURCES}
    if unknown := [number for number in numbers if number not in known]:
        sys.exit(f"There is no notebook {unknown[0]!r}; there are {', '.join(known)}.")
    return [known[number] for number in numbers or known]


def main(numbers: list[str]) -> None:
    paths = chosen(numbers)
    if any(path.name.startswith("00") for path in paths) and DEMO.exists():
        sys.exit("runs/demo holds a run already, and 00 must show a fresh one; move or remove it first.")
    os.environ.pop("AGENTICREC_BUDGET", None)
    refresh(paths)
    folder = ROOT / "runs" / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        started = time.monotonic()
        papermill.execute_notebook(path, folder / path.name, kernel_name="python3", cwd=path.parent)
        commit(folder / path.name, path)
        print(f"{path.relative_to(ROOT)}: executed in {(time.monotonic() - started) / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
