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
        taken: sparse [U, n_items] float32 0/1 by rows, the items of each fitted user, in the order of their codes.
        cosines: sparse [n_items, n_items] float32 in 0..1, symmetric, by columns; nothing on the diagonal and
            for items never taken.
    """

    taken: sparse.csr_array
    cosines: sparse.csc_array

    def fit(self, interactions: pd.DataFrame, n_items: int, seed: int = 0) -> Self:
        """similarity(i, j) = |users of i and j| / sqrt(|users of i| |users of j|); nothing is random."""
        users, rows = np.unique(interactions["user"], return_inverse=True)
        ones = np.ones(len(interactions), dtype=np.float32)
        counts = sparse.csr_array((ones, (rows.astype(np.int32), interactions["item"])), shape=(len(users), n_items))
        self.taken = counts.minimum(1)
        together = (self.taken.T @ self.taken).tocoo()
        n_users = together.diagonal()
        scale = np.divide(1, np.sqrt(n_users), out=np.zeros_like(n_users), where=n_users > 0)
        (i, j), n_both = together.coords, together.data
        others = i != j
        cosines = (n_both * scale[i] * scale[j])[others]
        self.cosines = sparse.csc_array((cosines, (i[others], j[others])), shape=(n_items, n_items))
        return self

    @property
    def similarity(self) -> np.ndarray:
        """All cosines as a dense array [n_items, n_items]: made when asked for, and for small catalogues only."""
        return self.cosines.toarray()

    def column(self, item: int) -> tuple[np.ndarray, np.ndarray]:
        """The items similar to one at all, and their cosines to it."""
        entries = slice(*self.cosines.indptr[item : item + 2])
        return self.cosines.indices[entries], self.cosines.data[entries]

    def score(self, histories: Sequence[Sequence[int]], candidates: Sequence[Sequence[int]]) -> np.ndarray:
        """Sum over the history of the similarity to each candidate, [B, C]; 0 for an empty history."""
        sums = [
            self.cosines[:, np.asarray(history, dtype=int)][np.asarray(items)].toarray(order="C").sum(1)
            for history, items in zip(histories, candidates, strict=True)
        ]
        return np.stack(sums)
