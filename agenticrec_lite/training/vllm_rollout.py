"""Rollouts in which trl generates, which its `use_vllm` flags hand to vLLM; all else is the engine's own.

The engine's bookkeeping asks `GRPOTrainer._generate_single_turn` for each turn, as trl's `environment_factory` loop
does, so trl's flags work: colocate or server, tensor parallel, sleep mode, weights synchronised once a step. That loop
itself is not taken, because its trajectories would be others:
- it writes JSON schemas of the tools into the prompt, and obeys turns that the protocol refuses (text around a call,
  several calls at once) instead of ending them;
- with a server and several processes, it hands a process completions of another's prompts when they are unequally
  many (trl 1.16; its pull request 6673 is about this). Here every process asks for equally many.

What trl's correction for a mismatch of samplers would need, log-probabilities of all rollouts once more, is left out:
the estimator is that of the other engine.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import bitsandbytes
import torch
from trl.import_utils import is_vllm_available

from agenticrec_lite.agent.cache import SlotCache
from agenticrec_lite.agent.prompts import ChatFormat
from agenticrec_lite.agent.rollout import Group, _Batch
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.policy import base_model
from agenticrec_lite.runs import processes

if TYPE_CHECKING:
    from agenticrec_lite.training.grpo import ListwiseGRPOTrainer, Question

LEAST = (7, 5)  # compute capability that vLLM's documentation asks for (since 0.23): Turing, such as a T4


def vllm_here(model) -> bool:
    """Whether vLLM can play this policy's rollouts on this machine; where it cannot, why is said in a sentence."""
    if not is_vllm_available():
        lacking = "vLLM is not installed (pip install trl[vllm])"
    elif not torch.cuda.is_available():
        lacking = "vLLM needs a GPU"
    elif torch.cuda.get_device_capability() < LEAST:
        lacking = f"vLLM needs a GPU of compute capability {LEAST[0]}.{LEAST[1]}, and this is an older one"
    elif any(isinstance(module, bitsandbytes.nn.Linear4bit) for module in model.modules()):
        lacking = "trl cannot give vLLM a policy in NF4 (set policy.quantize=none)"
    else:
        return True
    processes.say(f"{lacking}: agent.engine=vllm cannot be had here, the engine of this package plays the rollouts.")
    return False


def vllm_arguments(agent: dict, chat: ChatFormat, questions: Sequence["Question"]) -> dict:
    """trl's arguments for rollouts by vLLM; it reserves room for the longest trajectory that may come."""
    longest = max(len(chat.prompt_ids(q.context, q.kind, q.pair)) for q in questions)
    return {
        "use_vllm": True,
        "vllm_importance_sampling_correction": False,
        "vllm_max_model_length": longest + agent["max_completion_tokens"] + agent["max_turn_tokens"],
        "generation_kwargs": {"max_tokens": agent["max_turn_tokens"]},
        **{f"vllm_{name}": value for name, value in agent["vllm"].items()},
    }


class _ByTrl(_Batch):
    """The engine's batch, with turns written by trl: no cache and no logits of its own."""

    def __init__(self, trainer: "ListwiseGRPOTrainer"):
        super().__init__(base_model(trainer.model), trainer.chat, trainer.sampling, None)
        self.trainer = trainer

    def _prefill(self, prompts):
        return SlotCache(0), *self._feed(prompts, None, torch.zeros(len(prompts), device=self.device))

    def _feed(self, blocks, cache, lengths):
        return torch.zeros(len(blocks), 1, device=self.device), lengths

    def _write_turn(self) -> tuple[list[list[int]], list[list[float]], list[int]]:
        rows = [self.trajectories[row] for row in self.rows]
        asked = [t.prompt_ids + t.completion_ids for t in rows]
        asked += [[self.chat.end_of_turn]] * (max(processes.gather([len(rows)])) - len(rows))
        tokens, logprobs = self.trainer._generate_single_turn(asked, None, {}, 1)
        return tokens, logprobs or [[0.0] * len(ids) for ids in tokens], [len(ids) for ids in tokens]


@torch.no_grad()
def rollout_by_turns(trainer: "ListwiseGRPOTrainer", groups: Sequence[Group]) -> list[Trajectory]:
    """Play all groups to their end, a turn of all trajectories at a time.

    Args:
        trainer: Whose policy plays, and whose flags say how it generates.
        groups: Prompts and fresh environments.

    Returns:
        One trajectory an environment, group by group.
    """
    batch = _ByTrl(trainer)
    batch.admit(groups)
    while any(processes.gather([bool(batch.rows)])):
        batch.turn()
    return batch.finish()
