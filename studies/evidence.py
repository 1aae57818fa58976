"""Richer evidence behind the tools: does a better list bring a better agent?"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from agenticrec_lite.data import InteractionLog
from agenticrec_lite.recommenders import GRU4Rec, SASRec
from agenticrec_lite.recommenders.base import Recommender
from agenticrec_lite.recommenders.gru4rec import GRU4RecNetwork
from agenticrec_lite.recommenders.sasrec import SASRecNetwork
from agenticrec_lite.recommenders.sequential import SequenceNetwork
from agenticrec_lite.tools.text import standardise
from agenticrec_lite.tools.toolbox import Toolbox

RARE, COMMON = 5, 0.3  # a title's word tells of an item if at least so many items have it, and at most that share
PRICES = 10  # quantiles


def item_features(items: pd.DataFrame) -> torch.Tensor:
    """What the catalogue says of each item, as 0/1 columns of unit length together [n_items + 1, F]; padding is zero.

    Its categories, tenth of the prices, decade, and the words of its title.
    """
    tenth = pd.qcut(items["price"].rank(method="first"), PRICES, labels=False) if items["price"].notna().any() else None
    of_item = []
    for place, row in enumerate(items.itertuples()):
        names = [f"category {name}" for name in row.categories]
        names += [f"word {word}" for word in set(str(row.title).casefold().split())]
        names += [] if pd.isna(row.price) else [f"price {tenth.iloc[place]:.0f}"]
        names += [] if pd.isna(row.year) else [f"decade {int(row.year) // 10}"]
        of_item.append(names)
    counts = Counter(name for names in of_item for name in set(names))
    kept = sorted(name for name, n in counts.items() if RARE <= n <= COMMON * len(items) or not name.startswith("word"))
    column = {name: i for i, name in enumerate(kept)}
    table = torch.zeros(len(items) + 1, len(kept))
    for place, names in enumerate(of_item):
        table[place, [column[name] for name in names if name in column]] = 1.0
    return table / table.sum(1, keepdim=True).clamp(min=1).sqrt()


class Catalogue(SequenceNetwork):
    """Laid over a network: an item is the sum of its features' embeddings, and of one of its own if `own`.

    (As in feature-aware variants of SASRec, such as Zhang et al., IJCAI 2019, without attention over features.)
    """

    def __init__(self, n_items: int, features: torch.Tensor, own: bool, **shape):
        super().__init__(n_items, **shape)
        self.register_buffer("features", features)
        self.values = nn.Parameter(self.items.weight.std().detach() * torch.randn(features.shape[1], shape["width"]))
        if not own:
            nn.init.zeros_(self.items.weight).requires_grad_(False)

    @property
    def table(self) -> torch.Tensor:
        """[n_items + 1, d]."""
        return self.items.weight + self.features @ self.values

    @property
    def output(self) -> torch.Tensor:
        return self.table[:-1]

    def embed(self, sequences: torch.Tensor) -> torch.Tensor:
        return F.embedding(sequences, self.table)


class CatalogueSASRecNetwork(Catalogue, SASRecNetwork):
    def forward(self, sequences: torch.Tensor) -> torch.Tensor:
        return self.layers(self.dropout(self.embed(sequences) + self.positions.weight[: sequences.shape[1]]))


class CatalogueGRU4RecNetwork(Catalogue, GRU4RecNetwork):
    def forward(self, sequences: torch.Tensor) -> torch.Tensor:
        return self.out(self.dropout(self.gru(self.dropout(self.embed(sequences)))[0]))


class CatalogueSASRec(SASRec):
    """SASRec that reads the catalogue."""

    network_type = CatalogueSASRecNetwork

    def __init__(self, items: pd.DataFrame, own: bool = True, **settings):
        super().__init__(**settings)
        self.shape |= {"features": item_features(items), "own": own}


class CatalogueGRU4Rec(GRU4Rec):
    """GRU4Rec that reads the catalogue."""

    network_type = CatalogueGRU4RecNetwork

    def __init__(self, items: pd.DataFrame, own: bool = True, **settings):
        super().__init__(**settings)
        self.shape |= {"features": item_features(items), "own": own}


@dataclass
class Together(Recommender):
    """The mean of several recommenders' scores, each standardised over the candidates; embeddings are the first's."""

    members: Sequence[Recommender]

    def fit(self, interactions: pd.DataFrame, n_items: int, seed: int = 0) -> "Together":
        for number, member in enumerate(self.members):
            member.fit(interactions, n_items, seed + number)
        return self

    @property
    def item_embeddings(self) -> np.ndarray:
        return self.members[0].item_embeddings

    def score(self, histories: Sequence[Sequence[int]], candidates: Sequence[Sequence[int]]) -> np.ndarray:
        return sum(np.stack([standardise(row) for row in each.score(histories, candidates)]) for each in self.members)


RECOMMENDERS: dict[str, Callable[[InteractionLog], Recommender]] = {
    "longer": lambda log: SASRec(epochs=16),
    "gru4rec": lambda log: GRU4Rec(),
    "catalogue": lambda log: Together([CatalogueSASRec(log.items), CatalogueGRU4Rec(log.items)]),
    "catalogue-only": lambda log: Together(
        [CatalogueSASRec(log.items, own=False), CatalogueGRU4Rec(log.items, own=False, dropout=0.5)]
    ),
    "weighed": lambda log: CatalogueGRU4Rec(log.items, own=False, dropout=0.5, epochs=16, width=128),
}


def asking(name: str) -> Callable[..., Toolbox]:
    """The tools ask another sequential recommender than SASRec."""

    def fit(log: InteractionLog, rows: slice, seed: int, **settings) -> Toolbox:
        return Toolbox.fit(log, rows, seed, sequential=RECOMMENDERS[name](log), **settings)

    return fit
