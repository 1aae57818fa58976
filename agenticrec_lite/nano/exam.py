"""What a nano checkpoint can do: does it answer validly, and does it answer by the list that it says it follows?"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from agenticrec_lite.agent.environment import RankingEnvironment
from agenticrec_lite.agent.episodes import Group, Sampling
from agenticrec_lite.agent.prompts import ChatFormat
from agenticrec_lite.agent.record import declared_answer, rule_of
from agenticrec_lite.agent.rollout import rollout
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.nano.lessons import MOST_CANDIDATES
from agenticrec_lite.nano.worlds import N_CANDIDATES, random_world, with_other_tools
from agenticrec_lite.tools import TaskContext

KINDS = ("usual", "other tools", "long titles", "many candidates", "pairs")  # kinds of worlds in the exam


def exam(model, chat: ChatFormat, n: int = 128, seed: int = 10_007, temperature: float = 1.0) -> dict:
    """Play n worlds of each kind that were not trained on.

    Returns:
        Marks as of `marks`, by kind of world.
    """
    rng = np.random.default_rng(seed)
    return {kind: marks(model, chat, *_worlds(kind, n, rng), temperature, seed) for kind in KINDS}


def _worlds(kind: str, n: int, rng: np.random.Generator) -> tuple[list[TaskContext], list[str]]:
    made, kinds = [], ["rank"] * n
    for i in range(n):
        candidates = int(rng.integers(N_CANDIDATES + 1, MOST_CANDIDATES + 1)) if kind == "many candidates" else None
        longest = None if kind == "long titles" else 3 if candidates else 7
        world = random_world(rng, longest, candidates=candidates or N_CANDIDATES)
        if kind == "pairs":
            a, b = (rng.choice(N_CANDIDATES, 2, replace=False) + 1).tolist()
            world, kinds[i] = replace(world, pair=(a, b)), ("more", "less")[i % 2]
        made.append(with_other_tools(rng, world) if kind == "other tools" else world)
    return made, kinds


def marks(
    model, chat: ChatFormat, contexts: Sequence[TaskContext], kinds: Sequence[str], temperature: float, seed: int = 0
) -> dict:
    """Play one trajectory a context.

    Returns:
        valid: share of valid answers; calls: on average; exact: share of the valid answers after a thought that names
        a list, which are that list's; named: how many those are; kept: share of the rules on the user's mood that are
        followed, of those that a thought states and that tell the moods apart; stated: how many those are.
    """
    groups = [
        Group(str(i), chat.prompt_ids(context, kind), [RankingEnvironment(context, kind)])
        for i, (context, kind) in enumerate(zip(contexts, kinds, strict=True))
    ]
    sampling = Sampling(temperature, 160, 3400, batch_rows=32)
    return marks_of(rollout(model, chat, groups, sampling, torch.Generator().manual_seed(seed)))


def marks_of(played: Sequence[Trajectory]) -> dict:
    """As `marks`, of trajectories."""
    pairs = [(t.answer, declared) for t in played if t.valid and (declared := declared_answer(t)) is not None]
    rules = [rule for t in played if (rule := rule_of(t)) is not None and len({*rule[0].values()}) > 1]
    return {
        "valid": float(np.mean([t.valid for t in played])),
        "calls": float(np.mean([t.n_calls for t in played])),
        "exact": float(np.mean([answer == declared for answer, declared in pairs])) if pairs else None,
        "named": len(pairs),
        "kept": float(np.mean([rule[mood] == first for rule, mood, first in rules])) if rules else None,
        "stated": len(rules),
    }
