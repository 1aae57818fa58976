"""The two arms: stock trl (`environment_factory`) and this package, on the same questions, with a clock in each.

Rollouts are greedy, so that both do the same work token by token; updates are on given sampled trajectories, since
greedy copies are all alike, which stock would not notice and the package would. Both get the same drawn rewards, so
that every trajectory has an advantage and is trained on (the package would skip the others).
"""

import inspect
import time
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.chat_template_utils import qwen3_template

from agenticrec_lite.agent.environment import RankingEnvironment
from agenticrec_lite.agent.prompts import system_prompt, task_prompt
from agenticrec_lite.agent.episodes import Sampling
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.tools import TOOLS, TaskContext, call_tool
from agenticrec_lite.tools.registry import parameters
from agenticrec_lite.training.arguments import grpo_config
from agenticrec_lite.agent.question import Question
from agenticrec_lite.training.grpo import ListwiseGRPOTrainer, as_batch


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


class Timed:
    """Laid over a trainer: tells its clock what the rollouts took; with `rollouts_only` nothing is learnt from them."""

    clock: Clock
    rollouts_only = False

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
    """The package's trainer, greedy; with `replay` its rollouts are given."""

    replay: list[Trajectory] | None = None

    def _play(self, asked):
        return super()._play(asked) if self.replay is None else self.replay


class Stock(Timed, GRPOTrainer):
    """trl's trainer as it is."""


def ours(policy, asked: list[Question], settings: dict, agent: dict, out: Path, replay=None) -> Ours:
    """The package's arm."""
    draw = rewards(0)
    trainer = Ours(policy, asked, lambda *_: draw(), settings, agent, None, "bench", 0, str(out))
    trainer.sampling = Sampling.of(agent, 0.0)
    trainer.args.max_grad_norm = 0.0
    trainer.replay = replay
    return with_clock(trainer)


def stock(policy, asked: list[Question], settings: dict, agent: dict, out: Path, replay=None) -> Stock:
    """trl's arm: its own generation and tool loop over the same tools, or the given rollouts."""
    config = grpo_config(settings, agent, str(out), 0)
    config.generation_kwargs = {"do_sample": False, "max_new_tokens": agent["max_turn_tokens"]}
    config.max_tool_calling_iterations, config.max_grad_norm, config.num_generations_eval = agent["max_calls"], 0.0, 1
    narrow(config, settings["stock_rows"])
    draw = rewards(0)
    tokenizer = policy.tokenizer
    tokenizer.response_template = qwen3_template
    how = (
        {"environment_factory": environment_class({q.task_id: q.context for q in asked})}
        if replay is None
        else {"rollout_func": lambda prompts, trainer: as_batch(replay)}
    )
    trainer = Stock(
        policy.model,
        reward_funcs=lambda completions, **_: [draw() for _ in completions],
        args=config,
        train_dataset=Dataset.from_list([row(q) for q in asked]),
        processing_class=tokenizer,
        **how,
    )
    return with_clock(trainer)


def narrow(config: GRPOConfig, rows: int) -> GRPOConfig:
    """The same step in micro-batches of so many trajectories."""
    config.per_device_train_batch_size = rows
    config.gradient_accumulation_steps = config.steps_per_generation = config.generation_batch_size // rows
    return config


def row(question: Question) -> dict:
    """A question as trl's dataset has it."""
    prompt = [
        {"role": "system", "content": system_prompt(brief=True)},
        {"role": "user", "content": task_prompt(question.context)},
    ]
    return {"prompt": prompt, "task_id": question.task_id}


def with_clock(trainer):
    trainer.clock = Clock()
    trainer.add_callback(trainer.clock)
    return trainer


def environment_class(contexts: dict[str, TaskContext]) -> type:
    """The seven tools as methods of an environment, which is what stock trl takes."""

    def reset(self, task_id: str, **_) -> None:
        self._context = contexts[task_id]

    return type("Tools", (), {"reset": reset} | {name: _method(name, tool) for name, tool in TOOLS.items()})


def _method(name: str, tool) -> object:
    def method(self, **arguments) -> str:
        return call_tool(name, arguments, self._context)

    known = parameters(tool)
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    method.__name__, method.__doc__ = name, tool.__doc__
    method.__signature__ = inspect.Signature([own, *known.values()], return_annotation=str)
    method.__annotations__ = {n: p.annotation for n, p in known.items()} | {"return": str}
    return method


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
    Path("/proc/self/clear_refs").write_text("5")
    return peak_mb()


def peak_mb() -> float:
    """Peak resident memory in MB since the start, or since `forget_peak`."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
