"""Log-probabilities of action tokens, with everything that trajectories of a group share run once (prefix sharing).

The copies of a group differ only after the prompt, and those that called the same tools in the same words differ only
after what they were told. A shared beginning is run once, and all that follow it attend to its keys and values. This
gives the same numbers and, because the gradient flows back through the expanded cache, the same gradients as scoring
each copy whole. The language-model head sees action tokens only, in chunks that are recomputed in the backward pass,
so the logits never exist whole.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

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


@dataclass
class Stretch:
    """Tokens that some trajectories of a group have in common after the same beginning, and what follows them.

    Attributes:
        ids: Tokens.
        rows: Whose they are.
        wanted: Which of them are actions.
        next: The stretches that follow, no two of them alike in their first turn.
        first: Place of the first wanted token among all that were scored.
    """

    ids: Sequence[int]
    rows: list[int]
    wanted: Sequence[bool]
    next: list["Stretch"]
    first: int = 0


def shared_turns(turns: dict[int, list[tuple]], at: int = 0) -> list[Stretch]:
    """The prefix tree of a group: trajectories that have acted and observed alike so far are one stretch.

    Args:
        turns: By row, its turns with their observations, each a tuple of (token, whether it is an action).
        at: Turn at which they may part.
    """
    alike: dict[tuple, list[int]] = {}
    for row, own in turns.items():
        if at < len(own):
            alike.setdefault(own[at], []).append(row)
    stretches = []
    for rows in alike.values():
        first, end = turns[rows[0]], at + 1
        while end < len(first) and all(turns[row][end : end + 1] == [first[end]] for row in rows):
            end += 1
        ids, wanted = zip(*chain.from_iterable(first[at:end]), strict=True)
        stretches.append(Stretch(ids, rows, wanted, shared_turns({row: turns[row] for row in rows}, end)))
    return stretches


def split_turns(ids: Sequence[int], actions: Sequence[bool]) -> list[tuple]:
    """A completion's turns with the observations after them: one begins where an action follows an observation."""
    begins = [i for i in range(len(ids)) if i == 0 or (actions[i] and not actions[i - 1])] + [len(ids)]
    return [tuple(zip(ids[a:b], actions[a:b], strict=True)) for a, b in zip(begins, begins[1:], strict=False)]


def action_logprobs(
    model, prompt_ids, prompt_mask, completion_ids, completion_mask, actions, group_of, temperature=1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """log pi and entropy of all action tokens; whatever trajectories of a group have in common is run once.

    Args:
        model: Causal language model, with or without adapters.
        prompt_ids, prompt_mask: Distinct prompts, left padded [W, P].
        completion_ids, completion_mask: Right padded [B, C].
        actions: Which completion tokens the policy wrote [B, C].
        group_of: Row of each completion's prompt [B].
        temperature: Divides the logits.

    Returns:
        Log-probabilities [N] (with gradient) and entropies [N] (without), in the order of `actions`' true places.
    """
    turns: dict[int, dict[int, list[tuple]]] = {}
    rows = zip(completion_ids.tolist(), actions.tolist(), completion_mask.sum(1).tolist(), strict=True)
    for row, (group, (ids, own, n)) in enumerate(zip(group_of.tolist(), rows, strict=True)):
        turns.setdefault(group, {})[row] = split_turns(ids[:n], own[:n])
    tree = [(stretch, group) for group, members in turns.items() for stretch in shared_turns(members)]
    states, targets, scored = [], [], 0
    for some, ids, hidden in _walk(model, prompt_ids, prompt_mask, tree):
        wanted = pad([stretch.wanted for stretch in some], 0)[0].bool().to(ids.device)
        states.append(hidden[wanted])
        targets.append(ids[wanted])
        for stretch in some:
            stretch.first = scored
            scored += sum(stretch.wanted)
    logprobs, entropies = token_logprobs(model, torch.cat(states), torch.cat(targets), temperature)
    places: list[list[int]] = [[] for _ in completion_ids]
    _lay_out([stretch for stretch, _ in tree], places)
    index = torch.tensor(list(chain.from_iterable(places)), dtype=torch.long, device=prompt_ids.device)
    return logprobs.index_select(0, index), entropies.index_select(0, index)


def _lay_out(stretches: list[Stretch], places: list[list[int]]) -> None:
    """Append to each row the places of its action tokens, in order."""
    for stretch in stretches:
        for row in stretch.rows:
            places[row] += range(stretch.first, stretch.first + sum(stretch.wanted))
        _lay_out(stretch.next, places)


def predictor_states(model, prompt_ids, prompt_mask, completion_ids, completion_mask, group_of) -> torch.Tensor:
    """Hidden state that predicts each completion token, every completion run by itself after its prompt.

    Args:
        As of `action_logprobs`.

    Returns:
        States [B, C, d]; position j predicts completion token j.
    """
    rows = zip(completion_ids.tolist(), completion_mask.sum(1).tolist(), strict=True)
    alone = [Stretch(ids[:n], [row], [], []) for row, (ids, n) in enumerate(rows)]
    parts, order = [], []
    for some, _, hidden in _walk(model, prompt_ids, prompt_mask, list(zip(alone, group_of.tolist(), strict=True))):
        parts.append(F.pad(hidden, (0, 0, 0, completion_ids.shape[1] - hidden.shape[1])))
        order += [stretch.rows[0] for stretch in some]
    return torch.cat(parts)[torch.tensor(order, device=prompt_ids.device).argsort()]


def _walk(model, prompt_ids, prompt_mask, tree: list[tuple[Stretch, int]]) -> Iterator:
    """Run prompts, then a tree of stretches; by batch: stretches, their ids [n, L] and predictor states [n, L, d]."""
    decoder = base_model(model).get_decoder()
    cache = DynamicCache(config=decoder.config)
    positions = (prompt_mask.cumsum(1) - 1).clamp(min=0)
    hidden = decoder(
        prompt_ids, attention_mask=prompt_mask, position_ids=positions, past_key_values=cache, use_cache=True
    ).last_hidden_state
    yield from _follow(decoder, cache, prompt_mask, hidden[:, -1:], tree)


def _follow(decoder, cache, mask, last, tree: list[tuple[Stretch, int]]) -> Iterator:
    """Run stretches after rows of a cache, whose real slots `mask` [R, K] names and whose ends are `last` [R, 1, d]."""
    for bucket in length_buckets(torch.tensor([len(stretch.ids) for stretch, _ in tree])):
        some, after = zip(*[tree[i] for i in bucket.tolist()], strict=True)
        after = torch.tensor(after, device=mask.device)
        ids, own = (tensor.to(mask.device) for tensor in pad([stretch.ids for stretch in some], 0))
        seen = torch.cat([mask[after], own], 1)
        part = _selected(cache, after, decoder.config)
        part.grows = any(stretch.next for stretch in some)
        places = mask.sum(1)[after, None] + torch.arange(ids.shape[1], device=mask.device)
        hidden = decoder(
            ids, attention_mask=seen, position_ids=places, past_key_values=part, use_cache=True
        ).last_hidden_state
        yield some, ids, torch.cat([last.index_select(0, after), hidden[:, :-1]], 1)
        if part.grows:
            ends = hidden[torch.arange(len(some), device=mask.device), own.sum(1) - 1][:, None]
            branches = [(stretch, i) for i, parent in enumerate(some) for stretch in parent.next]
            yield from _follow(decoder, part, seen, ends, branches)


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
    pieces = zip(states.split(rows), targets.split(rows), strict=True)
    chunks = [checkpoint(_head, head, s, t, temperature, use_reentrant=False) for s, t in pieces]
    return torch.cat([c[0] for c in chunks]), torch.cat([c[1] for c in chunks])
