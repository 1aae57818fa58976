"""Tables beside the runs: what `agenticrec report` prints of studies that are no runs."""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    """Call `work` with the words of the command line."""
    try:
        words = inspect.signature(work).bind(*sys.argv[1:])
    except TypeError:
        sys.exit(f"usage: python -m studies.{usage}")
    with one_sentence("Interrupted."):
        work(*words.args)


@contextmanager
def one_sentence(interrupted: str) -> Iterator[None]:
    """Within the block what a user can mend ends the process with its sentence, and Ctrl-C with this one."""
    try:
        yield
    except UserError as error:
        sys.exit("Error: " + " ".join(str(error).split()))
    except KeyboardInterrupt:
        sys.exit(f"\n{interrupted}")
