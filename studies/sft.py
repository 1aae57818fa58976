"""Supervised fine-tuning on the positive: what the feedback can teach without reinforcement learning."""

import numpy as np
import torch

from agenticrec_lite.agent.episodes import Sampling
from agenticrec_lite.agent.prompts import ChatFormat
from agenticrec_lite.agent.protocol import TOP
from agenticrec_lite.agent.question import Question
from agenticrec_lite.agent.rollout import rollout
from agenticrec_lite.agent.scoring import split_turns
from agenticrec_lite.agent.teacher import run_script
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.experiment.experiment import Experiment
from agenticrec_lite.tools import TaskContext


def corrected(experiment: Experiment, chat: ChatFormat) -> list[Trajectory]:
    """The frozen policy's trajectories on the tasks of stage 1, their answers corrected: the positive comes first.

    As many a task as stage 1 samples, at its temperature. What is asked of which tool stays as it was, and invalid
    trajectories are left out. In random order.
    """
    settings, agent = experiment.profile["rta"], experiment.profile["agent"]
    tasks = experiment.training[: settings["steps"] * settings["tasks_per_step"]]
    contexts = experiment.early_toolbox.contexts(tasks)
    groups = [
        Question(task.task_id, context, "rank", task.positive).group(chat, settings["group_size"], agent["max_calls"])
        for task, context in zip(tasks, contexts, strict=True)
    ]
    sampling, generator = Sampling.of(agent, settings["temperature"]), torch.Generator().manual_seed(experiment.seed)
    played = rollout(experiment.policy.model, chat, groups, sampling, generator, progress="demonstrations")
    better = (
        correct(trajectory, tasks[trajectory.group].positive, contexts[trajectory.group], chat)
        for trajectory in played
        if trajectory.valid
    )
    rows = [trajectory for trajectory in better if trajectory.valid]
    return [rows[i] for i in np.random.default_rng((experiment.seed, 9)).permutation(len(rows))]


def correct(trajectory: Trajectory, positive: int, context: TaskContext, chat: ChatFormat) -> Trajectory:
    """The same trajectory with the positive in first place of its answer, the others in their order after it."""
    turns = [
        chat.turn_text([token for token, own in turn if own])
        for turn in split_turns(trajectory.completion_ids, trajectory.action_mask)
    ]
    better = [positive, *(number for number in trajectory.answer if number != positive)][:TOP]
    before, _, after = turns[-1].rpartition(str(trajectory.answer))
    return run_script([*turns[:-1], f"{before}{better}{after}"], context, chat, "rank", trajectory.prompt_ids)
