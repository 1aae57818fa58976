"""Ranking metrics for one positive among the candidates, with intervals that respect who was asked.

A rank is the positive's place in the list, from 1; `np.inf` where the list does not hold it (or is not
valid). Tasks of one user are not independent, so intervals come from resampling users, not tasks: on ml-100k
they are about 1.4 times wider than naive ones.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

CUTOFFS = (1, 5, 10)
METRICS = tuple(f"{kind}@{k}" for kind in "HN" for k in CUTOFFS)
N_RESAMPLES = 1000


def ranks_from_scores(scores: ArrayLike, positives: ArrayLike) -> np.ndarray:
    """Rank of the positive when candidates are ordered by score, higher first.

    Equal scores keep the order shown, which is random and so favours nobody.

    Args:
        scores: [B, C].
        positives: [B] candidate numbers, 1..C.

    Returns:
        [B] float ranks, 1..C.
    """
    order = np.argsort(-np.asarray(scores, dtype=float), axis=1, kind="stable")
    return 1.0 + np.argmax(order == np.asarray(positives)[:, None] - 1, axis=1)


def gains(ranks: ArrayLike, metric: str) -> np.ndarray:
    """What each task adds to a metric, in 0..1.

    Args:
        ranks: [n], see the module's docstring.
        metric: "H@k" or "N@k". With one positive, H@k = [rank <= k], and N@k = 1 / log2(rank + 1) if rank <=
            k, else 0 (the ideal DCG is 1).

    Raises:
        ValueError: the metric is neither, or a rank is below 1.
    """
    ranks = np.asarray(ranks, dtype=float)
    kind, _, cutoff = metric.partition("@")
    if kind not in ("H", "N") or not cutoff.isdigit():
        raise ValueError(f"no metric {metric!r}; write H@k or N@k")
    if not (ranks >= 1).all():
        raise ValueError("ranks start at 1; an absent positive has rank inf")
    return np.where(ranks <= int(cutoff), 1 / np.log2(ranks + 1) if kind == "N" else 1.0, 0.0)


def hit_rate(ranks: ArrayLike, k: int) -> float:
    """H@k: the share of tasks whose positive is among the first k."""
    return float(gains(ranks, f"H@{k}").mean())


def ndcg(ranks: ArrayLike, k: int) -> float:
    """N@k: normalised discounted cumulative gain of the first k, averaged over tasks."""
    return float(gains(ranks, f"N@{k}").mean())


def summarize(ranks: ArrayLike, users: ArrayLike, valid: Sequence[bool] | None = None,
              calls: Sequence[int] | None = None, seed: int = 0) -> dict:
    """All metrics of one method on its tasks.

    Args:
        ranks: [n], see the module's docstring.
        users: [n] who each task is about; 95 % intervals resample them.
        valid: [n] whether each answer was well-formed; None for a recommender, whose answers always are.
        calls: [n] tool calls of each trajectory; None for a recommender, which makes none.
        seed: of the resampling.

    Returns:
        {"H@1", ..., "N@10", "valid": share, "calls": mean, "ci95": {metric: [low, high]}}.
    """
    columns = np.stack([gains(ranks, metric) for metric in METRICS], axis=1)
    intervals = user_bootstrap(columns, users, seed).tolist()
    return {
        **dict(zip(METRICS, columns.mean(0).tolist(), strict=True)),
        "valid": 1.0 if valid is None else float(np.mean(valid)),
        "calls": 0.0 if calls is None else float(np.mean(calls)),
        "ci95": dict(zip(METRICS, intervals, strict=True)),
    }


def paired_difference(ranks_a: ArrayLike, ranks_b: ArrayLike, users: ArrayLike, metric: str) -> dict:
    """Metric of a minus metric of b on the same tasks: {"difference", "ci95": [low, high]}.

    Pairing removes what makes a task hard for both, so the interval is narrower than those of a and b
    suggest.
    """
    difference = gains(ranks_a, metric) - gains(ranks_b, metric)
    interval = user_bootstrap(difference[:, None], users)[0]
    return {"difference": float(difference.mean()), "ci95": interval.tolist()}


def user_bootstrap(columns: np.ndarray, users: ArrayLike, seed: int = 0) -> np.ndarray:
    """Percentile intervals of the column means [n, m] when whole users are drawn with replacement: [m, 2]."""
    names, codes = np.unique(users, return_inverse=True)
    if len(codes) != len(columns):
        raise ValueError(f"{len(columns)} ranks, but {len(codes)} users")
    sums = np.zeros((len(names), columns.shape[1]))
    np.add.at(sums, codes, columns)
    draws = _draws(len(names), seed)
    means = (draws @ sums) / (draws @ np.bincount(codes))[:, None]
    return np.percentile(means, [2.5, 97.5], axis=0).T


@lru_cache(maxsize=8)  # the methods of one table have the same users
def _draws(n: int, seed: int) -> np.ndarray:
    """How often each of n users is drawn, which is all that matters of a resample [N_RESAMPLES, n]."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=N_RESAMPLES).astype(float)
