"""Family 1, the user profile."""

from collections import Counter

import numpy as np

from agenticrec_lite.tools.context import TaskContext
from agenticrec_lite.tools.text import escape


def get_user_profile(context: TaskContext) -> str:
    """Describe the user's taste, written from the interactions before this task.

    Written from counts, not by a language model as in the paper: the same facts, reproducible anywhere.
    """
    history = context.history
    likes = Counter(c for card in history for c in card.categories).most_common(3)
    parts = ["likes " + ", ".join(f"{escape(c, 30)} ({n} of {len(history)})" for c, n in likes)] if likes else []
    years = [card.year for card in history if card.year]
    if years:
        parts.append(f"mostly from the {int(np.median(years)) // 10 * 10}s")
    prices = [card.price for card in history if card.price is not None]
    if prices:
        parts.append(f"pays about {np.median(prices):.0f}")
    ratings = [r for r in context.ratings if not np.isnan(r)]
    if ratings:
        parts.append(f"rates {np.mean(ratings):.1f} on average")
    parts.append(f"usual popularity {int(np.median([card.popularity for card in history]))}")
    return "The user " + ", ".join(parts) + "."
