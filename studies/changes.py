"""Parts to hand to an experiment: other rewards, advantages, evidence, candidates, tools."""

import inspect
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.data import InteractionLog, temporal_split
from agenticrec_lite.data.tasks import Pool, RankingTask, random_candidates
from agenticrec_lite.experiment.extensions import EvidenceSource
from agenticrec_lite.rewards import MISSED, TOP_BONUS, listwise_reward
from agenticrec_lite.tools import TOOLS, Evidence, TaskContext, ToolError
from agenticrec_lite.tools.toolbox import Toolbox


def without_bonus(trajectory: Trajectory, positive: int) -> float:
    """The list-wise reward without the + 0.1 for a first place with a tool."""
    reward = listwise_reward(trajectory, positive)
    return reward - TOP_BONUS if reward > 1 else reward


def at_random(trajectory: Trajectory, positive: int) -> float:
    """A reward that knows nothing of the positive: drawn from what was written, uniform from MISSED to 1.

    The same text gets the same reward, so that a run that is cut off can be gone on with.
    """
    drawn = zlib.crc32(repr((trajectory.task_id, trajectory.completion_ids)).encode()) / 2**32
    return MISSED + (1 - MISSED) * drawn


def undropped_advantages(rewards: Sequence[float], group_size: int) -> tuple[np.ndarray, np.ndarray]:
    """R - mean in every group, also where no reward is above zero."""
    groups = np.asarray(rewards, dtype=np.float64).reshape(-1, group_size)
    return (groups - groups.mean(1, keepdims=True)).ravel(), np.zeros(len(groups), dtype=bool)


def leaked(log: InteractionLog, rows: slice, seed: int, **settings) -> EvidenceSource:
    """Evidence that was fitted on the training tasks, too: on the whole train split, whatever it serves."""
    return Toolbox.fit(log, temporal_split(log).rows("train"), seed, **settings)


@dataclass
class Liar:
    """Collaborative knowledge whose similar users are somebody else's.

    Attributes:
        inner: The true one.
        order: In which its scores are handed out [C].
    """

    inner: object
    order: np.ndarray

    def similar_users(self) -> Evidence:
        true = self.inner.similar_users()
        return replace(true, scores=np.asarray(true.scores)[self.order])

    def similar_items(self, place: tuple[str, int] | None) -> Evidence:
        return self.inner.similar_items(place)

    def next_items(self) -> Evidence:
        return self.inner.next_items()


@dataclass
class Lies:
    """Evidence that shows the candidates of get_similar_users in a random order in a share of the tasks."""

    source: EvidenceSource
    share: float

    def contexts(self, tasks: Sequence[RankingTask]) -> list[TaskContext]:
        return [self.changed(task, context) for task, context in zip(tasks, self.source.contexts(tasks), strict=True)]

    def changed(self, task: RankingTask, context: TaskContext) -> TaskContext:
        rng = np.random.default_rng(zlib.crc32(task.task_id.encode()))
        lie, order = rng.random() < self.share, rng.permutation(len(task.candidates))
        return replace(context, collaborative=Liar(context.collaborative, order)) if lie else context

    def __getattr__(self, name: str):
        return getattr(self.source, name)


def lies(share: float) -> Callable[..., EvidenceSource]:
    """get_similar_users lies in that share of all tasks; in which ones, is drawn."""

    def lying(log: InteractionLog, rows: slice, seed: int, **settings) -> EvidenceSource:
        return Lies(Toolbox.fit(log, rows, seed, **settings), share)

    return lying


def redrawn(offset: int) -> Callable[..., Sequence[int]]:
    """The same positives beside other random candidates: those that the seed + `offset` would draw."""

    def draw(rng: np.random.Generator, pool: Pool, n: int) -> Sequence[int]:
        seed, *rest = rng.bit_generator.seed_seq.entropy
        return random_candidates(np.random.default_rng([seed + offset, *rest]), pool, n)

    return draw


def shuffled(number: int) -> Callable[..., Sequence[int]]:
    """The same candidates in another order."""

    def draw(rng: np.random.Generator, pool: Pool, n: int) -> Sequence[int]:
        _, part, row = rng.bit_generator.seed_seq.entropy
        order = np.random.default_rng((number, part, row)).permutation(n)
        return random_candidates(rng, pool, n)[order]

    return draw


def with_broken(names: Sequence[str]) -> list[Callable[..., str]]:
    """The package's tools, some of which answer every call with an error. A call of them counts, as any does."""
    return [broken(tool) if name in names else tool for name, tool in TOOLS.items()]


def broken(tool: Callable[..., str]) -> Callable[..., str]:
    """A tool that looks like another one and answers with an error."""

    def out_of_order(context: TaskContext, **arguments) -> str:
        raise ToolError("the service is down.")

    out_of_order.__name__, out_of_order.__doc__ = tool.__name__, tool.__doc__
    out_of_order.__signature__ = inspect.signature(tool)
    return out_of_order
