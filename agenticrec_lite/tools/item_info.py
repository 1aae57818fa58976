"""Family 2, item information."""

import numpy as np

from agenticrec_lite.tools.context import TaskContext, label
from agenticrec_lite.tools.text import escape, shown_scores


def item_info_search(context: TaskContext, item_name: str) -> str:
    """Look up one item's category, price, rating and popularity.

    Args:
        item_name: Candidate number, history number such as h3, or exact title.
    """
    place = context.find(item_name)
    card = context.card(place)
    facts = [", ".join(escape(c, 30) for c in card.categories[:3]) or "no category"]
    facts.append(f"price {card.price:.2f}" if card.price is not None else "price unknown")
    facts.append(f"rating {card.rating:.1f}" if card.rating is not None else "not rated")
    facts.append(f"more popular than {card.popularity} percent of items")
    return f"{label(place)}. {escape(card.title)}: " + "; ".join(facts) + "."


def candidates_analyze(context: TaskContext) -> str:
    """Group the candidates by category; in each group number:popularity, most popular first."""
    counts = np.array([card.count for card in context.candidates], dtype=float)
    shown = shown_scores(np.log1p(counts))
    groups: dict[str, list[int]] = {}
    for i in np.argsort(-counts, kind="stable"):
        groups.setdefault(context.candidates[i].category, []).append(int(i))
    lines = [f"{name}: " + ", ".join(f"{i + 1}:{shown[i]}" for i in members) for name, members in groups.items()]
    return "\n".join(["Candidates by category and popularity:", *lines])
