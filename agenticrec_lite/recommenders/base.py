"""What every classical recommender can do."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import numpy as np
import pandas as pd


class Recommender(ABC):
    """Learns from a log, then scores candidates by a history alone, so that it serves users it never saw."""

    @abstractmethod
    def fit(self, interactions: pd.DataFrame, n_items: int, seed: int = 0) -> Self:
        """Learns from interactions, rows of `InteractionLog.interactions` in their order.

        Args:
            interactions: [user, item, rating, timestamp], coded.
            n_items: items in the whole log; codes are 0..n_items-1.
            seed: for whatever is random.
        """

    @abstractmethod
    def score(self, histories: Sequence[Sequence[int]], candidates: Sequence[Sequence[int]]) -> np.ndarray:
        """How likely each candidate is next.

        Args:
            histories: B lists of item codes, oldest first, of any length, empty ones and unseen items
                included.
            candidates: B lists of C item codes.

        Returns:
            [B, C] float32, finite; higher is better; an item that was not fitted on scores lowest.
        """
