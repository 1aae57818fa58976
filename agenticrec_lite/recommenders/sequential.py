"""What the neural recommenders share: networks that read a history from left to right, one fit loop and one score.

All are trained alike: every item of a sequence is predicted from those before it, by cross-entropy over the catalogue;
Adam with a learning rate that rises for a tenth of the training and then falls to zero; and long
sequences are cut into windows at another offset each epoch. The cutting matters: a short history reaches only the
first positions, which would otherwise know only the first items of each user.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from tqdm.auto import tqdm

from agenticrec_lite.errors import UserError
from agenticrec_lite.recommenders.base import Recommender
from agenticrec_lite.runs import threads

SCORING_BATCH = 512
# Items of the largest catalogue that is learnt with the full softmax, and on the CPU, so that its figures are the same
# on every machine. A larger one is learnt with N_SAMPLED drawn items, on the GPU where there is one.
FULL_SOFTMAX = 20_000
N_SAMPLED = 8192
UNSEEN_SCORE = -1e4  # below every score of a fitted item, yet finite


class SequenceNetwork(nn.Module):
    """Item codes [B, T] to states [B, T, d]; state t knows items 0..t. Code n_items is padding, always on the right,
    so that it reaches no item. A state's dot product with a row of `output` is that item's logit."""

    def __init__(self, n_items: int, width: int):
        super().__init__()
        self.padding = n_items
        self.items = nn.Embedding(n_items + 1, width, padding_idx=n_items)
        self.register_buffer("seen", torch.zeros(n_items, dtype=torch.bool))  # items it was fitted on
        self.register_buffer("ranking", torch.arange(n_items), persistent=False)  # often taken items first

    def draw(self, std: float, *embeddings: nn.Embedding) -> None:
        """Draws the items and further embeddings anew, from a normal distribution; the padding is zero."""
        for embedding in (self.items, *embeddings):
            nn.init.normal_(embedding.weight, std=std)
        with torch.no_grad():
            self.items.weight[self.padding] = 0

    @property
    def output(self) -> torch.Tensor:
        """[n_items, d]: the items' own embeddings, unless a network has others."""
        return self.items.weight[:-1]

    def loss(self, windows: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy (nats) of each item of `windows` [B, T+1] given those before it; padding is left
        out."""
        targets = windows[:, 1:]
        real = targets != self.padding
        states, targets = self(windows[:, :-1])[real], targets[real]
        if self.padding > FULL_SOFTMAX:
            return self.sampled_loss(states, targets)
        return F.cross_entropy(states @ self.output.T, targets)

    def sampled_loss(self, states: torch.Tensor, targets: torch.Tensor, n_sampled: int = N_SAMPLED) -> torch.Tensor:
        """The cross-entropy with a sum over drawn items in place of the sum over all (Bengio and Senecal, 2008).

        The sum of exp(logit) over all items but the target is estimated, without bias, by the mean of exp(logit) / q
        over items drawn from q (the logQ correction); q is log-uniform over `ranking`, as in TensorFlow's
        `log_uniform_candidate_sampler`: about as often as items are taken, and the rare ones, too.

        Args:
            states: [N, d].
            targets: The item after each [N].
            n_sampled: How many items are drawn, the same for all states.
        """
        n_items = len(self.ranking)
        ranks = ((n_items + 1) ** torch.rand(n_sampled, dtype=torch.float64, device=states.device)).long() - 1
        ranks = ranks.clamp(0, n_items - 1)
        log_q = (((ranks + 2.0) / (ranks + 1.0)).log() / np.log(n_items + 1)).log()
        drawn = self.ranking[ranks]
        vectors = F.embedding(torch.cat([drawn, targets]), self.output)
        own = (states * vectors[n_sampled:]).sum(1, keepdim=True)
        others = states @ vectors[:n_sampled].T - (log_q + np.log(n_sampled)).to(states.dtype)
        others = others.masked_fill(targets[:, None] == drawn, -torch.inf)
        return F.cross_entropy(torch.cat([own, others], 1), torch.zeros_like(targets))


class SequentialRecommender(Recommender):
    """A network with one `fit` and one `score`.

    Args:
        epochs, learning_rate, batch_size: of the training; a batch is so many windows.
        max_length: items of a history that are read, the last ones.
        shape: further arguments of the network.

    Attributes:
        network: the fitted network, on the CPU.
        losses: mean training loss of each epoch, in nats an item.
    """

    network_type: ClassVar[type[SequenceNetwork]]

    def __init__(self, epochs: int, learning_rate: float, batch_size: int, max_length: int, **shape):
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_length = max_length
        self.shape = shape

    def fit(self, interactions: pd.DataFrame, n_items: int, seed: int = 0) -> Self:
        """Trains from scratch; on the CPU, the same seed and a set number of torch threads give the same network.

        Where the number is not set, `runs.threads` chooses it.

        Raises:
            UserError: no user has two interactions, so that nothing follows anything.
        """
        name, rng = type(self).__name__, np.random.default_rng(seed)
        sequences = _Sequences(interactions, n_items)
        epochs = [sequences.cut(self.max_length, rng) for _ in range(self.epochs)]
        if not len(epochs[0]):
            raise UserError(f"{name} needs a user with at least two interactions to fit on; use a longer log.")
        n_steps = sum(-(-len(cuts) // self.batch_size) for cuts in epochs)
        self.losses = []
        self.__dict__.pop("item_embeddings", None)
        on_gpu = n_items > FULL_SOFTMAX and torch.cuda.is_available()
        with threads.chosen(), torch.random.fork_rng(devices=[torch.cuda.current_device()] if on_gpu else []):
            torch.manual_seed(seed)
            self.network = self.network_type(n_items, **self.shape)
            counts = torch.from_numpy(np.bincount(interactions["item"], minlength=n_items))
            self.network.seen = counts > 0
            self.network.ranking = counts.argsort(descending=True, stable=True)
            self.network.to("cuda" if on_gpu else "cpu")
            optimizer = torch.optim.Adam(self.network.parameters(), self.learning_rate, fused=True)
            schedule = LambdaLR(optimizer, lambda step: min(10 * (step + 1) / n_steps, 1 - step / n_steps))
            for cuts in (progress := tqdm(epochs, desc=name, unit="epoch")):
                self.losses.append(self._train_epoch(sequences, cuts, optimizer, schedule))
                progress.set_postfix(loss=f"{self.losses[-1]:.3f}")
        self.network.cpu().eval()
        return self

    def _train_epoch(self, sequences: "_Sequences", cuts: np.ndarray, optimizer, schedule) -> float:
        losses = []
        for start in range(0, len(cuts), self.batch_size):
            windows = sequences.windows(cuts[start : start + self.batch_size], self.max_length)
            with threads.timed("a batch of a recommender", len(windows)):
                loss = self.network.loss(torch.from_numpy(windows).to(self.network.seen.device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
        return float(np.mean(losses))

    @cached_property
    def item_embeddings(self) -> np.ndarray:
        """[n_items, d] float32; zeros for items that were not fitted on."""
        return (self.network.output * self.network.seen[:, None]).detach().numpy()

    @torch.no_grad()
    def encode(self, histories: Sequence[Sequence[int]]) -> np.ndarray:
        """What the user wants next, [B, d] float32: its dot product with an item's embedding is the score.

        Only the last `max_length` items that were fitted on count; a history without any has the state of
        padding.
        """
        seen = self.network.seen.numpy()
        known = [[item for item in history if seen[item]][-self.max_length :] for history in histories]
        states = []
        for start in range(0, len(known), SCORING_BATCH):
            batch = known[start : start + SCORING_BATCH]
            last = torch.tensor([max(len(history), 1) - 1 for history in batch])
            padded = torch.from_numpy(_pad(batch, int(last.max()) + 1, self.network.padding))
            states.append(self.network(padded)[torch.arange(len(batch)), last].numpy())
        return np.concatenate(states)

    def score(self, histories: Sequence[Sequence[int]], candidates: Sequence[Sequence[int]]) -> np.ndarray:
        """Logits of the candidates, [B, C]."""
        items = np.asarray(candidates)
        scores = np.einsum("bd,bcd->bc", self.encode(histories), self.item_embeddings[items])
        return np.where(self.network.seen.numpy()[items], scores, np.float32(UNSEEN_SCORE))


class _Sequences:
    """The items of each user in order, one user after the other, and how they are cut into windows."""

    def __init__(self, interactions: pd.DataFrame, n_items: int):
        users = interactions["user"].to_numpy()
        by_user = np.argsort(users, kind="stable")
        self.items, self.padding = interactions["item"].to_numpy()[by_user], n_items
        self.bounds = np.append(np.flatnonzero(np.diff(users[by_user], prepend=-1)), len(users))

    def cut(self, length: int, rng: np.random.Generator) -> np.ndarray:
        """Every user's items cut into windows of `length` + 1 that share their end items, shuffled.

        The first cut of a user with more items than a window holds is at a random offset. Returns where each window
        starts and ends (exclusive) in `items` [W, 2].
        """
        sizes = np.diff(self.bounds)
        long = sizes > length + 1
        first_cut = np.full(len(sizes), length)
        first_cut[long] = rng.integers(1, length + 1, size=long.sum())
        n_windows = np.where(long, 1 - (first_cut + 1 - sizes) // length, sizes > 1)
        user = np.repeat(np.arange(len(sizes)), n_windows)
        number = np.arange(len(user)) - np.repeat(np.cumsum(n_windows) - n_windows, n_windows)  # of each user's windows
        ends = first_cut[user] + 1 + number * length
        starts = np.where(number == 0, 0, ends - length - 1)
        cuts = np.stack([starts, np.minimum(ends, sizes[user])], axis=1) + self.bounds[user, None]
        return cuts[rng.permutation(len(cuts))]

    def windows(self, cuts: np.ndarray, length: int) -> np.ndarray:
        """The items of some windows, padded on the right [W, length + 1]."""
        places = cuts[:, :1] + np.arange(length + 1)
        inside = places < cuts[:, 1:]
        return np.where(inside, self.items[np.where(inside, places, 0)], self.padding).astype(np.int64)


def _pad(sequences: Sequence[Sequence[int]], length: int, padding: int) -> np.ndarray:
    padded = np.full((len(sequences), length), padding, dtype=np.int64)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    return padded
