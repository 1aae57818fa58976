"""One shape for every dataset: who took which item, when, and what the items are."""

import hashlib
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from agenticrec_lite.errors import UserError

INTERACTION_COLUMNS = ["user_id", "item_id", "rating", "timestamp"]
ITEM_COLUMNS = ["item_id", "title", "categories", "price", "year"]
LATEST_SECOND = 10**11  # year 5138; a larger timestamp is in milliseconds


@dataclass(frozen=True, eq=False)
class InteractionLog:
    """All interactions of a dataset in time order, with its items.

    Attributes:
        name: dataset name, as given to `load_dataset`.
        interactions: [user int32, item int32, rating float32 (NaN = none), timestamp int64 seconds], a
            RangeIndex, sorted by timestamp; `user` and `item` are dense codes 0..n-1.
        items: row = item code: [item_id str, title str, categories tuple of str, price float64, year
            float64]; NaN where price or year are unknown, an empty tuple where the categories are.
        user_ids: [n_users] the dataset's own user ids; position = user code.
        reading: how often what was met while the files were read, by case; empty where nothing was counted.
    """

    name: str
    interactions: pd.DataFrame
    items: pd.DataFrame
    user_ids: np.ndarray
    reading: dict[str, int] = field(default_factory=dict)

    @property
    def n_users(self) -> int:
        """Number of users."""
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        """Number of items, those without any interaction included."""
        return len(self.items)

    def digest(self) -> str:
        """sha256 (hex) of the set of interactions, whatever file they came from and in whatever order."""
        columns = self.interactions
        users = self.user_ids[columns["user"].to_numpy()]
        items = self.items["item_id"].to_numpy(dtype=object)[columns["item"].to_numpy()]
        rows = zip(users, items, columns["rating"].tolist(), columns["timestamp"].tolist(), strict=True)
        lines = sorted(f"{user}\t{item}\t{rating:g}\t{timestamp}\n" for user, item, rating, timestamp in rows)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def fingerprint(self) -> str:
        """sha256 (hex) of `digest` and of the item table: whether files still hold what a run began with."""
        items = "\n".join(map(repr, self.items.itertuples(index=False, name=None)))
        return hashlib.sha256(f"{self.digest()}\n{items}".encode()).hexdigest()


def make_log(name: str, interactions: pd.DataFrame, items: pd.DataFrame) -> InteractionLog:
    """Checks raw tables, gives users and items their codes, and sorts by time.

    Codes follow the sorted ids and ties in time follow a hash of (user_id, item_id), so that neither depends
    on the order of the rows in the source. Sorting ties by id would plant a sequential pattern that is not in
    the data.

    Args:
        name: dataset name.
        interactions: columns user_id, item_id, rating (NaN where there is none), timestamp (seconds).
        items: columns item_id, title, categories (sequence of str), price, year; one row an item.

    Raises:
        UserError: a column is missing, a value is empty or of the wrong kind, an item is described twice or
            not at all, or timestamps are in milliseconds.
    """
    _check_tables(name, interactions, items)
    items = _clean_items(name, items)
    users = interactions["user_id"].astype(str).to_numpy(dtype=object)
    user_ids, user_codes = np.unique(users, return_inverse=True)
    item_ids = interactions["item_id"].astype(str)
    item_codes = pd.Index(items["item_id"]).get_indexer(item_ids)
    if (item_codes < 0).any():
        lost = item_ids[item_codes < 0].iloc[0]
        raise UserError(f"{name}: item {lost!r} has interactions but is not in the item table; add it.")
    coded = pd.DataFrame({
        "user": user_codes.astype(np.int32),
        "item": item_codes.astype(np.int32),
        "rating": _numbers(name, interactions["rating"]).astype(np.float32),
        "timestamp": _seconds(name, interactions["timestamp"]),
    })
    hashes = [_tie_hash(user_ids[user], item) for user, item in zip(user_codes, item_ids, strict=True)]
    order = np.lexsort((coded["rating"], np.array(hashes, dtype=np.uint64), coded["timestamp"]))
    return InteractionLog(name, coded.iloc[order].reset_index(drop=True), items, user_ids)


def _check_tables(name: str, interactions: pd.DataFrame, items: pd.DataFrame) -> None:
    tables = {"interactions": (interactions, INTERACTION_COLUMNS), "items": (items, ITEM_COLUMNS)}
    for table, (frame, wanted) in tables.items():
        missing = [column for column in wanted if column not in frame.columns]
        if missing:
            raise UserError(f"{name}: the {table} table lacks {missing[0]}; it needs {', '.join(wanted)}.")
        if frame.empty:
            raise UserError(f"{name}: the {table} table is empty; give at least one row.")
    for column in ("user_id", "item_id", "timestamp"):
        empty = interactions[column].isna()
        if empty.any():
            row = int(np.argmax(empty))
            raise UserError(f"{name}: {column} is empty in interaction row {row}; fill or remove the row.")


def _clean_items(name: str, items: pd.DataFrame) -> pd.DataFrame:
    ids = items["item_id"].astype(str)
    if ids.duplicated().any():
        twice = ids[ids.duplicated()].iloc[0]
        raise UserError(f"{name}: item {twice!r} is in the item table twice; keep one row.")
    clean = pd.DataFrame({
        "item_id": ids.to_numpy(dtype=object),
        "title": items["title"].astype(str).to_numpy(dtype=object),
        "categories": [tuple(categories) for categories in items["categories"]],
        "price": _numbers(name, items["price"]),
        "year": _numbers(name, items["year"]),
    })
    return clean.sort_values("item_id", ignore_index=True)


def _numbers(name: str, column: pd.Series) -> np.ndarray:
    try:
        return pd.to_numeric(column).to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: a {column.name} is not a number ({error}); mend or empty it.") from None


def _seconds(name: str, column: pd.Series) -> np.ndarray:
    values = _numbers(name, column)
    if (values != np.floor(values)).any():
        raise UserError(f"{name}: timestamps must be whole seconds; round them.")
    if (np.abs(values) >= LATEST_SECOND).any():
        raise UserError(f"{name}: timestamp {values.max():.0f} is in milliseconds; divide by 1000.")
    return values.astype(np.int64)


def _tie_hash(user_id: str, item_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{user_id}\0{item_id}".encode(), digest_size=8).digest())
