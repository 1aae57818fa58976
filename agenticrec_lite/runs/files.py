"""Files of a run folder: written whole or not at all, and read with a sentence where one is damaged."""

import csv
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError

from agenticrec_lite.errors import UserError, first_line

MEND = {
    "config.yaml": "put back a copy of it, or choose another folder",
    "state.json": "delete it, and every stage runs again",
    "result.json": "delete it, and its figures are made again from the other files",
    "ranks.csv": "delete it, and the same command writes it again",
    "metrics.csv": "put back a copy of it, or delete it and go on without the curves so far",
    "trajectories.jsonl": "put back a copy of it, or delete that line and go on without it",
}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file or a folder whole or not at all: yields a temporary path beside `path`, moved over it on success.

    Works for anything that writes to a path (text, safetensors). The folder around it is made if it is missing.

    Raises:
        UserError: it could not be written (disk full, no permission); `path` is as it was before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        for written in [file for file in temporary.rglob("*") if file.is_file()] or [temporary]:
            with open(written, "rb+") as file:
                os.fsync(file.fileno())
        if temporary.is_dir():
            shutil.rmtree(path, ignore_errors=True)  # a folder can only be moved to where none is
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise not_written(path, error) from error
    finally:
        remove(temporary)


def not_written(path: Path, error: Exception) -> UserError:
    """What to say when `path` could not be written."""
    reason = getattr(error, "strerror", None) or error
    return UserError(f"Could not write {path}: {reason}. Free space or mend the folder; the same command then goes on.")


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def reading(path: Path, place: str = "") -> Iterator[None]:
    """Turn what a damaged file raises into a sentence; `place` says where in it, such as " in line 3"."""
    try:
        yield
    except (ValueError, TypeError, csv.Error, yaml.YAMLError) as error:  # JSON's and Unicode's are ValueErrors
        mend = MEND.get(path.name, "put back a copy of it, or delete it")
        raise UserError(f"{path} is damaged{place}: {mend} ({first_line(error)}).") from None


def plain(value: Any) -> Any:
    """The same value in JSON's types: tensors and arrays become numbers and lists, NaN becomes None."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, str | bool | int | None):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "tolist"):  # numpy and torch, scalars too
        return plain(value.tolist())
    if isinstance(value, Iterable):
        return [plain(inner) for inner in value]
    return str(value)


def read_json(path: Path) -> dict[str, Any]:
    """An object in a JSON file, empty if there is no file. Raises UserError if it is damaged."""
    with reading(path):
        value = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if not isinstance(value, dict):
            raise ValueError("it holds no object")
    return value


def write_json(path: Path, value: Any) -> None:
    with replacing(path) as temporary:
        text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_csv(path: Path) -> list[dict[str, Any]]:
    """Rows of metrics.csv, as text; none if there is no file. Raises UserError if it is damaged."""
    if not path.exists():
        return []
    with reading(path), open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
        for number, row in enumerate(rows, 1):
            if None in row or None in row.values():
                raise ValueError(f"row {number} has not as many values as there are columns")
            float(row.get("step") or 0)
    return rows


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Lines of trajectories.jsonl that end in a newline, each with its row.

    A process killed while it wrote leaves a last one that does not. Raises UserError where a line is damaged.
    """
    if path.exists():
        with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
            for number, line in enumerate(file, 1):
                if line.endswith("\n"):
                    with reading(path, f" in line {number}"):
                        row = json.loads(line)
                        if not isinstance(row, dict):
                            raise ValueError("it holds no object")
                    yield line, row
