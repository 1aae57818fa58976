"""Changes to an experiment: other evidence, other tools, other candidates, other advantages."""

import inspect
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.data.tasks import RankingTask, build_tasks
from agenticrec_lite.rewards import MISSED, TOP_BONUS, group_advantages, listwise_reward
from agenticrec_lite.tools import TOOLS, Evidence, TaskContext, ToolError
from agenticrec_lite.experiment.experiment import Experiment


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


def standardised_advantages(rewards: Sequence[float], group_size: int) -> tuple[np.ndarray, np.ndarray]:
    """GRPO's own: (R - mean) / (standard deviation + 1e-4), groups of negative rewards dropped as in the paper."""
    advantages, dropped = group_advantages(rewards, group_size)
    spread = np.reshape(rewards, (-1, group_size)).std(1, ddof=1)
    return advantages / np.repeat(spread + 1e-4, group_size), dropped


def undropped_advantages(rewards: Sequence[float], group_size: int) -> tuple[np.ndarray, np.ndarray]:
    """R - mean in every group, also where no reward is above zero."""
    groups = np.asarray(rewards, dtype=np.float64).reshape(-1, group_size)
    return (groups - groups.mean(1, keepdims=True)).ravel(), np.zeros(len(groups), dtype=bool)


def leak(experiment: Experiment) -> None:
    """Training tasks are served by evidence that was fitted on them, too: the whole train split."""
    vars(experiment)["early_toolbox"] = experiment.toolbox


@dataclass
class Liar:
    """Collaborative knowledge whose similar users are, in a share of the tasks, somebody else's.

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


@dataclass
class Changed:
    """A toolbox whose contexts are changed, task by task."""

    inner: object
    change: Callable[[RankingTask, TaskContext], TaskContext]

    def contexts(self, tasks: Sequence[RankingTask]) -> list[TaskContext]:
        return [self.change(task, context) for task, context in zip(tasks, self.inner.contexts(tasks), strict=True)]


def lies(share: float) -> Callable[[Experiment], None]:
    """get_similar_users shows the candidates in a random order in that share of all tasks; which ones, is drawn."""

    def change(task: RankingTask, context: TaskContext) -> TaskContext:
        rng = np.random.default_rng(zlib.crc32(task.task_id.encode()))
        lie, order = rng.random() < share, rng.permutation(len(task.candidates))
        return replace(context, collaborative=Liar(context.collaborative, order)) if lie else context

    def prepare(experiment: Experiment) -> None:
        for name in ("early_toolbox", "toolbox"):
            vars(experiment)[name] = Changed(getattr(experiment, name), change)

    return prepare


def candidates(n: int) -> Callable[[Experiment], None]:
    """Tasks with one positive among n candidates."""

    def prepare(experiment: Experiment) -> None:
        experiment.tasks = lambda part, wanted: build_tasks(
            experiment.log, experiment.split, part, wanted, experiment.seed, n_candidates=n
        )
        vars(experiment).pop("test", None)

    return prepare


def redrawn(offset: int) -> Callable[[Experiment], None]:
    """The same test positives beside other random candidates."""

    def prepare(experiment: Experiment) -> None:
        drawn = build_tasks(experiment.log, experiment.split, "test", None, experiment.seed + offset)
        by_id = {task.task_id: task for task in drawn}
        vars(experiment)["test"] = [by_id[task.task_id] for task in experiment.test]

    return prepare


def shuffled(number: int) -> Callable[[Experiment], None]:
    """The same test tasks, their candidates in another order."""

    def other(task: RankingTask) -> RankingTask:
        order = np.random.default_rng((number, zlib.crc32(task.task_id.encode()))).permutation(len(task.candidates))
        shown = tuple(task.candidates[i] for i in order)
        return replace(task, candidates=shown, positive=int(np.argmax(order == task.positive - 1)) + 1)

    def prepare(experiment: Experiment) -> None:
        vars(experiment)["test"] = [other(task) for task in experiment.test]

    return prepare


@contextmanager
def out_of_order(names: Sequence[str]) -> Iterator[None]:
    """Within the block some tools answer every call with an error. A call of them counts, as any does."""
    true = {name: TOOLS[name] for name in names}
    TOOLS.update({name: _broken(tool) for name, tool in true.items()})
    try:
        yield
    finally:
        TOOLS.update(true)


def _broken(tool: Callable[..., str]) -> Callable[..., str]:
    def broken(context: TaskContext, **arguments) -> str:
        raise ToolError("the service is down.")

    broken.__name__, broken.__doc__, broken.__signature__ = tool.__name__, tool.__doc__, inspect.signature(tool)
    return broken
