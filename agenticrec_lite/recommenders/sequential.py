"""What the neural recommenders share: networks that read a history from left to right, one fit loop and one score.

All are trained alike: every item of a sequence is predicted from those before it, by full-softmax cross-entropy over
the catalogue; Adam with a learning rate that rises for a tenth of the training and then falls to zero; and long
sequences are cut into windows at another offset each epoch. The cutting matters: a short history reaches only the
first positions, which would otherwise know only the first items of each user.
"""

from collections.abc import Sequence
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

SCORING_BATCH = 512
UNSEEN_SCORE = -1e4  # below every score of a fitted item, yet finite


class SequenceNetwork(nn.Module):
    """Item codes [B, T] to states [B, T, d]; state t knows items 0..t. Code n_items is padding, always on the right,
    so that it reaches no item. A state's dot product with a row of `output` is that item's logit."""

    def __init__(self, n_items: int, width: int):
        super().__init__()
        self.padding = n_items
        self.items = nn.Embedding(n_items + 1, width, padding_idx=n_items)
        self.register_buffer("seen", torch.zeros(n_items, dtype=torch.bool))  # items it was fitted on

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
        return F.cross_entropy(self(windows[:, :-1])[real] @ self.output.T, targets[real])


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
        """Trains from scratch; the same seed and number of torch threads give the same network.

        Raises:
            UserError: no user has two interactions, so that nothing follows anything.
        """
        name, rng = type(self).__name__, np.random.default_rng(seed)
        epochs = [_windows(interactions, n_items, self.max_length, rng) for _ in range(self.epochs)]
        if not len(epochs[0]):
            raise UserError(f"{name} needs a user with at least two interactions to fit on; use a longer log.")
        n_steps = sum(-(-len(windows) // self.batch_size) for windows in epochs)
        self.losses = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = self.network_type(n_items, **self.shape)
            self.network.seen[interactions["item"].unique().tolist()] = True
            optimizer = torch.optim.Adam(self.network.parameters(), self.learning_rate, fused=True)
            schedule = LambdaLR(optimizer, lambda step: min(10 * (step + 1) / n_steps, 1 - step / n_steps))
            for windows in (progress := tqdm(epochs, desc=name, unit="epoch")):
                self.losses.append(self._train_epoch(torch.from_numpy(windows), optimizer, schedule))
                progress.set_postfix(loss=f"{self.losses[-1]:.3f}")
        self.network.eval()
        return self

    def _train_epoch(self, windows: torch.Tensor, optimizer, schedule) -> float:
        losses = []
        for batch in windows.split(self.batch_size):
            loss = self.network.loss(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        return float(np.mean(losses))

    @property
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


def _windows(interactions: pd.DataFrame, n_items: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """Every user's items in order, cut into windows of `length` + 1 that share their end items, shuffled.

    The first cut of a user with more items than a window holds is at a random offset. Returns [W, length +
    1].
    """
    by_user = interactions.sort_values("user", kind="stable")
    bounds = np.flatnonzero(np.diff(by_user["user"])) + 1
    windows = []
    for items in np.split(by_user["item"].to_numpy(), bounds):
        offset = int(rng.integers(1, length + 1)) if len(items) > length + 1 else length
        starts = [0, *range(offset, len(items) - 1, length)]
        ends = [offset + 1, *(start + length + 1 for start in starts[1:])]
        windows += [items[start:end] for start, end in zip(starts, ends, strict=True)]
    windows = [window for window in windows if len(window) > 1]
    return rng.permutation(_pad(windows, length + 1, n_items))


def _pad(sequences: Sequence[Sequence[int]], length: int, padding: int) -> np.ndarray:
    padded = np.full((len(sequences), length), padding, dtype=np.int64)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    return padded
