"""Fitted evidence: recommenders and item statistics from past interactions, from which task contexts are made."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import numpy as np
import pandas as pd
from scipy import sparse

from agenticrec_lite.data.log import InteractionLog
from agenticrec_lite.data.tasks import RankingTask
from agenticrec_lite.recommenders import RECOMMENDERS, ItemKNN, Popularity, Recommender, SASRec
from agenticrec_lite.recommenders.itemknn import column_of, look_up
from agenticrec_lite.recommenders.sequential import SequentialRecommender
from agenticrec_lite.tools.context import Evidence, ItemCard, TaskContext

N_NEIGHBOURS = 100  # users whose items vote
NOBODY = np.empty(0, dtype=np.int32)


@dataclass
class Toolbox:
    """Everything the tools know, fitted on interactions before the tasks they serve.

    Attributes:
        cards: What is shown of each item, by item code; each card is made when it is asked for.
        popularity, itemknn: Fitted recommenders; baselines use the same objects.
        sequential: What the sequential recommender is, SASRec by default.
        latest: Last item of each fitted user [U], in the order of `itemknn.taken`.
        neighbours: How many neighbours a collaborative tool names.
        past: The interactions that all of it was fitted on.
    """

    cards: Sequence[ItemCard]
    popularity: Popularity
    itemknn: ItemKNN
    sequential: SequentialRecommender
    latest: np.ndarray
    neighbours: int = 3
    past: pd.DataFrame | None = None

    @classmethod
    def fit(
        cls, log: InteractionLog, rows: slice, seed: int = 0, neighbours: int = 3,
        sequential: SequentialRecommender | None = None,
    ) -> "Toolbox":  # fmt: skip
        """Fit everything on some rows of a log.

        Args:
            log: Interactions and items.
            rows: Positions in log.interactions.
            seed: Of the sequential recommender.
            neighbours: How many neighbours a collaborative tool names.
            sequential: The sequential recommender to fit; SASRec by default.
        """
        past = log.interactions.iloc[rows]
        popularity, itemknn = Popularity().fit(past, log.n_items), ItemKNN().fit(past, log.n_items)
        sequential = (sequential or SASRec()).fit(past, log.n_items, seed)
        latest = past.groupby("user")["item"].last().to_numpy()
        return cls(ItemCards(log, past), popularity, itemknn, sequential, latest, neighbours, past)

    @property
    def recommenders(self) -> dict[str, Recommender]:
        """The fitted recommenders by their names in tables."""
        fitted = {type(each): each for each in (self.popularity, self.itemknn, self.sequential)}
        return {name: fitted[kind] for name, kind in RECOMMENDERS.items() if kind in fitted}

    @property
    def taken(self) -> np.ndarray:
        """Items of each fitted user as a dense array: made when asked for, and for small catalogues only."""
        return self.itemknn.taken.toarray()

    @cached_property
    def taken_columns(self) -> sparse.csc_array:
        """`itemknn.taken` by columns: the fitted users of each item."""
        return self.itemknn.taken.tocsc()

    @cached_property
    def user_sizes(self) -> np.ndarray:
        """Square root of the number of items that each fitted user took [U]."""
        return np.sqrt(self.itemknn.taken.sum(1))

    @cached_property
    def item_sizes(self) -> np.ndarray:
        """Square root of the number of fitted users who took each item, at least 1 [n_items]."""
        return np.sqrt(np.maximum(self.itemknn.taken.sum(0), 1))

    def contexts(self, tasks: Sequence[RankingTask]) -> list[TaskContext]:
        """The context of each task, from its given history alone (the user need not be known)."""
        if not tasks:
            return []
        histories = [task.history for task in tasks]
        wanted = self.sequential.score(histories, [task.candidates for task in tasks])
        return [
            TaskContext(
                history=[self.cards[item] for item in task.history],
                ratings=task.history_ratings,
                candidates=[self.cards[item] for item in task.candidates],
                collaborative=FittedCollaborative(self, task, wanted[i]),
                neighbours=self.neighbours,
                past=self.past,
            )
            for i, task in enumerate(tasks)
        ]


@dataclass
class FittedCollaborative:
    """Collaborative evidence of one task.

    Attributes:
        toolbox: Fitted evidence.
        task: The task.
        wanted: The sequential recommender's scores of the candidates given the history [C].
    """

    toolbox: Toolbox
    task: RankingTask
    wanted: np.ndarray

    def votes(self) -> tuple[np.ndarray, np.ndarray]:
        """The nearest users, nearest first, and their votes for each candidate [C].

        Neighbours are those who took some of the history's items (cosine of 0/1 rows, as in user-based collaborative
        filtering) and not those with a similar SASRec state: that would be SASRec's evidence once more. A vote weighs
        as much as its user is similar, and is divided by the square root of the item's count, or the well-known items
        would win everywhere. Where nobody took an item of the history, there are no neighbours, and all votes are 0.
        """
        box, candidates = self.toolbox, np.array(self.task.candidates)
        sharing = [column_of(box.taken_columns, item)[0] for item in self.task.history]
        users, n_both = np.unique(np.concatenate([NOBODY, *sharing]), return_counts=True)
        similarity = n_both.astype(np.float32) / box.user_sizes[users]
        first = largest(similarity, N_NEIGHBOURS)
        nearest = users[first]
        taken = np.stack([look_up(*column_of(box.taken_columns, item), nearest) for item in candidates], axis=1)
        return nearest, similarity[first] @ taken / box.item_sizes[candidates]

    def similar_users(self) -> Evidence:
        """The neighbours' votes; what each neighbour took last."""
        nearest, votes = self.votes()
        titles = [self.toolbox.cards[self.toolbox.latest[user]].title for user in nearest]
        return Evidence(list(dict.fromkeys(titles)), votes)

    def similar_items(self, place: tuple[str, int] | None) -> Evidence:
        """Summed cosine of co-occurrence with one item or with the whole history (ItemKNN); its nearest items."""
        shown = {"h": self.task.history, "c": self.task.candidates}
        items = list(self.task.history if place is None else [shown[place[0]][place[1]]])
        others, together = self._together(items)
        near = others[largest(together, self.toolbox.neighbours + len(self.task.history))]
        titles = [self.toolbox.cards[item].title for item in near if item not in self.task.history]
        return Evidence(titles, look_up(others, together, np.array(self.task.candidates)))

    def next_items(self) -> Evidence:
        """The sequential recommender's scores."""
        return Evidence([], self.wanted)

    def _together(self, items: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Every item that is similar to some of the given ones, sorted, and its summed cosine to them."""
        columns = [self.toolbox.itemknn.column(item) for item in items]
        if len(columns) == 1:
            return columns[0]
        others, places = np.unique(np.concatenate([NOBODY, *(codes for codes, _ in columns)]), return_inverse=True)
        sums = np.zeros(len(others), dtype=np.float32)
        np.add.at(sums, places, np.concatenate([np.empty(0, np.float32), *(cosines for _, cosines in columns)]))
        return others, sums


def largest(values: np.ndarray, k: int) -> np.ndarray:
    """Places of the k largest of values [n] that are above zero, largest first and equal ones in order.

    A similarity of zero is no similarity: what has it is no neighbour, even if nothing else is there.
    """
    above = np.flatnonzero(values > 0)
    if 0 < k < len(above):
        above = above[values[above] >= np.partition(values[above], len(above) - k)[len(above) - k]]
    return above[np.argsort(-values[above], kind="stable")][:k]


class ItemCards(Sequence[ItemCard]):
    """The cards of a log's items with their statistics in past interactions, each made when it is asked for."""

    def __init__(self, log: InteractionLog, past: pd.DataFrame):
        counts = np.bincount(past["item"], minlength=log.n_items)
        self._items = {column: log.items[column].array for column in ("title", "categories", "price", "year")}
        self._counts = counts
        self._ratings = past.groupby("item")["rating"].mean().reindex(range(log.n_items)).to_numpy()
        self._rank = pd.Series(counts).rank(pct=True, method="min").to_numpy()

    def __len__(self) -> int:
        return len(self._counts)

    @overload
    def __getitem__(self, item: int) -> ItemCard: ...
    @overload
    def __getitem__(self, item: slice) -> list[ItemCard]: ...
    def __getitem__(self, item):
        if isinstance(item, slice):
            return [self[i] for i in range(*item.indices(len(self)))]
        item = range(len(self))[item]  # an IndexError beyond the end; from the end if negative
        price, year, rating = self._items["price"][item], self._items["year"][item], self._ratings[item]
        return ItemCard(
            title=self._items["title"][item],
            categories=tuple(self._items["categories"][item]),
            price=None if np.isnan(price) else float(price),
            year=None if np.isnan(year) else int(year),
            rating=None if np.isnan(rating) else rating,
            popularity=min(99, int(100 * self._rank[item])),
            count=int(self._counts[item]),
            item=item,
        )
