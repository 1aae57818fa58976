"""Fitted evidence: recommenders and item statistics from past interactions, from which task contexts are made."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from agenticrec_lite.data.log import InteractionLog
from agenticrec_lite.data.tasks import RankingTask
from agenticrec_lite.recommenders import ItemKNN, Popularity, SASRec
from agenticrec_lite.tools.context import Evidence, ItemCard, TaskContext
from agenticrec_lite.tools.text import standardise

N_NEIGHBOURS = 50  # users whose items vote
# Weights of the weaker part of each tool's evidence, chosen on ml-100k's validation tasks.
VOTES = 0.25
EMBEDDING = 0.5


@dataclass
class Toolbox:
    """Everything the tools know, fitted on interactions before the tasks they serve.

    Attributes:
        cards: What is shown of each item, by item code.
        popularity, itemknn, sasrec: The fitted recommenders; baselines use the same objects.
        user_vectors: Unit-length SASRec state of each fitted user's sequence [U, d].
        taken: Items of each of those users, 0/1 [U, n_items].
        latest: Their last items, newest first.
        neighbours: How many neighbours a collaborative tool names.
    """

    cards: list[ItemCard]
    popularity: Popularity
    itemknn: ItemKNN
    sasrec: SASRec
    user_vectors: np.ndarray
    taken: np.ndarray
    latest: list[list[int]]
    neighbours: int = 3

    @classmethod
    def fit(cls, log: InteractionLog, rows: slice, seed: int = 0, neighbours: int = 3) -> "Toolbox":
        """Fit everything on some rows of a log.

        Args:
            log: Interactions and items.
            rows: Positions in log.interactions.
            seed: Of SASRec.
            neighbours: How many neighbours a collaborative tool names.
        """
        past = log.interactions.iloc[rows]
        popularity, itemknn = Popularity().fit(past, log.n_items), ItemKNN().fit(past, log.n_items)
        sasrec = SASRec().fit(past, log.n_items, seed)
        sequences = [group.tolist() for _, group in past.groupby("user")["item"]]
        taken = np.zeros((len(sequences), log.n_items), dtype=np.float32)
        for row, sequence in zip(taken, sequences, strict=True):
            row[sequence] = 1
        return cls(
            cards=item_cards(log, past),
            popularity=popularity,
            itemknn=itemknn,
            sasrec=sasrec,
            user_vectors=unit_length(sasrec.encode(sequences)),
            taken=taken,
            latest=[sequence[:-4:-1] for sequence in sequences],
            neighbours=neighbours,
        )

    @cached_property
    def item_vectors(self) -> np.ndarray:
        """Unit-length SASRec embedding of each item [n_items, d]."""
        return unit_length(self.sasrec.item_embeddings)

    def contexts(self, tasks: Sequence[RankingTask]) -> list[TaskContext]:
        """The context of each task, from its given history alone (the user need not be known)."""
        if not tasks:
            return []
        histories = [task.history for task in tasks]
        wanted = self.sasrec.score(histories, [task.candidates for task in tasks])
        vectors = unit_length(self.sasrec.encode(histories))
        return [
            TaskContext(
                history=[self.cards[item] for item in task.history],
                ratings=task.history_ratings,
                candidates=[self.cards[item] for item in task.candidates],
                collaborative=FittedCollaborative(self, task, wanted[i], vectors[i]),
                neighbours=self.neighbours,
            )
            for i, task in enumerate(tasks)
        ]


@dataclass
class FittedCollaborative:
    """Collaborative evidence of one task.

    Attributes:
        toolbox: Fitted evidence.
        task: The task.
        wanted: SASRec's scores of the candidates given the history [C].
        vector: Unit-length SASRec state of the history [d].
    """

    toolbox: Toolbox
    task: RankingTask
    wanted: np.ndarray
    vector: np.ndarray

    def votes(self) -> tuple[np.ndarray, np.ndarray]:
        """The nearest users, and the similarity-weighted share of them that took each candidate [C]."""
        similarity = self.toolbox.user_vectors @ self.vector
        nearest = np.argsort(-similarity, kind="stable")[:N_NEIGHBOURS]
        weights = np.clip(similarity[nearest], 0, None)
        return nearest, weights @ self.toolbox.taken[np.ix_(nearest, np.array(self.task.candidates))]

    def similar_users(self) -> Evidence:
        """SASRec's score of the candidates plus, with less weight, the neighbours' votes; each standardised."""
        nearest, votes = self.votes()
        titles = [self.toolbox.cards[self.toolbox.latest[user][0]].title for user in nearest]
        return Evidence(list(dict.fromkeys(titles)), standardise(self.wanted) + VOTES * standardise(votes))

    def similar_items(self, place: tuple[str, int] | None) -> Evidence:
        """Co-occurrence plus, with less weight, embedding similarity; to one item or to the whole history."""
        items = (
            self.task.history
            if place is None
            else [(self.task.history if place[0] == "h" else self.task.candidates)[place[1]]]
        )
        together, close = self._similarities(list(items))
        near = np.argsort(-together, kind="stable")[: self.toolbox.neighbours + len(self.task.history)]
        titles = [self.toolbox.cards[item].title for item in near if item not in self.task.history]
        candidates = np.array(self.task.candidates)
        return Evidence(titles, standardise(together[candidates]) + EMBEDDING * standardise(close[candidates]))

    def _similarities(self, items: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Of every item in the catalogue to the given ones: co-occurrence and embedding cosine [n_items]."""
        vectors = self.toolbox.item_vectors
        return self.toolbox.itemknn.similarity[:, items].sum(1), vectors @ vectors[items].sum(0)


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
        )
        for i, row in enumerate(log.items.itertuples())
    ]
