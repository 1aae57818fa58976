"""Hard negatives mined from the policy's own mistakes (stage 2 of the paper, PPR)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from agenticrec_lite.agent.question import Question
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.data.tasks import RankingTask
from agenticrec_lite.tools import TaskContext


@dataclass(frozen=True)
class HardNegative:
    """A ranking violation: in this task the policy preferred `negative` to the positive (candidate numbers)."""

    task_id: str
    positive: int
    negative: int
    pool: tuple[int, ...]

    def row(self) -> dict:
        return asdict(self)


def violation_pool(answer: Sequence[int], positive: int) -> tuple[int, ...]:
    """Items ranked above the positive; the whole list if it is not in it; empty if it is first."""
    return tuple(answer[: answer.index(positive)] if positive in answer else answer)


def mine_hard_negatives(
    trajectories: Sequence[Trajectory], tasks: Sequence[RankingTask], seed: int
) -> list[HardNegative]:
    """One pair a ranking violation: the negative is drawn at random from the pool, not the hardest.

    Args:
        trajectories: The stage-1 policy's, one a task; invalid ones say nothing and are passed over.
        tasks: In the same order.
        seed: Of the draws.
    """
    rng = np.random.default_rng((seed, 5))
    mined = []
    for trajectory, task in zip(trajectories, tasks, strict=True):
        pool = violation_pool(trajectory.answer, task.positive) if trajectory.valid else ()
        if pool:
            mined.append(HardNegative(task.task_id, task.positive, int(rng.choice(pool)), pool))
    return mined


def pair_questions(
    mined: Sequence[HardNegative],
    contexts: dict[str, TaskContext],
    candidates: dict[str, tuple[int, ...]],
    seed: int,
    rehearse: bool = False,
) -> list[Question]:
    """Both directions of every pair, one after the other: which is MORE likely (answer: the positive), which LESS.

    Args:
        mined: Pairs.
        contexts: By task id.
        candidates: Item codes by task id, for the log.
        seed: Of the A/B orders and the order of pairs.
        rehearse: Whether the ranking task that a pair was mined from follows its two questions. Our addition: a policy
            that for a whole stage is asked for nothing but letters may forget to answer with lists.
    """
    rng = np.random.default_rng((seed, 6))
    questions = []
    for pair in (mined[i] for i in rng.permutation(len(mined))):
        for kind in ("more", "less"):
            positive_first = rng.random() < 0.5
            shown = (pair.positive, pair.negative) if positive_first else (pair.negative, pair.positive)
            right = "A" if positive_first == (kind == "more") else "B"
            name = f"{pair.task_id}:{kind}"
            context = replace(contexts[pair.task_id], pair=shown)
            questions.append(Question(name, context, kind, right, candidates[pair.task_id]))
        if rehearse:
            task = (contexts[pair.task_id], "rank", pair.positive, candidates[pair.task_id])
            questions.append(Question(f"{pair.task_id}:rank", *task))
    return questions
