"""Files of Amazon Reviews as tables, in one pass each and in bounded memory: DuckDB reads, filters and joins."""

import glob
import gzip
import io
import json
import os
import re
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from agenticrec_lite.data.formats import OFFICIAL, RATINGS_ONLY, Source, amazon_year, form_of, open_bytes, record_of
from agenticrec_lite.data.times import LATEST_SECOND
from agenticrec_lite.errors import UserError, first_line

MEMORY = "700MB"  # of DuckDB, which beyond it goes on in a temporary folder

# Keys of user, item, rating and time in JSON, by the year of Amazon Reviews.
OLD_KEYS = ("reviewerID", "asin", "overall", "unixReviewTime")
KEYS = {"2014": OLD_KEYS, "2018": OLD_KEYS, "2023": ("user_id", "parent_asin", "rating", "timestamp")}
REVIEW_LINES = """
    SELECT {0} AS user_id, {1} AS item_id, {2} AS rating, {3} AS timestamp,
        coalesce({0}, {1}, {2}, {3}) IS NULL AS broken
    FROM read_json($path, format = 'newline_delimited', ignore_errors = true, compression = $compression,
        columns = {{{0}: 'VARCHAR', {1}: 'VARCHAR', {2}: 'VARCHAR', {3}: 'VARCHAR'}})"""
BLANK = "[" + "".join(rf"\x{{{n:x}}}" for n in range(0x3001) if chr(n).isspace()) + "]*"  # space, as Python sees it
# One field a line, cut here, so that no line is left out uncounted.
CSV_LINES = """
    SELECT trim(field[{0}], ' "') AS user_id, trim(field[{1}], ' "') AS item_id, trim(field[3], ' "') AS rating,
        trim(field[4], ' "') AS timestamp, rest IS NOT NULL OR len(field) NOT IN (4, 5) AS broken
    FROM (SELECT rest, string_split(line, ',') AS field FROM read_csv($path, compression = $compression,
        columns = {{line: 'VARCHAR', rest: 'VARCHAR'}}, delim = '\x01', quote = '', escape = '', comment = '',
        header = false, auto_detect = false, null_padding = true, strict_mode = false, ignore_errors = true,
        store_rejects = true) WHERE line IS NOT NULL)
    WHERE (user_id, item_id) <> ('user_id', 'parent_asin')"""
# What keeps a line from being an interaction, by its number in `fault`.
FAULTS = {1: "broken line", 2: "no user or item", 3: "no or impossible timestamp", 4: "timestamp in the future"}
# Users and items are told apart by 64-bit hashes; their ids are kept inside the window only.
REVIEWS = """
    CREATE TEMP TABLE reviews AS SELECT
        hash(user_id) AS u, hash(item_id) AS i, if(stars BETWEEN 1 AND 5, stars, NULL)::FLOAT AS stars,
        abs(number) < $latest_second AS in_seconds,
        try_cast(floor(if(in_seconds, number, number / 1000)) AS BIGINT) AS second,
        CASE WHEN broken THEN 1
            WHEN coalesce(regexp_full_match(user_id, $blank) OR regexp_full_match(item_id, $blank), TRUE) THEN 2
            WHEN coalesce(second, 0) < 1 THEN 3 WHEN second > $now THEN 4 ELSE 0 END AS fault,
        fault = 0 AND second >= $start AND second < $stop AS inside,
        if(inside, user_id, NULL) AS user_id, if(inside, item_id, NULL) AS item_id
    FROM (SELECT * EXCLUDE (rating, timestamp), try_cast(rating AS DOUBLE) AS stars,
        try_cast(timestamp AS DOUBLE) AS number FROM ({lines}))"""
COUNTS = """
    SELECT count(*), count_if(inside), count_if(in_seconds), count_if(stars IS NULL) FROM reviews WHERE fault = 0"""
# This and CORE return how many rows there are in `kept`.
EARLIEST = """
    CREATE TEMP TABLE kept AS SELECT u, i, min({second: second, stars: stars}) AS earliest
    FROM reviews WHERE fault = 0 AND (inside OR $whole) GROUP BY u, i"""
CORE = """
    CREATE OR REPLACE TEMP TABLE kept AS SELECT * FROM kept
    SEMI JOIN (SELECT u FROM kept GROUP BY u HAVING count(*) >= $k) USING (u)
    SEMI JOIN (SELECT i FROM kept GROUP BY i HAVING count(*) >= $k) USING (i)"""
INTERACTIONS = """
    SELECT any_value(user_id) AS user_id, any_value(item_id) AS item_id, earliest.stars AS rating, second AS timestamp
    FROM kept JOIN (SELECT * FROM reviews WHERE inside) USING (u, i) WHERE second = earliest.second
    GROUP BY u, i, earliest, second"""
ITEMS = """
    SELECT parent_asin AS item_id, trim(title) AS title, categories, price, details
    FROM read_json($path, format = 'newline_delimited', ignore_errors = true, compression = $compression,
        columns = {parent_asin: 'VARCHAR', title: 'VARCHAR', categories: 'VARCHAR', price: 'VARCHAR',
                   details: 'VARCHAR'})
    WHERE parent_asin IS NULL OR parent_asin IN (SELECT item_id FROM wanted)"""
# Of 2018; a title with code of the page in it is none.
OLD_ITEMS = """
    SELECT asin AS item_id, if(title LIKE '%getTime%', '', trim(title)) AS title, category AS categories, price,
        NULL::VARCHAR AS details
    FROM read_json($path, format = 'newline_delimited', ignore_errors = true, compression = $compression,
        columns = {asin: 'VARCHAR', title: 'VARCHAR', category: 'VARCHAR', price: 'VARCHAR'})
    WHERE asin IS NULL OR asin IN (SELECT item_id FROM wanted)"""
ASIN_OF_LINE = re.compile(r"""["']asin["']:\s*["']([^"']+)["']""")
YEAR_KEYS = ("Original Release Date", "Release Date", "Publication Date", "Date First Available")
YEAR = re.compile(r"\b(?:19|20)\d\d\b")


def read_reviews(path: Path | str, window: tuple[str, str] | None = None,
                 k_core: int = 1) -> tuple[pd.DataFrame, dict[str, int]]:
    """The interactions of a file of reviews, and how often what was met in it; see `amazon.read_amazon`.

    Returns:
        [user_id, item_id, rating, timestamp in seconds] in any order; and counts by case.

    Raises:
        UserError: the file cannot be read, or holds no interaction.
    """
    path, whole = Path(path), k_core > 1
    start, stop = map(_second, window) if window else (0, LATEST_SECOND)
    with _database(path) as database:
        csv = ".csv" in path.suffixes
        if csv:
            _check_columns(path)
            form = form_of(Source(path, path.name, str(path)))
            old = form.layout == RATINGS_ONLY  # of 2018, where the item comes first, or of 2014
            lines = CSV_LINES.format(*((2, 1) if old and form.columns[0] == "item_id" else (1, 2)))
        else:
            keys = KEYS[amazon_year(path) or "2023"]
            old, lines = keys == OLD_KEYS, REVIEW_LINES.format(*keys)
        values = {"start": start, "stop": stop, "now": time.time(), "latest_second": LATEST_SECOND, "blank": BLANK}
        database.execute(REVIEWS.format(lines=lines), values | _source(path))
        faults = dict(database.execute("SELECT fault, count(*) FROM reviews GROUP BY fault").fetchall())
        if csv:
            not_utf8 = database.execute("SELECT count(DISTINCT line) FROM reject_errors").fetchone()[0]
            faults[1] = faults.get(1, 0) + not_utf8
        n, n_inside, in_seconds, unrated = database.execute(COUNTS).fetchone()
        reading = {"lines": sum(faults.values())} | {name: faults.get(k, 0) for k, name in FAULTS.items()}
        if not n:
            raise UserError(f"{path} has no interaction ({sentence(reading)}); it must be in the format of Amazon "
                            "Reviews 2023, .jsonl or .csv with user_id,parent_asin,rating,timestamp.")
        n_pairs = database.execute(EARLIEST, {"whole": whole}).fetchone()[0]
        n_core = _core(database, k_core, n_pairs)
        frame = database.execute(INTERACTIONS).df()
    return frame, reading | {
        "timestamp in seconds": 0 if old else in_seconds,
        "without a rating of 1 to 5": unrated,
        "user and item met again": (n if whole else n_inside) - n_pairs,
        f"outside the {k_core}-core": n_pairs - n_core,
        "outside the window": n_core - len(frame) if whole else n - n_inside,
    }


def read_items(path: Path | str, wanted: Sequence[str]) -> tuple[pd.DataFrame, dict[str, int]]:
    """The wanted items that a file of items describes, and how often what was met in it; see `amazon.read_amazon`.

    Returns:
        [item_id, title, categories, price, year], one row an item, title "" where there is none; and counts by case.

    Raises:
        UserError: the file cannot be read, or describes none of them.
    """
    with _database(Path(path)) as database:
        database.register("wanted", pd.DataFrame({"item_id": np.asarray(wanted, dtype=object)}))
        year = amazon_year(Path(path))
        if year == "2014":
            lines = _items_of_2014(Path(path), set(wanted))
        else:
            lines = database.execute(OLD_ITEMS if year == "2018" else ITEMS, _source(Path(path))).df()
    broken = lines["item_id"].isna()
    found = lines[~broken].fillna({"title": ""}).sort_values(["item_id", "title", "price"])
    # One with a title first: a stable sort on whether there is none.
    found = found.sort_values("title", key=lambda title: title == "", kind="stable")
    items = found.drop_duplicates("item_id")
    if items.empty:
        raise UserError(f"{path} describes no item of the reviews ({broken.sum()} broken lines); give the file of "
                        "items (meta_*.jsonl) of the same category.")
    given = items["price"].fillna("").str.strip().replace(["None", "null"], "")
    prices = pd.to_numeric(given.str.replace(r"[$,]", "", regex=True), errors="coerce")
    prices = prices.where((prices > 0) & (prices < np.inf))
    table = pd.DataFrame({
        "item_id": items["item_id"], "title": items["title"], "categories": items["categories"].map(_categories),
        "price": prices, "year": items["details"].map(_year),
    })  # fmt: skip
    return table, {
        "broken line of the items": int(broken.sum()), "item described again": len(found) - len(items),
        "odd price": int(((given != "") & prices.isna()).sum()),
    }  # fmt: skip


def sentence(reading: dict[str, int]) -> str:
    """Counts by case, the zeros left out."""
    return ", ".join(f"{case}: {count:,}" for case, count in reading.items() if count)


def _core(database: duckdb.DuckDBPyConnection, k_core: int, n: int) -> int:
    """Leaves the k-core in `kept`, which has `n` rows, and returns how many that are."""
    while k_core > 1:
        before, n = n, database.execute(CORE, {"k": k_core}).fetchone()[0]
        if n == before:
            break
    return n


@contextmanager
def _database(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """An empty database to read `path` with; its errors become a UserError."""
    if not path.is_file():
        raise UserError(f"There is no file {path}; give the path of one, or fetch it.")
    with tempfile.TemporaryDirectory(prefix="agenticrec-") as spill, ThreadPoolExecutor(1) as beside:
        settings = {"memory_limit": MEMORY, "temp_directory": spill, "threads": min(4, os.cpu_count() or 1),
                    "preserve_insertion_order": False}  # fmt: skip
        try:
            with duckdb.connect(config=settings) as database:
                checked = beside.submit(_check_gzip, path)
                yield database
                checked.result()
        except duckdb.OutOfMemoryException as error:
            raise UserError(f"No space is left for reading {path} ({first_line(error)}); set TMPDIR to a folder on a "
                            "disk with more.") from None
        except (duckdb.Error, OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path} cannot be read ({first_line(error)}); fetch or copy it again.") from None


def _check_gzip(path: Path) -> None:
    """Compares the checksums in a gzip file, which DuckDB leaves alone."""
    if _source(path)["compression"] == "gzip":
        with gzip.open(path) as file:
            while file.read(1 << 20):
                pass


def _check_columns(path: Path) -> None:
    """The columns of a CSV, and perhaps history, are told by their place; a header, where there is one, must agree."""
    with (gzip.open if _source(path)["compression"] == "gzip" else open)(path, "rb") as file:
        first = file.readline(1000).decode("utf-8-sig", errors="replace").strip().replace('"', "").split(",")
    if set(first) & {*OFFICIAL, "item_id", "asin"} and first[:4] != OFFICIAL:
        raise UserError(f"{path} has the columns {','.join(first)} in line 1; they must be {','.join(OFFICIAL)}.")


def _source(path: Path) -> dict[str, str]:
    """Path and compression as DuckDB wants them; whether a file is gzip is seen from its first two bytes."""
    with open(path, "rb") as file:
        kind = "gzip" if file.read(2) == b"\x1f\x8b" else "uncompressed"
    return {"path": glob.escape(str(path)), "compression": kind}


def _second(day: str) -> int:
    try:
        return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp())
    except ValueError:
        raise UserError(f"{day!r} is no day; write it as 2022-10-01.") from None


def _items_of_2014(path: Path, wanted: set[str]) -> pd.DataFrame:
    """Lines of JSON, or written as Python would print them; only those of wanted items are read."""
    found = []
    with open_bytes(path) as file:
        for line in io.TextIOWrapper(file, encoding="utf-8", errors="replace"):
            name = ASIN_OF_LINE.search(line)
            if name and name[1] not in wanted:
                continue
            row = record_of(line) if line.strip() else {}
            if row == {}:
                continue
            row = row if isinstance(row, dict) else {}
            title, price = row.get("title"), row.get("price")
            found.append((row.get("asin"), str(title or "").strip(), json.dumps(row.get("categories")),
                          None if price is None else str(price), None))  # fmt: skip
    return pd.DataFrame(found, columns=["item_id", "title", "categories", "price", "details"], dtype=object)


def _json(text: str | None) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return None


def _categories(text: str | None) -> tuple[str, ...]:
    """From the most general on, without the first, which is the same for all, where there are others."""
    names = _json(text)
    if isinstance(names, list) and names and all(isinstance(path, list) for path in names):
        names = names[0]  # of 2014: one or more ways through the tree
    names = [name for name in names if isinstance(name, str) and name] if isinstance(names, list) else []
    return tuple(names[1:] or names)


def _year(text: str | None) -> float:
    """The year in the earliest-named date among the details; NaN where there is none."""
    details = _json(text)
    dates = [str(details.get(key)) for key in YEAR_KEYS] if isinstance(details, dict) else []
    return next((float(match.group()) for match in map(YEAR.search, dates) if match), float("nan"))
