"""trl's arguments for a stage, out of a profile's settings, and what all processes share: passes and gradients."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import reduce
from transformers.integrations import get_available_reporting_integrations
from trl import GRPOConfig, SFTConfig

from agenticrec_lite.agent.prompts import ChatFormat
from agenticrec_lite.agent.question import Question
from agenticrec_lite.agent.vllm_engine import turn_parameters
from agenticrec_lite.errors import UserError
from agenticrec_lite.policy import precision
from agenticrec_lite.runs import processes


def grpo_config(settings: dict, agent: dict, output_dir: str, seed: int, dtype: str = "float32", **more) -> GRPOConfig:
    """trl's arguments for a stage: on-policy, dr_grpo, no reward scaling, no KL; `more` of them replace these."""
    arguments = _common(settings, dtype, seed) | {
        "num_generations": settings["group_size"],
        "per_device_train_batch_size": settings["micro_groups"] * settings["group_size"],
        "gradient_accumulation_steps": passes(settings, "tasks_per_step", "micro_groups"),
        "temperature": settings["temperature"],
        "loss_type": "dr_grpo",
        "scale_rewards": "none",
        "beta": 0.0,
        "max_completion_length": agent["max_completion_tokens"],
        "shuffle_dataset": False,
        "report_to": "none",
    }
    return GRPOConfig(output_dir, **arguments | more)


def sft_config(settings: dict, dtype: str, seed: int, output_dir: str, report_to: str = "none") -> SFTConfig:
    """trl's arguments for the warm start."""
    return SFTConfig(
        output_dir,
        **_common(settings, dtype, seed),
        max_length=None,
        train_sampling_strategy="sequential",  # demonstrations of one task stay together
        per_device_train_batch_size=settings["micro_batch"],
        gradient_accumulation_steps=passes(settings, "batch", "micro_batch"),
        report_to=report_to,
    )


def _common(settings: dict, dtype: str, seed: int) -> dict[str, Any]:
    """What all stages train with."""
    return precision(dtype) | {
        "max_steps": settings["steps"], "learning_rate": settings["learning_rate"],
        "lr_scheduler_type": "linear",  # down to 0: Adam takes steps as long when little but noise is left to learn
        "warmup_steps": settings["warmup_steps"], "weight_decay": 0.0, "max_grad_norm": 1.0, "logging_steps": 1,
        "save_strategy": "no", "disable_tqdm": True, "seed": seed,
    }  # fmt: skip


def passes(settings: Mapping[str, Any], of_step: str, at_once: str, section: str = "") -> int:
    """Forward and backward passes a step in each process, all of the same size.

    Args:
        settings: A section of the profile.
        of_step, at_once: Names of its settings: how many things all processes take in a step, and one process at once.
        section: Its name, for the error.

    Raises:
        UserError: It cannot be divided so.
    """
    part = settings[at_once] * processes.count()
    if settings[of_step] % part:
        raise UserError(
            f"{section}{of_step} is {settings[of_step]}, but must be a multiple of {part}: {settings[at_once]} at once "
            f"({section}{at_once}) in each of {processes.count()} processes; set it so, or a smaller {at_once}."
        )
    return settings[of_step] // part


def average_gradients(model: torch.nn.Module) -> None:
    """Give all processes the mean of their gradients, which is what one process with all the shares would have.

    DistributedDataParallel would do so if the loss came from its own forward pass; prompts are shared around it.
    """
    if processes.count() == 1:
        return
    trained = [p for p in model.parameters() if p.requires_grad]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
    mean = reduce(torch.cat([gradient.flatten() for gradient in gradients]), "mean")
    for parameter, part in zip(trained, mean.split([p.numel() for p in trained]), strict=True):
        parameter.grad = part.view_as(parameter).clone()


def server_arguments(agent: dict, chat: ChatFormat, questions: Sequence[Question]) -> dict:
    """trl's arguments for rollouts by a server of vLLM; it reserves room for the longest trajectory that may come."""
    longest = max(len(chat.prompt_ids(q.context, q.kind)) for q in questions)
    return {
        "use_vllm": True,
        "vllm_importance_sampling_correction": False,
        "vllm_max_model_length": longest + agent["max_completion_tokens"] + agent["max_turn_tokens"],
        "generation_kwargs": turn_parameters(agent["max_turn_tokens"], chat.end_of_turn),
        **{f"vllm_{name}": value for name, value in agent["vllm"].items()},
    }


def check_settings(settings: dict) -> None:
    """Whether the processes can share the steps, and what is to track them is there.

    Raises:
        UserError: They cannot, or it is not.
    """
    if "true" in (os.environ.get(f"ACCELERATE_USE_{name}", "").lower() for name in ("DEEPSPEED", "FSDP")):
        raise UserError(
            "Training is data-parallel, each process with the whole policy; launch it without DeepSpeed and FSDP, "
            "and train a policy too large for that with trl's own trainer."
        )
    for stage in ("rta", "ppr"):
        passes(settings[stage], "tasks_per_step", "micro_groups", f"{stage}.")
    if settings["warm_start"]["steps"]:
        passes(settings["warm_start"], "batch", "micro_batch", "warm_start.")
    report_to, there = settings["tracking"]["report_to"], get_available_reporting_integrations()
    if report_to != "none" and report_to not in there:
        raise UserError(
            f"tracking.report_to is {report_to!r}, which is not installed here; pip install {report_to}, or set it to "
            f"{' or '.join(['none', *there])}."
        )
