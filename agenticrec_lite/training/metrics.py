"""What is logged of a training step: a row of metrics.csv, and a row a trajectory."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from agenticrec_lite.agent.question import Question
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.tools import TOOLS


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
    surprise = [-p for t in trajectories for p, mine in zip(t.logprobs, t.action_mask, strict=False) if mine]
    return {
        "reward_mean": rewards.mean(),
        "reward_max": groups.max(1).mean(),
        "right": len(positive) / len(trajectories),  # of ranking questions: H@10
        "valid": float(np.mean([t.valid for t in trajectories])),
        "calls": float(np.mean([t.n_calls for t in trajectories])),
        "positive_with_tool": float(np.mean([t.n_calls > 0 for t in positive])) if positive else None,
        "zero_advantage": float((np.ptp(groups, axis=1) == 0).mean()),
        "dropped_groups": float((groups < 0).all(1).mean()),
        "completion_tokens": float(np.mean([len(t.completion_ids) for t in trajectories])),
        "action_tokens": float(np.mean([sum(t.action_mask) for t in trajectories])),
        "entropy": float(np.mean(surprise)) if surprise else None,  # of an action token, estimated by what was sampled
        **(dict(zip(("reward_pairs", "valid_pairs"), np.mean(pairs, axis=0), strict=True)) if pairs else {}),
        **{f"tool_{name}": calls[name] / len(trajectories) for name in tools},
        **{f"outcome_{name}": count / len(trajectories) for name, count in sorted(outcomes.items())},
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
