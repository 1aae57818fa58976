"""One shape for every dataset: who took which item, when, and what the items are."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from agenticrec_lite.data.times import to_seconds
from agenticrec_lite.errors import UserError

INTERACTION_COLUMNS = ["user_id", "item_id", "rating", "timestamp"]
ITEM_COLUMNS = ["item_id", "title", "categories", "price", "year"]
DIGEST_ROWS = 500_000  # rows whose lines are in memory at a time while they are hashed


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
        truth: folder of the generated store that this is, from which `evaluation.bayes` draws the truth; None for all
            other data.
    """

    name: str
    interactions: pd.DataFrame
    items: pd.DataFrame
    user_ids: np.ndarray
    reading: dict[str, int] = field(default_factory=dict)
    truth: Path | None = None

    @property
    def n_users(self) -> int:
        """Number of users."""
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        """Number of items, those without any interaction included."""
        return len(self.items)

    @cached_property
    def first_time(self) -> np.ndarray:
        """Whether each interaction is the user's first with its item [n] bool."""
        pairs = self.interactions["user"].to_numpy(np.int64) * self.n_items + self.interactions["item"].to_numpy()
        return ~pd.Series(pairs).duplicated().to_numpy()

    def digest(self) -> str:
        """sha256 (hex) of the set of interactions, whatever file they came from and in whatever order.

        It is taken of their lines `user_id, item_id, rating, timestamp`, with tabs between, sorted as text.
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        found = hashlib.sha256()
        for rows in self._rows_by_text():
            columns = self.interactions.iloc[rows]
            users = self.user_ids[columns["user"].to_numpy()]
            items = self.items["item_id"].to_numpy(dtype=object)[columns["item"].to_numpy()]
            rows = zip(users, items, columns["rating"].tolist(), columns["timestamp"].tolist(), strict=True)
            lines = sorted(f"{user}\t{item}\t{rating:g}\t{timestamp}\n" for user, item, rating, timestamp in rows)
            found.update("".join(lines).encode())
        return found.hexdigest()

    def _rows_by_text(self) -> list[np.ndarray]:
        """Row numbers in groups, such that all lines of a group come before those of the next when sorted as text."""
        users, items = (self.interactions[name].to_numpy() for name in ("user", "item"))
        order = np.lexsort((_ranks(self.items["item_id"])[items], _ranks(self.user_ids)[users]))
        if any("\t" in user for user in self.user_ids):  # the lines of two users may then be mixed
            return [order]
        new_user = np.flatnonzero(np.diff(users[order])) + 1
        cuts = np.searchsorted(new_user, np.arange(DIGEST_ROWS, len(order), DIGEST_ROWS))
        return np.split(order, np.unique(new_user[cuts[cuts < len(new_user)]]))

    def fingerprint(self) -> str:
        """sha256 (hex) of `digest` and of the item table: whether files still hold what a run began with."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        found = hashlib.sha256(self.digest().encode())
        for item in self.items.itertuples(index=False, name=None):
            found.update(f"\n{item!r}".encode())
        return found.hexdigest()


def make_log(name: str, interactions: pd.DataFrame, items: pd.DataFrame) -> InteractionLog:
    """Checks raw tables, gives users and items their codes, and sorts by time.

    Codes follow the sorted ids and ties in time follow a hash of (user_id, item_id), so that neither depends
    on the order of the rows in the source. Sorting ties by id would plant a sequential pattern that is not in
    the data.

    Args:
        name: dataset name; errors begin with it.
        interactions: columns user_id, item_id, rating (NaN where there is none), timestamp as in
            `times.to_seconds`.
        items: columns item_id, title, categories (sequence of str), price, year; one row an item.

    Raises:
        UserError: a column is missing, a value is empty or of the wrong kind, or an item is described twice or
            not at all; the sentence names the row, counted from 0.
    """
    _check_table(name, "interactions", interactions, INTERACTION_COLUMNS, ("user_id", "item_id", "timestamp"))
    _check_table(name, "items", items, ITEM_COLUMNS, ("item_id", "title"))
    items = _clean_items(name, items)
    users = interactions["user_id"].astype(str).to_numpy(dtype=object)
    user_codes, user_ids = pd.factorize(users)
    user_codes, user_ids = np.argsort(np.argsort(user_ids))[user_codes], np.sort(user_ids)
    item_ids = interactions["item_id"].astype(str)
    item_codes = pd.Index(items["item_id"]).get_indexer(item_ids)
    if (item_codes < 0).any():
        row = int(np.argmax(item_codes < 0))
        raise UserError(f"{name}: item {item_ids.iloc[row]!r} in row {row} of the interactions is not among the items; "
                        "add it, with a title, or remove the row.")
    coded = pd.DataFrame({
        "user": user_codes.astype(np.int32),
        "item": item_codes.astype(np.int32),
        "rating": _numbers(name, interactions["rating"]).astype(np.float32),
        "timestamp": to_seconds(name, interactions["timestamp"])[0],
    })
    tied = coded["timestamp"].duplicated(keep=False).to_numpy()  # only they need a hash
    hashes = np.zeros(len(coded), dtype=np.uint64)
    hashes[tied] = [_tie_hash(user, item) for user, item in zip(users[tied], item_ids[tied], strict=True)]
    order = np.lexsort((coded["rating"], hashes, coded["timestamp"]))
    return InteractionLog(name, coded.iloc[order].reset_index(drop=True), items, user_ids)


def _check_table(name: str, what: str, table: pd.DataFrame, wanted: Sequence[str], filled: Sequence[str]) -> None:
    for column in wanted:
        if list(table.columns).count(column) != 1:
            raise UserError(f"{name}: the {what} need one column {column.removesuffix('_id')!r}; they have "
                            f"{', '.join(map(str, table.columns))}.")
    if table.empty:
        raise UserError(f"{name}: the {what} table is empty; give at least one row.")
    for column in filled:
        empty = table[column].isna()
        if not (pd.api.types.is_numeric_dtype(table[column]) or pd.api.types.is_datetime64_any_dtype(table[column])):
            empty |= table[column].astype(str).str.strip() == ""
        if empty.any():
            raise UserError(f"{name}: {column} is empty in row {int(np.argmax(empty))} of the {what}; fill or remove "
                            "the row.")


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


def _ranks(ids: Sequence[str]) -> np.ndarray:
    """The place of each id among all, sorted as text with a tab behind each [n]."""
    return np.argsort(np.argsort(np.array([f"{each}\t" for each in ids], dtype=object), kind="stable"))


def _tie_hash(user_id: str, item_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{user_id}\0{item_id}".encode(), digest_size=8).digest())
