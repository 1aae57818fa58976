"""One's own data as an `InteractionLog`: tables in memory, or two files."""

from pathlib import Path

import numpy as np
import pandas as pd

from agenticrec_lite.data.log import InteractionLog, make_log
from agenticrec_lite.errors import UserError, first_line

SHORT_NAMES = {"user": "user_id", "item": "item_id", "parent_asin": "item_id"}
TABLES = (".csv", ".csv.gz", ".parquet")
AMAZON_FILES = (".jsonl", ".jsonl.gz")
NEEDED = (
    "two files: interactions (user,item,timestamp[,rating]) and items*.csv or .parquet (item,title[,categories,price,"
    "year]), or reviews and meta_*.jsonl[.gz] in the format of Amazon Reviews 2023"
)


def from_frames(interactions: pd.DataFrame, items: pd.DataFrame, name: str = "own") -> InteractionLog:
    """Any interactions as a log.

    Args:
        interactions: [user, item, timestamp] and perhaps rating; a row an interaction, in any order. Timestamps are
            seconds or milliseconds since 1970, all the same, or dates, taken as UTC where they have no zone.
        items: [item, title] and perhaps categories (a sequence of str, or str joined by "|", most important first),
            price and year; a row an item. Items without interactions may be there.
        name: of the log; errors begin with it.

    Columns may be called user_id and item_id (or parent_asin); further ones are ignored. Nothing is left out: what
    cannot be used is an error, and repeated interactions of a user with an item are kept.

    Raises:
        UserError: a column is missing or holds what it must not; the sentence names the row, counted from 0.
    """
    interactions, items = (table.rename(columns=SHORT_NAMES) for table in (interactions, items))
    categories = items["categories"] if "categories" in items else [()] * len(items)
    interactions = interactions.assign(rating=interactions.get("rating", np.nan))
    items = items.assign(categories=[_categories(value) for value in categories], price=items.get("price", np.nan),
                         year=items.get("year", np.nan))
    return make_log(name, interactions, items)


def load_files(place: str) -> InteractionLog:
    """One's own files as a log named like `place`.

    Args:
        place: a folder with the two files, or both paths with a comma between; tables as in `from_frames`
            (.csv, .csv.gz, .parquet), or files as in `amazon.read_amazon`, all of whose interactions are taken. The
            items' file is the one whose name begins with "items" or "meta".

    Raises:
        UserError: the files cannot be told apart or read, or hold what they must not.
    """
    interactions, items = _two_files(place)
    if items.name.endswith(AMAZON_FILES):
        from agenticrec_lite.data.amazon import read_amazon  # DuckDB only where it is needed

        return read_amazon(interactions, items, place)
    return from_frames(_table(interactions), _table(items), place)


def _two_files(place: str) -> tuple[Path, Path]:
    folder = Path(place).expanduser()
    if folder.is_dir():
        files = sorted(path for path in folder.iterdir() if path.name.endswith(TABLES + AMAZON_FILES))
    else:
        files = [Path(part.strip()).expanduser() for part in place.split(",")]
    items = [path for path in files if path.name.startswith(("items", "meta"))]
    others = [path for path in files if path not in items]
    if len(items) != 1 or len(others) != 1:
        found = ", ".join(path.name for path in files) or "none of such a kind"
        raise UserError(f"{place} must be {NEEDED}; it has {found}.")
    for path in (*others, *items):
        if not path.is_file():
            raise UserError(f"There is no file {path}; give a folder or two paths with a comma between.")
    if not items[0].name.endswith(TABLES + AMAZON_FILES):
        raise UserError(f"{items[0]} is of no known kind; give {NEEDED}.")
    return others[0], items[0]


def _table(path: Path) -> pd.DataFrame:
    try:
        if path.name.endswith(".parquet"):
            return pd.read_parquet(path)
        return pd.read_csv(path, dtype=str, encoding="utf-8-sig", keep_default_na=False, na_values=[""])
    except (OSError, ValueError, EOFError) as error:  # pandas' and pyarrow's own errors are ValueErrors
        raise UserError(f"{path} cannot be read ({first_line(error)}); mend it.") from None


def _categories(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = value.split("|")
    if isinstance(value, list | tuple | np.ndarray):
        return tuple(str(name).strip() for name in value if str(name).strip())
    return ()
