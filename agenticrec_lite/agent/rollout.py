"""The batched rollout engine: every prompt prefilled once a group, what all begin with once; the KV cache kept.

The cache (agent/cache.py) gives every row its own length, so that ragged batches are exact.
"""

from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from os.path import commonprefix

import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from agenticrec_lite.agent.cache import SlotCache
from agenticrec_lite.agent.environment import RankingEnvironment
from agenticrec_lite.agent.episodes import Group, Sampling, enough_memory
from agenticrec_lite.agent.graph import Graphs, cuda_capture, in_buckets
from agenticrec_lite.agent.prompts import ChatFormat
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.policy import autocast, base_model, merged
from agenticrec_lite.runs import threads

LOOK_EVERY = {"cpu": 1, "cuda": 8}  # tokens: how often it is asked which rows have ended; to ask makes a GPU wait
ENOUGH = 8  # once one row in so many has ended its turn, these are fed: each alone would cost a pass of its own
CAPTURE = {"cuda": cuda_capture}  # where decode steps are recorded and repeated
MEMORY_SETTINGS = "agent.batch_rows or agent.max_completion_tokens"


class Batch:
    """Trajectories that are decoded together, and the cache they share.

    Each writes turns at its own pace. The last token of a row's turn so far is not in the cache yet.

    Args:
        model: Without one, a subclass writes the turns.
        chat: Its chat format.
        sampling: How to decode.
        generator: Where the trajectories' own random numbers begin.
        room: Rows at most.
        longest: Tokens of the longest prompt.
        device: Where there is no model.
    """

    def __init__(
        self, model: PreTrainedModel | None, chat: ChatFormat, sampling: Sampling, generator,
        room: int = 0, longest: int = 0, device: torch.device | None = None,
    ):  # fmt: skip
        self.chat, self.sampling, self.generator, self.device = chat, sampling, generator, device
        self.environments: list[RankingEnvironment] = []
        self.trajectories: list[Trajectory] = []
        self.rows: list[int] = []  # trajectories alive, in cache order
        self.random: list[torch.Generator] = []  # each trajectory's own, so that what it samples hangs on no other
        if model is not None:
            self.decoder, self.head, self.device = model.get_decoder(), model.get_output_embeddings(), model.device
            self.n_layers = self.decoder.config.num_hidden_layers
            self.graphs, capacity, kind = None, 0, self.device.type
            self.every = LOOK_EVERY.get(kind, 1)
            if kind in CAPTURE:  # memory that is written by a graph stays where it is
                self.graphs = Graphs(room, CAPTURE[kind]())
                most = longest + sampling.max_completion_tokens + sampling.max_turn_tokens
                capacity = in_buckets(most + self.every)
            self.cache = SlotCache(self.n_layers, room, capacity)
            limit, long = sampling.max_turn_tokens, {"dtype": torch.long, "device": self.device}
            self.index = torch.arange(room, device=self.device)
            self.lengths = torch.zeros(room, **long)  # tokens in the cache
            self.at = torch.zeros(room, **long)  # tokens of the turn that is being written
            self.last = torch.zeros(room, **long)  # the one that goes into the cache next
            self.going = torch.zeros(room, dtype=torch.bool, device=self.device)  # whether the turn has not ended
            self.tokens = torch.zeros(room, limit + 1, **long)  # of the turn; the last is past its end
            self.logprobs = torch.zeros(room, limit + 1, device=self.device)
            self.drawn = torch.zeros(room, limit + 1, device=self.device)  # the turn's random numbers

    def admit(self, groups: Sequence[Group]) -> None:
        """Run every prompt once, and let a copy for each of its rollouts join."""
        first = self.trajectories[-1].group + 1 if self.trajectories else 0
        copies = [(g, group, e) for g, group in enumerate(groups) for e in group.environments]
        self.environments += [e for _, _, e in copies]
        self.trajectories += [
            Trajectory(group.task_id, first + g, e.kind, group.prompt_ids) for g, group, e in copies
        ]
        self._join([group.prompt_ids for group in groups], [g for g, _, _ in copies])

    def _join(self, prompts: Sequence[Sequence[int]], copies: Sequence[int]) -> None:
        """Let new rows begin with a prompt each; `copies` says with which."""
        start, first = len(self.rows), len(self.trajectories) - len(copies)
        if self.sampling.temperature:
            seeds = torch.randint(2**63 - 1, (len(copies),), generator=self.generator).tolist()
            self.random += [torch.Generator().manual_seed(seed) for seed in seeds]
        self.rows += range(first, len(self.trajectories))
        cache, logits, lengths = self._prefill(prompts)
        chosen = torch.tensor(copies, device=self.device)
        self.cache.fill(start, cache, chosen)
        self.lengths[start : len(self.rows)] = lengths[chosen]
        self._begin_turn(range(start, len(self.rows)), logits[chosen])

    def _prefill(self, prompts: Sequence[Sequence[int]]):
        """Run prompts into a new cache; what all of them begin with, such as the system prompt, is run once."""
        n, lengths = len(prompts), torch.tensor(list(map(len, prompts)), device=self.device)
        shared = min(len(commonprefix(prompts)), min(map(len, prompts)) - 1) if n > 1 else 0
        cache, before = SlotCache(self.n_layers, n), torch.full((n,), shared, device=self.device)
        if shared:
            once, begins = SlotCache(self.n_layers, 1), torch.tensor([prompts[0][:shared]], device=self.device)
            self._forward(begins, once, slice(1), torch.arange(shared, device=self.device)[None], shared)
            cache.fill(0, once, torch.zeros_like(before))
        rests = [prompt[shared:] for prompt in prompts]
        return cache, self._run(rests, cache, slice(n), before, max(map(len, prompts)) + 1), lengths

    def _run(self, blocks: Sequence[Sequence[int]], cache: SlotCache, rows, lengths: torch.Tensor, used: int):
        """Run a ragged block of tokens through the model; logits after each row's last token [B, V]."""
        counts = torch.tensor([len(block) for block in blocks], device=self.device)
        ids = pad_sequence([torch.tensor(block) for block in blocks], batch_first=True).to(self.device)
        within = torch.arange(ids.shape[1], device=self.device).minimum(counts[:, None])  # pads are all in one slot
        states = self._forward(ids, cache, rows, lengths[:, None] + within, used)
        return self.head(states[self.index[: len(blocks)], counts - 1]).float()

    def _forward(self, ids: torch.Tensor, cache: SlotCache, rows, positions: torch.Tensor, used: int) -> torch.Tensor:
        """Hidden states of tokens at these positions of their rows [B, n, d]; `used` slots are attended to at most."""
        cache.place(rows, self.index[rows], positions, used)
        slots = torch.arange(used, device=self.device)
        mask = slots <= positions[:, None, :, None]
        if self.decoder.config._attn_implementation == "eager":  # adds its mask to the scores
            mask = torch.where(mask, 0.0, torch.finfo(self.decoder.dtype).min).to(self.decoder.dtype)
        return self.decoder(
            ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        ).last_hidden_state

    def turn(self) -> None:
        """Decode until some rows have ended their turn, step their environments, and feed the observations.

        Rows that are within a turn go on later from where they are.
        """
        blocks, gone = {}, []
        for r, (ids, logprobs) in self._write().items():
            row = self.rows[r]
            trajectory = self.trajectories[row]
            trajectory.completion_ids += ids
            trajectory.action_mask += [1] * len(ids)
            trajectory.logprobs += logprobs
            observation = self._observe(row, ids)
            if observation:
                trajectory.completion_ids += observation
                trajectory.action_mask += [0] * len(observation)
                trajectory.logprobs += [0.0] * len(observation)
                blocks[row] = [ids[-1], *observation]  # the turn's last token is not in the cache yet
            else:
                gone.append(r)
        left = len(self.rows) - len(gone)
        places, moving = [r for r in gone if r < left], [r for r in range(left, len(self.rows)) if r not in gone]
        for place, r in zip(places, moving, strict=True):
            self.rows[place] = self.rows[r]
        del self.rows[left:]
        if gone:
            self._move(moving, places)
        if blocks:
            self._feed([r for r, row in enumerate(self.rows) if row in blocks], blocks)

    def _move(self, rows: list[int], places: list[int]) -> None:
        """Let rows from the end take the places of others, which are gone."""
        if rows:
            rows, places = torch.tensor(rows, device=self.device), torch.tensor(places, device=self.device)
            self.cache.move(rows, places)
            for kept in (self.lengths, self.at, self.last, self.going, self.tokens, self.logprobs, self.drawn):
                kept[places] = kept[rows]
        self.going[len(self.rows) :] = False

    def _feed(self, rows: list[int], blocks: dict[int, list[int]]) -> None:
        """Let rows read what they have been told, and begin their next turn; blocks by trajectory."""
        fed = [blocks[self.rows[r]] for r in rows]
        index = torch.tensor(rows, device=self.device)
        used = max(self._length(self.rows[r]) for r in rows) + 1  # one for pads
        all_rows = slice(len(rows)) if len(rows) == len(self.rows) else None  # these need no copy
        logits = self._run(fed, self.cache, all_rows or index, self.lengths[index], used)
        self.lengths[index] += torch.tensor(list(map(len, fed)), device=self.device)
        self._begin_turn(rows, logits)

    def _length(self, row: int) -> int:
        """Tokens of a trajectory, its prompt included, without those of a turn that is being written."""
        return len(self.trajectories[row].prompt_ids) + len(self.trajectories[row].completion_ids)

    def _begin_turn(self, rows: Sequence[int], logits: torch.Tensor) -> None:
        """Draw the random numbers of a turn, each row from its own source, and choose the first token."""
        index = torch.tensor(rows, device=self.device)
        if self.sampling.temperature:
            limit, alive = self.sampling.max_turn_tokens, [self.rows[r] for r in rows]
            drawn = torch.stack([torch.rand(limit, generator=self.random[row]) for row in alive])
            self.drawn[index, :limit] = drawn.to(self.device)
        self.at[index], self.going[index] = 0, True
        self._choose(index, logits)

    def _choose(self, rows: slice | torch.Tensor, logits: torch.Tensor) -> None:
        """Write the next token of some rows. What a row writes past the end of its turn is not looked at."""
        index, at, going = self.index[rows], self.at[rows], self.going[rows]
        drawn = self.drawn[index, at] if self.sampling.temperature else None
        chosen, logprobs = self.sampling.choose(logits, drawn)
        self.tokens[index, at], self.logprobs[index, at] = chosen, logprobs
        self.last[rows] = chosen
        ended = (chosen == self.chat.end_of_turn) | (at + 1 == self.sampling.max_turn_tokens)
        self.at[rows], self.going[rows] = at + going, going & ~ended  # both computed before either is written

    def _step(self, rows: int, used: int) -> None:
        """A token for each of the first rows, those that have ended included: they write into one slot for ever."""
        positions = self.lengths[:rows, None].clone()
        states = self._forward(self.last[:rows, None], self.cache, slice(rows), positions, used)
        self.lengths[:rows] += self.going[:rows]
        self._choose(slice(rows), self.head(states[:, -1]).float())

    def _write(self) -> dict[int, tuple[list[int], list[float]]]:
        """Decode until enough rows have ended their turn: their tokens and log-probabilities."""
        n, step = len(self.rows), partial(self.graphs, self._step) if self.graphs else self._step
        while True:
            written = torch.where(self.going, self.at, -self.at)[:n].tolist()  # below 0: the turn has ended
            ended = [r for r in range(n) if written[r] < 0]
            if len(ended) * ENOUGH >= n:
                break
            used = max(self._length(row) + abs(at) for row, at in zip(self.rows, written, strict=True))
            for i in range(self.every):
                with threads.timed(f"a token for {n} rows"):
                    step(n, used + i)
        index = torch.tensor(ended, device=self.device)
        turns = zip(ended, self.tokens[index].tolist(), self.logprobs[index].tolist(), strict=True)
        return {r: (tokens[: -written[r]], logprobs[: -written[r]]) for r, tokens, logprobs in turns}

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
    sizes = [len(group.environments) for group in groups]
    room = max(min(sampling.batch_rows, sum(sizes)), *sizes, 0)
    longest = max((len(group.prompt_ids) for group in groups), default=0)
    batch, waiting = Batch(model, chat, sampling, generator, room, longest), deque(groups)
    bar = tqdm(total=sum(sizes), desc=progress, disable=progress is None, leave=False)
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
