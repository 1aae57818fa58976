"""Lists of candidates: how a tool shows one, and the calculator that adds up those that have been shown."""

from collections.abc import Sequence

import numpy as np

from agenticrec_lite.tools.context import ShownList, TaskContext, ToolError
from agenticrec_lite.tools.text import escape, shown_scores

HIGHEST = 3  # weight
WEIGHED = "weighed evidence"  # the name of the calculator's own list


def show_list(context: TaskContext, name: str, scores: Sequence[float]) -> str:
    """A list as one line, `Candidates by NAME: 7:88, 3:81, ...`, best first; from now on it can be weighed by its name.

    Candidates that the scores do not tell apart stand in the order of their popularity: where they stand in the prompt
    says nothing.

    Args:
        context: The task; the list is noted in its `shown`.
        name: A few words that say what the list goes by.
        scores: Raw evidence [C]; shown are whole numbers 10..99, 50 + 15 z.
    """
    shown = shown_scores(scores)
    order = _order(context, name, np.asarray(scores, dtype=np.float64), shown)
    return f"Candidates by {name}: " + ", ".join(f"{context.labels[i]}:{shown[i]}" for i in order)


def _order(context: TaskContext, name: str, scores: np.ndarray, shown: np.ndarray) -> list[int]:
    """Note a list in the context's `shown`; the places of the candidates that are asked about, best first."""
    counts = [card.count for card in context.candidates]
    order = np.lexsort((np.negative(counts), -scores))  # stable: what is equal in both keeps its place
    context.shown[name] = ShownList(shown, order + 1)
    return [i for i in order.tolist() if i in context.labels]


def weigh_evidence(context: TaskContext, weights: str) -> str:
    """Add up lists that have been shown, each times a weight from 0 to 3, and order the candidates by the sum.

    A calculator, which the paper does not have: a language model is asked to judge the evidence, not to add it up. It
    shows the order alone: an answer by it is then a copy, and what it rests on are the weights.

    Args:
        weights: Names of lists and their weights, for example "users 1, session 3".
    """
    given = {name: weight for name, weight in read_weights(weights).items() if weight}
    if not given:
        raise ToolError("all weights are 0; at least one list must count.")
    for name in given:
        if name not in context.shown or name == WEIGHED:
            there = ", ".join(known for known in context.shown if known != WEIGHED) or "none"
            raise ToolError(f"no list {escape(name, 40)!r} has been shown; shown so far: {there}.")
    total = sum(weight * context.shown[name].scores for name, weight in given.items())
    order = _order(context, WEIGHED, total, np.rint(total / sum(given.values())).astype(int))
    return f"Candidates by {WEIGHED}: " + ", ".join(context.labels[i] for i in order)


def read_weights(text: str) -> dict[str, int]:
    """Names of lists and their weights, from "users 1, session 3".

    Raises:
        ToolError: It is not of that form; or a list is named twice.
    """
    weights: dict[str, int] = {}
    for part in str(text).split(","):
        name, _, weight = part.strip().rpartition(" ")
        if not name or len(weight) != 1 or weight not in "0123":
            raise ToolError(f"weights are written like 'users 1, session 3', each from 0 to {HIGHEST}.")
        if name in weights:
            raise ToolError(f"the list {escape(name, 40)!r} is named twice.")
        weights[name] = int(weight)
    return weights
