"""What a nano checkpoint can do: does it answer validly, and does it rank by the evidence that it says it ranks by?"""

import re
from collections.abc import Sequence

import numpy as np
import torch

from agenticrec_lite.agent.environment import RankingEnvironment
from agenticrec_lite.agent.prompts import ChatFormat
from agenticrec_lite.agent.rollout import Group, Sampling, rollout
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.tools import TaskContext, ToolError
from agenticrec_lite.training.nano.teacher import ranking
from agenticrec_lite.training.nano.worlds import random_world

_SOURCE = re.compile(r"similar users|similar items|similarity to (h?\d+)")


def declared_sources(trajectory: Trajectory) -> list[str]:
    """The evidence that the last thought says the answer follows or fuses."""
    thoughts = [step.text for step in trajectory.steps if step.kind == "think"]
    return [match[0] for match in _SOURCE.finditer(thoughts[-1])] if thoughts else []


def declared_ranking(trajectory: Trajectory, context: TaskContext) -> list[int] | None:
    """The order of candidates by the declared evidence; None if none is declared, or one that does not exist."""
    evidence = [_scores(source, context) for source in declared_sources(trajectory)]
    return ranking(evidence) if evidence and all(scores is not None for scores in evidence) else None


def _scores(source: str, context: TaskContext) -> np.ndarray | None:
    if source == "similar users":
        return context.collaborative.similar_users().scores
    try:
        place = None if source == "similar items" else context.find(source.removeprefix("similarity to "))
    except ToolError:
        return None
    return context.collaborative.similar_items(place).scores


def exam(model, chat: ChatFormat, n: int = 128, seed: int = 10_007) -> dict:
    """Sample one trajectory in each of n worlds that were not trained on.

    Returns:
        valid: share of valid answers; follow_exact, fuse_exact: share of answers equal to the declared order, for one
        and for several sources; follow_first, fuse_first: share with the right first place; n_follow, n_fuse.
    """
    rng = np.random.default_rng(seed)
    worlds = [random_world(rng) for _ in range(n)]
    groups = [Group(str(i), chat.prompt_ids(world), [RankingEnvironment(world)]) for i, world in enumerate(worlds)]
    played = rollout(model, chat, groups, Sampling(1.0, 160, 1400), torch.Generator().manual_seed(seed))
    return {"valid": float(np.mean([t.valid for t in played]))} | faithfulness(played, worlds)


def faithfulness(played: Sequence[Trajectory], contexts: Sequence[TaskContext]) -> dict:
    """How often valid answers are what their last thought declares."""
    found: dict[str, list[tuple[bool, bool]]] = {"follow": [], "fuse": []}
    for trajectory, context in zip(played, contexts, strict=True):
        order = declared_ranking(trajectory, context) if trajectory.valid else None
        if order:
            kind = "follow" if len(declared_sources(trajectory)) == 1 else "fuse"
            found[kind].append((trajectory.answer == order[:10], trajectory.answer[0] == order[0]))
    shares = {}
    for kind, checks in found.items():
        exact, first = np.mean(checks, axis=0) if checks else (None, None)
        shares |= {f"n_{kind}": len(checks), f"{kind}_exact": exact, f"{kind}_first": first}
    return shares
