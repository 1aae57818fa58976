"""Generated worlds: random catalogues with random evidence, the only thing nano is ever pre-trained on.

A world has the shape of a ranking task and none of its content: titles are word shapes of many scripts, random
syllables or random bytes; the evidence is random numbers, more or less correlated with one another. What can be
learnt here is the protocol, and reading, following and fusing evidence; nothing about films or goods.
"""

import pydoc_data.topics
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from agenticrec_lite.tools import TOOLS, Evidence, ItemCard, TaskContext, show_list
from agenticrec_lite.tools.text import MAX_TITLE

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


def long_title(rng: np.random.Generator) -> str:
    """A title about as long as tools show it, as in a shop whose titles list everything."""
    title = random_title(rng)
    while len(title) < MAX_TITLE:
        title += (", " if rng.random() < 0.2 else " ") + random_word(rng)
    return title


@dataclass(frozen=True)
class RandomCollaborative:
    """Random neighbours and candidate scores; the same question always has the same answer.

    Attributes:
        users, session: Scores behind the lists of those names [C].
        items: Scores behind get_similar_items, by place; None is the whole history.
        titles: Where neighbours are drawn from.
    """

    users: np.ndarray
    session: np.ndarray
    items: dict
    titles: list[str]

    def similar_users(self) -> Evidence:
        return Evidence(self.titles[:3], self.users)

    def similar_items(self, place) -> Evidence:
        return Evidence(self.titles[-3:], self.items[place])

    def next_items(self) -> Evidence:
        return Evidence([], self.session)


def random_evidence(rng: np.random.Generator, n: int, candidates: int) -> list[np.ndarray]:
    """n score vectors over the candidates that share a hidden order to a random degree, with random tails and ties."""
    hidden = rng.normal(size=candidates)
    vectors = []
    for _ in range(n):
        share = rng.uniform(0, 0.95)
        scores = share * hidden + np.sqrt(1 - share**2) * rng.normal(size=candidates)
        shape = rng.integers(5)
        if shape == 0:
            scores = np.exp(scores)
        elif shape == 1:
            scores = np.sign(scores) * scores**2
        elif shape == 2:  # as votes are where few have taken anything: most candidates have none
            scores = np.maximum(scores - rng.uniform(-0.5, 1.5), 0)
        vectors.append(scores)
    return vectors


def made_up_tool(rng: np.random.Generator, candidates: int) -> Callable[..., str]:
    """A tool that nobody has seen, as a reader's own: with a name, a list's name, words and arguments of its own."""
    words = [re.sub(r"[^a-z]", "", random_word(rng).lower()) or "other" for _ in range(6)]
    name, listed = "_".join(words[: rng.integers(1, 4)]), " ".join(words[3 : 4 + rng.integers(2)])
    scores, before = random_evidence(rng, 1, candidates)[0], "".join(
        f"{' '.join(random_word(rng) for _ in range(rng.integers(1, 8)))}.\n" for _ in range(rng.integers(3))
    )  # fmt: skip

    def tool(context: TaskContext) -> str:
        return before + show_list(context, listed, scores)

    def tool_of_item(context: TaskContext, item: str) -> str:
        context.find(item)
        return before + show_list(context, listed, scores)

    made = tool if rng.random() < 0.8 else tool_of_item
    made.__name__, made.__doc__ = f"{rng.choice(['get', 'show', 'find', 'list'])}_{name}", "Made up."
    return made


def with_other_tools(rng: np.random.Generator, context: TaskContext) -> TaskContext:
    """The same world with some of the tools missing, some made up, in another order."""
    tools = [tool for name, tool in TOOLS.items() if rng.random() < (0.8 if name == "weigh_evidence" else 0.7)]
    tools += [made_up_tool(rng, len(context.candidates)) for _ in range(rng.integers(1, 4))]
    if rng.random() < 0.5:
        tools = [tools[i] for i in rng.permutation(len(tools))]
    return replace(context, tools={tool.__name__: tool for tool in tools})


def random_cards(rng: np.random.Generator, n: int, categories: list[str], longest: int | None) -> list[ItemCard]:
    """n items with random facts; one world in two has prices, years and ratings missing here and there."""
    priced, dated = rng.random() < 0.5, rng.random() < 0.7
    counts = np.exp(rng.normal(3, 1.5, size=n)).astype(int)
    return [
        ItemCard(
            title=long_title(rng) if longest is None else random_title(rng, longest),
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
    rng: np.random.Generator, longest: int | None = 7, history: int = 10, candidates: int = N_CANDIDATES
) -> TaskContext:
    """A task context from nothing.

    Args:
        rng: Source of everything random.
        longest: Longest title in words; None for titles of about 80 characters, all of them.
        history: Longest history in items.
        candidates: Number of candidates.
    """
    categories = [random_word(rng) for _ in range(rng.integers(2, 12))]
    n_history = int(rng.integers(1, history + 1))
    places = [None] + [("h", i) for i in range(n_history)] + [("c", i) for i in range(candidates)]
    users, session, *items = random_evidence(rng, 2 + len(places), candidates)
    ratings = [float(r) if r else float("nan") for r in rng.integers(0, 6, size=n_history)]
    ratings[-1] = float(rng.choice([np.nan, 1, 2, 3, 4, 5], p=[0.1, 0.15, 0.15, 0.15, 0.225, 0.225]))
    shown, asked = (random_cards(rng, n, categories, longest) for n in (n_history, candidates))
    titles = [long_title(rng) if longest is None else random_title(rng, longest) for _ in range(6)]
    collaborative = RandomCollaborative(users, session, dict(zip(places, items, strict=True)), titles)
    return TaskContext(shown, ratings, asked, collaborative)
