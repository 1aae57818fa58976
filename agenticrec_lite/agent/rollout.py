"""The batched rollout engine: every prompt prefilled once a group, what all begin with once; the KV cache kept.

The cache (agent/cache.py) gives every row its own length, so that ragged batches are exact.
"""

from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from os.path import commonprefix

import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from agenticrec_lite.agent.cache import SlotCache
from agenticrec_lite.agent.environment import RankingEnvironment
from agenticrec_lite.agent.episodes import Group, Sampling, enough_memory
from agenticrec_lite.agent.prompts import ChatFormat
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.policy import autocast, base_model, merged
from agenticrec_lite.runs import threads

LOOK_EVERY = {"cpu": 1, "cuda": 8}  # tokens: how often it is asked which rows have ended; to ask makes a GPU wait
MEMORY_SETTINGS = "agent.batch_rows or agent.max_completion_tokens"


class Batch:
    """Trajectories that are decoded together, and the cache they share."""

    def __init__(self, model: PreTrainedModel | None, chat: ChatFormat, sampling: Sampling, generator, device=None):
        if model is not None:
            self.decoder, self.head, device = model.get_decoder(), model.get_output_embeddings(), model.device
        self.chat, self.sampling, self.generator, self.device = chat, sampling, generator, device
        self.environments: list[RankingEnvironment] = []
        self.trajectories: list[Trajectory] = []
        self.rows: list[int] = []  # trajectories alive, in cache order; `lengths` is how many tokens each has there

    def admit(self, groups: Sequence[Group]) -> None:
        """Run every prompt once, and let a copy for each of its rollouts join."""
        start, first = len(self.trajectories), self.trajectories[-1].group + 1 if self.trajectories else 0
        copies = [(g, group, e) for g, group in enumerate(groups) for e in group.environments]
        self.environments += [e for _, _, e in copies]
        self.trajectories += [
            Trajectory(group.task_id, first + g, e.kind, group.prompt_ids) for g, group, e in copies
        ]
        cache, logits, lengths = self._prefill([group.prompt_ids for group in groups])
        prompts = torch.tensor([g for g, _, _ in copies], device=self.device)
        cache.select(prompts)
        logits, lengths = logits[prompts], lengths[prompts]
        if self.rows:
            self.cache.join(cache)
            self.logits, self.lengths = torch.cat([self.logits, logits]), torch.cat([self.lengths, lengths])
        else:
            self.cache, self.logits, self.lengths = cache, logits, lengths
        self.rows += range(start, len(self.trajectories))

    def _prefill(self, prompts: Sequence[Sequence[int]]):
        """Run prompts into a new cache; what all of them begin with, such as the system prompt, is run once."""
        cache = SlotCache(self.decoder.config.num_hidden_layers)
        lengths = torch.zeros(len(prompts), dtype=torch.long, device=self.device)
        shared = min(len(commonprefix(prompts)), min(map(len, prompts)) - 1) if len(prompts) > 1 else 0
        if shared:
            self._forward(torch.tensor([prompts[0][:shared]], device=self.device), cache, lengths[:1], shared)
            cache.select(torch.zeros_like(lengths))
        return cache, *self._feed([prompt[shared:] for prompt in prompts], cache, lengths + shared, shared)

    def _feed(self, blocks: Sequence[Sequence[int]], cache: SlotCache, lengths: torch.Tensor, longest: int):
        """Run a ragged block of tokens through the model.

        Args:
            blocks: Of each row.
            lengths: What each row has in the cache [B]; `longest` is the largest.

        Returns:
            Logits after each row's last token [B, V], new lengths [B].
        """
        counts = torch.tensor([len(block) for block in blocks], device=self.device)
        ids = pad_sequence([torch.tensor(block) for block in blocks], batch_first=True).to(self.device)
        states = self._forward(ids, cache, lengths, longest + ids.shape[1])
        last = states[torch.arange(len(blocks), device=self.device), counts - 1]
        return self.head(last).float(), lengths + counts

    def _forward(self, ids: torch.Tensor, cache: SlotCache, lengths: torch.Tensor, used: int) -> torch.Tensor:
        """Hidden states of tokens that follow `lengths` others [B, n, d]; `used` slots are attended to at most."""
        positions = lengths[:, None] + torch.arange(ids.shape[1], device=self.device)
        cache.place(positions, used)
        slots = torch.arange(used, device=self.device)
        mask = slots <= positions[:, None, :, None]
        if self.decoder.config._attn_implementation == "eager":  # adds its mask to the scores
            mask = torch.where(mask, 0.0, torch.finfo(self.decoder.dtype).min).to(self.decoder.dtype)
        return self.decoder(
            ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        ).last_hidden_state

    def turn(self) -> None:
        """Let every living row write one turn, step its environment, and feed the observations."""
        tokens, logprobs, counts = self._write_turn()
        blocks, kept = [], []
        for r, row in enumerate(self.rows):
            n = counts[r]
            ids = tokens[r][:n]
            trajectory = self.trajectories[row]
            trajectory.completion_ids += ids
            trajectory.action_mask += [1] * n
            trajectory.logprobs += logprobs[r][:n]
            observation = self._observe(row, ids)
            if observation:
                trajectory.completion_ids += observation
                trajectory.action_mask += [0] * len(observation)
                trajectory.logprobs += [0.0] * len(observation)
                blocks.append([ids[-1], *observation])  # the turn's last token is not in the cache yet
                kept.append(r)
        self.rows = [self.rows[r] for r in kept]
        if kept:
            rows = torch.tensor(kept, device=self.device)
            self.cache.select(rows)
            longest = max(self._length(row) - len(block) for row, block in zip(self.rows, blocks, strict=True))
            self.logits, self.lengths = self._feed(blocks, self.cache, self.lengths[rows], longest)

    def _length(self, row: int) -> int:
        """Tokens of a trajectory, its prompt included."""
        return len(self.trajectories[row].prompt_ids) + len(self.trajectories[row].completion_ids)

    def _write_turn(self) -> tuple[list[list[int]], list[list[float]], list[int]]:
        """Decode until every row has ended its turn; tokens, log-probabilities and turn lengths per row.

        Rows that have ended early are not carried along: once half of them have, the others go on alone.
        """
        n, limit, end = len(self.rows), self.sampling.max_turn_tokens, self.chat.end_of_turn
        tokens = torch.zeros(n, limit, dtype=torch.long, device=self.device)
        logprobs = torch.zeros(n, limit, device=self.device)
        drawn = torch.rand(limit, n, generator=self.generator).to(self.device) if self.sampling.temperature else None
        counts = torch.full((n,), limit, device=self.device)
        writing = torch.arange(n, device=self.device)  # the rows in `cache`
        going = torch.ones(n, dtype=torch.bool, device=self.device)  # which of them have not ended
        cache, logits, longest = self.cache, self.logits, max(map(self._length, self.rows))
        every = LOOK_EVERY.get(self.device.type, 1)
        for i in range(limit):
            uniform = None if drawn is None else drawn[i, writing]
            chosen, logprobs[writing, i] = self.sampling.choose(logits, uniform)
            tokens[writing, i] = chosen
            ended = going & (chosen == end)
            counts[writing] = torch.where(ended, i + 1, counts[writing])
            going = going & ~ended
            if i == limit - 1:
                break
            if i % every == every - 1:
                left = int(going.sum())
                if not left:
                    break
                if left <= len(writing) // 2:
                    if cache is not self.cache:
                        self.cache.put(writing, cache)
                    writing, chosen = writing[going], chosen[going]
                    cache, going = self.cache.take(writing), going[going]
            with threads.timed(f"a token for {len(writing)} rows"):
                states = self._forward(chosen[:, None], cache, self.lengths[writing], longest + i + 1)
                logits = self.head(states[:, -1]).float()
            self.lengths[writing] += going  # a row that has ended writes into one slot for ever, unseen
        if cache is not self.cache:
            self.cache.put(writing, cache)
        return tokens.tolist(), logprobs.tolist(), counts.tolist()

    def _observe(self, row: int, ids: list[int]) -> list[int] | None:
        """Step the environment of one trajectory; the observation's tokens, None at the end."""
        environment, trajectory = self.environments[row], self.trajectories[row]
        text = self.chat.turn_text(ids)
        if ids[-1] != self.chat.end_of_turn:
            environment.cut(text)
            return None
        observation = environment.step(text)
        if observation is None:
            return None
        tokens = self.chat.observation_ids(self._shortened(observation, environment))
        if len(trajectory.completion_ids) + len(tokens) >= self.sampling.max_completion_tokens:
            environment.cut("")
            return None
        return tokens

    def _shortened(self, observation: str, environment: RankingEnvironment) -> str:
        """An observation of more tokens than a quarter of a trajectory's is cut, and says so to whoever reads it."""
        most, tokenizer = self.sampling.max_completion_tokens // 4, self.chat.tokenizer
        if 4 * len(observation) <= most:  # a byte-level token holds a quarter of a character, or more
            return observation
        ids = tokenizer.encode(observation[: 16 * most], add_special_tokens=False)
        if len(ids) <= most and len(observation) <= 16 * most:
            return observation
        kept = tokenizer.decode(ids[:most]).rstrip("\ufffd")
        environment.steps[-1].text = f"{kept}… (cut, {len(observation)} characters)"
        return environment.steps[-1].text

    def finish(self) -> list[Trajectory]:
        for trajectory, environment in zip(self.trajectories, self.environments, strict=True):
            trajectory.steps, trajectory.answer = environment.steps, environment.answer
            trajectory.outcome, trajectory.n_calls = environment.outcome, environment.n_calls
        return self.trajectories


@torch.no_grad()
def rollout(
    model: PreTrainedModel,
    chat: ChatFormat,
    groups: Sequence[Group],
    sampling: Sampling,
    generator: torch.Generator | None = None,
    progress: str | None = None,
) -> list[Trajectory]:
    """Play all groups to their end.

    Args:
        model: Causal language model, with or without adapters; left in the mode it came in.
        chat: Its chat format.
        groups: Prompts and fresh environments.
        sampling: How to decode.
        generator: Random source, needed unless greedy.
        progress: Title of a progress bar, None for no bar.

    Returns:
        One trajectory an environment, group by group in the given order; `group` is the group's index.

    Raises:
        UserError: The memory does not suffice.
    """
    model = base_model(model)
    training = model.training
    model.eval()
    batch, waiting = Batch(model, chat, sampling, generator), deque(groups)
    bar = tqdm(total=sum(len(g.environments) for g in groups), desc=progress, disable=progress is None, leave=False)
    merging = merged(model) if sampling.merge else nullcontext()
    try:
        with enough_memory("rollouts", MEMORY_SETTINGS), threads.chosen(), bar, merging, autocast(model):
            while batch.rows or waiting:
                if admitted := _fitting(waiting, sampling.batch_rows, len(batch.rows)):
                    batch.admit(admitted)
                batch.turn()
                bar.update(len(batch.trajectories) - len(batch.rows) - bar.n)
    finally:
        model.train(training)
    return batch.finish()


def _fitting(waiting: deque[Group], rows: int, taken: int) -> list[Group]:
    """Take the next groups that fit beside the rows taken, once a quarter is free; one at least when all are.

    Waiting for a quarter keeps prompts running in batches, and the cache from being copied for every single row.
    """
    fitting: list[Group] = []
    if taken > rows * 3 // 4:
        return fitting
    while waiting and (taken == 0 or taken + len(waiting[0].environments) <= rows):
        fitting.append(waiting.popleft())
        taken += len(fitting[-1].environments)
    return fitting
