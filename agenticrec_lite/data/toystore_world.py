"""The toystore's generative model: an invented shop of which the truth is known, so that one can say what is knowable.

A hidden Markov model (Rabiner, Proc. IEEE 1989). In each step of a user a hidden state, which is a taste type and what
the session is about, draws a *family* of near-duplicate items, and the user takes one of them that they do not have.

- A type likes some departments, some brands and one price level. A session browses all that its type likes, or is
  about one of the type's projects: a few families that are bought together.
- A session ends after each step with probability SESSION_END; for the next one a type is drawn anew with probability
  DRIFT. Users start in the stationary distribution of that chain.
- Within a family every item is as likely as another, and nobody takes an item twice. So which sibling it was says
  nothing about the state, and inference only has to follow the families (`evaluation.bayes`).
- The rating depends on how many of department, brand and price level the type likes.
- When and how often a user takes something does not depend on the state.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

KINDS = {
    "Camping": ("Lantern", "Tent", "Stove", "Sleeping Bag"),
    "Kitchen": ("Kettle", "Skillet", "Chef Knife", "Coffee Grinder"),
    "Music": ("Tuner", "Guitar Strings", "Microphone", "Ukulele"),
    "Office": ("Stapler", "Notebook", "Desk Lamp", "Label Maker"),
    "Garden": ("Pruner", "Hose", "Planter", "Seed Tray"),
    "Fitness": ("Yoga Mat", "Jump Rope", "Kettlebell", "Foam Roller"),
    "Photo": ("Tripod", "Camera Strap", "Light Stand", "Lens Cloth"),
    "Crafts": ("Yarn", "Glue Gun", "Paint Set", "Sewing Kit"),
}
DEPARTMENTS = tuple(KINDS)
BRANDS = ("Alder", "Brisk", "Corvo", "Dunmore", "Elkhorn", "Fable", "Garnet", "Hollin",
          "Inverness", "Juniper", "Kestrel", "Lumen", "Marlow", "Norvik", "Orchard", "Pinnacle")  # fmt: skip
PRICE_LEVELS = ("Basic", "Plus", "Pro")
FAMILY_SIZE = 8
LIKED = (2, 4, 1)  # departments, brands and price levels that a type likes
PULL = (3.0, 2.0, 1.5)  # logarithm of the factor by which each of them makes a family likelier
POPULARITY_SPREAD = 1.0  # standard deviation of the logarithm of a family's popularity
PROJECTS, PROJECT_SIZE, BROWSING = 5, 5, 0.35  # of each type; families of one; share of the sessions that browse
SESSION_END, DRIFT = 0.2, 0.4
RATINGS = np.array([  # P(1..5 stars | 0..3 of department, brand and price level are liked)
    [0.25, 0.25, 0.25, 0.15, 0.10], [0.10, 0.20, 0.30, 0.25, 0.15],
    [0.04, 0.08, 0.20, 0.38, 0.30], [0.02, 0.03, 0.10, 0.30, 0.55]])  # fmt: skip
STEPS = (6, 24)  # fewest and most interactions of a user; fewer than a project has items


@dataclass(frozen=True)
class World:
    """The truth about one store; S = types * (1 + PROJECTS) states, G families.

    Attributes:
        family: [n_items] the family of each item.
        traits: [G, 3] department, brand and price level of each family.
        initial: [S] distribution of a user's first state, stationary.
        transition: [S, S] from row to column.
        emission: [S, G] P(family | state).
        liked: [S, G] how many of the family's traits the state's type likes, 0..3.
    """

    family: np.ndarray
    traits: np.ndarray
    initial: np.ndarray
    transition: np.ndarray
    emission: np.ndarray
    liked: np.ndarray

    @cached_property
    def sizes(self) -> np.ndarray:
        """Items of each family [G]."""
        return np.bincount(self.family)


@dataclass(frozen=True)
class Step:
    """One interaction and its truth: item and state are indices into the world."""

    user: int
    item: int
    state: int
    rating: int
    second: int


def make_world(items: int, types: int, seed: int) -> World:
    """Draws a store.

    Args:
        items: at least FAMILY_SIZE * PROJECT_SIZE; rounded down to whole families.
        types: taste types, at least 2.
        seed: non-negative.
    """
    rng = np.random.default_rng([seed, 0])
    n = items // FAMILY_SIZE
    numbers = (len(DEPARTMENTS), len(BRANDS), len(PRICE_LEVELS))
    traits = np.stack([rng.integers(0, number, n) for number in numbers], axis=1)
    popularity = np.exp(POPULARITY_SPREAD * rng.standard_normal(n))
    liked = np.zeros((types, n), dtype=int)
    pull = np.zeros((types, n))
    for z in range(types):
        for column, (number, wanted, factor) in enumerate(zip(numbers, LIKED, PULL, strict=True)):
            match = np.isin(traits[:, column], rng.permutation(number)[:wanted])
            liked[z] += match
            pull[z] += factor * match
    browse = popularity * np.exp(pull)
    browse /= browse.sum(1, keepdims=True)
    emission = np.zeros((types, 1 + PROJECTS, n))
    emission[:, 0] = browse
    for z in range(types):
        for project in range(1, 1 + PROJECTS):
            emission[z, project, rng.choice(n, PROJECT_SIZE, replace=False, p=browse[z])] = 1 / PROJECT_SIZE
    share = rng.dirichlet(np.full(types, 5.0))
    fresh = np.kron(share, modes := np.array([BROWSING, *[(1 - BROWSING) / PROJECTS] * PROJECTS]))
    same = np.kron(np.eye(types), np.tile(modes, (1 + PROJECTS, 1)))
    transition = (1 - SESSION_END) * np.eye(len(fresh)) + SESSION_END * ((1 - DRIFT) * same + DRIFT * fresh)
    return World(np.repeat(np.arange(n), FAMILY_SIZE), traits, fresh, transition,
                 emission.reshape(-1, n), np.repeat(liked, 1 + PROJECTS, axis=0))  # fmt: skip


def bought_together(world: World) -> list[list[int]]:
    """For each family, the other families of the first project that it is part of; [] where there is none [G]."""
    projects = [np.flatnonzero(row) for state, row in enumerate(world.emission) if state % (1 + PROJECTS)]
    return [
        next((project[project != family].tolist() for project in projects if family in project), [])
        for family in range(len(world.sizes))
    ]


def simulate(world: World, users: int, seed: int, first: int, stop: int) -> list[Step]:
    """Lets users walk through the store, one after the other, each in the order of time.

    Args:
        first, stop: seconds between which everything happens; each user is active in a part of that.
    """
    rng = np.random.default_rng([seed, 1])
    cumulated = {name: np.cumsum(getattr(world, name), axis=-1) for name in ("initial", "transition", "emission")}
    draw = lambda cdf: min(int(np.searchsorted(cdf, rng.random() * cdf[-1], side="right")), len(cdf) - 1)  # noqa: E731
    members = [np.flatnonzero(world.family == g) for g in range(len(world.sizes))]
    steps = []
    for user in range(users):
        n = int(rng.integers(STEPS[0], STEPS[1] + 1))
        start = 0.7 * rng.random()
        end = start + (1 - start) * (0.3 + 0.7 * rng.random())
        moments = np.sort(start + (end - start) * rng.random(n)) * (stop - first - n)
        times = first + moments.astype(int) + np.arange(n)  # no two at once
        shelves = [rng.permutation(members[g]).tolist() for g in range(len(members))]
        state = draw(cumulated["initial"])
        for k in range(n):
            state = draw(cumulated["transition"][state]) if k else state
            while not shelves[family := draw(cumulated["emission"][state])]:
                pass  # the user has them all, which is rare: the state draws again
            stars = 1 + draw(np.cumsum(RATINGS[world.liked[state, family]]))
            steps.append(Step(user, int(shelves[family].pop()), state, stars, int(times[k])))
    return steps
