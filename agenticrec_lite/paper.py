"""What the paper reports, ours beside it, and verdicts."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

# What the paper reports (arXiv 2603.21613, by two public digests); R: reasoning only. None: not in our sources.
_COLUMNS = ("H@1", "H@5", "N@5", "N@10")
_REPORTED = {
    "CDs": {
        "sasrec": (0.0536, None, 0.1413, 0.2145), "frozen_r": (0.1907, 0.4696, 0.3303, None),
        "trained_r": (0.2324, 0.5399, 0.3865, None), "frozen": (0.2331, 0.5476, 0.3955, None),
        "rta": (0.2837, 0.6162, 0.4606, None), "ppr": (0.2992, 0.6472, 0.4795, 0.5324),
    },
    "Instruments": {
        "frozen_r": (0.1973, 0.5613, 0.3818, None), "frozen": (0.1948, 0.5277, 0.3673, None),
        "ppr": (0.2586, 0.6115, 0.4393, None),
    },
    "Games": {"sasrec": (0.1535, None, 0.2762, 0.3234), "ppr": (0.3282, None, 0.4887, 0.5445)},
}  # fmt: skip
PAPER = {data: {method: dict(zip(_COLUMNS, figures, strict=True)) for method, figures in methods.items()}
         for data, methods in _REPORTED.items()}  # fmt: skip

CLAIMS = (  # what the paper says of two methods: claim, a, b; what it says of a - b is in its figures
    ("training with tools beats the frozen agent", "rta", "frozen"),
    ("PPR adds to RTA", "ppr", "rta"),
    ("the trained agent beats SASRec", "ppr", "sasrec"),
    ("tools help an untrained agent (CDs) or hurt it (Instruments)", "frozen", "frozen_r"),
    ("trained with tools beats trained without", "rta", "trained_r"),
)
KNOWS_NO_ITEM = ("nano",)  # has never read an item's name: without tools its order is random, trained or not
ABOUT_R = [claim for claim, _, b in CLAIMS if b in ("frozen_r", "trained_r")]  # tools against reasoning without them


def verdict(paper: float, ours: Mapping | None) -> str:
    """Whether our runs bear out a difference that the paper reports; of its direction, not of its size.

    Args:
        paper: The paper's difference.
        ours: {"difference", "ci95"}, or None if our runs cannot say.

    Returns:
        "reproduced" if our interval lies on the paper's side of zero, "same direction" if only our estimate does,
        "not reproduced" if that does not, or "cannot be tested here".
    """
    if ours is None:
        return "cannot be tested here"
    side = 1 if paper > 0 else -1
    if min(side * end for end in ours["ci95"]) > 0:
        return "reproduced"
    return "same direction" if side * ours["difference"] > 0 else "not reproduced"


def _ours(pooled: Mapping, method: str) -> str:
    """Our counterpart of a method: the paper's frozen policy speaks the protocol, ours perhaps after a warm start."""
    return "warm_start" if method == "frozen" and "warm_start" in pooled["metrics"] else method


def beside_paper(pooled: Mapping) -> pd.DataFrame:
    """Every figure of the paper's that we know, ours beside it, and by how much ours deviates; NaN where we have none.

    Returns:
        Columns method, metric, data (the paper's), paper, ours, low, high (95 % interval), deviation.
    """
    rows = []
    for data, methods in PAPER.items():
        for method, figures in methods.items():
            ours = pooled["metrics"].get(_ours(pooled, method))
            for metric in (name for name in _COLUMNS if figures[name] is not None):
                known = (ours[metric], *ours["ci95"][metric]) if ours else (np.nan,) * 3
                rows.append((method, metric, data, figures[metric], *known, known[0] - figures[metric]))
    return pd.DataFrame(rows, columns=["method", "metric", "data", "paper", "ours", "low", "high", "deviation"])


def claims(pooled: Mapping) -> pd.DataFrame:
    """The paper's differences between methods, ours beside them, and a verdict on each.

    A policy that knows no item has no verdict on tools against reasoning alone, whatever the difference. A claim about
    a stage that was left out is "not run".

    Returns:
        Columns claim, data, metric, paper, ours, low, high, verdict.
    """
    rows = []
    for claim, a, b in CLAIMS:
        ours = pooled["differences"].get(f"{_ours(pooled, a)} - {_ours(pooled, b)}", {})
        says = {} if pooled["profile"] in KNOWS_NO_ITEM and claim in ABOUT_R else ours
        for data, figures in ((data, figures) for data, figures in PAPER.items() if {a, b} <= set(figures)):
            for m in (name for name in _COLUMNS if None not in (figures[a][name], figures[b][name])):
                paper = figures[a][m] - figures[b][m]
                own = ours.get(m, {"difference": np.nan, "ci95": [np.nan] * 2})
                judged = "not run" if {a, b} & set(pooled.get("not_run", {})) else verdict(paper, says.get(m))
                rows.append((claim, data, m, paper, own["difference"], *own["ci95"], judged))
    return pd.DataFrame(rows, columns=["claim", "data", "metric", "paper", "ours", "low", "high", "verdict"])
