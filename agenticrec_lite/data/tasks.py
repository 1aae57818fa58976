"""Ranking tasks: a user's recent history and 20 numbered candidates, one of which the user took next."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from agenticrec_lite.data.log import InteractionLog
from agenticrec_lite.data.split import FITTED_ON, Split
from agenticrec_lite.errors import UserError


@dataclass(frozen=True)
class RankingTask:
    """One question to the agent.

    Attributes:
        task_id: part and row number of the positive, for example "test-091234".
        user: user code.
        history: item codes, oldest first, each strictly earlier than the cut-off.
        history_ratings: the ratings the user gave them (NaN = none).
        candidates: item codes in the order shown; candidate number = index + 1.
        positive: candidate number of the item the user took, 1..n_candidates.
        cutoff: timestamp of the positive in seconds; nothing from this second on may be evidence.
    """

    task_id: str
    user: int
    history: tuple[int, ...]
    history_ratings: tuple[float, ...]
    candidates: tuple[int, ...]
    positive: int
    cutoff: int


@dataclass(frozen=True, eq=False)
class Pool:
    """What the candidates of one task may be: its positive, and every item of the catalogue that its user never took.

    Attributes:
        positive: Item code.
        catalogue: Item codes that the tools can know, sorted [n].
        own: Places in the catalogue of all that the user took, past and future, sorted.
    """

    positive: int
    catalogue: np.ndarray
    own: np.ndarray

    def __len__(self) -> int:
        """How many items can be negatives."""
        return len(self.catalogue) - len(self.own)

    def negatives(self, numbers: np.ndarray) -> np.ndarray:
        """Item codes of the negatives with these numbers, 0 .. len - 1, in the order of the catalogue."""
        # As many of the user's own places lie before negative k as have k or fewer negatives before them.
        return self.catalogue[numbers + np.searchsorted(self.own - np.arange(len(self.own)), numbers, side="right")]


def random_candidates(rng: np.random.Generator, pool: Pool, n: int) -> np.ndarray:
    """The positive and n - 1 different negatives, uniformly drawn, in random order: the paper's candidates.

    This is the form of every `draw` that `build_tasks` takes.

    Args:
        rng: Seeded by (seed, part, row), so that a task is the same wherever it is drawn.
        pool: What may be drawn.
        n: Number of candidates.

    Returns:
        Item codes in the order shown [n].
    """
    drawn = pool.negatives(rng.choice(len(pool), n - 1, replace=False))
    return rng.permutation(np.append(drawn, pool.positive))


class Tasks(Sequence[RankingTask]):
    """Ranking tasks in random order, each made when it is asked for; made by `build_tasks`."""

    def __init__(self, drawer: "_TaskDrawer", rows: np.ndarray):
        self._drawer, self._rows = drawer, rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> RankingTask: ...
    @overload
    def __getitem__(self, place: slice) -> list[RankingTask]: ...
    def __getitem__(self, place):
        if isinstance(place, slice):
            return [self._drawer.task(int(row)) for row in self._rows[place]]
        return self._drawer.task(int(self._rows[place]))

    def find(self, task_ids: Sequence[str]) -> list[RankingTask]:
        """The tasks of these ids, in their order. Raises ValueError for an id of another part."""
        parts, rows = zip(*(task_id.rsplit("-", 1) for task_id in task_ids), strict=True) if task_ids else ((), ())
        if other := set(parts) - {self._drawer.part}:
            raise ValueError(f"these are tasks of {self._drawer.part}, not of {', '.join(other)}")
        return [self._drawer.task(int(row)) for row in rows]


def build_tasks(
    log: InteractionLog,
    split: Split,
    part: str,
    n: int | None,
    seed: int,
    n_candidates: int = 20,
    history_length: int = 10,
    min_history: int = 3,
    draw: Callable[[np.random.Generator, Pool, int], Sequence[int]] = random_candidates,
) -> Tasks:
    """Turns `n` distinct rows of a part into tasks (the setting of AgenticRec, arXiv 2603.21613).

    The catalogue is what the tools can know: the items in `split.fit_rows(part)`. Negatives are uniform over
    the catalogue outside all of the user's interactions, past and future. Left out are rows whose positive is
    outside the catalogue or was taken by that user before, with fewer than `min_history` strictly earlier
    interactions, or with fewer than `n_candidates` - 1 possible negatives.

    Each task depends on (seed, part, row) alone, and the tasks for a small `n` are the first ones for a
    larger `n`. A task is made when it is asked for.

    Args:
        part: "train_late", "validation" or "test".
        n: number of tasks; None or more than there are gives all.
        seed: non-negative.
        n_candidates: the positive included.
        history_length: items of the history that are shown, the latest.
        min_history: fewest earlier interactions of a user who is asked about.
        draw: chooses the candidates and their order, as `random_candidates` does.

    Raises:
        UserError: no row of the part can become a task; or, when a task is asked for, `draw` gives something else
            than `n_candidates` different items of the pool with the positive among them.
    """
    drawer = _TaskDrawer(log, split, part, seed, n_candidates, history_length, draw)
    rows = drawer.shuffled_rows(split.rows(part), min_history)
    if not len(rows) and n != 0:
        raise UserError(f"{log.name}: no row of {part} gives a task with {min_history} earlier interactions "
                        f"and {n_candidates} candidates; use a longer log or ask for less.")
    return Tasks(drawer, rows[:n])


class _TaskDrawer:
    """The log laid out so that one task is a few array look-ups."""

    def __init__(self, log: InteractionLog, split: Split, part: str, seed: int, n_candidates: int, history_length: int,
                 draw: Callable):
        columns = log.interactions
        self.users, self.items, self.ratings, self.times = (
            columns[name].to_numpy() for name in ("user", "item", "rating", "timestamp"))
        self.catalogue = np.unique(self.items[split.fit_rows(part)])
        self.place = np.full(log.n_items, -1)  # of each item in the catalogue
        self.place[self.catalogue] = np.arange(len(self.catalogue))
        self.first_time = log.first_time
        # rows of user u, in time order: by_user[starts[u] : starts[u + 1]]
        self.by_user = np.argsort(self.users, kind="stable")
        self.starts = np.searchsorted(self.users[self.by_user], np.arange(log.n_users + 1))
        self.part, self.seeds = part, [seed, list(FITTED_ON).index(part)]
        self.n_candidates, self.history_length, self.draw = n_candidates, history_length, draw

    def shuffled_rows(self, rows: slice, min_history: int) -> np.ndarray:
        """Rows that make a task, in random order."""
        known = (self.place[self.items] >= 0) & self.first_time
        shuffled = np.random.default_rng(self.seeds).permutation(np.flatnonzero(known[rows]) + rows.start)
        own = np.bincount(self.users[known], minlength=len(self.starts) - 1)  # items of each user in the catalogue
        enough = len(self.catalogue) - own >= self.n_candidates - 1
        return shuffled[(self._n_earlier()[shuffled] >= min_history) & enough[self.users[shuffled]]]

    def _n_earlier(self) -> np.ndarray:
        """How many strictly earlier interactions the user of each row has [n]."""
        users, times = self.users[self.by_user], self.times[self.by_user]
        new = np.ones(len(users), dtype=bool)  # not at the same moment as the user's row before
        new[1:] = (users[1:] != users[:-1]) | (times[1:] != times[:-1])
        first = np.maximum.accumulate(np.where(new, np.arange(len(users)), 0))
        earlier = np.empty(len(users), dtype=np.int64)
        earlier[self.by_user] = first - self.starts[users]
        return earlier

    def task(self, row: int) -> RankingTask:
        user, positive, cutoff = self.users[row], self.items[row], self.times[row]
        user_rows = self.by_user[self.starts[user] : self.starts[user + 1]]
        past = user_rows[: np.searchsorted(self.times[user_rows], cutoff, side="left")]
        own = np.sort(self.place[self.items[user_rows[self.first_time[user_rows]]]])
        pool = Pool(int(positive), self.catalogue, own[own >= 0])
        candidates = np.asarray(self.draw(np.random.default_rng([*self.seeds, row]), pool, self.n_candidates))
        if self.draw is not random_candidates:
            self._check(candidates, pool)
        shown = past[-self.history_length :]
        return RankingTask(
            task_id=f"{self.part}-{row:06d}",
            user=int(user),
            history=tuple(self.items[shown].tolist()),
            history_ratings=tuple(self.ratings[shown].tolist()),
            candidates=tuple(candidates.tolist()),
            positive=int(np.argmax(candidates == positive)) + 1,
            cutoff=int(cutoff),
        )

    def _check(self, candidates: np.ndarray, pool: Pool) -> None:
        """Raises UserError unless somebody's `draw` gave candidates that can be ranked fairly."""
        name, others = getattr(self.draw, "__name__", "draw"), candidates[candidates != pool.positive]
        allowed = np.isin(others, pool.catalogue) & ~np.isin(others, pool.catalogue[pool.own])
        if len(candidates) != self.n_candidates or len(set(candidates.tolist())) != self.n_candidates:
            raise UserError(f"The candidates of {name} must be {self.n_candidates} different items, not "
                            f"{candidates.tolist()}.")
        if len(others) != self.n_candidates - 1 or not allowed.all():
            raise UserError(f"The candidates of {name} must be the positive and items of pool.negatives(...); an item "
                            "that the user took, or that is not in the catalogue, is no negative.")
