"""Generated worlds: random catalogues with random evidence, the only thing nano is ever pre-trained on.

A world has the shape of a ranking task and none of its content: titles are word shapes of many scripts, random
syllables or random bytes; the evidence is random numbers, more or less correlated with one another. What can be
learnt here is the protocol, and reading, following and fusing evidence; nothing about films or goods.
"""

import pydoc_data.topics
import re
from dataclasses import dataclass

import numpy as np

from agenticrec_lite.tools import Evidence, ItemCard, TaskContext

N_CANDIDATES = 20
_WORDS = sorted({w for text in pydoc_data.topics.topics.values() for w in re.findall(r"[A-Za-z]{2,}", text)})
_SYLLABLES = [c + v for c in "bcdfghjklmnprstvwz" for v in "aeiou"] + "an er in or us el ch tion".split()
_SCRIPTS = [(0xC0, 0x17F), (0x391, 0x3C9), (0x410, 0x44F), (0x5D0, 0x5EA), (0x627, 0x64A), (0x905, 0x939),
            (0xE01, 0xE2E), (0x3041, 0x3096), (0x4E00, 0x4FFF), (0xAC00, 0xAD00)]  # fmt: skip


def random_word(rng: np.random.Generator) -> str:
    """A word shape: documentation word, syllables, a foreign script, or bytes."""
    kind = rng.random()
    if kind < 0.5:
        word = _WORDS[rng.integers(len(_WORDS))].lower()
    elif kind < 0.88:
        word = "".join(_SYLLABLES[i] for i in rng.integers(len(_SYLLABLES), size=rng.integers(1, 5)))
    elif kind < 0.95:
        low, high = _SCRIPTS[rng.integers(len(_SCRIPTS))]
        word = "".join(map(chr, rng.integers(low, high, size=rng.integers(1, 7))))
    elif kind < 0.98:
        word = str(rng.integers(1, 2030))
    else:
        word = rng.bytes(int(rng.integers(1, 7))).decode("latin-1")
    return word.capitalize() if rng.random() < 0.8 else word


def random_title(rng: np.random.Generator, longest: int = 7) -> str:
    """A title of 1..longest words, sometimes with the punctuation titles have."""
    title = " ".join(random_word(rng) for _ in range(min(longest, 1 + int(rng.exponential(1.6)))))
    ornament = rng.random()
    if ornament < 0.12:
        return title + ", The"
    if ornament < 0.2:
        return f"{title} ({random_word(rng)})"
    return title.replace(" ", ": ", 1) if ornament < 0.28 else title


@dataclass(frozen=True)
class RandomCollaborative:
    """Random neighbours and candidate scores; the same question always has the same answer.

    Attributes:
        users: Scores behind get_similar_users [C].
        items: Scores behind get_similar_items, by place; None is the whole history.
        titles: Where neighbours are drawn from.
    """

    users: np.ndarray
    items: dict
    titles: list[str]

    def similar_users(self) -> Evidence:
        return Evidence(self.titles[:3], self.users)

    def similar_items(self, place) -> Evidence:
        return Evidence(self.titles[-3:], self.items[place])


def random_evidence(rng: np.random.Generator, n: int, candidates: int) -> list[np.ndarray]:
    """n score vectors over the candidates that share a hidden order to a random degree, with random tails."""
    hidden = rng.normal(size=candidates)
    vectors = []
    for _ in range(n):
        share = rng.uniform(0, 0.95)
        scores = share * hidden + np.sqrt(1 - share**2) * rng.normal(size=candidates)
        tail = rng.integers(3)
        vectors.append(np.exp(scores) if tail == 0 else np.sign(scores) * scores**2 if tail == 1 else scores)
    return vectors


def random_cards(rng: np.random.Generator, n: int, categories: list[str], longest: int) -> list[ItemCard]:
    """n items with random facts; one world in two has prices, years and ratings missing here and there."""
    priced, dated = rng.random() < 0.5, rng.random() < 0.7
    counts = np.exp(rng.normal(3, 1.5, size=n)).astype(int)
    return [
        ItemCard(
            title=random_title(rng, longest),
            categories=tuple(
                dict.fromkeys(categories[i] for i in rng.integers(len(categories), size=rng.integers(0, 4)))
            ),
            price=float(rng.uniform(1, 99)) if priced and rng.random() < 0.8 else None,
            year=int(rng.integers(1920, 2026)) if dated else None,
            rating=float(rng.uniform(1, 5)) if rng.random() < 0.9 else None,
            popularity=int(rng.integers(100)),
            count=int(counts[i]),
        )
        for i in range(n)
    ]


def random_world(
    rng: np.random.Generator, longest: int = 7, history: int = 10, candidates: int = N_CANDIDATES
) -> TaskContext:
    """A task context from nothing.

    Args:
        rng: Source of everything random.
        longest: Longest title in words.
        history: Longest history in items.
        candidates: Number of candidates.
    """
    categories = [random_word(rng) for _ in range(rng.integers(2, 12))]
    n_history = int(rng.integers(1, history + 1))
    places = [None] + [("h", i) for i in range(n_history)] + [("c", i) for i in range(candidates)]
    users, *items = random_evidence(rng, 1 + len(places), candidates)
    ratings = [float(r) if r else float("nan") for r in rng.integers(0, 6, size=n_history)]
    shown, asked = (random_cards(rng, n, categories, longest) for n in (n_history, candidates))
    titles = [random_title(rng, longest) for _ in range(6)]
    return TaskContext(shown, ratings, asked, RandomCollaborative(users, dict(zip(places, items, strict=True)), titles))
