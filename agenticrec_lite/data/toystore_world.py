"""The generative model of the invented shops, of which the truth is known, so that one can say what is knowable.

A hidden Markov model (Rabiner, Proc. IEEE 1989). In each step of a user a hidden state, which is a taste type and what
the session is about, draws a *family* of near-duplicate items, and the user takes one of them that they do not have.

- A type likes some departments, some brands and one price level. A session browses all that its type likes, or is
  about one of the type's projects: a few families that are bought together.
- A session ends after each step with a certain probability; for the next one a type is drawn anew with another. Users
  start in the stationary distribution of that chain.
- Within a family every item is as likely as another, and nobody takes an item twice. So which sibling it was says
  nothing about the state, and inference only has to follow the families (`evaluation.bayes`).
- The rating depends on how many of department, brand and price level the type likes.
- When and how often a user takes something does not depend on the state.

The *toystore* is that. In the *moodstore* a step is of one of two kinds, and the last rating says which is likely:

- After at least PLEASED stars the session goes on, as in the toystore: an own step, whatever the state draws.
- After fewer the user plays it safe and takes a hit of the shop's chart: a few families, the same for everybody, that
  own steps never take. The hidden state moves on as it does in own steps.
- The rating is hardly better for what is liked, so that items alone say little of the kind that comes next.
"""

from dataclasses import dataclass, field
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
PROJECTS = 5  # of each type
PROJECT_SIZE = 5  # families of a project of the toystore
STEPS = (6, 24)  # fewest and most interactions of a user; fewer than a project has items
RATINGS = np.array([  # P(1..5 stars | 0..3 of department, brand and price level are liked)
    [0.25, 0.25, 0.25, 0.15, 0.10], [0.10, 0.20, 0.30, 0.25, 0.15],
    [0.04, 0.08, 0.20, 0.38, 0.30], [0.02, 0.03, 0.10, 0.30, 0.55]])  # fmt: skip
OWN, CHART = 0, 1  # the kinds of steps
PLEASED = 4  # stars
ONE_KIND = np.ones((6, 1))  # see World.kind_after


@dataclass(frozen=True)
class Design:
    """What all stores of one name have in common.

    Attributes:
        project_size: families of a project.
        one_department: whether a project's families are of one department, as long as there are enough.
        browsing: share of the sessions that browse.
        session_end: probability that a session ends after a step.
        drift: probability that the next session's type is drawn anew.
        ratings: [4, 5] P(1..5 stars | 0..3 of department, brand and price level are liked).
        hits: share of the families that are hits; 0 for a store without a chart.
        hit_spread: standard deviation of the logarithm of a hit's popularity.
        follow: probability that a step is of the kind that the last rating names.
    """

    project_size: int = PROJECT_SIZE
    one_department: bool = False
    browsing: float = 0.35
    session_end: float = 0.2
    drift: float = 0.4
    ratings: np.ndarray = field(default_factory=lambda: RATINGS)
    hits: float = 0.0
    hit_spread: float = 0.5
    follow: float = 0.97

    @property
    def fewest_hits(self) -> int:
        """Families of the smallest chart: together they have more items than a user takes."""
        return STEPS[1] // FAMILY_SIZE + 1 if self.hits else 0

    @property
    def fewest_items(self) -> int:
        """Items of the smallest store."""
        return FAMILY_SIZE * (self.project_size + self.fewest_hits)


# The moodstore's numbers were chosen on its seed 0, see docs/stores.md.
DESIGNS = {
    "toystore": Design(),
    "moodstore": Design(
        project_size=10, one_department=True, browsing=0.1, session_end=0.05, drift=0.1, hits=0.15,
        ratings=np.array([
            [0.30, 0.28, 0.12, 0.17, 0.13], [0.25, 0.24, 0.11, 0.22, 0.18],
            [0.20, 0.18, 0.08, 0.27, 0.27], [0.17, 0.15, 0.07, 0.29, 0.32]]),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class World:
    """The truth about one store; S = types * (1 + PROJECTS) states, G families, K kinds of steps.

    Attributes:
        family: [n_items] the family of each item.
        traits: [G, 3] department, brand and price level of each family.
        initial: [S] distribution of a user's first state, stationary.
        transition: [S, S] from row to column.
        emission: [S, G] P(family | state) of an own step.
        liked: [S, G] how many of the family's traits the state's type likes, 0..3.
        ratings: [4, 5] P(1..5 stars | 0..3 traits are liked).
        chart: [G] P(family) of a step from the chart; None for a store without one.
        kind_after: [6, K] P(kind of a step | stars of the step before); row 0 is for a user's first step.
    """

    family: np.ndarray
    traits: np.ndarray
    initial: np.ndarray
    transition: np.ndarray
    emission: np.ndarray
    liked: np.ndarray
    ratings: np.ndarray = field(default_factory=lambda: RATINGS)
    chart: np.ndarray | None = None
    kind_after: np.ndarray = field(default_factory=lambda: ONE_KIND)

    @cached_property
    def by_kind(self) -> np.ndarray:
        """P(family | kind, state) [K, S, G]."""
        if self.chart is None:
            return self.emission[None]
        return np.stack([self.emission, np.tile(self.chart, (len(self.emission), 1))])

    @cached_property
    def sizes(self) -> np.ndarray:
        """Items of each family [G]."""
        return np.bincount(self.family)


@dataclass(frozen=True)
class Step:
    """One interaction and its truth: item and state are indices into the world, the kind is OWN or CHART."""

    user: int
    item: int
    state: int
    rating: int
    second: int
    kind: int = OWN


def make_world(items: int, types: int, seed: int, design: Design | None = None) -> World:
    """Draws a store.

    Args:
        items: at least the design's `fewest_items`; rounded down to whole families.
        types: taste types, at least 2.
        seed: non-negative.
        design: the toystore's by default.
    """
    design = design or DESIGNS["toystore"]
    rng = np.random.default_rng([seed, 0])
    n = items // FAMILY_SIZE
    numbers = (len(DEPARTMENTS), len(BRANDS), len(PRICE_LEVELS))
    traits = np.stack([rng.integers(0, number, n) for number in numbers], axis=1)
    popularity = np.exp(POPULARITY_SPREAD * rng.standard_normal(n))
    chart = draw_chart(n, seed, design) if design.hits else None
    if chart is not None:
        popularity[chart > 0] = 0
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
            likely = browse[z]
            if design.one_department:
                department = traits[rng.choice(n, p=likely), 0]
                likely = likely * np.where(traits[:, 0] == department, 1, 1e-9)  # others where it is too small
                likely /= likely.sum()
            families = rng.choice(n, design.project_size, replace=False, p=likely)
            emission[z, project, families] = 1 / design.project_size
    share = rng.dirichlet(np.full(types, 5.0))
    modes = np.array([design.browsing, *[(1 - design.browsing) / PROJECTS] * PROJECTS])
    fresh = np.kron(share, modes)
    same = np.kron(np.eye(types), np.tile(modes, (1 + PROJECTS, 1)))
    following = (1 - design.drift) * same + design.drift * fresh
    transition = (1 - design.session_end) * np.eye(len(fresh)) + design.session_end * following
    return World(np.repeat(np.arange(n), FAMILY_SIZE), traits, fresh, transition, emission.reshape(-1, n),
                 np.repeat(liked, 1 + PROJECTS, axis=0), design.ratings, chart,
                 ONE_KIND if chart is None else kinds_after(design.follow))  # fmt: skip


def draw_chart(n: int, seed: int, design: Design) -> np.ndarray:
    """P(family | the step is from the chart) [n]; 0 for what is no hit."""
    rng = np.random.default_rng([seed, 4])
    chart = np.exp(design.hit_spread * rng.standard_normal(n))
    chart[rng.permutation(n)[max(design.fewest_hits, round(design.hits * n)) :]] = 0
    return chart / chart.sum()


def kinds_after(follow: float) -> np.ndarray:
    """P(own, chart | stars of the step before) [6, 2]; a user's first step is of either kind with probability 1/2."""
    own = np.where(np.arange(6) >= PLEASED, follow, 1 - follow)
    own[0] = 0.5
    return np.stack([own, 1 - own], axis=1)


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
    names = ("initial", "transition", "by_kind", "kind_after")
    cumulated = {name: np.cumsum(getattr(world, name), axis=-1) for name in names}
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
        state, stars = draw(cumulated["initial"]), 0
        for k in range(n):
            state = draw(cumulated["transition"][state]) if k else state
            kind = OWN if world.chart is None else draw(cumulated["kind_after"][stars])
            while not shelves[family := draw(cumulated["by_kind"][kind, state])]:
                pass  # the user has them all, which is rare: the state draws again
            stars = 1 + draw(np.cumsum(world.ratings[world.liked[state, family]]))
            steps.append(Step(user, int(shelves[family].pop()), state, stars, int(times[k]), kind))
    return steps
