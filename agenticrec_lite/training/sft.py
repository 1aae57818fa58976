"""Supervised fine-tuning on trajectories: the trainer of the warm start."""

import time

import torch
from tqdm.auto import tqdm
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from trl import SFTTrainer

from agenticrec_lite.agent.scoring import action_logprobs, pad
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.policy import fp32_adapter
from agenticrec_lite.runs import Run, processes, threads
from agenticrec_lite.training.arguments import average_gradients


def as_row(trajectory: Trajectory) -> dict[str, list[int]]:
    """A trajectory as trl's SFTTrainer takes it: only what the policy wrote is learnt from."""
    actions = zip(trajectory.completion_ids, trajectory.action_mask, strict=True)
    labels = [-100] * len(trajectory.prompt_ids) + [token if mine else -100 for token, mine in actions]
    return {"input_ids": trajectory.prompt_ids + trajectory.completion_ids, "labels": labels}


class DemonstrationTrainer(SFTTrainer):
    """SFT whose loss is computed as GRPO's is: what demonstrations of one task have in common is run once."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)
        fp32_adapter(self.model)  # trl makes the adapter of a quantised base bf16, where small updates round away

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
        with self.accelerator.autocast():  # on a GPU in half precision, as the updates of both stages
            logprobs, _ = action_logprobs(self.accelerator.unwrap_model(model), *parts)
        return -logprobs.sum() / num_items_in_batch * processes.count()

    def train(self, *args, **kwargs):
        """All steps."""
        with threads.chosen():
            return super().train(*args, **kwargs)

    def training_step(self, model, inputs, *args, **kwargs):
        with threads.timed("supervised fine-tuning", int(inputs["attention_mask"].sum())):
            loss = super().training_step(model, inputs, *args, **kwargs)
        if self.accelerator.sync_gradients:
            average_gradients(self.model)
        return loss


class StepLog(TrainerCallback):
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
