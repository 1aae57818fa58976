"""Tables beside the runs: what `agenticrec report` prints of studies that are no runs."""

import inspect
import sys
from collections.abc import Callable
from pathlib import Path

from agenticrec_lite.errors import UserError
from agenticrec_lite.runs.files import plain, read_json, write_json


def write(out: Path, *tables: dict) -> None:
    """Replace a file by these tables, each {"title": ..., "text": ..., "rows": [{column: value}, ...]}."""
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, plain({"tables": tables}))


def rows(out: Path) -> list[dict]:
    """The rows of a file's only table; none if there is no file."""
    return read_json(out)["tables"][0]["rows"] if out.exists() else []


def command(work: Callable[..., None], usage: str) -> None:
    """Call `work` with the words of the command line; what a user can mend ends in a sentence."""
    try:
        words = inspect.signature(work).bind(*sys.argv[1:])
    except TypeError:
        sys.exit(f"usage: python -m studies.{usage}")
    try:
        work(*words.args)
    except UserError as error:
        sys.exit("Error: " + " ".join(str(error).split()))
    except KeyboardInterrupt:
        sys.exit("\nInterrupted.")
