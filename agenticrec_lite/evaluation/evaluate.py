"""Evaluate policies, baselines and the evidence ceiling on the same ranking tasks."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax

from agenticrec_lite.agent.environment import RankingEnvironment
from agenticrec_lite.agent.episodes import Group, Sampling
from agenticrec_lite.agent.prompts import ChatFormat
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.agent.vllm_engine import play
from agenticrec_lite.data.tasks import RankingTask
from agenticrec_lite.evaluation.metrics import ranks_from_scores, summarize
from agenticrec_lite.recommenders.base import Recommender
from agenticrec_lite.runs import processes
from agenticrec_lite.tools import TaskContext
from agenticrec_lite.tools.profile import facts_in_common
from agenticrec_lite.tools.text import standardise
from agenticrec_lite.tools.toolbox import Toolbox


def users_of(tasks: Sequence[RankingTask]) -> list[int]:
    return [task.user for task in tasks]


def random_ranks(tasks: Sequence[RankingTask], seed: int) -> np.ndarray:
    """Ranks of the positives under a random order [n]."""
    rng = np.random.default_rng((seed, 77))
    return np.array([float(rng.integers(1, len(task.candidates) + 1)) for task in tasks])


def baseline_ranks(recommender: Recommender, tasks: Sequence[RankingTask]) -> np.ndarray:
    """Ranks of the positives under a recommender's scores [n]."""
    scores = recommender.score([task.history for task in tasks], [task.candidates for task in tasks])
    return ranks_from_scores(scores, [task.positive for task in tasks])


def play_tasks(
    policy,
    contexts: Sequence[TaskContext],
    tasks: Sequence[RankingTask],
    sampling: Sampling,
    agent: dict,
    generator: torch.Generator | None = None,
    progress: str | None = None,
) -> list[Trajectory]:
    """One rollout a task; of several processes each plays a share, and all get all of them.

    Args:
        policy: A policy.Policy.
        contexts, tasks: The same length, in the same order.
        sampling: temperature 0 for the greedy decoding that is reported.
        agent: The profile's `agent` section: the budget of tool calls, and which engine plays.
        generator: For temperatures above 0.
        progress: Title of a progress bar.
    """
    chat = ChatFormat.of_policy(policy)
    groups = [
        Group(task.task_id, chat.prompt_ids(context), [RankingEnvironment(context, max_calls=agent["max_calls"])])
        for task, context in list(zip(tasks, contexts, strict=True))[processes.share(len(tasks))]
    ]
    progress = progress if processes.is_main() else None
    played = processes.gather(play(policy, chat, groups, sampling, agent, generator, progress))
    for number, trajectory in enumerate(played):
        trajectory.group = number
    return played


def trajectory_ranks(trajectories: Sequence[Trajectory], tasks: Sequence[RankingTask]) -> np.ndarray:
    """Rank of the positive in each answer [n]; inf where it is missing or the trajectory is invalid."""
    ranks = np.full(len(tasks), np.inf)
    for i, (trajectory, task) in enumerate(zip(trajectories, tasks, strict=True)):
        if trajectory.valid and task.positive in trajectory.answer:
            ranks[i] = trajectory.answer.index(task.positive) + 1
    return ranks


def summarize_trajectories(trajectories: Sequence[Trajectory], tasks: Sequence[RankingTask]) -> dict:
    """Metrics, share of valid answers and calls a trajectory, with intervals that resample users."""
    valid, calls = [t.valid for t in trajectories], [t.n_calls for t in trajectories]
    return summarize(trajectory_ranks(trajectories, tasks), users_of(tasks), valid, calls)


def evidence_features(context: TaskContext) -> np.ndarray:
    """What the tools can say about each candidate as numbers [C, F], standardised over the candidates.

    The six lists, then three of single items of the history: of the last, of the last three, and the nearest of all.
    """
    knowledge = context.collaborative
    by_item = np.stack([knowledge.similar_items(("h", i)).scores for i in range(len(context.history))])
    counts = np.log1p([float(card.count) for card in context.candidates])
    ratings = [np.nan if card.rating is None else card.rating for card in context.candidates]
    columns = [
        knowledge.similar_users().scores, knowledge.similar_items(None).scores, knowledge.next_items().scores,
        facts_in_common(context), np.nan_to_num(ratings), counts, by_item[-1], by_item[-3:].sum(0), by_item.max(0),
    ]  # fmt: skip
    return np.stack([standardise(column) for column in columns], axis=1)


def fit_ceiling(features: np.ndarray, positives: Sequence[int], penalty: float = 1e-3) -> np.ndarray:
    """Weights of the evidence ceiling: a linear score, fitted by conditional logit (softmax over candidates).

    Args:
        features: [n, C, F].
        positives: Candidate numbers 1..C [n].
        penalty: L2.

    Returns:
        Weights [F].
    """
    rows, chosen = np.arange(len(features)), np.asarray(positives) - 1

    def loss(weights):
        log_p = log_softmax(features @ weights, axis=1)
        gradient = np.einsum("nc,ncf->f", np.exp(log_p), features) - features[rows, chosen].sum(0)
        n = len(features)
        return -log_p[rows, chosen].mean() + penalty * weights @ weights, gradient / n + 2 * penalty * weights

    return minimize(loss, np.zeros(features.shape[2]), jac=True, method="L-BFGS-B").x


def ceiling_ranks(
    toolbox: Toolbox, validation: Sequence[RankingTask], tasks: Sequence[RankingTask], contexts: Sequence[TaskContext]
) -> np.ndarray:
    """Ranks under the evidence ceiling: what a linear reader of all evidence reaches, weights from validation [n]."""
    fitted = np.stack([evidence_features(context) for context in toolbox.contexts(validation)])
    weights = fit_ceiling(fitted, [task.positive for task in validation])
    scores = np.stack([evidence_features(context) for context in contexts]) @ weights
    return ranks_from_scores(scores, [task.positive for task in tasks])
