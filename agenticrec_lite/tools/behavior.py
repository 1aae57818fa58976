"""Family 3, behavioural statistics of the given history."""

from collections import Counter

import numpy as np

from agenticrec_lite.tools.context import TaskContext
from agenticrec_lite.tools.lists import show_list

RECENT = 3
PLEASED = 4  # stars, see describe_last_rating
MOODS = ("pleased", "let down")


def get_session_behavior(context: TaskContext) -> str:
    """Show how the user's interest moved, and order the candidates by what is expected next: list session."""

    def counts(cards) -> Counter:
        return Counter(card.category for card in cards)

    def listed(counter: Counter) -> str:
        return ", ".join(f"{category} {n}" for category, n in counter.most_common(4)) or "nothing"

    before, recent = counts(context.history[:-RECENT]), counts(context.history[-RECENT:])
    rising = [c for c in recent if recent[c] / RECENT > before[c] / max(1, len(context.history) - RECENT)]
    moving = f"Rising: {', '.join(rising[:3])}." if rising and before else "No clear shift."
    words = f"Last {RECENT}: {listed(recent)}. Before: {listed(before)}. {moving}"
    return f"{words}\n" + show_list(context, "session", context.collaborative.next_items().scores)


def get_rating_behavior(context: TaskContext) -> str:
    """Group the history by the user's ratings: high (4-5), middle (3), low (1-2); order the candidates by their
    mean rating: list ratings."""
    groups: dict[str, list[str]] = {"High": [], "Middle": [], "Low": [], "Not rated": []}
    for i, rating in enumerate(context.ratings):
        name = "Not rated" if np.isnan(rating) else "High" if rating >= 4 else "Middle" if rating >= 3 else "Low"
        groups[name].append(f"h{i + 1}")
    shown = {name: items for name, items in groups.items() if items or name != "Not rated"}
    words = " ".join(f"{name}: {' '.join(items) or 'none'}." for name, items in shown.items())
    means = np.array([np.nan if card.rating is None else card.rating for card in context.candidates], dtype=float)
    usual = 0.0 if np.isnan(means).all() else float(np.nanmean(means))  # says nothing of one that nobody has rated
    scores = np.where(np.isnan(means), usual, means)
    return f"{words} {describe_last_rating(context)}\n" + show_list(context, "ratings", scores)


def describe_last_rating(context: TaskContext) -> str:
    """One sentence about the rating of the last item of the history, and what it says of the user's mood.

    In the moodstore the mood decides what the user takes next.
    """
    stars = context.ratings[-1]
    if np.isnan(stars):
        return "Last not rated."
    return f"Last rated {stars:g} star{'' if stars == 1 else 's'}: {MOODS[stars < PLEASED]}."
