"""Family 3, behavioural statistics of the given history."""

from collections import Counter

import numpy as np

from agenticrec_lite.tools.context import TaskContext

RECENT = 3
PLEASED = 4  # stars, see describe_last_rating


def get_session_behavior(context: TaskContext) -> str:
    """Show how the user's interest moved: categories of the last three items against those before."""

    def counts(cards) -> Counter:
        return Counter(card.category for card in cards)

    def listed(counter: Counter) -> str:
        return ", ".join(f"{category} {n}" for category, n in counter.most_common(4)) or "nothing"

    before, recent = counts(context.history[:-RECENT]), counts(context.history[-RECENT:])
    rising = [c for c in recent if recent[c] / RECENT > before[c] / max(1, len(context.history) - RECENT)]
    moving = f"Rising: {', '.join(rising[:3])}." if rising and before else "No clear shift."
    return f"Last {RECENT}: {listed(recent)}. Before: {listed(before)}. {moving}"


def get_rating_behavior(context: TaskContext) -> str:
    """Group the user's history items by the rating the user gave: high (4-5), middle (3), low (1-2)."""
    groups: dict[str, list[str]] = {"High": [], "Middle": [], "Low": [], "Not rated": []}
    for i, rating in enumerate(context.ratings):
        name = "Not rated" if np.isnan(rating) else "High" if rating >= 4 else "Middle" if rating >= 3 else "Low"
        groups[name].append(f"h{i + 1}")
    shown = {name: items for name, items in groups.items() if items or name != "Not rated"}
    return " ".join(f"{name}: {' '.join(items) or 'none'}." for name, items in shown.items())


def describe_last_rating(context: TaskContext) -> str:
    """One sentence about the rating of the last item of the history, and what it says of the user's mood.

    In the moodstore the mood decides what the user takes next. No tool shows the sentence yet: nano was trained on
    the present text of `get_rating_behavior`.
    """
    stars = context.ratings[-1]
    if np.isnan(stars):
        return "Last not rated."
    return f"Last rated {stars:g} star{'' if stars == 1 else 's'}: {'pleased' if stars >= PLEASED else 'let down'}."
