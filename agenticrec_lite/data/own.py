"""One's own data as an `InteractionLog`: tables in memory, or two files."""

from pathlib import Path

import numpy as np
import pandas as pd

from agenticrec_lite.data.log import LATEST_SECOND, InteractionLog, make_log
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
    interactions, items = (table.rename(columns=SHORT_NAMES).reset_index(drop=True) for table in (interactions, items))
    for table, wanted, what in ((interactions, ["user_id", "item_id", "timestamp"], "interactions"),
                                (items, ["item_id", "title"], "items")):  # fmt: skip
        for column in wanted:
            if list(table.columns).count(column) != 1:
                raise UserError(f"{name}: the {what} need one column {column.removesuffix('_id')!r}; they have "
                                f"{', '.join(map(str, table.columns))}.")
            empty = table[column].isna() | (table[column].astype(str).str.strip() == "")
            if empty.any():
                raise UserError(f"{name}: {column} is empty in row {int(np.argmax(empty))} of the {what}; fill or "
                                "remove the row.")
    unknown = ~interactions["item_id"].astype(str).isin(items["item_id"].astype(str))
    if unknown.any():
        row = int(np.argmax(unknown))
        raise UserError(f"{name}: item {str(interactions['item_id'][row])!r} in row {row} of the interactions is not "
                        "among the items; add it, with a title, or remove the row.")
    categories = items["categories"] if "categories" in items else pd.Series([()] * len(items))
    return make_log(
        name,
        interactions.assign(timestamp=_seconds(interactions["timestamp"], name),
                            rating=interactions.get("rating", np.nan)),
        items.assign(categories=[_categories(value) for value in categories], price=items.get("price", np.nan),
                     year=items.get("year", np.nan)),
    )  # fmt: skip


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
        return pd.read_csv(path, dtype=str, encoding="utf-8-sig", skip_blank_lines=True)
    except (OSError, ValueError, EOFError) as error:  # pandas' and pyarrow's own errors are ValueErrors
        raise UserError(f"{path} cannot be read ({first_line(error)}); mend it.") from None


def _seconds(column: pd.Series, name: str) -> pd.Series:
    """Whole seconds since 1970 from seconds, milliseconds or dates."""
    numbers = pd.to_numeric(column, errors="coerce") if not pd.api.types.is_datetime64_any_dtype(column) else None
    if numbers is None or numbers.isna().all():
        dates = pd.to_datetime(column, utc=True, errors="coerce", format="ISO8601")
        bad, numbers = dates.isna(), (dates - pd.Timestamp(0, tz="UTC")) // pd.Timedelta(seconds=1)
    else:
        bad = ~np.isfinite(numbers)
        late = ~bad & (numbers.abs() >= LATEST_SECOND)
        if late.any() and not late[~bad].all():
            raise UserError(f"{name}: timestamps are in seconds and in milliseconds, see rows {int(np.argmin(late))} "
                            f"and {int(np.argmax(late))} of the interactions; write all alike.")
        numbers = numbers // (1000 if late.any() else 1)
    if bad.any():
        row = int(np.argmax(bad))
        raise UserError(f"{name}: timestamp {str(column[row])!r} in row {row} of the interactions is neither a number "
                        "nor a date like 2023-01-31; mend it.")
    return numbers.astype("int64")


def _categories(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = value.split("|")
    if isinstance(value, list | tuple | np.ndarray):
        return tuple(str(name).strip() for name in value if str(name).strip())
    return ()
