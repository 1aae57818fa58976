"""What a tool may look at: one ranking task with its items and evidence, and nothing of models or training."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import pandas as pd

from agenticrec_lite.tools.text import escape


class ToolError(Exception):
    """A wrong argument. Its message is the observation that the policy reads; the call counts."""


@dataclass(frozen=True)
class ItemCard:
    """One item as tools show it. Statistics come from the rows that the tools were fitted on.

    Attributes:
        title: Raw title; tools escape it when they show it.
        categories: Most important first; may be empty.
        price: In the catalogue's currency, None if unknown.
        year: Of release, None if unknown.
        rating: Mean rating, None if never rated.
        popularity: Percentile 0..99 of the item's interaction count in the catalogue.
        count: Number of interactions.
        item: Its code in `TaskContext.past`, None in a generated world.
    """

    title: str
    categories: tuple[str, ...] = ()
    price: float | None = None
    year: int | None = None
    rating: float | None = None
    popularity: int = 0
    count: int = 0
    item: int | None = None

    @property
    def category(self) -> str:
        return escape(self.categories[0], 30) if self.categories else "other"


@dataclass(frozen=True)
class Evidence:
    """What was found in past interactions: neighbours' titles, nearest first, and a score for each candidate [C]."""

    neighbours: Sequence[str]
    scores: np.ndarray


class Collaborative(Protocol):
    """The knowledge from past interactions behind a task (real: tools.toolbox; generated: nano.worlds).

    Each method answers from one kind of evidence alone.
    """

    def similar_users(self) -> Evidence:
        """Votes of users with a similar history."""

    def similar_items(self, place: tuple[str, int] | None) -> Evidence:
        """How often items are taken together: with one item, ("h" or "c", 0-based place), or with the whole history."""

    def next_items(self) -> Evidence:
        """What a sequential recommender expects after the history."""


@dataclass(frozen=True)
class ShownList:
    """A list of the candidates as a tool has shown it.

    Attributes:
        scores: Whole numbers 10..99 [C], as shown.
        order: Candidate numbers 1..C, best first [C].
    """

    scores: np.ndarray
    order: np.ndarray


@dataclass(frozen=True)
class TaskContext:
    """Everything that tools can say about one task.

    Attributes:
        history: Items the user took, oldest first; shown as h1, h2, ...
        ratings: The user's rating of each history item, NaN if none.
        candidates: The items to rank; shown as 1, 2, ...
        collaborative: Knowledge from past interactions.
        neighbours: How many neighbours a tool names.
        past: The interactions that tools may know, all before every task that they serve [user, item, rating,
            timestamp]; None in a generated world.
        tools: What the policy may call, by name; None for `registry.TOOLS`.
        pair: Candidate numbers of the two items of a pair-wise question. They are then shown as A and B, and tools
            show no other candidate; scores are still standardised over all. None if all are to be ranked.
        shown: The lists that tools have shown in this trajectory, by name; `lists.show_list` fills it. A copy with an
            empty one is made for each trajectory.
    """

    history: Sequence[ItemCard]
    ratings: Sequence[float]
    candidates: Sequence[ItemCard]
    collaborative: Collaborative
    neighbours: int = 3
    past: pd.DataFrame | None = field(default=None, repr=False, compare=False)
    tools: Mapping[str, Callable[..., str]] | None = field(default=None, repr=False, compare=False)
    pair: tuple[int, int] | None = None
    shown: dict[str, ShownList] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def labels(self) -> dict[int, str]:
        """How the prompt names the candidates that are asked about, by their 0-based place."""
        if self.pair is not None:
            return {number - 1: letter for number, letter in zip(self.pair, "AB", strict=True)}
        return {place: str(place + 1) for place in range(len(self.candidates))}

    @cached_property
    def _places(self) -> dict[str, tuple[str, int]]:
        places = {escape(card.title).casefold(): ("h", i) for i, card in enumerate(self.history)}
        places |= {escape(self.candidates[i].title).casefold(): ("c", i) for i in self.labels}
        places |= {f"h{i + 1}": ("h", i) for i in range(len(self.history))}
        return places | {label.casefold(): ("c", i) for i, label in self.labels.items()}

    def find(self, name: object) -> tuple[str, int]:
        """Place of an item named by a candidate's number or letter ("7"), history number ("h3") or (escaped) title.

        Raises:
            ToolError: No such item.
        """
        place = self._places.get(escape(name).casefold()) if isinstance(name, str | int) else None
        if place is None or isinstance(name, bool):
            asked = list(self.labels.values())
            numbered = f"a candidate {asked[0]}-{asked[-1]}, a history item h1-h{len(self.history)}"
            raise ToolError(f"no item {escape(name, 40)!r}: name {numbered}, or an exact title.")
        return place

    def card(self, place: tuple[str, int]) -> ItemCard:
        return (self.history if place[0] == "h" else self.candidates)[place[1]]

    def label(self, place: tuple[str, int]) -> str:
        """How the prompt names an item: h3, 7, or A."""
        return f"h{place[1] + 1}" if place[0] == "h" else self.labels[place[1]]
