"""Rollouts a turn of all trajectories at a time, each turn written by whoever is given: trl with vLLM, or any other.

All but the writing is the engine's own (agent/rollout.py): environments, observations, limits, action masks. trl's own
`environment_factory` loop is not taken, because its trajectories would be others:
- it writes JSON schemas of the tools into the prompt, and obeys turns that the protocol refuses (text around a call,
  several calls at once) instead of ending them;
- with a server and several processes, it hands a process completions of another's prompts when they are unequally
  many (trl 1.16; its pull request 6673 is about this). Here every process asks for equally many.

What trl's correction for a mismatch of samplers would need, log-probabilities of all rollouts once more, is left out:
the estimator is that of the other engine.
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec

import bitsandbytes
import torch

from agenticrec_lite.agent.episodes import Group, Sampling
from agenticrec_lite.agent.prompts import ChatFormat
from agenticrec_lite.agent.rollout import Batch
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.runs import processes

LOWEST_CAPABILITY = (7, 5)  # that vLLM's documentation asks for (since 0.23): Turing, such as a T4
# Prompts in, as token ids; tokens of one turn for each out, and their log-probabilities or None.
Generate = Callable[[Sequence[Sequence[int]]], tuple[list[list[int]], list[list[float]] | None]]


def vllm_here(model) -> bool:
    """Whether vLLM can play this policy's rollouts on this machine; if it cannot, a sentence says why."""
    if not vllm_installed():
        lacking = "vLLM is not installed (pip install trl[vllm])"
    elif not torch.cuda.is_available():
        lacking = "vLLM needs a GPU"
    elif torch.cuda.get_device_capability() < LOWEST_CAPABILITY:
        wanted = ".".join(map(str, LOWEST_CAPABILITY))
        lacking = f"vLLM needs a GPU of compute capability {wanted}, and this is an older one"
    elif any(isinstance(module, bitsandbytes.nn.Linear4bit) for module in model.modules()):
        lacking = "trl cannot give vLLM a policy in NF4 (set policy.quantize=none)"
    else:
        return True
    processes.say(f"{lacking}: agent.engine=vllm is not used, the engine of this package plays the rollouts.")
    return False


def vllm_installed() -> bool:
    return find_spec("vllm") is not None


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
    batch.admit(groups)
    while any(processes.gather([bool(batch.rows)])):
        batch.turn()
    return batch.finish()
