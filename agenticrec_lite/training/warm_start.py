"""Warm start: supervised steps that teach a language model the protocol, before reinforcement learning.

A model of 135 million parameters calls no tools when it is only told how; the paper's, of four billion, needs none of
this. The demonstrations are scripted: a teacher calls tools at random, with a habit of asking about the user and the
items rather than for ordered lists, and answers with one of the orders that it has been shown. It does not know the
positive. Which tool is worth asking, and which list is worth following, is left for reinforcement learning to find.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from trl import SFTTrainer

from agenticrec_lite.agent.prompts import ChatFormat
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.policy import fp32_adapter
from agenticrec_lite.runs import Run, processes
from agenticrec_lite.training.arguments import sft_config
from agenticrec_lite.training.nano.teacher import play, scripted_ranking

if TYPE_CHECKING:
    from agenticrec_lite.training.pipeline import Experiment

CALLS = (0.5, 0.3, 0.2)  # probability of 1, 2, 3 calls before the answer
HABIT = 2.0  # how much more often than for ordered lists the teacher asks for anything else


def warm_start(experiment: "Experiment") -> None:
    """Train the adapter on demonstrations and save it; stage 1 goes on with it. Nothing to do with 0 steps.

    The demonstrations come from the end of the training tasks, stage 1 takes its tasks from the beginning.
    """
    if not experiment.run.done("warm_start") and experiment.profile["warm_start"]["steps"]:
        fine_tune(experiment, "warm_start", demonstrations)


def fine_tune(
    experiment: "Experiment", stage: str, demonstrate: Callable[["Experiment", ChatFormat], list[Trajectory]]
) -> None:
    """Supervised steps on what `demonstrate` makes, by the settings of the warm start; the adapter is saved."""
    run, settings = experiment.run, experiment.profile["warm_start"]
    vars(experiment).pop("policy", None)  # an attempt that was interrupted in this process has moved its weights
    run.rewind(stage)
    policy = experiment.policy
    rows = demonstrate(experiment, ChatFormat.of(policy.tokenizer, policy.brief))
    dtype, scratch = experiment.profile["policy"]["dtype"], experiment.scratch(stage, f"{stage}_trainer")
    report_to = experiment.profile["tracking"]["report_to"]
    trainer = SFTTrainer(
        policy.model,
        args=sft_config(settings, dtype, experiment.seed, scratch, report_to),
        train_dataset=Dataset.from_list([as_row(row) for row in rows]),
        processing_class=policy.tokenizer,
    )
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    fp32_adapter(trainer.model)  # trl makes the adapter of a quantised base bf16, where small updates round away
    told = {"desc": stage.replace("_", " "), "unit": "step", "disable": not processes.is_main()}
    with run.timer(stage), tqdm(total=settings["steps"], **told) as bar:
        trainer.add_callback(_Log(run, stage, bar))
        trainer.train()
    experiment.keep(stage)
    vars(experiment).pop("policy")  # the trainer has changed how its model computes a loss


def demonstrations(experiment: "Experiment", chat: ChatFormat) -> list[Trajectory]:
    """Scripted trajectories, steps x batch of them, one a task, played in the environment that rollouts play in."""
    settings, rng = experiment.profile["warm_start"], np.random.default_rng((experiment.seed, 8))
    tasks = experiment.training[-settings["steps"] * settings["batch"] :]
    played = []
    for task, context in zip(tasks, experiment.early_toolbox.contexts(tasks), strict=True):
        turns = scripted_ranking(context, rng, 1 + int(rng.choice(len(CALLS), p=CALLS)), favour=HABIT)
        played.append(play(turns, context, chat, "rank", chat.prompt_ids(context)))
    return played


def as_row(trajectory: Trajectory) -> dict[str, list[int]]:
    """A trajectory as trl's SFTTrainer takes it: only what the policy wrote is learnt from."""
    actions = zip(trajectory.completion_ids, trajectory.action_mask, strict=True)
    labels = [-100] * len(trajectory.prompt_ids) + [token if mine else -100 for token, mine in actions]
    return {"input_ids": trajectory.prompt_ids + trajectory.completion_ids, "labels": labels}


class _Log(TrainerCallback):
    """A row of metrics.csv a step: cross-entropy in nats and accuracy over the tokens of the policy's turns."""

    def __init__(self, run: Run, stage: str, bar: tqdm):
        self.run, self.stage, self.bar, self.started = run, stage, bar, time.monotonic()

    def on_log(self, args, state, control, logs=None, **_) -> None:
        if "grad_norm" not in logs:
            return
        row = {"action_ce": logs["loss"], "accuracy": logs["mean_token_accuracy"], "grad_norm": logs["grad_norm"]}
        row |= {"learning_rate": logs["learning_rate"], "seconds_update": time.monotonic() - self.started}
        self.run.log_metrics({"stage": self.stage, "step": state.global_step, **row})
        self.started = time.monotonic()
        self.bar.update()
        self.bar.set_postfix(ce=f"{row['action_ce']:.3f}", accuracy=f"{row['accuracy']:.2f}")
