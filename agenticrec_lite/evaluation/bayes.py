"""How well a generated store can be ranked at all: by Bayes' rule, from what a task shows, or knowing the hidden state.

The probability that candidate c is the positive, given history, ratings and the 20 candidates, is proportional to

    P(c comes next | history, ratings) * P(nobody of the other 19 is taken before or after | history, c comes next),

for the negatives are uniform over what the user never takes. Both are one pass through the hidden Markov model
(forward over the past, backward over the future). The first factor is exact: of a family with s items of which the
history shows v, an item that the history does not show comes next with probability P(family) / (s - v), whatever else
was taken before the history, since siblings are exchangeable.

What is hidden is a pair: the state, and the kind of the step (in the toystore there is one kind, in the moodstore two).
A step of kind k in state s draws family f with probability D[k, s, f], which is E[s, f] for an own step and chart[f]
for one from the chart, and r stars with probability R[s, f, r]. The next step has kind l with probability A[r, l], and
its state is drawn from T[s, .]; given the rating the two are independent. So where the rating r of a step is shown, the
belief b becomes b'[l, t] = A[r, l] sum_s T[s, t] R[s, f, r] sum_k D[k, s, f] b[k, s]: at the next step it is a belief
over states alone, and the emission is a mixture, (1 - e) E + e chart with e = A[r, CHART]. Where no rating is shown the
sum over r stands for A and R, and kind and state stay together.

The second factor speaks of interactions that the task does not show, those before the last ten and those after the
positive. Their number is told to the observer; it does not depend on taste. In each of them an item of a family that
is drawn evades its n other candidates with probability 1 - n / (items left). That is exact for the first unseen visit
to a family; at a further one an item less is left, which is neglected (two visits to 8 items: 49/64 for 48/64).
To take one item off at every visit, which is too much, moves N@10 in the shipped toystore by .0003, and to leave out
the whole second factor by .0007. Neglected, too: that a state draws again if the user has the whole family (in fewer
than one of 1,000 interactions), and that the negatives come only from items that somebody took before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from agenticrec_lite.data.log import InteractionLog
from agenticrec_lite.data.tasks import RankingTask
from agenticrec_lite.data.toystore import Store, load_store
from agenticrec_lite.data.toystore_world import World
from agenticrec_lite.evaluation.metrics import ranks_from_scores


def bayes_ranks(tasks: Sequence[RankingTask], log: InteractionLog, store: Store | None = None) -> np.ndarray:
    """Ranks of the positives in the best order that anybody can give who knows what each task shows [n]."""
    return ranks_from_scores(bayes_probabilities(tasks, log, store), [task.positive for task in tasks])


def oracle_ranks(tasks: Sequence[RankingTask], log: InteractionLog, store: Store | None = None) -> np.ndarray:
    """Ranks of the positives in the order of one who knows the kind and the state that drew the positive, too [n]."""
    return ranks_from_scores(bayes_probabilities(tasks, log, store, oracle=True), [task.positive for task in tasks])


def bayes_probabilities(tasks: Sequence[RankingTask], log: InteractionLog, store: Store | None = None,
                        oracle: bool = False, hide: Literal["nothing", "last rating", "ratings"] = "nothing",
                        ) -> np.ndarray:  # fmt: skip
    """Probability that each candidate is the positive, in the order shown.

    Args:
        tasks: of `log`.
        log: what the store's files hold.
        store: its truth; None for that of the log's folder, or of the default toystore where the log has none.
        oracle: whether the observer knows the kind and the state that drew the positive.
        hide: what of each task the observer does not see.

    Returns:
        [n, C]; rows sum to 1.
    """
    store = store or load_store(log.truth)
    world_item = world_items(log, store)
    drawn = {(store.user_ids[step.user], step.item): (step.kind, step.state) for step in store.steps} if oracle else {}
    by_user = {user: times.to_numpy() for user, times in log.interactions.groupby("user")["timestamp"]}
    rows = []
    for task in tasks:
        history, candidates = world_item[list(task.history)], world_item[list(task.candidates)]
        n_earlier = int(np.searchsorted(by_user[task.user], task.cutoff))
        n_hidden = {"nothing": 0, "last rating": 1, "ratings": len(history)}[hide]
        ratings = (*task.history_ratings[: len(history) - n_hidden], *[np.nan] * n_hidden)
        rows.append(predictive(
            store.world, history, ratings, candidates,
            before=n_earlier - len(history), after=len(by_user[task.user]) - n_earlier - 1,
            drawn=drawn.get((log.user_ids[task.user], candidates[task.positive - 1])),
        ))  # fmt: skip
    return np.stack(rows)


def world_items(log: InteractionLog, store: Store) -> np.ndarray:
    """The number in the store's world of each item of a log [n_items]."""
    numbers = {name: number for number, name in enumerate(store.item_ids)}
    return np.array([numbers[name] for name in log.items["item_id"]])


def predictive(world: World, history: Sequence[int], ratings: Sequence[float], candidates: Sequence[int],
               before: int = 0, after: int = 0, drawn: tuple[int, int] | None = None) -> np.ndarray:
    """Probability that each candidate is the positive [C].

    Args:
        history: items, oldest first, without what came before them.
        ratings: 1..5 or NaN, of each.
        candidates: items that are not in the history.
        before, after: unseen interactions before the history, and after the positive.
        drawn: kind and state that drew the positive, where they are known.
    """
    shown, families = (world.family[np.asarray(items, dtype=int)] for items in (history, candidates))
    left = world.sizes - np.bincount(shown, minlength=len(world.sizes))
    next_kind = kind_after_unrated(world)
    unseen = Unseen.of(world, next_kind, families, left)
    first = world.kind_after[0][:, None] * world.initial
    belief = np.tile(first, (len(families), 1, 1))  # [C, K, S]: for each candidate that may be the positive
    for _ in range(before):
        belief = unseen.forward(belief)
    belief = observe(world, belief, next_kind, shown, ratings)
    if drawn is not None:
        known = np.zeros(belief.shape[1:])
        known[drawn] = 1
        belief = belief * known
    future = np.ones_like(belief)
    for _ in range(after):
        future = unseen.backward(future)
    comes = (belief * world.by_kind[:, :, families].transpose(2, 0, 1)).sum(1)  # [C, S]
    goes_on = (next_kind[:, :, families].transpose(2, 0, 1) * (future @ world.transition.T)).sum(1)
    scores = (comes * goes_on).sum(1) / left[families]
    return scores / scores.sum()


def observe(world: World, belief: np.ndarray, next_kind: np.ndarray, families: np.ndarray,
            ratings: Sequence[float]) -> np.ndarray:  # fmt: skip
    """The belief over kind and state before the next step [..., K, S], not scaled, from that before the first.

    Args:
        belief: [..., K, S].
        next_kind: see `kind_after_unrated`.
        families: of the steps, oldest first.
        ratings: 1..5 or NaN, of each.
    """
    for family, rating in zip(families, ratings, strict=True):
        of_state = (belief * world.by_kind[:, :, family]).sum(-2)  # [..., S]
        if np.isnan(rating):
            following = of_state[..., None, :] * next_kind[:, :, family]
        else:
            likely = of_state * world.ratings[world.liked[:, family], int(rating) - 1]
            following = likely[..., None, :] * world.kind_after[int(rating)][:, None]
        belief = following @ world.transition
    return belief


def kind_probabilities(world: World, history: Sequence[int], ratings: Sequence[float]) -> np.ndarray:
    """P(kind of the next step | a user's first items and their ratings) [K]; see `predictive`."""
    first = world.kind_after[0][:, None] * world.initial
    families = world.family[np.asarray(history, dtype=int)]
    p = observe(world, first, kind_after_unrated(world), families, ratings).sum(-1)
    return p / p.sum()


def kind_after_unrated(world: World) -> np.ndarray:
    """P(kind of the next step | state, family) of a step whose rating is not shown [K, S, G]."""
    return np.moveaxis((world.ratings @ world.kind_after[1:])[world.liked], -1, 0)


@dataclass(frozen=True)
class Unseen:
    """One unseen interaction that takes none of the candidates but c.

    Attributes:
        evaded: [C, K, K, S] P(it evades them and the next step is of kind l | c, its kind k, its state), as [c, k, l].
        transition: [S, S] of the states.
    """

    evaded: np.ndarray
    transition: np.ndarray

    @classmethod
    def of(cls, world: World, next_kind: np.ndarray, families: np.ndarray, left: np.ndarray) -> "Unseen":
        """For these candidates.

        Args:
            next_kind: see `kind_after_unrated`.
            families: of the candidates [C].
            left: items of each family that the history does not show [G].
        """
        n = np.bincount(families, minlength=len(left))
        hit = np.tile(n / np.maximum(left, 1), (len(families), 1))
        hit[np.arange(len(families)), families] = (n[families] - 1) / np.maximum(left[families] - 1, 1)
        drawn = world.by_kind[:, None] * next_kind  # [K, K, S, G]
        taken = (hit @ drawn.reshape(-1, len(left)).T).reshape(len(families), *drawn.shape[:3])
        return cls(drawn.sum(-1) - taken, world.transition)

    def forward(self, belief: np.ndarray) -> np.ndarray:
        """From the belief before it to that before the next step [C, K, S]."""
        return (belief[:, :, None] * self.evaded).sum(1) @ self.transition

    def backward(self, future: np.ndarray) -> np.ndarray:
        """From P(what follows evades them | kind, state of the next step) to the same of this one [C, K, S]."""
        return (self.evaded * (future @ self.transition.T)[:, None]).sum(2)
