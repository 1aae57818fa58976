"""ItemKNN: items are similar when the same users took both (Sarwar et al., WWW 2001).

A small catalogue keeps all neighbours of an item, a large one its k nearest (Deshpande and Karypis, TOIS 2004).
"""

from collections.abc import Sequence
from typing import Self

import numpy as np
import pandas as pd
from scipy import sparse

from agenticrec_lite.recommenders.base import Recommender

ALL_NEIGHBOURS = 50_000  # items of the largest catalogue of which all neighbours are kept
BLOCK = 5_000_000  # products that are made at a time in a larger one: bounds the memory, about 300 MB
LAST = np.uint64(2**64 - 1)


class ItemKNN(Recommender):
    """Cosine of the items' 0/1 user columns; the score of a candidate is its summed similarity to the
    history.

    Args:
        k: How many neighbours of each item are kept where the catalogue has more than ALL_NEIGHBOURS items: those of
            the largest cosines, of equal ones the smallest codes.

    Attributes:
        taken: sparse [U, n_items] float32 0/1 by rows, the items of each fitted user, in the order of their codes.
        cosines: sparse [n_items, n_items] float32 in 0..1, by columns: the neighbours of each item in the order of
            their codes. Symmetric where all are kept; nothing on the diagonal and for items never taken.
    """

    taken: sparse.csr_array
    cosines: sparse.csc_array

    def __init__(self, k: int = 100):
        self.k = k

    def fit(self, interactions: pd.DataFrame, n_items: int, seed: int = 0) -> Self:
        """`similarity(i, j) = |users of i and j| / sqrt(|users of i| |users of j|)`; nothing is random."""
        users, rows = np.unique(interactions["user"], return_inverse=True)
        ones = np.ones(len(interactions), dtype=np.float32)
        counts = sparse.csr_array((ones, (rows.astype(np.int32), interactions["item"])), shape=(len(users), n_items))
        self.taken = counts.minimum(1)
        self.cosines = self._all_cosines() if n_items <= ALL_NEIGHBOURS else self._nearest_cosines()
        return self

    def _all_cosines(self) -> sparse.csc_array:
        together = (self.taken.T @ self.taken).tocoo()
        scale = _inverse_root(together.diagonal())
        (i, j), n_both = together.coords, together.data
        others = i != j
        cosines = (n_both * scale[i] * scale[j])[others]
        return sparse.csc_array((cosines, (i[others], j[others])), shape=together.shape)

    def _nearest_cosines(self) -> sparse.csc_array:
        """The same, block by block of the items, and of each item the k largest only."""
        users_of = self.taken.T.tocsr()
        scale = _inverse_root(np.diff(users_of.indptr).astype(np.float32))
        products = np.cumsum(users_of @ np.diff(self.taken.indptr).astype(np.float64))
        bounds = [0, *(np.flatnonzero(np.diff(products // BLOCK)) + 1), len(products)]
        sizes, indices, data = [], [], []
        for start, stop in zip(bounds, bounds[1:], strict=False):
            together = users_of[start:stop] @ self.taken
            lengths = np.diff(together.indptr)
            items, others = np.repeat(np.arange(start, stop, dtype=np.int32), lengths), together.indices
            cosines = together.data * scale[others] * scale[items]  # in this order, as of all: the same last digits
            # One number to sort by: large cosines first (the bits of positive floats are in their order), then codes.
            keys = (~cosines.view(np.uint32)).astype(np.uint64) << np.uint64(32) | others.astype(np.uint64)
            keys[items == others] = LAST
            kept = keys <= np.repeat(_smallest_bounds(keys, together.indptr, self.k), lengths)
            sizes.append(np.bincount(items[kept] - start, minlength=stop - start))
            indices.append(others[kept])
            data.append(cosines[kept])
        indptr = np.append(0, np.cumsum(np.concatenate(sizes)))
        nearest = sparse.csc_array(
            (np.concatenate(data), np.concatenate(indices), indptr), shape=(len(products), len(products))
        )
        nearest.sort_indices()
        return nearest

    @property
    def similarity(self) -> np.ndarray:
        """All cosines as a dense array [n_items, n_items]: made when asked for, and for small catalogues only."""
        return self.cosines.toarray()

    def column(self, item: int) -> tuple[np.ndarray, np.ndarray]:
        """The neighbours of an item, in the order of their codes, and their cosines to it."""
        return column_of(self.cosines, item)

    def score(self, histories: Sequence[Sequence[int]], candidates: Sequence[Sequence[int]]) -> np.ndarray:
        """Sum over the history of the similarity to each candidate, [B, C]; 0 for an empty history."""
        sums = np.zeros((len(candidates), len(candidates[0])), dtype=np.float32)
        for row, history, items in zip(sums, histories, candidates, strict=True):
            if len(history):
                similar = np.stack([look_up(*self.column(item), np.asarray(items)) for item in history], axis=1)
                row[:] = similar.sum(1)
        return sums


def column_of(matrix: sparse.csc_array, column: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a sparse column that hold something, sorted, and what they hold; no copies."""
    entries = slice(matrix.indptr[column], matrix.indptr[column + 1])
    return matrix.indices[entries], matrix.data[entries]


def look_up(codes: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The value that stands with each wanted code, 0 for a code that is not there [W].

    Args:
        codes: Sorted, each once [n].
        values: What stands with them [n].
        wanted: Codes [W].
    """
    if not len(codes):
        return np.zeros(len(wanted), dtype=values.dtype)
    wanted = wanted.astype(codes.dtype)  # or numpy would copy all codes to the other type
    at = np.minimum(np.searchsorted(codes, wanted), len(codes) - 1)
    return np.where(codes[at] == wanted, values[at], values.dtype.type(0))


def _inverse_root(counts: np.ndarray) -> np.ndarray:
    """1 / sqrt of counts [n], 0 of 0."""
    return np.divide(1, np.sqrt(counts), out=np.zeros_like(counts), where=counts > 0)


def _smallest_bounds(keys: np.ndarray, starts: np.ndarray, k: int) -> np.ndarray:
    """The k-th smallest key of each row, below LAST; row i is keys[starts[i] : starts[i + 1]]."""
    bounds = np.full(len(starts) - 1, LAST - np.uint64(1))
    for row in np.flatnonzero(np.diff(starts) > k):
        bounds[row] = np.partition(keys[starts[row] : starts[row + 1]], k - 1)[k - 1]
    return bounds
