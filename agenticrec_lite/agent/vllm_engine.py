"""Rollouts a turn of all trajectories at a time, each turn written by whoever is given: vLLM, or any other.

All but the writing is the engine's own (agent/rollout.py): environments, observations, limits, action masks.

In this process (`agent.vllm.mode: colocate`) vLLM holds the policy's base as training does, in NF4 or in 16 bits, and
the adapter beside it; nothing is merged. Before rollouts the adapter as it is now is written to shared memory, and
asked for under a name and a number that are new. A server (`mode: server`) plays training's rollouts through trl's own
flags, which merge the adapter into 16-bit weights.

trl's own `environment_factory` loop is not taken, because its trajectories would be others:
- it writes JSON schemas of the tools into the prompt, and obeys turns that the protocol refuses (text around a call,
  several calls at once) instead of ending them;
- with a server and several processes, it hands a process completions of another's prompts when they are unequally
  many (trl 1.16; its pull request 6673 is about this). Here every process asks for equally many.

What trl's correction for a mismatch of samplers would need, log-probabilities of all rollouts once more, is left out:
the estimator is that of the other engine.

None of this has been tried on a card: what is written here of vLLM is what its pages say, below
https://docs.vllm.ai/en/stable/ unless another place is named.
"""

import gc
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import bitsandbytes
import torch

from agenticrec_lite.agent.episodes import Group, Sampling
from agenticrec_lite.agent.prompts import ChatFormat
from agenticrec_lite.agent.rollout import Batch, rollout
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.errors import UserError, first_line
from agenticrec_lite.policy import Policy, save_adapter
from agenticrec_lite.runs import processes

LOWEST_CAPABILITY = (7, 5)  # that vLLM's documentation asks for (since 0.23): Turing, such as a T4
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that max_lora_rank may be (configuration/engine_args)
SHARED_MEMORY = Path("/dev/shm")
# Prompts in, as token ids; tokens of one turn for each out, and their log-probabilities or None.
Generate = Callable[[Sequence[Sequence[int]]], tuple[list[list[int]], list[list[float]] | None]]

# Arguments, tokens that a trajectory may have, vllm.LLM; of one at most, for it holds a part of the GPU's memory.
_started: list[tuple[dict, int, Any]] = []
_numbers = count(1)  # of adapters: "globally unique" (features/lora), so none is used again in this process


def vllm_here(model, settings: dict) -> bool:
    """Whether vLLM can play this policy's rollouts on this machine; if it cannot, a sentence says why, once.

    Args:
        model: The policy's, with its adapter.
        settings: The profile's `agent.vllm` section.
    """
    server = settings["mode"] == "server"
    if not vllm_installed():
        lacking = "vLLM is not installed (pip install trl[vllm])"
    elif not torch.cuda.is_available():
        lacking = "vLLM needs a GPU"
    elif torch.cuda.get_device_capability() < LOWEST_CAPABILITY:
        wanted = ".".join(map(str, LOWEST_CAPABILITY))
        lacking = f"vLLM needs a GPU of compute capability {wanted}, and this is an older one"
    elif server and _in_nf4(model):
        lacking = "trl cannot give a server a policy in NF4 (set agent.vllm.mode=colocate)"
    elif not server and settings["tensor_parallel_size"] > 1:
        lacking = "vLLM in this process takes one GPU (set agent.vllm.tensor_parallel_size=1)"
    elif not server and model.dtype == torch.float32:  # its kernels assert so: vllm/lora/ops/triton_ops
        lacking = "vLLM computes adapters in 16 bits only (set policy.dtype=bfloat16 or float16)"
    elif not server and _rank(model) > RANKS[-1]:
        lacking = f"vLLM takes no adapter of a rank above {RANKS[-1]} (set policy.lora.r)"
    else:
        return True
    _say_once(f"{lacking}: agent.engine=vllm is not used, the engine of this package plays the rollouts.")
    return False


@cache
def _say_once(sentence: str) -> None:
    processes.say(sentence)


def vllm_installed() -> bool:
    return find_spec("vllm") is not None


def _in_nf4(model) -> bool:
    return any(isinstance(module, bitsandbytes.nn.Linear4bit) for module in model.modules())


def _rank(model) -> int:
    return max(config.r for config in model.peft_config.values())


def turn_parameters(max_turn_tokens: int, end_of_turn: int) -> dict:
    """Of vLLM's SamplingParams, all but the temperature: a turn is sampled by that alone, as the engine's.

    The top_k and top_p that a model's generation_config.json may bring (Qwen3: 20 and .95), and its further end tokens,
    are set aside by what each request says. That holds in a server too, whose own defaults are used only for what a
    request leaves out.
    """
    return {
        "max_tokens": max_turn_tokens, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0,
        "ignore_eos": True, "stop_token_ids": [end_of_turn],
    }  # fmt: skip


def play(
    policy: Policy,
    chat: ChatFormat,
    groups: Sequence[Group],
    sampling: Sampling,
    agent: dict,
    generator: torch.Generator | None = None,
    progress: str | None = None,
) -> list[Trajectory]:
    """Play all groups to their end by the engine that the profile names: vLLM in this process, or the package's own.

    Args:
        policy: With its adapter as it is now.
        chat: Its chat format.
        groups: Prompts and fresh environments.
        sampling: How to decode.
        agent: The profile's `agent` section.
        generator, progress: As of `rollout`, for the package's own engine.

    Returns:
        One trajectory an environment, group by group.

    Raises:
        UserError: vLLM cannot start, or the memory does not suffice.
    """
    if vllm_plays(policy, sampling, agent):
        return rollout_by_vllm(policy, chat, groups, sampling, agent)
    return rollout(policy.model, chat, groups, sampling, generator, progress)


def vllm_plays(policy: Policy, sampling: Sampling, agent: dict) -> bool:
    """Whether vLLM in this process plays: the profile asks for it, and it can.

    A subclass of Sampling chooses tokens in a way of its own, which only the package's engine knows.
    """
    asked = agent.get("engine") == "vllm" and agent["vllm"]["mode"] == "colocate" and type(sampling) is Sampling
    return asked and vllm_here(policy.model, agent["vllm"])


def rollout_by_vllm(
    policy: Policy, chat: ChatFormat, groups: Sequence[Group], sampling: Sampling, agent: dict
) -> list[Trajectory]:
    """Play all groups by vLLM in this process, with the adapter as it is now; vLLM draws its own random numbers.

    Args, Returns and Raises as of `play`.
    """
    longest = max(processes.gather([max((len(group.prompt_ids) for group in groups), default=1)]))
    llm = _vllm(policy, agent, longest, longest + sampling.max_completion_tokens + sampling.max_turn_tokens)
    with _adapter(llm, policy.model, chat, sampling, agent["vllm"]["enable_sleep_mode"]) as generate:
        return rollout_by_turns(groups, chat, sampling, policy.model.device, generate)


def _vllm(policy: Policy, agent: dict, longest: int, needed: int):
    """The process's vllm.LLM for this policy's base, started when first asked for.

    Args:
        policy: What is read of it is its base and the rank of its adapter.
        agent: The profile's `agent` section.
        longest: Tokens of the longest prompt; later ones may be twice as long until vLLM must be started again.
        needed: Tokens of the longest trajectory that may come.

    Raises:
        UserError: It cannot start.
    """
    model, settings, nf4 = policy.model, agent["vllm"], _in_nf4(policy.model)
    arguments = {
        "model": model.name_or_path, "revision": policy.revision, "dtype": str(model.dtype).removeprefix("torch."),
        # features/quantization/bnb: from the checkpoint to 4 bits while it loads; its loader takes NF4 with double
        # quantisation, as policy.quantization_config does (vllm/model_executor/model_loader/bitsandbytes_loader.py)
        "quantization": "bitsandbytes" if nf4 else None, "load_format": "bitsandbytes" if nf4 else "safetensors",
        "enable_lora": True, "max_loras": 1, "max_lora_rank": next(rank for rank in RANKS if rank >= _rank(model)),
        "max_num_seqs": agent["batch_rows"], "gpu_memory_utilization": settings["gpu_memory_utilization"],
        "enable_sleep_mode": settings["enable_sleep_mode"],
        "enable_prefix_caching": True,  # features/automatic_prefix_caching: a group's prompt, and all earlier turns
        # configuration/engine_args: no defaults out of the model's generation_config.json
        "generation_config": "vllm",
        "logprobs_mode": "processed_logprobs",  # configuration/engine_args: after the temperature, as the engine's
    }  # fmt: skip
    if processes.count() > 1:  # each with a vLLM of its own on its own GPU, as trl/generation/vllm_generation.py does
        arguments |= {"distributed_executor_backend": "external_launcher", "seed": processes.index()}
    if _started and _started[0][0] == arguments and _started[0][1] >= needed:
        return _started[0][2]
    _started.clear()
    gc.collect()  # of another policy, or with too little room: its memory must be free for the new one
    room = max(needed, min(needed + longest, getattr(model.config, "max_position_embeddings", needed + longest)))
    try:
        from vllm import LLM

        llm = LLM(max_model_len=room, **arguments)
    except (ValueError, RuntimeError, OSError, ImportError, AssertionError) as error:
        raise UserError(
            f"vLLM cannot start ({first_line(error)}); begin in another folder with another "
            "agent.vllm.gpu_memory_utilization, or with agent.engine=own."
        ) from error
    if settings["enable_sleep_mode"]:
        llm.sleep(level=1)
    _started.append((arguments, room, llm))
    return llm


@contextmanager
def _adapter(llm, model, chat: ChatFormat, sampling: Sampling, sleeps: bool) -> Iterator[Generate]:
    """A callable that writes turns by the adapter as it is now; after the block it is dropped and its files are gone.

    Args:
        llm: The vllm.LLM of the model's base.
        model: With the adapter.
        chat, sampling: When a turn ends, and how it is decoded.
        sleeps: Whether vLLM gives its memory back after the block.
    """
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

    # logprobs 0: of the chosen token alone (api/vllm/sampling_params); only token ids are asked for
    how = turn_parameters(sampling.max_turn_tokens, chat.end_of_turn) | {"logprobs": 0, "detokenize": False}
    how = SamplingParams(temperature=sampling.temperature, **how)
    size = 4 * sum(weight.numel() for name, weight in model.named_parameters() if "lora_" in name)
    with TemporaryDirectory(prefix="agenticrec-", dir=_roomy(2 * size)) as folder:
        save_adapter(model, Path(folder, "adapter"))
        # The name is new as well: the cache of prefixes tells adapters apart by it (vllm-project/vllm, issue 30931).
        number = next(_numbers)
        request = LoRARequest(f"adapter-{number}", number, str(Path(folder, "adapter")))

        def generate(prompts: Sequence[Sequence[int]]) -> tuple[list[list[int]], list[list[float]]]:
            asked = [{"prompt_token_ids": list(ids)} for ids in prompts]
            outputs = llm.generate(asked, sampling_params=how, use_tqdm=False, lora_request=request)
            turns = [output.outputs[0] for output in outputs]
            logprobs = [[of[token].logprob for token, of in zip(t.token_ids, t.logprobs, strict=True)] for t in turns]
            return [list(turn.token_ids) for turn in turns], logprobs

        if sleeps:
            llm.wake_up()
        try:
            yield generate
        finally:
            llm.llm_engine.remove_lora(number)  # api/vllm/v1/engine/llm_engine
            if sleeps:  # features/sleep_mode: level 1 keeps the weights in the CPU's memory, level 2 forgets them
                llm.sleep(level=1)


def _roomy(size: int) -> Path | None:
    """Shared memory if it is there and has room for so many bytes (Docker's has 64 MB); None, the temporary folder."""
    return SHARED_MEMORY if SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free > size else None


class TurnBatch(Batch):
    """The engine's batch, with turns written by a callable: no model, no cache and no logits of its own."""

    def __init__(self, chat: ChatFormat, sampling: Sampling, device, generate: Generate):
        super().__init__(None, chat, sampling, None, device=device)
        self.generate = generate

    def _join(self, prompts, copies):
        self.rows += range(len(self.trajectories) - len(copies), len(self.trajectories))

    def _move(self, rows, places):
        pass

    def _feed(self, rows, blocks):
        pass

    def _write(self) -> dict[int, tuple[list[int], list[float]]]:
        rows = [self.trajectories[row] for row in self.rows]
        prompts = [t.prompt_ids + t.completion_ids for t in rows]
        prompts += [[self.chat.end_of_turn]] * (max(processes.gather([len(rows)])) - len(rows))
        tokens, logprobs = self.generate(prompts)
        logprobs = logprobs or [[0.0] * len(ids) for ids in tokens]
        return {r: (tokens[r], logprobs[r]) for r in range(len(rows))}


@torch.no_grad()
def rollout_by_turns(
    groups: Sequence[Group], chat: ChatFormat, sampling: Sampling, device, generate: Generate
) -> list[Trajectory]:
    """Play all groups to their end, a turn of all trajectories at a time.

    Args:
        groups: Prompts and fresh environments.
        chat: The policy's chat format.
        sampling: Its limits; how a turn is decoded is up to `generate`.
        device: Of the bookkeeping's tensors.
        generate: Writes one turn after each prompt. With several processes it is called in all of them at the same
            time, with equally many prompts.

    Returns:
        One trajectory an environment, group by group.
    """
    batch = TurnBatch(chat, sampling, device, generate)
    if groups:
        batch.admit(groups)
    while any(processes.gather([bool(batch.rows)])):
        batch.turn()
    return batch.finish()
