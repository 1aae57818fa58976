"""What a nano checkpoint can do: does it answer validly, and does it rank by the evidence that it says it ranks by?"""

import re
from collections.abc import Sequence

import numpy as np
import torch

from agenticrec_lite.agent.environment import RankingEnvironment
from agenticrec_lite.agent.episodes import Group, Sampling
from agenticrec_lite.agent.prompts import ChatFormat
from agenticrec_lite.agent.rollout import rollout
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.nano.worlds import random_world
from agenticrec_lite.tools import TaskContext, ToolError

_SOURCE = re.compile(r"I follow (similar users|similar items|similarity to h?\d+)\.")


def declared_ranking(trajectory: Trajectory, context: TaskContext) -> list[int] | None:
    """The order of candidates that the last thought says it follows; None if it names none, or one that cannot be."""
    thoughts = [step.text for step in trajectory.steps if step.kind == "think"]
    match = _SOURCE.search(thoughts[-1]) if thoughts else None
    scores = None if match is None else _scores(match[1], context)
    return None if scores is None else (np.argsort(-scores, kind="stable") + 1).tolist()


def _scores(source: str, context: TaskContext) -> np.ndarray | None:
    if source == "similar users":
        return context.collaborative.similar_users().scores
    try:
        place = None if source == "similar items" else context.find(source.removeprefix("similarity to "))
    except ToolError:
        return None
    return context.collaborative.similar_items(place).scores


def exam(model, chat: ChatFormat, n: int = 256, seed: int = 10_007) -> dict:
    """Sample one trajectory in each of n worlds that were not trained on.

    Returns:
        valid: share of valid answers; follow_exact: share of those naming a list that are its first ten;
        follow_first: share with its first place; n_follow: how many named one.
    """
    rng = np.random.default_rng(seed)
    worlds = [random_world(rng) for _ in range(n)]
    groups = [Group(str(i), chat.prompt_ids(world), [RankingEnvironment(world)]) for i, world in enumerate(worlds)]
    played = rollout(model, chat, groups, Sampling(1.0, 160, 1400), torch.Generator().manual_seed(seed))
    return {"valid": float(np.mean([t.valid for t in played]))} | faithfulness(played, worlds)


def faithfulness(played: Sequence[Trajectory], contexts: Sequence[TaskContext]) -> dict:
    """How often valid answers are what their last thought declares."""
    checks = []
    for trajectory, context in zip(played, contexts, strict=True):
        order = declared_ranking(trajectory, context) if trajectory.valid else None
        if order:
            checks.append((trajectory.answer == order[:10], trajectory.answer[0] == order[0]))
    exact, first = np.mean(checks, axis=0) if checks else (None, None)
    return {"n_follow": len(checks), "follow_exact": exact, "follow_first": first}
