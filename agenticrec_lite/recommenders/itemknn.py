"""ItemKNN: items are similar when the same users took both (Sarwar et al., WWW 2001), over all neighbours."""

from collections.abc import Sequence
from typing import Self

import numpy as np
import pandas as pd
from scipy import sparse

from agenticrec_lite.recommenders.base import Recommender


class ItemKNN(Recommender):
    """Cosine of the items' 0/1 user columns; the score of a candidate is its summed similarity to the
    history.

    Attributes:
        similarity: [n_items, n_items] float32 in 0..1, symmetric; 0 on the diagonal and for items never
            taken.
    """

    def fit(self, interactions: pd.DataFrame, n_items: int, seed: int = 0) -> Self:
        """similarity(i, j) = |users of i and j| / sqrt(|users of i| |users of j|); nothing is random."""
        pairs = interactions[["user", "item"]].drop_duplicates()
        users = pairs["user"].to_numpy()
        ones = np.ones(len(pairs), dtype=np.float32)
        taken = sparse.csr_array((ones, (users, pairs["item"].to_numpy())), shape=(users.max() + 1, n_items))
        together = (taken.T @ taken).toarray()
        n_users = together.diagonal().copy()
        scale = np.divide(1, np.sqrt(n_users), out=np.zeros_like(n_users), where=n_users > 0)
        np.fill_diagonal(together, 0)
        self.similarity = together * scale[:, None] * scale
        return self

    def score(self, histories: Sequence[Sequence[int]], candidates: Sequence[Sequence[int]]) -> np.ndarray:
        """Sum over the history of the similarity to each candidate, [B, C]; 0 for an empty history."""
        return np.stack([
            self.similarity[np.ix_(items, np.asarray(history, dtype=int))].sum(1)
            for history, items in zip(histories, candidates, strict=True)
        ])
