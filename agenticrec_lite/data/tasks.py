"""Ranking tasks: a user's recent history and 20 numbered candidates, one of which the user took next."""

from dataclasses import dataclass
from itertools import islice

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


def build_tasks(log: InteractionLog, split: Split, part: str, n: int | None, seed: int,
                n_candidates: int = 20, history_length: int = 10, min_history: int = 3) -> list[RankingTask]:
    """Draws `n` distinct rows of a part and turns each into a task (the setting of AgenticRec, arXiv
    2603.21613).

    The catalogue is what the tools can know: the items in `split.fit_rows(part)`. Negatives are uniform over
    the catalogue outside all of the user's interactions, past and future. Left out are rows whose positive is
    outside the catalogue or was taken by that user before, with fewer than `min_history` strictly earlier
    interactions, or with fewer than `n_candidates` - 1 possible negatives.

    Each task depends on (seed, part, row) alone, and the tasks for a small `n` are the first ones for a
    larger `n`.

    Args:
        part: "train_late", "validation" or "test".
        n: number of tasks; None or more than there are gives all.
        seed: non-negative.

    Raises:
        UserError: no row of the part can become a task.
    """
    drawer = _TaskDrawer(log, split, part, seed)
    rows = drawer.shuffled_rows(split.rows(part))
    drawn = (drawer.task(int(row), n_candidates, history_length, min_history) for row in rows)
    tasks = list(islice((task for task in drawn if task is not None), n))
    if not tasks and n != 0:
        raise UserError(f"{log.name}: no row of {part} gives a task with {min_history} earlier interactions "
                        f"and {n_candidates} candidates; use a longer log or ask for less.")
    return tasks


class _TaskDrawer:
    """The log laid out so that one task is a few array look-ups."""

    def __init__(self, log: InteractionLog, split: Split, part: str, seed: int):
        columns = log.interactions
        self.users, self.items, self.ratings, self.times = (
            columns[name].to_numpy() for name in ("user", "item", "rating", "timestamp"))
        self.catalogue = np.unique(self.items[split.fit_rows(part)])
        self.place = np.full(log.n_items, -1)  # of each item in the catalogue
        self.place[self.catalogue] = np.arange(len(self.catalogue))
        self.first_time = ~columns.duplicated(["user", "item"]).to_numpy()
        # rows of user u, in time order: by_user[starts[u] : starts[u + 1]]
        self.by_user = np.argsort(self.users, kind="stable")
        self.starts = np.searchsorted(self.users[self.by_user], np.arange(log.n_users + 1))
        self.part = part
        self.seeds = [seed, list(FITTED_ON).index(part)]

    def shuffled_rows(self, rows: slice) -> np.ndarray:
        usable = ((self.place[self.items] >= 0) & self.first_time)[rows]
        return np.random.default_rng(self.seeds).permutation(np.flatnonzero(usable) + rows.start)

    def task(self, row: int, n_candidates: int, history_length: int, min_history: int) -> RankingTask | None:
        user, positive, cutoff = self.users[row], self.items[row], self.times[row]
        user_rows = self.by_user[self.starts[user] : self.starts[user + 1]]
        past = user_rows[: np.searchsorted(self.times[user_rows], cutoff, side="left")]
        # The negatives are the catalogue without the user's own places in it. As many of these lie before negative k
        # as have k or fewer negatives before them.
        own = np.sort(self.place[self.items[user_rows[self.first_time[user_rows]]]])
        own = own[own >= 0]
        n_negatives = len(self.catalogue) - len(own)
        if len(past) < min_history or n_negatives < n_candidates - 1:
            return None
        rng = np.random.default_rng([*self.seeds, row])
        drawn = rng.choice(n_negatives, n_candidates - 1, replace=False)
        drawn = self.catalogue[drawn + np.searchsorted(own - np.arange(len(own)), drawn, side="right")]
        candidates = rng.permutation(np.append(drawn, positive))
        shown = past[-history_length:]
        return RankingTask(
            task_id=f"{self.part}-{row:06d}",
            user=int(user),
            history=tuple(self.items[shown].tolist()),
            history_ratings=tuple(self.ratings[shown].tolist()),
            candidates=tuple(candidates.tolist()),
            positive=int(np.argmax(candidates == positive)) + 1,
            cutoff=int(cutoff),
        )
