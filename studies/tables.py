"""Tables beside the runs: what `agenticrec report` prints of studies that are no runs."""

from pathlib import Path

from agenticrec_lite.runs.files import plain, read_json, write_json


def write(out: Path, *tables: dict) -> None:
    """Replace a file by these tables, each {"title": ..., "text": ..., "rows": [{column: value}, ...]}."""
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, plain({"tables": tables}))


def rows(out: Path) -> list[dict]:
    """The rows of a file's only table; none if there is no file."""
    return read_json(out)["tables"][0]["rows"] if out.exists() else []
