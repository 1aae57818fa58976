"""One's own data as an `InteractionLog`: tables in memory, or files of any usual format."""

import shutil
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from agenticrec_lite.data.formats import (
    INTERACTIONS,
    ITEMS,
    OFFICIAL,
    Form,
    Source,
    form_of,
    known_columns,
    plain,
)
from agenticrec_lite.data.log import InteractionLog, make_log
from agenticrec_lite.data.tables import Table, read, split_categories
from agenticrec_lite.data.times import to_seconds
from agenticrec_lite.errors import UserError, first_line

ENDINGS = tuple(
    f"{kind}{packed}"
    for kind in ".csv .tsv .txt .dat .data .inter .item .json .jsonl .ndjson .parquet".split()
    for packed in ("", ".gz")
)
OF_ITEMS = ("items", "meta", "movies", "u.item")  # how a file of items is called, where its content does not say it
NEEDED = (
    "two files: interactions (user,item,timestamp[,rating]) and items*.csv or .parquet (item,title[,categories,price,"
    "year]), a folder of MovieLens or RecBole, or reviews and meta_*.jsonl[.gz] of Amazon Reviews"
)
FIRST_LIKELY = 10**8  # second, in 1973: times before it are hardly seconds since 1970
File = tuple[Source, Form]


def from_frames(interactions: pd.DataFrame, items: pd.DataFrame, name: str = "own") -> InteractionLog:
    """Any interactions as a log.

    Args:
        interactions: [user, item, timestamp] and perhaps rating; a row an interaction, in any order. Timestamps as in
            `times.to_seconds`: numbers since 1970 or dates, taken as UTC where they have no zone.
        items: [item, title] and perhaps categories (a sequence of str, or str joined by "|", most important first),
            price and year; a row an item. Items without interactions may be there.
        name: of the log; errors begin with it.

    Columns may have any of the names in `formats.NAMES` (user_id, userId, ...); further ones are ignored. Nothing is
    left out: what cannot be used is an error, and repeated interactions of a user with an item are kept.

    Raises:
        UserError: a column is missing or holds what it must not; the sentence names the row, counted from 0.
    """
    return _log(name, _ours(name, INTERACTIONS, interactions), _ours(name, ITEMS, items))


def load_files(place: str) -> InteractionLog:
    """One's own files as a log named like `place`, and one line printed on how they were understood.

    Args:
        place: a folder, a .zip, one file of interactions, or two paths with a comma between; see docs/data.md for the
            formats. What a file is, is seen from its content. Where there are no items, their ids are the titles.

    Raises:
        UserError: the files cannot be told apart or read, or hold what they must not.
    """
    with _sources(place) as sources:
        interactions, items = _roles(place, sources)
        log, line = _load(place, interactions, items)
    print(f"{plain(place, 200)}: {line}")
    return log


def _ours(name: str, what: str, table: pd.DataFrame) -> pd.DataFrame:
    found = known_columns(name, what, list(map(str, table.columns)))
    return table.iloc[:, list(found)].set_axis(list(found.values()), axis=1)


def _log(name: str, interactions: pd.DataFrame, items: pd.DataFrame) -> InteractionLog:
    """Optional columns are filled in."""
    categories = items["categories"] if "categories" in items else [()] * len(items)
    interactions = interactions.assign(rating=interactions.get("rating", np.nan))
    items = items.assign(categories=[split_categories(value) for value in categories], price=items.get("price", np.nan),
                         year=items.get("year", np.nan))  # fmt: skip
    return make_log(name, interactions, items)


# --- which files ---


@contextmanager
def _sources(place: str) -> Iterator[list[Source]]:
    """The files of a place; those of a .zip lie in a temporary folder for as long, under names of ours."""
    path = Path(place).expanduser()
    if path.is_dir():
        there = sorted(each for each in path.iterdir() if each.is_file() and not each.name.startswith("."))
        files = [each for each in there if each.name.endswith(ENDINGS)]
        files = files or [each for each in there if each.suffix == ".zip"]
    else:
        files = [path] if path.is_file() else [Path(part.strip()).expanduser() for part in place.split(",")]
    with tempfile.TemporaryDirectory(prefix="agenticrec-") as scratch:
        sources = []
        for file in files:
            if file.suffix == ".zip" and file.is_file():
                sources += _unzip(file, Path(scratch))
            else:
                sources.append(Source(file, file.name, str(file)))
        yield sources


def _unzip(path: Path, scratch: Path) -> list[Source]:
    """The members of a .zip that may be data. No name from inside it becomes a path here."""
    sources = []
    try:
        with zipfile.ZipFile(path) as archive:
            members = [(member, member.filename.rpartition("/")[2]) for member in archive.infolist()]
            members = [
                (member, name) for member, name in members
                if name.endswith(ENDINGS) and not name.startswith(".") and "__MACOSX/" not in member.filename
            ]  # fmt: skip
            needed, free = sum(member.file_size for member, _ in members), shutil.disk_usage(scratch).free
            if needed > free:
                raise UserError(
                    f"{scratch.parent} has {free / 1e9:.1f} GB free and {needed / 1e9:.1f} GB are to come "
                    f"out of {path}; set TMPDIR to a folder on another disk."
                )
            for member, name in members:
                ending = max((ending for ending in ENDINGS if name.endswith(ending)), key=len)
                with archive.open(member) as packed:
                    with tempfile.NamedTemporaryFile(suffix=ending, dir=scratch, delete=False) as file:
                        shutil.copyfileobj(packed, file, 1 << 20)
                sources.append(Source(Path(file.name), name, f"{name} in {path}"))
    # RuntimeError: it is encrypted; NotImplementedError: an unknown way to pack
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, NotImplementedError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({plain(first_line(error), 200)}); unpack it yourself and give the folder."
        ) from None
    return sources


def _roles(place: str, sources: list[Source]) -> tuple[File, File | None]:
    """The file of interactions and that of items, if there is one, by their columns; by their names as a last way."""
    files = [(source, form_of(source)) for source in sources]
    interactions = [file for file in files if file[1].role == INTERACTIONS]
    items = [file for file in files if file[1].role == ITEMS]
    if not items:
        items = [file for file in files if file not in interactions
                 and (file[0].name.startswith(OF_ITEMS) or ".item" in file[0].name)]  # fmt: skip
    alone = len(files) == 1 and files[0][0].path.stat().st_size > 0
    if not interactions and (items or alone):  # to say what is wrong with it
        interactions = [file for file in files if file not in items]
    if len(interactions) != 1 or len(items) > 1:
        found = ", ".join(plain(source.name) for source in sources) or "none of such a kind"
        raise UserError(f"{place} must be {NEEDED}; it has {found}.")
    for source, form in (*interactions, *items):
        if form.kind == "text" and len(form.columns) == 1:
            raise UserError(f"{source.shown} is of no known kind; give {NEEDED}.")
    return interactions[0], items[0] if items else None


# --- what they hold ---


def _load(place: str, interactions: File, items: File | None) -> tuple[InteractionLog, str]:
    """The log, and the line on how it was read."""
    reviews, described = _is_reviews(*interactions, items), items is not None and _is_meta(items[1])
    guesses = list(interactions[1].guesses) if reviews else []
    if reviews and described:
        from agenticrec_lite.data.amazon import join_files, sentence  # DuckDB only where it is needed

        log = join_files(interactions[0].path, items[0].path, place)
        said = f"{_said(*interactions)}) and {_said(*items)}); {sentence(log.reading)}"
        return log, _with_guesses(said, guesses)
    if reviews:
        from agenticrec_lite.data.amazon_reader import read_reviews, sentence

        frame, reading = read_reviews(interactions[0].path)
        taken, counts = Table(frame, f"{_said(*interactions)}; {sentence(reading)}", guesses), dict(reading)
    else:
        taken, counts = read(*interactions, INTERACTIONS, place), {}
    dates, how = _times(place, taken)
    taken.frame = taken.frame.assign(timestamp=dates)
    n = len(taken.frame)
    if items is None:
        known = taken.frame["item_id"].dropna().astype(str).unique()
        of_items = Table(pd.DataFrame({"item_id": known, "title": known}), "no file of items: ids are the titles (", [])
    elif described:
        from agenticrec_lite.data.amazon_reader import read_items

        frame, met = read_items(items[0].path, taken.frame["item_id"].astype(str).unique())
        counts |= {case: count for case, count in met.items() if count}
        of_items = Table(frame, f"{_said(*items)}; ", [])
    else:
        of_items = read(*items, ITEMS, place)
        of_items.said += "; "
    if items is not None and items[1].layout:  # as published; one's own must be complete
        _leave_out(place, taken, of_items)
    log = _log(place, taken.frame, of_items.frame)
    left = n - len(log.interactions)
    if left or counts:
        log.reading.update(counts | {"of an item that is unknown or has no title": left, "kept": len(log.interactions)})
    met = "".join(f", {case}: {count:,}" for case, count in counts.items() if count and described)
    said = (f"{taken.said}; {how}; {n:,} rows, {left:,} left out); "
            f"{of_items.said}{len(log.items):,} items{met})")  # fmt: skip
    return log, _with_guesses(said, taken.guesses + of_items.guesses)


def _with_guesses(said: str, guesses: list[str]) -> str:
    return f"{said}. {'A guess' if len(guesses) == 1 else 'Guesses'}: {'; '.join(guesses)}." if guesses else f"{said}."


def _is_reviews(source: Source, form: Form, items: File | None) -> bool:
    """Whether the reader of Amazon Reviews takes it; beside a meta file also what is not understood, to say why."""
    if form.layout.startswith("Amazon"):
        return form.kind == "json" or ".csv" in source.path.suffixes
    if items is None or not _is_meta(items[1]) or not (form.kind == "json" or ".csv" in source.path.suffixes):
        return False
    return not form.role or not items[1].role or form.columns[:4] == OFFICIAL


def _is_meta(form: Form) -> bool:
    return form.kind == "json" and (form.layout.startswith("Amazon") or not form.role)


def _said(source: Source, form: Form) -> str:
    """How a file of Amazon Reviews was understood, without the last bracket."""
    return f"{plain(source.name)} ({form.layout or 'Amazon Reviews 2023'}, {'csv' if form.kind == 'text' else 'json'}"


def _times(place: str, taken: Table) -> tuple[pd.Series, str]:
    """Seconds as dates, so that no one takes them for another unit, and a phrase on them; odd times are guesses."""
    column = taken.frame["timestamp"]
    if column.empty:
        return column, "no times"
    seconds, how = to_seconds(place, column)
    dates = seconds.astype("datetime64[s]")
    first, last = (day.astype("datetime64[D]") for day in (dates.min(), dates.max()))
    if seconds.max() < FIRST_LIKELY or seconds.max() > time.time() + 86_400:
        taken.guesses.append(f"times are taken as {how} and so lie between {first} and {last}")
    return pd.Series(dates, index=column.index).dt.tz_localize("UTC"), f"{how} from {first} to {last}"


def _leave_out(place: str, taken: Table, of_items: Table) -> None:
    """Removes items without a title, and the interactions with items that are not there."""
    titles = of_items.frame["title"]
    of_items.frame = of_items.frame[titles.notna() & (titles.astype(str).str.strip() != "")]
    known = taken.frame["item_id"].astype(str).isin(of_items.frame["item_id"].astype(str))
    known |= taken.frame["item_id"].isna()  # refused later, with the row
    if not known.any():
        raise UserError(
            f"{place}: no interaction is with an item that the file of items describes; give the items of "
            "the same data."
        )
    taken.frame = taken.frame[known]
