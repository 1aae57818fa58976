"""Warm start: supervised steps that teach a language model the protocol, before reinforcement learning.

A model of 135 million parameters calls no tools when it is only told how; the paper's, of four billion, needs none of
this. The demonstrations are scripted: a teacher calls tools at random and answers with one of the orders that it has
been shown, or with the given one if it was shown none. It does not know the positive. Which tool is worth asking, and
which list is worth following, is left for reinforcement learning to find.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from trl import SFTTrainer

from agenticrec_lite.agent.prompts import ChatFormat
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.policy import fp32_adapter
from agenticrec_lite.runs import Run, processes
from agenticrec_lite.training.arguments import average_gradients, sft_config
from agenticrec_lite.training.nano.teacher import play, scripted_ranking, some_tools
from agenticrec_lite.training.scoring import action_logprobs, pad

if TYPE_CHECKING:
    from agenticrec_lite.training.pipeline import Experiment

CALLS = (0.5, 0.3, 0.2)  # probability of 1, 2, 3 calls before the answer


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
    trainer = DemonstrationTrainer(
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
    """Scripted trajectories, steps x batch of them, played in the environment that rollouts play in.

    Those that go through the model together (`micro_batch`) are of one task, for then they share their prompt.
    """
    settings, rng = experiment.profile["warm_start"], np.random.default_rng((experiment.seed, 8))
    copies = settings["micro_batch"]
    tasks = experiment.training[-(settings["steps"] * settings["batch"] // copies) :]
    played = []
    for task, context in zip(tasks, experiment.early_toolbox.contexts(tasks), strict=True):
        prompt = chat.prompt_ids(context)
        for _ in range(copies):
            turns = scripted_ranking(context, rng, some_tools(rng, 1 + int(rng.choice(len(CALLS), p=CALLS))))
            played.append(play(turns, context, chat, "rank", prompt))
    return played


def as_row(trajectory: Trajectory) -> dict[str, list[int]]:
    """A trajectory as trl's SFTTrainer takes it: only what the policy wrote is learnt from."""
    actions = zip(trajectory.completion_ids, trajectory.action_mask, strict=True)
    labels = [-100] * len(trajectory.prompt_ids) + [token if mine else -100 for token, mine in actions]
    return {"input_ids": trajectory.prompt_ids + trajectory.completion_ids, "labels": labels}


class DemonstrationTrainer(SFTTrainer):
    """SFT whose loss is computed as GRPO's is: what demonstrations of one task have in common is run once."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Cross-entropy, in nats an action token of the step (`num_items_in_batch` of them in all processes)."""
        rows = zip(*(inputs[name].tolist() for name in ("input_ids", "labels", "attention_mask")), strict=True)
        prompts: dict[tuple, int] = {}
        completions, actions, group_of = [], [], []
        for ids, labels, mask in rows:
            own = [label != -100 for label in labels[: sum(mask)]]
            begin = own.index(True)
            group_of.append(prompts.setdefault(tuple(ids[:begin]), len(prompts)))
            completions.append(ids[begin : len(own)])
            actions.append(own[begin:])
        parts = *pad(list(prompts), 0, left=True), *pad(completions, 0), pad(actions, 0)[0].bool()
        parts = (part.to(inputs["input_ids"].device) for part in (*parts, torch.tensor(group_of)))
        logprobs, _ = action_logprobs(self.accelerator.unwrap_model(model), *parts)
        return -logprobs.sum() / num_items_in_batch * processes.count()

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        if self.accelerator.sync_gradients:
            average_gradients(self.model)
        return loss


class _Log(TrainerCallback):
    """A row of metrics.csv a step: cross-entropy in nats over the tokens of the policy's turns."""

    def __init__(self, run: Run, stage: str, bar: tqdm):
        self.run, self.stage, self.bar, self.started = run, stage, bar, time.monotonic()

    def on_log(self, args, state, control, logs=None, **_) -> None:
        if "grad_norm" not in logs:
            return
        row = {"action_ce": logs["loss"], "grad_norm": logs["grad_norm"], "learning_rate": logs["learning_rate"]}
        row["seconds_update"] = time.monotonic() - self.started
        self.run.log_metrics({"stage": self.stage, "step": state.global_step, **row})
        self.started = time.monotonic()
        self.bar.update()
        self.bar.set_postfix(ce=f"{row['action_ce']:.3f}")
