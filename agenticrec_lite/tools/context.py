"""What a tool may look at: one ranking task with its items and evidence, and nothing of models or training."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
    """What a collaborative tool found: neighbours' titles, nearest first, and a score for each candidate [C]."""

    neighbours: Sequence[str]
    scores: np.ndarray


class Collaborative(Protocol):
    """The collaborative knowledge behind a task (real: tools.toolbox; generated: nano.worlds)."""

    def similar_users(self) -> Evidence: ...

    def similar_items(self, place: tuple[str, int] | None) -> Evidence:
        """For one item, ("h", 0-based history place) or ("c", 0-based candidate place), or the whole history."""


@dataclass(frozen=True)
class TaskContext:
    """Everything that tools can say about one task.

    Attributes:
        history: Items the user took, oldest first; shown as h1, h2, ...
        ratings: The user's rating of each history item, NaN if none.
        candidates: The items to rank; shown as 1, 2, ...
        collaborative: Neighbours and candidate scores.
        neighbours: How many neighbours a collaborative tool names.
        past: The interactions that tools may know, all before every task that they serve [user, item, rating,
            timestamp]; None in a generated world.
        tools: What the policy may call, by name; None for the paper's seven. See `registry.tools_of`.
    """

    history: Sequence[ItemCard]
    ratings: Sequence[float]
    candidates: Sequence[ItemCard]
    collaborative: Collaborative
    neighbours: int = 3
    past: pd.DataFrame | None = field(default=None, repr=False, compare=False)
    tools: Mapping[str, Callable[..., str]] | None = field(default=None, repr=False, compare=False)
    _places: dict[str, tuple[str, int]] = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        places = {escape(card.title).casefold(): ("h", i) for i, card in enumerate(self.history)}
        places |= {escape(card.title).casefold(): ("c", i) for i, card in enumerate(self.candidates)}
        places |= {f"h{i + 1}": ("h", i) for i in range(len(self.history))}
        places |= {str(i + 1): ("c", i) for i in range(len(self.candidates))}
        object.__setattr__(self, "_places", places)

    def find(self, name: object) -> tuple[str, int]:
        """Place of an item named by candidate number ("7"), history number ("h3") or (escaped) title.

        Raises:
            ToolError: No such item.
        """
        place = self._places.get(escape(name).casefold()) if isinstance(name, str | int) else None
        if place is None or isinstance(name, bool):
            numbered = f"a candidate 1-{len(self.candidates)}, a history item h1-h{len(self.history)}"
            raise ToolError(f"no item {escape(name, 40)!r}: name {numbered}, or an exact title.")
        return place

    def card(self, place: tuple[str, int]) -> ItemCard:
        return (self.history if place[0] == "h" else self.candidates)[place[1]]


def label(place: tuple[str, int]) -> str:
    """How the prompt numbers an item: h3, or 7."""
    return f"h{place[1] + 1}" if place[0] == "h" else str(place[1] + 1)
