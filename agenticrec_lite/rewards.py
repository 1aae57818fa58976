"""The rewards of the paper, branch by branch, and the group advantage."""

import math
from collections.abc import Sequence

import numpy as np

from agenticrec_lite.agent.trajectory import Trajectory

TOP_BONUS = 0.1
MISSED = -0.5
INVALID = -1.0


def ndcg_at_10(answer: Sequence[int], positive: int) -> float:
    """N@10 of a list with one positive: 1 / log2(rank + 1) if it is among the first ten, else 0."""
    return 1 / math.log2(answer.index(positive) + 2) if positive in answer[:10] else 0.0


def listwise_reward(trajectory: Trajectory, positive: int) -> float:
    """Reward of a ranking trajectory (the paper's stage 1).

    N@10 if the list is valid and holds the positive, + 0.1 if it is first and a tool was called; -0.5 if the list is
    valid and misses it; -1 for anything else.

    Args:
        trajectory: With outcome and answer.
        positive: Candidate number of the positive.
    """
    if not trajectory.valid:
        return INVALID
    if positive not in trajectory.answer[:10]:
        return MISSED
    bonus = TOP_BONUS if trajectory.answer[0] == positive and trajectory.n_calls > 0 else 0.0
    return ndcg_at_10(trajectory.answer, positive) + bonus


def pairwise_reward(trajectory: Trajectory, right: str) -> float:
    """Reward of a pair-wise trajectory (stage 2, PPR): 1 right, 0 wrong, -1 for anything that is no answer.

    Args:
        trajectory: Of a "more" or "less" question.
        right: "A" or "B".
    """
    if not trajectory.valid:
        return INVALID
    return 1.0 if trajectory.answer == right else 0.0


def refinement_reward(trajectory: Trajectory, right: int | str) -> float:
    """Reward of a stage-2 trajectory: pair-wise for its pair-wise questions, list-wise for rehearsed rankings.

    Args:
        trajectory: Of any question.
        right: "A" or "B", or the candidate number of the positive.
    """
    return (listwise_reward if trajectory.kind == "rank" else pairwise_reward)(trajectory, right)


def group_advantages(rewards: Sequence[float], group_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Advantage R - mean(group), without the standard deviation, and which groups are dropped.

    The mean includes the sample itself (Proposition 1: the expected gradient is then (G-1)/G times the true one). A
    group whose rewards are all negative is dropped, as in dynamic sampling (DAPO): its advantages are 0.

    Args:
        rewards: Group by group [n * G].
        group_size: G.

    Returns:
        Advantages [n * G] and dropped [n].
    """
    groups = np.asarray(rewards, dtype=np.float64).reshape(-1, group_size)
    dropped = (groups < 0).all(axis=1)
    advantages = groups - groups.mean(axis=1, keepdims=True)
    advantages[dropped] = 0.0
    return advantages.ravel(), dropped


def standardised_advantages(rewards: Sequence[float], group_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Advantage (R - mean) / (standard deviation + 1e-4), as in GRPO (Shao et al. 2024), same groups dropped.

    Every task then counts alike, however much its rewards differ; the expected gradient is no longer that of the mean
    reward. Arguments and results as of `group_advantages`.
    """
    advantages, dropped = group_advantages(rewards, group_size)
    spread = np.reshape(rewards, (-1, group_size)).std(1, ddof=1)
    return advantages / np.repeat(spread + 1e-4, group_size), dropped


ADVANTAGES = {"none": group_advantages, "group": standardised_advantages}  # by the setting scale_rewards
