"""How well the toystore can be ranked at all: by Bayes' rule, from what a task shows, or knowing the hidden state.

The probability that candidate c is the positive, given history, ratings and the 20 candidates, is proportional to

    P(c comes next | history, ratings) * P(nobody of the other 19 is taken before or after | history, c comes next),

for the negatives are uniform over what the user never takes. Both are one pass through the hidden Markov model
(forward over the past, backward over the future). The first factor is exact: of a family with s items of which the
history shows v, an item that the history does not show comes next with probability P(family) / (s - v), whatever else
was taken before the history, since siblings are exchangeable.

The second factor speaks of interactions that the task does not show, those before the last ten and those after the
positive. Their number is told to the observer; it does not depend on taste. In each of them an item of a family that
is drawn evades its n other candidates with probability 1 - n / (items left). That is exact for the first unseen visit
to a family; at a further one an item less is left, which is neglected (two visits to 8 items: 49/64 for 48/64).
To take one item off at every visit, which is too much, moves N@10 in the shipped store by .0003, and to leave out the
whole second factor by .0007. Neglected, too: that a state draws again if the user has the whole family (in fewer than
one of 1,000 interactions), and that the negatives come only from items that somebody took before.
"""

from collections.abc import Sequence

import numpy as np

from agenticrec_lite.data.log import InteractionLog
from agenticrec_lite.data.tasks import RankingTask
from agenticrec_lite.data.toystore import Store, load_store
from agenticrec_lite.data.toystore_world import RATINGS, World
from agenticrec_lite.evaluation.metrics import ranks_from_scores


def bayes_ranks(tasks: Sequence[RankingTask], log: InteractionLog, store: Store | None = None) -> np.ndarray:
    """Ranks of the positives in the best order that anybody can give who knows what each task shows [n]."""
    return ranks_from_scores(bayes_probabilities(tasks, log, store), [task.positive for task in tasks])


def oracle_ranks(tasks: Sequence[RankingTask], log: InteractionLog, store: Store | None = None) -> np.ndarray:
    """Ranks of the positives in the order of one who knows the state that drew the positive, too [n]."""
    return ranks_from_scores(bayes_probabilities(tasks, log, store, oracle=True), [task.positive for task in tasks])


def bayes_probabilities(tasks: Sequence[RankingTask], log: InteractionLog, store: Store | None = None,
                        oracle: bool = False) -> np.ndarray:
    """Probability that each candidate is the positive, in the order shown.

    Args:
        tasks: of `log`.
        log: what the store's files hold.
        store: its truth; None for that of the default store.
        oracle: whether the observer knows the state that drew the positive.

    Returns:
        [n, C]; rows sum to 1.
    """
    store = store or load_store()
    numbers = {name: number for number, name in enumerate(store.item_ids)}
    world_item = np.array([numbers[name] for name in log.items["item_id"]])
    states = {(store.user_ids[step.user], step.item): step.state for step in store.steps} if oracle else {}
    by_user = {user: times.to_numpy() for user, times in log.interactions.groupby("user")["timestamp"]}
    rows = []
    for task in tasks:
        history, candidates = world_item[list(task.history)], world_item[list(task.candidates)]
        n_earlier = int(np.searchsorted(by_user[task.user], task.cutoff))
        rows.append(predictive(
            store.world, history, task.history_ratings, candidates,
            before=n_earlier - len(history), after=len(by_user[task.user]) - n_earlier - 1,
            state=states.get((log.user_ids[task.user], candidates[task.positive - 1])),
        ))  # fmt: skip
    return np.stack(rows)


def predictive(world: World, history: Sequence[int], ratings: Sequence[float], candidates: Sequence[int],
               before: int = 0, after: int = 0, state: int | None = None) -> np.ndarray:
    """Probability that each candidate is the positive [C].

    Args:
        history: items, oldest first, without what came before them.
        ratings: 1..5 or NaN, of each.
        candidates: items that are not in the history.
        before, after: unseen interactions before the history, and after the positive.
        state: that drew the positive, where it is known.
    """
    shown, families = (world.family[np.asarray(items, dtype=int)] for items in (history, candidates))
    left = world.sizes - np.bincount(shown, minlength=len(world.sizes))
    evaded = evasion(world, families, left)
    belief = np.tile(world.initial, (len(families), 1))  # [C, S]: one row for each candidate that may be the positive
    for _ in range(before):
        belief = (belief * evaded) @ world.transition
    for family, rating in zip(shown, ratings, strict=True):
        evidence = world.emission[:, family]
        if not np.isnan(rating):
            evidence = evidence * RATINGS[world.liked[:, family], int(rating) - 1]
        belief = (belief * evidence) @ world.transition
    if state is not None:
        belief = belief * (np.arange(belief.shape[1]) == state)
    future = np.ones_like(belief)
    for _ in range(after):
        future = (evaded * future) @ world.transition.T
    scores = (belief * world.emission[:, families].T * future).sum(1) / left[families]
    return scores / scores.sum()


def evasion(world: World, families: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Probability that an unseen interaction in each state takes no candidate but c, for each candidate c [C, S].

    Args:
        families: of the candidates [C].
        left: items of each family that the history does not show [G].
    """
    n = np.bincount(families, minlength=len(left))
    hit = np.tile(n / np.maximum(left, 1), (len(families), 1))
    hit[np.arange(len(families)), families] = (n[families] - 1) / np.maximum(left[families] - 1, 1)
    return 1 - hit @ world.emission.T
