"""Brings a category of Amazon Reviews 2023 into the cache: gigabytes, so what has come is kept and gone on with."""

import errno
import json
import os
import re
import shutil
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from urllib.error import HTTPError

from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from agenticrec_lite.data.cache import (
    MANIFEST,
    TIMEOUT,
    SourceFailed,
    cache_folder,
    check_cached,
    first_of,
    listed,
    sha256,
    usable_cache,
)
from agenticrec_lite.errors import UserError, first_line
from agenticrec_lite.runs import replacing
from agenticrec_lite.runs.files import remove, remove_leftovers

AMAZON = {  # by our name: the category's name in the files
    "amazon-2023/CDs": "CDs_and_Vinyl", "amazon-2023/Instruments": "Musical_Instruments",
    "amazon-2023/Office": "Office_Products", "amazon-2023/Games": "Video_Games",
}
HUB_REPOSITORY = "McAuley-Lab/Amazon-Reviews-2023"
OFFICIAL_BASE = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/raw"
HUB_PARTS = "hub.part"  # the folder of what the hub's client has brought so far
ATTEMPTS = 5
PAUSE = 1.0  # seconds before the second attempt, then twice as long each time


def fetch_amazon(name: str, force: bool = False, sources: str | None = None) -> Path:
    """Puts the reviews and the items of a category into the cache, unless they are there, and returns their folder.

    A download that broke off stays as *.part beside the lock, and the next call goes on with it, or begins anew if
    the file has changed at its source. The sha256 of both files is checked where the source gives it (the hub does),
    written to sha256.json, and checked by every later call.

    Args:
        name: of `AMAZON`.
        force: fetch again even when the files are there.
        sources: comma-separated, tried in this order: "hub" (Hugging Face, plain text) and "official" (the authors'
            server, gzip). Default: the environment's AGENTICREC_AMAZON2023_SOURCE, or both. An address in
            AGENTICREC_AMAZON2023_URL replaces the authors' server (a mirror) and is then the only default.

    Raises:
        UserError: another process is fetching the same, a cached file is not as it was fetched, the disk has too
            little space, no source gives the files, or the folder cannot be written.
    """
    if name not in AMAZON:
        raise UserError(f"There is no category {name!r} of Amazon Reviews 2023 here; there are: {', '.join(AMAZON)}.")
    folder = cache_folder() / name
    base = os.environ.get("AGENTICREC_AMAZON2023_URL")
    sources = sources or os.environ.get("AGENTICREC_AMAZON2023_SOURCE") or ("official" if base else None)
    known: dict[str, Callable[[], dict[str, Path]]] = {
        "hub": partial(_from_hub, AMAZON[name], folder),
        "official": partial(_from_official, AMAZON[name], folder, base or OFFICIAL_BASE),
    }
    with usable_cache(name, folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(folder / ".lock", timeout=0):
                if not force and any((folder / file).exists() for file in (MANIFEST, *_names(AMAZON[name]))):
                    check_cached(name, folder)
                else:
                    _install(first_of(known, name, sources), folder, AMAZON[name])
        except Timeout:
            raise UserError(f"Another process is fetching {name} into {folder}; wait for it.") from None
    return folder


def files_in(folder: Path, name: str) -> tuple[Path, Path]:
    """The files of reviews and of items in a folder that `fetch_amazon` has filled."""
    files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    stems = [Path(path).stem for path in _paths(AMAZON[name])]
    return tuple(next(folder / file for file in files if file.startswith(f"{stem}.")) for stem in stems)


def _paths(category: str) -> list[str]:
    return [f"review_categories/{category}.jsonl", f"meta_categories/meta_{category}.jsonl"]


def _names(category: str) -> list[str]:
    """What the files of a category may be called in the cache: plain or gzip."""
    return [f"{Path(path).name}{suffix}" for path in _paths(category) for suffix in ("", ".gz")]


def _from_hub(category: str, folder: Path) -> dict[str, Path]:
    import huggingface_hub as hub  # takes a second

    names = [f"raw/{path}" for path in _paths(category)]
    files = {}
    try:
        listed = {info.path: info for info in hub.HfApi().get_paths_info(HUB_REPOSITORY, names, repo_type="dataset")}
        _need_space(folder, sum(listed[name].size for name in names))
        for name in names:  # the client checks their sizes itself
            path = Path(hub.hf_hub_download(HUB_REPOSITORY, name, repo_type="dataset", local_dir=folder / HUB_PARTS))
            if listed[name].lfs and sha256(path) != listed[name].lfs.sha256:
                path.unlink()
                raise SourceFailed(f"{name} is not as {HUB_REPOSITORY} lists it")
            files[path.name] = path
    except (SourceFailed, UserError):
        raise
    except Exception as error:  # of several libraries below it, some of them its own choice
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS):
            raise
        raise SourceFailed(f"{HUB_REPOSITORY} gave no file, {first_line(error)}") from None
    return files


def _from_official(category: str, folder: Path, base: str) -> dict[str, Path]:
    files = {}
    for path in _paths(category):
        part = folder / f"{Path(path).name}.gz.part"
        _download(f"{base.rstrip('/')}/{path}.gz", part)
        with open(part, "rb") as file:
            gzipped = file.read(2) == b"\x1f\x8b"
        if not gzipped:
            part.unlink()
            raise SourceFailed(f"{base} gave something else than gzip for {path}.gz")
        files[part.stem] = part
    return files


def _install(files: dict[str, Path], folder: Path, category: str) -> None:
    """Moves whole files to their names, then writes the manifest, which makes the folder count as fetched.

    Then it removes what an earlier fetch left: files that its manifest named, and parts. All else stays.
    """
    before = listed(folder).intersection(_names(category))
    manifest = {name: sha256(path) for name, path in files.items()}
    for name, path in files.items():
        os.replace(path, folder / name)
    with replacing(folder / MANIFEST) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1))
    parts = [f"{name}.part" for name in _names(category)]
    for name in {HUB_PARTS, *parts, *(f"{part}.json" for part in parts), *before} - set(files):
        remove(folder / name)
    remove_leftovers(folder, "|".join(map(re.escape, [MANIFEST, *(f"{part}.json" for part in parts)])))


def _download(url: str, part: Path) -> None:
    """Leaves the whole file at `part`, going on with what is there if it is of the same file."""
    failure = ""
    for attempt in range(ATTEMPTS):
        time.sleep(PAUSE * (2**attempt - 1))
        try:
            if _attempt(url, part):
                return
            failure = "it broke off"
        except HTTPError as error:
            if error.code == 416:  # asked for what lies beyond its end
                part.unlink()
            elif error.code < 500 and error.code != 429:
                raise SourceFailed(f"{url} answered {error.code} {error.reason}") from None
            failure = f"it answered {error.code} {error.reason}"
        except (OSError, HTTPException, ValueError) as error:  # URLError is an OSError; ValueError: no address
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise
            failure = str(error) or type(error).__name__
    raise SourceFailed(f"{url} gave no whole file in {ATTEMPTS} attempts ({failure}); what has come is kept")


def _attempt(url: str, part: Path) -> bool:
    """Asks once, and says whether `part` is now whole. Beside it: of which version of the file it is, and how long."""
    note = part.with_name(f"{part.name}.json")
    version = json.loads(note.read_text(encoding="utf-8")) if note.exists() and part.exists() else {}
    have = part.stat().st_size if version else 0
    if version and have == version["size"]:
        return True
    asked = {"Range": f"bytes={have}-", "If-Range": version["validator"]} if have else {}
    with urllib.request.urlopen(urllib.request.Request(url, headers=asked), timeout=TIMEOUT) as answer:
        goes_on = answer.status == 206 and (answer.headers["Content-Range"] or "").startswith(f"bytes {have}-")
        if answer.status == 206 and not (goes_on and _validator(answer.headers) == version["validator"]):
            part.unlink()  # of another version, or another range: begin anew
            return False
        have = have if goes_on else 0
        length = answer.headers["Content-Length"]
        size = have + int(length) if length else None
        _need_space(part.parent, (size or 0) - have)
        bar = tqdm(total=size, initial=have, unit="B", unit_scale=True, desc=part.stem, disable=None)
        with bar, open(part, "ab" if goes_on else "wb") as file:
            if size and _validator(answer.headers):
                with replacing(note) as fresh:
                    fresh.write_text(json.dumps({"validator": _validator(answer.headers), "size": size}))
            else:  # then it cannot be gone on with
                note.unlink(missing_ok=True)
            while chunk := answer.read1(1 << 20):
                file.write(chunk)
                bar.update(len(chunk))
    return size is None or part.stat().st_size == size


def _validator(headers: HTTPMessage) -> str | None:
    """What tells versions of a file apart: a strong ETag, or else when it was modified."""
    tag = headers["ETag"]
    return tag if tag and not tag.startswith("W/") else headers["Last-Modified"]


def _need_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(f"{folder} has {free / 1e9:.1f} GB free and {needed / 1e9:.1f} GB are to come; free some, or "
                        "set AGENTICREC_CACHE to a folder on another disk.")
