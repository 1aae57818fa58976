"""What single lists of the tools, and fixed weights of them, are worth: the bars that an agent has to clear."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from agenticrec_lite.evaluation.metrics import gains
from agenticrec_lite.tools import LISTS, TOOLS, TaskContext
from agenticrec_lite.tools.context import ShownList
from agenticrec_lite.tools.lists import HIGHEST


def shown_lists(context: TaskContext) -> dict[str, ShownList]:
    """The six lists of the whole history, as the tools show them, by name."""
    context = replace(context, shown={}, pair=None)
    for tool in LISTS:
        TOOLS[tool](context)
    return context.shown


def list_ranks(lists: Sequence[Mapping[str, ShownList]], positives: Sequence[int], name: str) -> np.ndarray:
    """Ranks of the positives if the list of that name is copied [n].

    Args:
        lists: Of each task, by name.
        positives: Candidate numbers.
        name: Of the list.
    """
    orders = [shown[name].order for shown in lists]
    return np.array([1.0 + np.flatnonzero(order == n)[0] for order, n in zip(orders, positives, strict=True)])


def stacked(lists: Sequence[Mapping[str, ShownList]]) -> tuple[np.ndarray, np.ndarray]:
    """Shown scores [n, 6, C] in the order of LISTS, and each candidate's place by popularity, 0 the first [n, C]."""
    scores = np.array([[shown[name].scores for name in LISTS.values()] for shown in lists])
    return scores, np.array([np.argsort(shown["popularity"].order) for shown in lists])


def weighed_ranks(
    scores: np.ndarray, places: np.ndarray, positives: Sequence[int], weights: Sequence[float]
) -> np.ndarray:
    """Ranks of the positives by the weighted sum of shown scores, the more popular first where it is equal [n].

    Args:
        scores, places: As `stacked` returns them.
        positives: Candidate numbers.
        weights: Of the lists, in the order of LISTS.
    """
    total, rows = np.tensordot(scores, weights, (1, 0)), np.arange(len(scores))
    right = np.asarray(positives) - 1
    own, place = total[rows, right][:, None], places[rows, right][:, None]
    return 1.0 + ((total > own) | ((total == own) & (places < place))).sum(1)


def best_weights(scores: np.ndarray, places: np.ndarray, positives: Sequence[int]) -> tuple[int, ...]:
    """The whole weights 0..3 of the six lists with the highest N@10 on these tasks; of equal ones the first."""
    grid = [weights for weights in product(range(HIGHEST + 1), repeat=len(LISTS)) if any(weights)]
    return max(grid, key=lambda weights: gains(weighed_ranks(scores, places, positives, weights), "N@10").mean())
