"""Files of a run folder: written whole or not at all, and read with a sentence where one is damaged."""

import csv
import json
import math
import mmap
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError

from agenticrec_lite.errors import UserError, first_line

TO_DO = {
    "config.yaml": "put back a copy of it, or choose another folder",
    "state.json": "delete it, and every stage runs again",
    "result.json": "delete it, and its figures are made again from the other files",
    "ranks.csv": "delete it, and the same command writes it again",
    "metrics.csv": "put back a copy of it, or delete it and go on without the curves so far",
    ".jsonl": "put back a copy of it, or delete that line and go on without it",
}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file or a folder whole or not at all: yields a temporary path beside `path`, moved over it on success.

    Works for anything that writes to a path (text, safetensors). The folder around it is made if it is missing. A
    folder takes the place of one that holds only what the new one holds too, by name.

    Raises:
        UserError: it could not be written (disk full, no permission), or a folder that is there holds other files;
            `path` is as it was before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        for written in [file for file in temporary.rglob("*") if file.is_file()] or [temporary]:
            with open(written, "rb+") as file:
                os.fsync(file.fileno())
        if temporary.is_dir():
            check_replaceable(path, names_in(temporary))
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


def names_in(folder: Path) -> Iterator[str]:
    """The files below a folder, by their path in it; none if there is no folder."""
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_dir():
            yield path.relative_to(folder).as_posix()


def check_replaceable(folder: Path, ours: Iterable[str] = ()) -> None:
    """Nothing that this package did not make is deleted: a folder is replaced if it holds no other files than `ours`.

    Args:
        folder: It may be missing.
        ours: Files in it that may go, by their path in it.

    Raises:
        UserError: It holds another file.
    """
    ours = set(ours)
    check_none(folder, (name for name in names_in(folder) if name not in ours))


def check_none(folder: Path, others: Iterable[str]) -> None:
    """Raises UserError if there are `others`: files in the folder that would be lost, and are not of this package."""
    for name in others:
        raise UserError(
            f"{folder} cannot be written: it holds {name}, which is not of this command; choose another folder, or "
            "move that file away."
        )


def remove_leftovers(folder: Path, names: str) -> None:
    """Remove what `replacing` leaves when its process is killed: `.NAME.PID.tmp`, NAME matching a regular expression.

    Nothing else in the folder, and nothing below it, is touched.
    """
    if folder.is_dir():
        for path in [path for path in folder.iterdir() if re.fullmatch(rf"\.({names})\.\d+\.tmp", path.name)]:
            remove(path)


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
        to_do = TO_DO.get(path.name) or TO_DO.get(path.suffix, "put back a copy of it, or delete it")
        raise UserError(f"{path} is damaged{place}: {to_do} ({first_line(error)}).") from None


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


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file of JSON lines, none if there is no file. Raises UserError where a line is damaged.

    A process killed while it wrote leaves a last line without a newline, which is passed over.
    """
    if path.exists():
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.endswith(b"\n"):
                    yield _row(line, path, f" in line {number}")


def rows_from_end(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The same rows, the last one first, each with the byte after it; what comes before is not read."""
    if not path.exists() or not path.stat().st_size:
        return
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        end = text.rfind(b"\n") + 1
        while end:
            start = text.rfind(b"\n", 0, end - 1) + 1
            yield end, _row(text[start:end], path, f" at byte {start}")
            end = start


def append_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows to a file of JSON lines: all of them, or none if the disk is full. Cuts off a half-written last line.

    Raises:
        UserError: They could not be written.
    """
    lines = "".join(json.dumps(plain(row), ensure_ascii=False) + "\n" for row in rows).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        before = _whole_lines(path)
        with open(path, "ab") as file:
            try:
                file.truncate(before)
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                with suppress(OSError):
                    os.truncate(path, before)
                raise
    except OSError as error:
        raise not_written(path, error) from error


def cut_lines(path: Path, step: int) -> None:
    """Cut off the rows of `step` and later ones, in a file of JSON lines whose steps never go down.

    Raises:
        UserError: A row in the way is damaged, or the file cannot be written.
    """
    end = next((end for end, row in rows_from_end(path) if float(row.get("step") or 0) < step), 0)
    try:
        if end:
            os.truncate(path, end)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise not_written(path, error) from error


def _whole_lines(path: Path) -> int:
    """How many bytes of a file come before what follows its last newline."""
    if not path.exists() or not path.stat().st_size:
        return 0
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        return text.rfind(b"\n") + 1


def _row(line: bytes, path: Path, place: str) -> dict[str, Any]:
    with reading(path, place):
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError("it holds no object")
    return row
