"""Log-probabilities of action tokens, with every prompt run once a group (prefix sharing).

The copies of a group differ only after the prompt. Running the prompt once and letting the copies attend to its
keys and values gives the same numbers and, because the gradient flows back through the expanded cache, the same
gradients as scoring each copy whole. The language-model head sees action tokens only, in chunks that are
recomputed in the backward pass, so the logits never exist whole.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache

from agenticrec_lite.policy import base_model

HEAD_CHUNK = 4096  # rows of logits that exist at one time,
HEAD_LOGITS = 2**26  # and how many logits at most: 0.27 GB in fp32


def pad(rows: Sequence[Sequence[int]], value: int, left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Ragged token lists -> ids [B, L] and mask [B, L] (1 = real)."""
    length = max(map(len, rows))
    ids, mask = torch.full((len(rows), length), value), torch.zeros(len(rows), length, dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(length - len(row), length) if left else slice(0, len(row))
        ids[i, place], mask[i, place] = torch.tensor(row), 1
    return ids, mask


def predictor_states(model, prompt_ids, prompt_mask, completion_ids, completion_mask, group_of) -> torch.Tensor:
    """Hidden state that predicts each completion token.

    Args:
        model: Causal language model, with or without adapters.
        prompt_ids, prompt_mask: Distinct prompts, left padded [W, P].
        completion_ids, completion_mask: Right padded [B, C].
        group_of: Row of each completion's prompt [B].

    Returns:
        States [B, C, d]; position j predicts completion token j.
    """
    decoder = base_model(model).get_decoder()
    positions = (prompt_mask.cumsum(1) - 1).clamp(min=0)
    cache = DynamicCache(config=decoder.config)
    prompt = decoder(
        prompt_ids, attention_mask=prompt_mask, position_ids=positions, past_key_values=cache, use_cache=True
    )
    lengths, parts = completion_mask.sum(1), []
    buckets = length_buckets(lengths)
    for rows in buckets:
        groups, n = group_of[rows], int(lengths[rows].max())
        rest = decoder(
            completion_ids[rows, :n],
            attention_mask=torch.cat([prompt_mask[groups], completion_mask[rows, :n]], 1),
            position_ids=prompt_mask.sum(1)[groups, None] + torch.arange(n, device=rows.device),
            past_key_values=_selected(cache, groups, decoder.config),
            use_cache=True,
        ).last_hidden_state
        states = torch.cat([prompt.last_hidden_state[:, -1:].index_select(0, groups), rest[:, :-1]], 1)
        parts.append(F.pad(states, (0, 0, 0, completion_ids.shape[1] - n)))
    return torch.cat(parts)[torch.cat(buckets).argsort()]


def length_buckets(lengths: torch.Tensor, least: float = 0.7) -> list[torch.Tensor]:
    """Rows to run together, longest first: none shorter than `least` of the longest, so that little is padding."""
    buckets: list[list[int]] = []
    longest = 0
    for row in lengths.argsort(descending=True, stable=True).tolist():
        if not buckets or lengths[row] < least * longest:
            buckets.append([])
            longest = int(lengths[row])
        buckets[-1].append(row)
    return [torch.tensor(rows, device=lengths.device) for rows in buckets]


def _selected(cache: DynamicCache, rows: torch.Tensor, config) -> DynamicCache:
    """A new cache with (repeated) rows of another one.

    By index_select: the gradient of plain indexing adds up repeated rows in whatever order threads come, and two runs
    of one seed would part.
    """
    part = DynamicCache(config=config)
    for i, layer in enumerate(cache.layers):
        part.update(layer.keys.index_select(0, rows), layer.values.index_select(0, rows), i)
    return part


def _head(head, states, targets, temperature):
    logits = head(states).float() / temperature
    log_p = F.log_softmax(logits, -1)
    return log_p.gather(1, targets[:, None]).squeeze(1), -(log_p.exp() * log_p).sum(-1).detach()


def token_logprobs(model, states: torch.Tensor, targets: torch.Tensor, temperature: float = 1.0):
    """log pi(target) and entropy for selected positions.

    Args:
        model: Whose head is used.
        states: Predictor states [N, d].
        targets: Token ids [N].
        temperature: Divides the logits.

    Returns:
        Log-probabilities [N] (with gradient) and entropies [N] (without).
    """
    head = base_model(model).get_output_embeddings()
    rows = min(HEAD_CHUNK, max(1, HEAD_LOGITS // head.weight.shape[0]))
    chunks = [
        checkpoint(_head, head, s, t, temperature, use_reentrant=False)
        for s, t in zip(states.split(rows), targets.split(rows), strict=True)
    ]
    return torch.cat([c[0] for c in chunks]), torch.cat([c[1] for c in chunks])
