"""The global split in time: everything a model is fitted on happened before everything it is asked about."""

from dataclasses import dataclass

import numpy as np

from agenticrec_lite.data.log import InteractionLog
from agenticrec_lite.errors import UserError

EARLY_SHARE = 0.8  # share of the train rows that serve RL tasks; those tasks are drawn from the rest
FITTED_ON = {"train_late": "train_early", "validation": "train", "test": "train"}


@dataclass(frozen=True)
class Split:
    """Row positions in `log.interactions` where each part ends (exclusive): early <= train <= validation <=
    end."""

    train_early_end: int
    train_end: int
    validation_end: int
    end: int

    def rows(self, part: str) -> slice:
        """Row positions of a part: "train" (= "train_early" + "train_late"), "validation" or "test"."""
        parts = {
            "train": (0, self.train_end),
            "train_early": (0, self.train_early_end),
            "train_late": (self.train_early_end, self.train_end),
            "validation": (self.train_end, self.validation_end),
            "test": (self.validation_end, self.end),
        }
        if part not in parts:
            raise ValueError(f"no part {part!r}; the parts are {', '.join(parts)}")
        return slice(*parts[part])

    def fit_rows(self, part: str) -> slice:
        """Rows that tools and recommenders may be fitted on when they serve tasks of `part`.

        "train_early" for tasks of "train_late" (evidence is out of time for training tasks too), "train" for
        tasks of "validation" and "test".
        """
        if part not in FITTED_ON:
            raise ValueError(f"no tasks are made from {part!r}; they come from {', '.join(FITTED_ON)}")
        return self.rows(FITTED_ON[part])


def temporal_split(log: InteractionLog, fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)) -> Split:
    """Cuts the log at two moments in time, the same for all users; train is cut again at 80 % of its rows.

    Rows that share the timestamp of a cut all go to the later part, so that a part is strictly later than the
    one before it; the shares can therefore miss `fractions` by a few rows.

    Raises:
        UserError: the log is too short, or has too few distinct timestamps, to fill every part.
    """
    times = log.interactions["timestamp"].to_numpy()
    n = len(times)

    def cut(position: float) -> int:
        return int(np.searchsorted(times, times[min(round(position), n - 1)], side="left"))

    train_end = cut(n * fractions[0])
    ends = (cut(train_end * EARLY_SHARE), train_end, cut(n * (fractions[0] + fractions[1])), n)
    if not 0 < ends[0] < ends[1] < ends[2] < ends[3]:
        raise UserError(f"{log.name}: {n} interactions do not fill every part; use a longer log.")
    return Split(*ends)
