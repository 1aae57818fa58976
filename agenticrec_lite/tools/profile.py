"""Family 1, the user profile."""

import re
from collections import Counter

import numpy as np

from agenticrec_lite.tools.behavior import describe_last_rating
from agenticrec_lite.tools.context import ItemCard, TaskContext
from agenticrec_lite.tools.lists import show_list
from agenticrec_lite.tools.text import escape

PRICE_STEP = 1.5  # prices within this factor of each other are alike
_WORD = re.compile(r"\w{4,}")  # of a title; shorter ones say little


def get_user_profile(context: TaskContext) -> str:
    """Describe the user's taste and mood, and order the candidates by the facts in common with the history: list
    profile.

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
    words = f"The user {', '.join(parts)}. {describe_last_rating(context)}"
    return f"{words}\n" + show_list(context, "profile", facts_in_common(context))


def facts_in_common(context: TaskContext) -> np.ndarray:
    """Cosine of each candidate's facts with those of the history, summed over its items [C].

    Facts are categories, words of the title, the decade, and the price in steps of a factor PRICE_STEP, each 0 or 1.
    """
    taste: Counter = Counter()
    for card in context.history:
        facts = _facts(card)
        for fact in facts:
            taste[fact] += len(facts) ** -0.5
    each = [_facts(card) for card in context.candidates]
    return np.array([sum(taste[fact] for fact in facts) * max(1, len(facts)) ** -0.5 for facts in each])


def _facts(card: ItemCard) -> set[tuple[str, str | int]]:
    facts: set[tuple[str, str | int]] = {("category", name) for name in card.categories}
    facts |= {("word", word) for word in _WORD.findall(card.title[:400].casefold())}
    if card.year:
        facts.add(("decade", card.year // 10))
    if card.price is not None:
        facts.add(("price", int(np.log(max(card.price, 0.01)) // np.log(PRICE_STEP))))
    return facts
