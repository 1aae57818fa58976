"""What a file of interactions or items is, seen from its content and not from its name, and what its columns mean."""

import ast
import codecs
import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from agenticrec_lite.errors import UserError

INTERACTIONS, ITEMS = "interactions", "items"
# Our name of a column, and the names that stand for it: letters and digits only, in small letters. Of the second list
# a name counts only where the table has none of the first.
NAMES = {
    "user_id": ("user userid",
                "uid username reviewerid customer customerid member memberid visitor visitorid"),
    "item_id": ("item itemid parentasin",
                "iid asin movie movieid product productid book bookid isbn track trackid song songid artist artistid "
                "game gameid business businessid article articleid news newsid video videoid stockcode sku"),
    "rating": ("rating", "overall stars star starrating score ratings"),
    "timestamp": ("timestamp", "time date datetime ts unixreviewtime unixtime unixtimestamp createdat eventtime "
                               "reviewdate purchasedate orderdate invoicedate tdat"),
    "title": ("title", "movietitle name itemname itemtitle productname producttitle booktitle"),
    "categories": ("categories", "category genres genre class"),
    "price": ("price", ""),
    "year": ("year", "releaseyear yearofpublication publicationyear"),
}  # fmt: skip
NEEDED = {INTERACTIONS: ("user_id", "item_id", "timestamp"), ITEMS: ("item_id", "title")}
OPTIONAL = {INTERACTIONS: ("rating",), ITEMS: ("categories", "price", "year")}
SEPARATORS = {"::": "'::'", ",": "comma", ";": "semicolon", "\t": "tab", "|": "'|'"}
ATOMIC = re.compile(r"(.+):(?:token|token_seq|float|float_seq)$")  # a column of RecBole's atomic files
ASIN = re.compile(r"[0-9B][0-9A-Z]{9}")
OFFICIAL = ["user_id", "parent_asin", "rating", "timestamp"]  # of Amazon Reviews 2023 as CSV
RATINGS_ONLY = "Amazon Reviews, ratings only"
NO_NAMES = "the columns of the interactions have no names and are taken as {}, rating, time"
SEEN_LINES = 100  # from which the kind of a file is told
PLACES = ["user_id", "item_id", "rating", "timestamp"]  # of MovieLens' columns without names


@dataclass(frozen=True)
class Source:
    """A file to read: where it lies, its name (in a zip, without the folders there), and how sentences name it."""

    path: Path
    name: str
    shown: str


@dataclass
class Form:
    """What a file is.

    Attributes:
        kind: "text", "json", "parquet" or "unknown".
        columns: as the file names them, or as their places mean where `header` is False.
        role: INTERACTIONS, ITEMS, or "" where the columns are of neither.
        separator: of text.
        layout: "MovieLens", "RecBole", "Amazon Reviews 2014" (2018, 2023), RATINGS_ONLY, or "".
        guesses: what could be wrong, a phrase each.
    """

    kind: str
    columns: list[str] = field(default_factory=list)
    role: str = ""
    separator: str = ","
    header: bool = True
    layout: str = ""
    guesses: list[str] = field(default_factory=list)


def plain(text: object, longest: int = 60) -> str:
    """Text from a file within a sentence: no control characters, and at most `longest` others."""
    text = "".join(letter if letter.isprintable() else "?" for letter in str(text))
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def known_columns(name: str, what: str, columns: Sequence[str]) -> dict[int, str]:
    """The places of the columns that are used, with our names; none of several that may be the same optional one.

    Raises:
        UserError: one that is needed is missing, or there are several.
    """
    keys = list(map(_key, columns))
    listed = ", ".join(map(plain, columns))
    found = {}
    for ours in (*NEEDED[what], *OPTIONAL[what]):
        first, second = ([k for k, key in enumerate(keys) if key in names.split()] for names in NAMES[ours])
        places = first or second
        if not first and len(second) > 1 and ours in OPTIONAL[what]:  # which is meant, nobody can say
            continue
        if len(places) > 1 or (not places and ours in NEEDED[what]):
            either = f", and {' and '.join(plain(columns[k]) for k in places)} may be it" if places else ""
            short = ours.removesuffix("_id")
            raise UserError(f"{name}: the {what} need one column {short!r}; they have {listed}{either}.")
        if places:
            found[places[0]] = ours
    return found


def role_of(columns: Sequence[str]) -> str:
    """INTERACTIONS with a user and an item (but not MovieLens' tags), ITEMS with an item and a title, or ""."""
    keys = set(map(_key, columns))
    has = {ours for ours, names in NAMES.items() if keys & set(" ".join(names).split())}
    if {"user_id", "item_id"} <= has:
        return "" if keys == {"userid", "movieid", "tag", "timestamp"} else INTERACTIONS
    return ITEMS if {"item_id", "title"} <= has else ""


def _key(column: object) -> str:
    """A column's name as it is compared: its letters and digits, small."""
    return re.sub(r"[\W_]+", "", str(column).casefold())


def is_gzip(path: Path) -> bool:
    """By its first two bytes."""
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def open_bytes(path: Path) -> BinaryIO:
    """The file's content, unpacked where it is gzip."""
    return gzip.open(path) if is_gzip(path) else open(path, "rb")


def first_records(path: Path) -> Iterator[dict[str, Any]]:
    """The objects among the first lines of a file, written as JSON or as Python (Amazon 2014's items)."""
    try:
        with open_bytes(path) as file:
            lines = list(islice(iter(lambda: file.readline(1 << 24), b""), SEEN_LINES))
    except (OSError, EOFError, zlib.error):  # who reads the whole says so
        return
    for line in lines:
        record = record_of(line.decode("utf-8-sig", errors="replace"))
        if isinstance(record, dict):
            yield record


def amazon_year(path: Path) -> str:
    """Of which Amazon Reviews a file of reviews or items is: "2014", "2018" or "2023"; "" for others."""
    keys = {key for record in first_records(path) for key in record}
    if {"user_id", "parent_asin", "timestamp"} <= keys or ("parent_asin" in keys and "user_id" not in keys):
        return "2023"
    if {"reviewerID", "asin", "unixReviewTime"} <= keys:
        return "2014" if "helpful" in keys else "2018"
    if "asin" in keys and keys & {"salesRank", "imUrl", "related"}:
        return "2014"
    return "2018" if "asin" in keys and keys & {"also_buy", "also_view", "rank", "tech1"} else ""


def form_of(source: Source) -> Form:
    """What a file is, from its first lines; "unknown" where they say nothing.

    Raises:
        UserError: the file is not there.
    """
    path = source.path
    if not path.is_file():
        raise UserError(f"There is no file {path}; give a folder or two paths with a comma between.")
    with open(path, "rb") as file:
        magic = file.read(4)
    if magic == b"PAR1" or source.name.endswith(".parquet"):
        import pyarrow.parquet

        try:
            columns = list(map(str, pyarrow.parquet.read_schema(path).names))
        except (OSError, ValueError):
            columns = []
        return Form("parquet", columns, role_of(columns))
    try:
        with open_bytes(path) as file:
            head = file.read(1 << 16)
    except (OSError, EOFError, zlib.error):
        head = b""
    text = _decode_head(head)
    if "\0" in text or not text.strip():
        return Form("unknown")
    if text.lstrip()[0] in "{[":
        columns = list(dict.fromkeys(key for record in first_records(path) for key in record))
        year = amazon_year(path)
        role = role_of(columns) if not year else INTERACTIONS if {"user_id", "reviewerID"} & set(columns) else ITEMS
        return Form("json", columns, role, layout=f"Amazon Reviews {year}" if year else "")
    return _form_of_text([line for line in re.split(r"\r\n|\n|\r", text) if line.strip()][:SEEN_LINES])


def record_of(line: str) -> Any:
    """What a line says as JSON, or as a literal of Python; None where it is neither. Nothing of it is run."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(line.strip()) if line.lstrip().startswith("{'") else None
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _decode_head(head: bytes) -> str:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return head.decode("utf-16", errors="replace")
    return head.decode("utf-8-sig", errors="replace")


def _split(line: str, separator: str) -> list[str]:
    if separator == "::":
        return line.split("::")
    try:
        return next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
    except csv.Error:  # a field of more than 128 kB
        return []


def _form_of_text(lines: list[str]) -> Form:
    """From its first lines: a header with known names, or one of the shapes that have none."""
    best = Form("text")
    for separator in SEPARATORS:
        columns = [column.strip() for column in _split(lines[0], separator)]
        atomic = all(ATOMIC.fullmatch(column) for column in columns)
        names = [ATOMIC.sub(r"\1", column) for column in columns] if atomic else columns
        if role := role_of(names):
            layout = "RecBole" if atomic else ""
            if {name.casefold() for name in names} >= {"movieid", "genres"}:
                layout = "MovieLens"
            return Form("text", columns, role, separator, layout=layout)
        if len(columns) > len(best.columns):
            best = Form("text", columns, "", separator, layout="RecBole" if atomic and len(columns) > 1 else "")
    for separator in SEPARATORS:
        rows = [_split(line, separator) for line in lines[:-1] or lines]  # the last one may be cut
        if all(len(row) == 4 and _is_rating(*row[2:]) for row in rows):
            if separator == ",":
                return _amazon_ratings(rows)
            guess = [] if separator == "::" else [NO_NAMES.format("user, item")]
            return Form("text", PLACES, INTERACTIONS, separator, False, "MovieLens", guess)
        if separator == "::" and all(len(row) == 3 and row[0].isdigit() for row in rows):
            return Form("text", ["item_id", "title", "genres"], ITEMS, separator, False, "MovieLens")
        if separator == "|" and all(len(row) == 24 and set(row[5:]) <= {"0", "1"} for row in rows):
            return Form("text", ["item_id", "title", "genres"], ITEMS, separator, False, "MovieLens")
    return best


def _is_rating(rating: str, timestamp: str) -> bool:
    try:
        return 0 <= float(rating) <= 10 and float(timestamp) > 10**8
    except ValueError:
        return False


def _amazon_ratings(rows: list[list[str]]) -> Form:
    """Amazon's files of ratings only: the user first (2014), or the item first (2018), told by the items' ids."""
    first, second = (all(ASIN.fullmatch(row[k].strip()) for row in rows) for k in (0, 1))
    if first == second:
        return Form("text", rows[0], "", ",")
    columns = ["item_id", "user_id", *PLACES[2:]] if first else PLACES
    guess = NO_NAMES.format("item, user" if first else "user, item")
    return Form("text", columns, INTERACTIONS, ",", False, RATINGS_ONLY, [guess])
