"""List-wise GRPO on trl: both stages of the paper train with this one trainer.

What is trl's: the training loop, the optimiser, the loss (`dr_grpo`: a sum of log-probability times advantage over a
constant denominator, which is the paper's estimator up to scale). What is ours: rollouts by the engine, the paper's
rewards, dropping of groups without a non-negative reward, and scoring with shared prompts.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PrinterCallback, ProgressCallback
from trl import GRPOTrainer
from trl.trainer.utils import split_tensor_dict

from agenticrec_lite.agent.episodes import Sampling, enough_memory
from agenticrec_lite.agent.prompts import ChatFormat
from agenticrec_lite.agent.question import Question
from agenticrec_lite.agent.rollout import rollout
from agenticrec_lite.agent.scoring import action_logprobs
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.agent.vllm_engine import rollout_by_turns, rollout_by_vllm, vllm_here, vllm_plays
from agenticrec_lite.errors import UserError
from agenticrec_lite.policy import Policy, fp32_adapter
from agenticrec_lite.rewards import group_advantages
from agenticrec_lite.runs import Run, processes, threads
from agenticrec_lite.tools import tools_of
from agenticrec_lite.training.arguments import average_gradients, grpo_config, server_arguments
from agenticrec_lite.training.checkpoint import Checkpoints
from agenticrec_lite.training.metrics import step_metrics, trajectory_rows

MOST_SKIPPED = 5  # steps in a row without a finite gradient that end a stage


class ListwiseGRPOTrainer(GRPOTrainer):
    """GRPO over whole tool-using trajectories. Of several processes each takes a share of a step's tasks.

    Args:
        policy: With a LoRA adapter, which is trained in place and goes on from where it is.
        questions: In the order of training; steps * tasks_per_step of them.
        reward: (trajectory, right answer) -> reward.
        settings: A stage's section of the profile: steps, tasks_per_step, group_size, micro_groups, learning_rate,
            temperature.
        agent: The profile's `agent` section.
        run: Where metrics and trajectories are logged, under `stage`; None logs nowhere.
        stage: "rta" or "ppr".
        seed: Of rollouts.
        watch: Called after each step with the metrics of all steps so far, a dict a step.
        checkpoints: Of a stage that may be cut off; with one to go on from, `questions` are those after its step.
        report_to: Where trl reports its own figures, such as "tensorboard".
        advantages: (rewards, group size) -> advantages and which groups are dropped; the paper's.
        rollouts: questions -> a group of trajectories for each, in their order; by default sampled by the engine.
        sampling: How the engine decodes; by default as the profile says.
        trl: Further arguments of trl's GRPOConfig, such as {"loss_type": "grpo"}; they replace the profile's.

    Raises:
        UserError: The processes cannot share a step evenly.
    """

    def __init__(
        self,
        policy: Policy,
        questions: Sequence[Question],
        reward: Callable[[Trajectory, int | str], float],
        settings: dict,
        agent: dict,
        run: Run | None,
        stage: str,
        seed: int,
        output_dir: str,
        watch: Callable[[list[dict]], None] | None = None,
        checkpoints: Checkpoints | None = None,
        report_to: str = "none",
        advantages: Callable[[Sequence[float], int], tuple[np.ndarray, np.ndarray]] = group_advantages,
        rollouts: Callable[[Sequence[Question]], list[Trajectory]] | None = None,
        sampling: Sampling | None = None,
        trl: Mapping[str, Any] | None = None,
    ):
        self.watch, self.checkpoints, self.advantages = watch, checkpoints, advantages
        self.generate_rollouts = rollouts or self.sampled_rollouts
        self.questions = {question.task_id: question for question in questions}
        self.tool_names = list(dict.fromkeys(name for q in questions for name in tools_of(q.context)))
        self.reward, self.agent, self.run, self.stage, self.seed = reward, agent, run, stage, seed
        self.chat = ChatFormat.of_policy(policy)
        self.sampling = sampling or Sampling.of(agent, settings["temperature"])
        self.trajectories, self.history = [], checkpoints.history if checkpoints else []
        about = {"desc": stage.upper(), "unit": "step", "disable": not processes.is_main()}
        self.bar = tqdm(total=settings["steps"], initial=len(self.history), **about)
        self.policy = policy
        server = agent.get("engine") == "vllm" and agent["vllm"]["mode"] == "server"
        self.by_server = server and vllm_here(policy.model, agent["vllm"])
        more = server_arguments(agent, self.chat, questions) if self.by_server else {}
        dtype = str(policy.model.dtype).removeprefix("torch.")
        super().__init__(
            policy.model,
            reward_funcs=lambda trajectory, **_: [t.reward for t in trajectory],
            args=grpo_config(settings, agent, output_dir, seed, dtype, report_to=report_to, **more | dict(trl or {})),
            train_dataset=_dataset(questions),
            processing_class=policy.tokenizer,
            rollout_func=self._rollout,
            callbacks=[checkpoints] if checkpoints else None,
        )
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)
        fp32_adapter(self.model)  # trl makes the adapter of a quantised base bf16, where small updates round away

    def train(self, *args, **kwargs):
        """All steps. Updates compute with the number of threads that the rollouts before them found best."""
        with threads.chosen():
            return super().train(*args, **kwargs)

    def _rollout(self, prompts: list, trainer) -> dict:
        """trl's rollout hook. Prompts arrive repeated group_size times; only the task id in them is used."""
        started = time.monotonic()
        asked = [self.questions[prompt[0]["content"]] for prompt in prompts[:: self.num_generations]]
        self.trajectories = self.generate_rollouts(asked)
        first = processes.index() * len(prompts) // self.num_generations
        for trajectory in self.trajectories:
            trajectory.reward = self.reward(trajectory, self.questions[trajectory.task_id].right)
            trajectory.group += first
        self.seconds_rollout, self.update_started = time.monotonic() - started, time.monotonic()
        return as_batch(self.trajectories)

    def sampled_rollouts(self, questions: Sequence[Question]) -> list[Trajectory]:
        """A group of sampled trajectories for each question."""
        groups = [q.group(self.chat, self.num_generations, self.agent["max_calls"]) for q in questions]
        if self.by_server:
            return rollout_by_turns(groups, self.chat, self.sampling, self.model.device, self.write_turns)
        if vllm_plays(self.policy, self.sampling, self.agent):
            return rollout_by_vllm(self.policy, self.chat, groups, self.sampling, self.agent)
        seed = processes.own_seed(self.seed * 1_000_003 + self.state.global_step)
        generator = torch.Generator().manual_seed(seed)
        return rollout(self.model, self.chat, groups, self.sampling, generator)

    def write_turns(self, prompts: Sequence[Sequence[int]]) -> tuple[list[list[int]], list[list[float]] | None]:
        """A turn after each prompt, by trl, whose `use_vllm` flags hand it to a server of vLLM."""
        return self._generate_single_turn(prompts, None, {}, 1)

    def _generate_and_score_completions(self, inputs):
        """Rollouts with rewards and advantages; groups without a non-negative reward are masked out."""
        batch = super()._generate_and_score_completions(inputs)
        advantages, dropped = self.advantages([t.reward for t in self.trajectories], self.num_generations)
        rows_dropped = np.repeat(dropped, self.num_generations)
        for trajectory, advantage, drop in zip(self.trajectories, advantages, rows_dropped, strict=True):
            trajectory.advantage, trajectory.dropped = float(advantage), bool(drop)
        batch["advantages"] = torch.tensor(advantages, dtype=torch.float32, device=batch["advantages"].device)
        batch["tool_mask"] = batch["tool_mask"] * (batch["advantages"] != 0)[:, None]
        self.trajectories = processes.gather(self.trajectories)
        return batch

    def _prepare_inputs(self, generation_batch):
        """As trl's, but without shuffling rows: groups stay together, so that they can share their prompt."""
        if self._step % self.args.steps_per_generation == 0 or self._buffered_inputs is None:
            batch = self._generate_and_score_completions(generation_batch)
            self._buffered_inputs = split_tensor_dict(batch, self.args.steps_per_generation)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _compute_loss(self, model, inputs):
        self._actions = (inputs["completion_mask"] * inputs["tool_mask"]).bool()
        return super()._compute_loss(self.accelerator.unwrap_model(model), inputs)

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, **_):
        """Log-probabilities of the action tokens [B, C], 0 elsewhere.

        What a group shares is run once, and a row without advantage, which has no gradient, not at all.
        """
        n_prompt = input_ids.shape[1] - logits_to_keep
        rows = self._actions.any(1)
        rows[0] |= ~rows.any()  # the loss needs a graph, even one without gradient
        input_ids, attention_mask, actions = input_ids[rows], attention_mask[rows], self._actions[rows]
        first, group_of = self._distinct_prompts(input_ids[:, :n_prompt])
        prompt_mask, completion_mask = attention_mask[first, :n_prompt], attention_mask[:, n_prompt:]
        length = int(completion_mask.sum(1).max())
        start = int(prompt_mask.argmax(1).min())
        completions, actions = input_ids[:, n_prompt:][:, :length], actions[:, :length]
        with self.accelerator.autocast():
            logprobs, entropies = action_logprobs(
                model, input_ids[first, start:n_prompt], prompt_mask[:, start:], completions,
                completion_mask[:, :length], actions, group_of, self.temperature,
            )  # fmt: skip
        scattered = torch.zeros(2, *self._actions.shape, device=input_ids.device)
        where = torch.nonzero(self._actions, as_tuple=True)
        return scattered[0].index_put(where, logprobs), scattered[1].index_put(where, entropies), None

    def _distinct_prompts(self, prompts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """First row of each run of equal prompts, and each row's run."""
        new = torch.ones(len(prompts), dtype=torch.bool, device=prompts.device)
        new[1:] = (prompts[1:] != prompts[:-1]).any(1)
        return torch.nonzero(new)[:, 0], new.cumsum(0) - 1

    def training_step(self, model, inputs, num_items_in_batch=None):
        smaller = f"{self.stage}.micro_groups, {self.stage}.group_size or agent.max_completion_tokens"
        with enough_memory(f"an update of {self.stage.upper()}", smaller):
            loss = super().training_step(model, inputs, num_items_in_batch)
            if self.accelerator.sync_gradients:
                average_gradients(self.model)
        return loss

    def _get_grad_norm(self, model, grad_norm=None):
        """The gradient's norm; a gradient that is not finite, or has no evidence behind it, is removed.

        Removed and not zeroed: Adam's momentum would move the weights nevertheless.
        """
        norm = super()._get_grad_norm(model, grad_norm)
        self.skipped = not math.isfinite(norm)
        if self.skipped or all(t.dropped for t in self.trajectories):
            model.zero_grad(set_to_none=True)
        return norm

    def log(self, logs: dict, start_time: float | None = None) -> None:
        """A row of metrics and the trajectories of each step."""
        super().log(logs, start_time)
        if "grad_norm" not in logs:
            return
        row = {
            "stage": self.stage,
            "step": self.state.global_step,
            **step_metrics(self.trajectories, self.num_generations, self.tool_names),
        }
        row |= {"grad_norm": logs["grad_norm"], "learning_rate": logs.get("learning_rate")}
        row |= {"skipped": 1} if self.skipped else {}
        row |= {"loss_scale": scaler.get_scale()} if (scaler := self.accelerator.scaler) else {}  # fp16 on a GPU
        row |= {"seconds_rollout": self.seconds_rollout, "seconds_update": time.monotonic() - self.update_started}
        self.history.append(row)
        self.bar.update()
        self.bar.set_postfix(
            reward=f"{row['reward_mean']:.3f}", valid=f"{row['valid']:.2f}", calls=f"{row['calls']:.1f}"
        )
        if self.run:
            self.run.log_metrics(row)
            self.run.log_trajectories(
                trajectory_rows(self.trajectories, self.questions, self.stage, row["step"], self.seed)
            )
        if self.watch:
            self.watch(self.history)
        # In fp16 the scale of the loss begins high and halves in each such step: only below 1 is that a fault.
        spoilt = [row.get("skipped") == 1 and row.get("loss_scale", 0) < 1 for row in self.history[-MOST_SKIPPED:]]
        if spoilt == [True] * MOST_SKIPPED:
            raise UserError(
                f"The last {MOST_SKIPPED} steps of {self.stage} moved nothing: rewards or gradient were not finite; "
                f"begin in another folder with a smaller {self.stage}.learning_rate or policy.dtype float32."
            )
        if self.checkpoints:
            self.checkpoints.save(self)


def as_batch(trajectories: Sequence[Trajectory]) -> dict:
    """What trl's rollout hook returns."""
    return {
        "prompt_ids": [t.prompt_ids for t in trajectories],
        "completion_ids": [t.completion_ids for t in trajectories],
        "logprobs": None,
        "env_mask": [t.action_mask for t in trajectories],
        "trajectory": trajectories,
    }


def _dataset(questions: Sequence[Question]) -> Dataset:
    """trl's rows: all that a rollout needs of them is the task id."""
    return Dataset.from_list([{"prompt": [{"role": "user", "content": q.task_id}]} for q in questions])
