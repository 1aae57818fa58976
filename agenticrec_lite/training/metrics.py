"""What is logged of a training step: a row of metrics.csv, and a row a trajectory."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from agenticrec_lite.agent.question import Question
from agenticrec_lite.agent.record import evidence_of, mood_told
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.tools import LISTS, TOOLS
from agenticrec_lite.tools.behavior import MOODS


def step_metrics(trajectories: Sequence[Trajectory], group_size: int, tools: Collection[str] = tuple(TOOLS)) -> dict:
    """What happened in one step, as one row of metrics.csv.

    Args:
        trajectories: Of the step, group by group.
        group_size: Of each group.
        tools: Names of the tools whose calls are counted.
    """
    rewards = np.array([t.reward for t in trajectories])
    groups = rewards.reshape(-1, group_size)
    calls = Counter(step.tool for t in trajectories for step in t.steps if step.kind == "call" and step.tool)
    outcomes = Counter(t.outcome for t in trajectories)
    positive = [t for t in trajectories if t.reward > 0]
    pairs = [(t.reward, t.valid) for t in trajectories if t.kind != "rank"]
    protocol, evidence = split_variance(groups, np.array([t.valid for t in trajectories]).reshape(groups.shape))
    surprise = [-p for t in trajectories for p, mine in zip(t.logprobs, t.action_mask, strict=False) if mine]
    return {
        "reward_mean": rewards.mean(),
        "reward_max": groups.max(1).mean(),
        "right": len(positive) / len(trajectories),  # of ranking questions: H@10
        "valid": float(np.mean([t.valid for t in trajectories])),
        "calls": float(np.mean([t.n_calls for t in trajectories])),
        "positive_with_tool": float(np.mean([t.n_calls > 0 for t in positive])) if positive else None,
        "protocol_variance": protocol,
        "evidence_variance": evidence,
        "zero_advantage": float((np.ptp(groups, axis=1) == 0).mean()),
        "dropped_groups": float((groups < 0).all(1).mean()),
        "completion_tokens": float(np.mean([len(t.completion_ids) for t in trajectories])),
        "action_tokens": float(np.mean([sum(t.action_mask) for t in trajectories])),
        "entropy": float(np.mean(surprise)) if surprise else None,  # of an action token, estimated by what was sampled
        **(dict(zip(("reward_pairs", "valid_pairs"), np.mean(pairs, axis=0), strict=True)) if pairs else {}),
        **{f"tool_{name}": calls[name] / len(trajectories) for name in tools},
        **mean_weights(trajectories),
        **weights_by_mood(trajectories),
        **{f"outcome_{name}": count / len(trajectories) for name, count in sorted(outcomes.items())},
    }


def split_variance(rewards: np.ndarray, valid: np.ndarray) -> tuple[float, float]:
    """The mean variance of the rewards within a group [n, G], in two parts that add up to it.

    The first is between the valid and the invalid trajectories of a group, by what the protocol costs; the second is
    among the valid ones and among the invalid ones, by what they answer (law of total variance).
    """
    within = np.zeros_like(rewards, dtype=float)
    for part in (valid, ~valid):
        n = part.sum(1, keepdims=True)
        mean = np.where(part, rewards, 0).sum(1, keepdims=True) / np.maximum(n, 1)
        within += np.where(part, (rewards - mean) ** 2, 0)
    evidence = float(within.mean())
    return float(rewards.var(1).mean()) - evidence, evidence


def mean_weights(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """weight_<list>: the mean weight behind a valid answer; a list that it does not use counts 0, a copied one 1."""
    used = [evidence_of(t) for t in trajectories if t.valid]
    single = {name for row in used for name in row if name.startswith("like ")}  # one item's neighbours
    lists = dict.fromkeys([*LISTS.values(), *sorted({name for row in used for name in row} - single)])
    return {f"weight_{name}": float(np.mean([row.get(name, 0) for row in used])) for name in lists if used}


def weights_by_mood(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """<mood>_<list>, as of `mean_weights`, of the trajectories in which a tool has told the user's mood.

    Without columns for a mood that was told in none. Where they part, the policy weighs by what it has read.
    """
    parts = {mood: [t for t in trajectories if mood_told(t) == mood] for mood in MOODS}
    return {
        name.replace("weight", mood.replace(" ", "_"), 1): weight
        for mood, part in parts.items()
        for name, weight in mean_weights(part).items()
    }


def trajectory_rows(
    trajectories: Sequence[Trajectory], questions: Mapping[str, Question], stage: str, step: int, seed: int
) -> list[dict]:
    """Rows for `Run.log_trajectories`, which writes them into the run folder."""
    return [
        {"step": step, "stage": stage, "seed": seed, **t.row()}
        | {"candidates": questions[t.task_id].candidates, "positive": questions[t.task_id].right}
        for t in trajectories
    ]
