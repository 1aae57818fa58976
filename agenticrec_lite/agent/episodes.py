"""What is played, apart from how: groups of rollouts, the way they are decoded, and the memory they need."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from agenticrec_lite.agent.environment import RankingEnvironment
from agenticrec_lite.errors import UserError


@dataclass
class Group:
    """All rollouts of one prompt: one environment a rollout."""

    task_id: str
    prompt_ids: list[int]
    environments: list[RankingEnvironment]


@dataclass(frozen=True)
class Sampling:
    """How to decode.

    Attributes:
        temperature: 0 is greedy; otherwise divides the logits.
        max_turn_tokens: Longest single turn.
        max_completion_tokens: Longest trajectory after the prompt, observations included, that goes on; its last turn
            may add max_turn_tokens.
        batch_rows: Trajectories decoded together.
        merge: Merge adapters into plain weights while decoding (policy.merged): faster, for models that fit so.
    """

    temperature: float = 1.0
    max_turn_tokens: int = 160
    max_completion_tokens: int = 1024
    batch_rows: int = 64
    merge: bool = False

    @classmethod
    def of(cls, agent: dict, temperature: float) -> "Sampling":
        """From a profile's `agent` section."""
        names = ("max_turn_tokens", "max_completion_tokens", "batch_rows", "merge")
        return cls(temperature, **{name: agent[name] for name in names})

    def choose(self, logits: torch.Tensor, drawn: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """The next token of each row, and its log-probability under softmax(logits / temperature).

        A subclass may choose otherwise, for example to follow a script. On a GPU this becomes a part of a CUDA graph,
        which repeats what was done on the device and nothing that the host did.

        Args:
            logits: fp32 [B, V].
            drawn: A random number in [0, 1) for each row [B]; not used at temperature 0, which takes the most likely
                token.

        Returns:
            Tokens [B], and log-probabilities [B] (at temperature 0, of the unscaled logits).
        """
        log_p = torch.log_softmax(logits / (self.temperature or 1.0), -1)
        if self.temperature == 0:
            token = log_p.argmax(-1)
        else:  # invert the distribution function: one random number a row, where torch.multinomial draws one a token
            below = log_p.exp().cumsum(-1)
            token = torch.searchsorted(below, drawn[:, None] * below[:, -1:], right=True)[:, 0]
            token = token.clamp(max=logits.shape[1] - 1)
        return token, log_p.gather(1, token[:, None])[:, 0]


@contextmanager
def enough_memory(doing: str, smaller: str) -> Iterator[None]:
    """Turn running out of memory into a sentence: what was being done, and which settings make it smaller."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch raises its own error on a GPU, a plain one on a CPU
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and "allocate memory" not in str(error) and "not enough memory" not in str(error):
            raise
        raise UserError(
            f"The memory does not suffice for {doing}; begin in another folder with smaller {smaller}."
        ) from error
