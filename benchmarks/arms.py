"""The two arms: stock trl (`environment_factory`) and this package, on the same questions, with a clock in each.

Rollouts are greedy, so that both do the same work token by token; updates are on given sampled trajectories, since
greedy copies are all alike, which stock would not notice and the package would. Both get the same drawn rewards, so
that every trajectory has an advantage and is trained on (the package would skip the others).
"""

import time
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOTrainer
from trl.chat_template_utils import qwen3_template

from agenticrec_lite.agent.environment import RankingEnvironment
from agenticrec_lite.agent.episodes import Sampling
from agenticrec_lite.agent.question import Question
from agenticrec_lite.training.arguments import grpo_config
from agenticrec_lite.training.grpo import ListwiseGRPOTrainer, as_batch
from agenticrec_lite.training.trl_environment import environment_factory, row


class Clock(TrainerCallback):
    """Seconds of every step's rollouts and of the rest, and the gradient of the first step."""

    def __init__(self):
        self.rollout, self.update, self.grads = [], [], {}
        self.generating = 0.0

    def on_step_begin(self, args, state, control, **_):
        self.started, self.generating = time.perf_counter(), 0.0

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        if not self.grads:
            self.grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    def on_step_end(self, args, state, control, **_):
        self.rollout.append(self.generating)
        self.update.append(time.perf_counter() - self.started - self.generating)


class MemoryClock(Clock):
    """And the process's peak memory after every step."""

    def __init__(self):
        super().__init__()
        self.peaks_mb: list[float] = []

    def on_log(self, args, state, control, **_):
        self.peaks_mb.append(peak_mb())


class Timed:
    """Laid over a trainer: tells its clock what the rollouts took; with `rollouts_only` nothing is learnt from them."""

    def __init__(self, *args, rollouts_only: bool = False, clock: Clock | None = None, **kwargs):
        self.clock, self.rollouts_only = clock or Clock(), rollouts_only
        super().__init__(*args, **kwargs)
        self.add_callback(self.clock)

    def compute_loss(self, model, inputs, *args, **kwargs):
        if self.rollouts_only:
            return 0.0 * sum(p.sum() for p in model.parameters() if p.requires_grad)
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _generate_and_score_completions(self, inputs):
        start = time.perf_counter()
        batch = super()._generate_and_score_completions(inputs)
        self.clock.generating += time.perf_counter() - start
        return batch


def rewards(seed: int):
    """An endless row of drawn rewards, the same in both arms."""
    rng = np.random.default_rng(seed)
    return lambda: float(rng.random())


class Ours(Timed, ListwiseGRPOTrainer):
    """The package's trainer."""


class Stock(Timed, GRPOTrainer):
    """trl's trainer as it is."""


def ours(policy, asked: list[Question], settings: dict, agent: dict, out: Path, rollouts=None, rows: int = 0,
         **timed) -> Ours:  # fmt: skip
    """The package's arm, greedy; perhaps with given rollouts, perhaps in micro-batches of so many rows."""
    draw, trl = rewards(0), {"max_grad_norm": 0.0}
    if rows:
        trl |= narrow(settings["tasks_per_step"] * settings["group_size"], rows)
    about = (policy, asked, lambda *_: draw(), settings, agent, None, "bench", 0, str(out), None)
    return Ours(*about, rollouts=rollouts, sampling=Sampling.of(agent, 0.0), trl=trl, **timed)


def stock(policy, asked: list[Question], settings: dict, agent: dict, out: Path, rollouts=None, **timed) -> Stock:
    """trl's arm: its own generation and tool loop over the same tools, or the given rollouts."""
    config = grpo_config(
        settings, agent, str(out), 0, max_tool_calling_iterations=agent["max_calls"], max_grad_norm=0.0,
        num_generations_eval=1, generation_kwargs={"do_sample": False, "max_new_tokens": agent["max_turn_tokens"]},
        **narrow(settings["tasks_per_step"] * settings["group_size"], settings["stock_rows"]),
    )  # fmt: skip
    draw = rewards(0)
    tokenizer = policy.tokenizer
    tokenizer.response_template = qwen3_template
    how = (
        {"environment_factory": environment_factory(asked)}
        if rollouts is None
        else {"rollout_func": lambda prompts, trainer: as_batch(rollouts(prompts))}
    )
    return Stock(
        policy.model,
        reward_funcs=lambda completions, **_: [draw() for _ in completions],
        args=config,
        train_dataset=Dataset.from_list([row(q) for q in asked]),
        processing_class=tokenizer,
        **how,
        **timed,
    )


def narrow(n: int, rows: int) -> dict:
    """trl's arguments for a step of n trajectories in micro-batches of so many."""
    return {"per_device_train_batch_size": rows, "gradient_accumulation_steps": n // rows}


def greedy(trainer: Stock, asked: list[Question], max_calls: int) -> list[tuple[list[int], list[int]]]:
    """Prompt and completion ids of stock trl's greedy trajectories, one a question."""
    trainer.model.eval()
    trainer.max_tool_calling_iterations = max_calls
    with torch.no_grad():
        batch = trainer._generate_and_score_completions([row(q) for q in asked])
    return [
        (p[pm.bool()].tolist(), c[cm.bool()].tolist())
        for p, pm, c, cm in zip(
            batch["prompt_ids"], batch["prompt_mask"], batch["completion_ids"], batch["completion_mask"], strict=True
        )
    ]


def environments(asked: list[Question], max_calls: int) -> list[RankingEnvironment]:
    """A fresh environment a question."""
    return [RankingEnvironment(q.context, q.kind, max_calls) for q in asked]


def forget_peak() -> float:
    """Start the process's peak memory anew; resident MB now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return peak_mb()


def peak_mb() -> float:
    """Peak resident memory in MB since the start, or since `forget_peak`."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
