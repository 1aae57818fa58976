"""SASRec: self-attention over the history predicts the next item (Kang and McAuley, ICDM 2018).

Differs from the paper: full-softmax cross-entropy over the catalogue in place of one sampled negative; pre-norm
blocks with GELU and dropout on their outputs only; a learning rate that rises for a tenth of the training and
then falls to zero; and long sequences are cut into windows at another offset each epoch. The cutting matters:
a short history reaches only the first positions, which would otherwise know only the first items of each user.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from tqdm.auto import tqdm

from agenticrec_lite.errors import UserError
from agenticrec_lite.recommenders.base import Recommender

SCORING_BATCH = 512
UNSEEN_SCORE = -1e4  # below every score of a fitted item, yet finite


class Block(nn.Module):
    """One pre-norm transformer block with causal attention."""

    def __init__(self, width: int, n_heads: int, dropout: float):
        super().__init__()
        self.n_heads = n_heads
        self.norm_attention = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.norm_feed_forward = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """[B, T, width] to the same shape."""
        batch, length, width = states.shape
        heads = self.query_key_value(self.norm_attention(states)).view(batch, length, 3, self.n_heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        attended = attended.transpose(1, 2).reshape(batch, length, width)
        states = states + self.dropout(self.attention_out(attended))
        return states + self.dropout(self.feed_forward(self.norm_feed_forward(states)))


class SASRecNetwork(nn.Module):
    """A causal transformer over item codes; code n_items is padding, always on the right."""

    def __init__(self, n_items: int, width: int, n_layers: int, n_heads: int, max_length: int,
                 dropout: float):
        super().__init__()
        self.padding = n_items
        self.items = nn.Embedding(n_items + 1, width, padding_idx=n_items)
        self.positions = nn.Embedding(max_length, width)
        self.dropout = nn.Dropout(dropout)
        blocks = [Block(width, n_heads, dropout) for _ in range(n_layers)]
        self.layers = nn.Sequential(*blocks, nn.LayerNorm(width))
        self.register_buffer("seen", torch.zeros(n_items, dtype=torch.bool))  # items it was fitted on
        for embedding in (self.items, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)
        with torch.no_grad():
            self.items.weight[n_items] = 0

    def forward(self, sequences: torch.Tensor) -> torch.Tensor:
        """Item codes [B, T] to states [B, T, width]; state t knows items 0..t, so the padding reaches no
        item."""
        embedded = self.items(sequences) + self.positions.weight[: sequences.shape[1]]
        return self.layers(self.dropout(embedded))

    def loss(self, windows: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy (nats) of each item of `windows` [B, T+1] given those before it; padding is left
        out."""
        targets = windows[:, 1:]
        real = targets != self.padding
        logits = self(windows[:, :-1])[real] @ self.items.weight[:-1].T  # tied embeddings
        return F.cross_entropy(logits, targets[real])


class SASRec(Recommender):
    """SASRec with one `fit` and one `score`.

    Attributes:
        network: the fitted `SASRecNetwork`, on the CPU.
        losses: mean training loss of each epoch, in nats an item.
    """

    def __init__(self, epochs: int = 8, learning_rate: float = 3e-3, batch_size: int = 32, width: int = 64,
                 n_layers: int = 2, n_heads: int = 2, max_length: int = 50, dropout: float = 0.2):
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.shape = {"width": width, "n_layers": n_layers, "n_heads": n_heads, "max_length": max_length,
                      "dropout": dropout}

    def fit(self, interactions: pd.DataFrame, n_items: int, seed: int = 0) -> Self:
        """Trains from scratch; the same seed and number of torch threads give the same network.

        Raises:
            UserError: no user has two interactions, so that nothing follows anything.
        """
        rng = np.random.default_rng(seed)
        epochs = [_windows(interactions, n_items, self.shape["max_length"], rng) for _ in range(self.epochs)]
        if not len(epochs[0]):
            raise UserError("SASRec needs a user with at least two interactions to fit on; use a longer log.")
        n_steps = sum(-(-len(windows) // self.batch_size) for windows in epochs)
        self.losses = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = SASRecNetwork(n_items, **self.shape)
            self.network.seen[interactions["item"].unique().tolist()] = True
            optimizer = torch.optim.Adam(self.network.parameters(), self.learning_rate, fused=True)
            schedule = LambdaLR(optimizer, lambda step: min(10 * (step + 1) / n_steps, 1 - step / n_steps))
            for windows in (progress := tqdm(epochs, desc="SASRec", unit="epoch")):
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
        """[n_items, width] float32; zeros for items that were not fitted on."""
        return (self.network.items.weight[:-1] * self.network.seen[:, None]).detach().numpy()

    @torch.no_grad()
    def encode(self, histories: Sequence[Sequence[int]]) -> np.ndarray:
        """What the user wants next, [B, width] float32: its dot product with an item's embedding is the
        score.

        Only the last `max_length` items that were fitted on count; a history without any has the state of
        padding.
        """
        seen, length = self.network.seen.numpy(), self.shape["max_length"]
        known = [[item for item in history if seen[item]][-length:] for history in histories]
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

    def save(self, path: Path | str) -> None:
        """Writes the network's shape and weights as one safetensors file."""
        shape = {"n_items": self.network.padding, **self.shape}
        metadata = {name: str(value) for name, value in shape.items()}
        save_file(self.network.state_dict(), path, metadata=metadata)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Reads what `save` wrote; ready to score.

        Raises:
            UserError: there is no such file, or it is damaged or not a SASRec.
        """
        try:
            with safe_open(path, "pt") as file:
                shape = {name: float(value) if name == "dropout" else int(value)
                         for name, value in file.metadata().items()}
                weights = {name: file.get_tensor(name) for name in file.keys()}
            network = SASRecNetwork(**shape)
            network.load_state_dict(weights)
        except (OSError, SafetensorError, AttributeError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{path} cannot be read as a SASRec ({error}); fit and save it again.") from None
        del shape["n_items"]
        model = cls(**shape)
        model.network = network.eval()
        return model


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
