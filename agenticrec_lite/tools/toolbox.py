"""Fitted evidence: recommenders and item statistics from past interactions, from which task contexts are made."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy import sparse

from agenticrec_lite.data.log import InteractionLog
from agenticrec_lite.data.tasks import RankingTask
from agenticrec_lite.recommenders import RECOMMENDERS, ItemKNN, Popularity, Recommender, SASRec
from agenticrec_lite.recommenders.sequential import SequentialRecommender
from agenticrec_lite.tools.context import Evidence, ItemCard, TaskContext
from agenticrec_lite.tools.text import standardise

N_NEIGHBOURS = 100  # users whose items vote
# Weights of the weaker part of each tool's evidence, chosen on ml-100k's validation tasks.
VOTES = 0.5
EMBEDDING = 0.5


@dataclass
class Toolbox:
    """Everything the tools know, fitted on interactions before the tasks they serve.

    Attributes:
        cards: What is shown of each item, by item code.
        past: The interactions that all of it was fitted on.
        popularity, itemknn: Fitted recommenders; baselines use the same objects.
        sequential: What the sequential recommender is, SASRec by default.
        latest: Last item of each fitted user [U], in the order of `itemknn.taken`.
        neighbours: How many neighbours a collaborative tool names.
        vote_weight: Of the neighbours' votes beside SASRec's score.
    """

    cards: list[ItemCard]
    popularity: Popularity
    itemknn: ItemKNN
    sequential: SequentialRecommender
    latest: list[int]
    neighbours: int = 3
    vote_weight: float = VOTES
    past: pd.DataFrame | None = None

    @classmethod
    def fit(
        cls, log: InteractionLog, rows: slice, seed: int = 0, neighbours: int = 3,
        sequential: SequentialRecommender | None = None, vote_weight: float = VOTES,
    ) -> "Toolbox":  # fmt: skip
        """Fit everything on some rows of a log.

        Args:
            log: Interactions and items.
            rows: Positions in log.interactions.
            seed: Of the sequential recommender.
            neighbours: How many neighbours a collaborative tool names.
            sequential: The sequential recommender to fit; SASRec by default.
            vote_weight: Of the neighbours' votes beside its score.
        """
        past = log.interactions.iloc[rows]
        popularity, itemknn = Popularity().fit(past, log.n_items), ItemKNN().fit(past, log.n_items)
        sequential = (sequential or SASRec()).fit(past, log.n_items, seed)
        latest = past.groupby("user")["item"].last().tolist()
        return cls(item_cards(log, past), popularity, itemknn, sequential, latest, neighbours, vote_weight, past)

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

    @cached_property
    def item_vectors(self) -> np.ndarray:
        """Unit-length SASRec embedding of each item [n_items, d]."""
        return unit_length(self.sequential.item_embeddings)

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

        Neighbours are those who took the history's items (cosine of 0/1 rows, as in user-based collaborative
        filtering) and not those with a similar SASRec state: that would be SASRec's evidence once more. A vote weighs
        as much as its user is similar, and is divided by the square root of the item's count, or the well-known items
        would win everywhere.
        """
        box, candidates = self.toolbox, np.array(self.task.candidates)
        similarity = box.taken_columns[:, list(self.task.history)].sum(1) / box.user_sizes
        nearest = largest(similarity, N_NEIGHBOURS)
        taken = box.itemknn.taken[nearest][:, candidates].toarray()
        return nearest, similarity[nearest] @ taken / box.item_sizes[candidates]

    def similar_users(self) -> Evidence:
        """The sequential recommender's score plus, with less weight, the neighbours' votes; each standardised."""
        nearest, votes = self.votes()
        titles = [self.toolbox.cards[self.toolbox.latest[user]].title for user in nearest]
        scores = standardise(self.wanted) + self.toolbox.vote_weight * standardise(votes)
        return Evidence(list(dict.fromkeys(titles)), scores)

    def similar_items(self, place: tuple[str, int] | None) -> Evidence:
        """Co-occurrence plus, with less weight, embedding similarity; to one item or to the whole history."""
        shown = {"h": self.task.history, "c": self.task.candidates}
        items = self.task.history if place is None else [shown[place[0]][place[1]]]
        together, close = self._similarities(list(items))
        near = largest(together, self.toolbox.neighbours + len(self.task.history))
        titles = [self.toolbox.cards[item].title for item in near if item not in self.task.history]
        candidates = np.array(self.task.candidates)
        return Evidence(titles, standardise(together[candidates]) + EMBEDDING * standardise(close[candidates]))

    def _similarities(self, items: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Of every item in the catalogue to the given ones: co-occurrence and embedding cosine [n_items]."""
        vectors = self.toolbox.item_vectors
        together = np.zeros(len(vectors), dtype=np.float32)
        for item in items:
            others, cosines = self.toolbox.itemknn.column(item)
            together[others] += cosines
        return together, vectors @ vectors[items].sum(0)


def largest(values: np.ndarray, k: int) -> np.ndarray:
    """Places of the k largest of values [n] that are not negative, largest first and equal ones in order."""
    above = np.flatnonzero(values > 0)
    above = above[np.argsort(-values[above], kind="stable")][:k]
    return np.append(above, np.flatnonzero(values == 0)[: k - len(above)])


def unit_length(vectors: np.ndarray) -> np.ndarray:
    """Rows [n, d] divided by their Euclidean length; a row of zeros stays one."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def item_cards(log: InteractionLog, past: pd.DataFrame) -> list[ItemCard]:
    """Items with their statistics in past interactions."""
    counts = np.bincount(past["item"], minlength=log.n_items)
    ratings = past.groupby("item")["rating"].mean().reindex(range(log.n_items)).to_numpy()
    rank = pd.Series(counts).rank(pct=True, method="min").to_numpy()
    known = lambda value: None if pd.isna(value) else value  # noqa: E731
    return [
        ItemCard(
            title=row.title,
            categories=tuple(row.categories),
            price=known(row.price),
            year=None if pd.isna(row.year) else int(row.year),
            rating=known(ratings[i]),
            popularity=min(99, int(100 * rank[i])),
            count=int(counts[i]),
            item=i,
        )
        for i, row in enumerate(log.items.itertuples())
    ]
