"""What is logged: of a training step, rows of metrics.csv and trajectories.jsonl; of a method, its figures."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.errors import UserError
from agenticrec_lite.evaluation import evaluate
from agenticrec_lite.evaluation.metrics import paired_difference, summarize
from agenticrec_lite.runs import Run
from agenticrec_lite.tools import TOOLS

if TYPE_CHECKING:
    from agenticrec_lite.training.grpo import Question
    from agenticrec_lite.training.pipeline import Experiment

METHODS = (
    "random", "popularity", "itemknn", "caser", "gru4rec", "sasrec", "ceiling", "bayes", "oracle", "frozen",
    "warm_start", "sft", "rta", "ppr",
)  # fmt: skip
BASELINES = ("popularity", "itemknn", "caser", "gru4rec", "sasrec")
COMPARED = [
    ("rta", "frozen"), ("warm_start", "frozen"), ("rta", "warm_start"), ("ppr", "rta"),
    *((stage, name) for stage in ("rta", "ppr") for name in BASELINES),
]  # fmt: skip


def step_metrics(trajectories: Sequence[Trajectory], group_size: int) -> dict:
    """What happened in one step, as one row of metrics.csv."""
    rewards = np.array([t.reward for t in trajectories])
    groups = rewards.reshape(-1, group_size)
    calls = Counter(step.tool for t in trajectories for step in t.steps if step.kind == "call" and step.tool)
    outcomes = Counter(t.outcome for t in trajectories)
    positive = [t for t in trajectories if t.reward > 0]
    pairs = [(t.reward, t.valid) for t in trajectories if t.question != "rank"]
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
        **{f"tool_{name}": calls[name] / len(trajectories) for name in TOOLS},
        **{f"outcome_{name}": count / len(trajectories) for name, count in sorted(outcomes.items())},
    }


def trajectory_rows(
    trajectories: Sequence[Trajectory], questions: Mapping[str, "Question"], stage: str, step: int, seed: int
) -> list[dict]:
    """Rows of trajectories.jsonl."""
    return [
        {"step": step, "stage": stage, "seed": seed, **t.row()}
        | {"candidates": questions[t.task_id].candidates, "positive": questions[t.task_id].right}
        for t in trajectories
    ]


def record(experiment: "Experiment", name: str, ranks: np.ndarray, metrics: dict) -> None:
    """Put one method's figures into result.json."""
    experiment.ranks[name] = ranks
    metrics_by_name = result_metrics(experiment.run) | {name: metrics}
    ordered = {key: metrics_by_name[key] for key in (*METHODS, *metrics_by_name) if key in metrics_by_name}
    experiment.run.write_result(metrics=ordered)


def result_metrics(run: Run) -> dict:
    return run.result.get("metrics", {})


def results_table(run: Run) -> pd.DataFrame:
    """The methods measured so far, a row each; 95 % intervals in brackets."""
    rows = {}
    for name, figures in result_metrics(run).items():
        if name in METHODS:
            rows[name] = {
                metric: "{:.3f} [{:.3f}, {:.3f}]".format(figures[metric], *figures["ci95"][metric])
                for metric in ("H@1", "H@5", "N@10")
            } | {"valid": f"{figures['valid']:.1%}", "calls": f"{figures['calls']:.1f}"}
    return pd.DataFrame(rows).T


def figures_again(experiment: "Experiment", stage: str, ranks: np.ndarray) -> dict:
    """The figures of a policy out of what is logged of its evaluation.

    Raises:
        UserError: the trajectories are lost, too.
    """
    rows, test = experiment.logged(stage), experiment.test
    if len(rows) != len(test):
        folder = experiment.run.folder
        raise UserError(f"{folder} has lost result.json and the trajectories of {stage}; put back one of them.")
    told = {"valid": [row["outcome"] == "answered" for row in rows], "calls": [row["n_calls"] for row in rows]}
    return summarize(ranks, evaluate.users_of(test), **told)


def finish(experiment: "Experiment") -> dict:
    """Ranks task by task, paired comparisons, and the run's result."""
    test, ranks = experiment.test, experiment.ranks
    users = evaluate.users_of(test)
    table = pd.DataFrame({"task_id": [task.task_id for task in test], "user": users})
    ordered = [name for name in METHODS if name in ranks] + [name for name in ranks if name not in METHODS]
    experiment.run.write_ranks(table.assign(**{name: ranks[name] for name in ordered}))
    differences = {
        f"{a} - {b}": {m: paired_difference(ranks[a], ranks[b], users, m) for m in ("H@1", "N@10")}
        for a, b in COMPARED
        if a in ranks and b in ranks
    }
    experiment.run.write_result(differences=differences)
    return experiment.run.result
