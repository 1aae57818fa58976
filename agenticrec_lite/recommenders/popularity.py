"""Popularity: the score of an item is how often it was taken."""

from collections.abc import Sequence
from typing import Self

import numpy as np
import pandas as pd

from agenticrec_lite.recommenders.base import Recommender


class Popularity(Recommender):
    """Ignores the history.

    Attributes:
        counts: [n_items] float32, interactions of each item.
    """

    def fit(self, interactions: pd.DataFrame, n_items: int, seed: int = 0) -> Self:
        """Counts; nothing is random."""
        self.counts = np.bincount(interactions["item"], minlength=n_items).astype(np.float32)
        return self

    def score(self, histories: Sequence[Sequence[int]], candidates: Sequence[Sequence[int]]) -> np.ndarray:
        """Counts of the candidates, [B, C]."""
        return self.counts[np.asarray(candidates)]
