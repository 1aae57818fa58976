"""Family 2, item information."""

import numpy as np

from agenticrec_lite.tools.context import TaskContext
from agenticrec_lite.tools.lists import show_list
from agenticrec_lite.tools.text import escape


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
    return f"{context.label(place)}. {escape(card.title)}: " + "; ".join(facts) + "."


def candidates_analyze(context: TaskContext) -> str:
    """Group the candidates by category, and order them by how often they are taken: list popularity."""
    groups: dict[str, list[str]] = {}
    for place, label in context.labels.items():
        groups.setdefault(context.candidates[place].category, []).append(label)
    by_size = sorted(groups.items(), key=lambda group: -len(group[1]))
    grouped = "; ".join(f"{name} {', '.join(labels)}" for name, labels in by_size)
    counts = [float(card.count) for card in context.candidates]
    return f"By category: {grouped}.\n" + show_list(context, "popularity", np.log1p(counts))
