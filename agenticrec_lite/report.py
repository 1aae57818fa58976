"""Tables from run folders: several seeds pooled, with paired intervals that resample users."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from agenticrec_lite.errors import UserError
from agenticrec_lite.evaluation.metrics import paired_difference, summarize
from agenticrec_lite.runs import read_ranks, read_result
from agenticrec_lite.training.pipeline import COMPARED

SHOWN = ("H@1", "H@5", "H@10", "N@5", "N@10")

# What the paper reports (arXiv 2603.21613, by two public digests); R: reasoning only. None: not in our sources.
_COLUMNS = ("H@1", "H@5", "N@5", "N@10")
PAPER = {
    "CDs": {
        "sasrec": dict(zip(_COLUMNS, (0.0536, None, 0.1413, 0.2145), strict=True)),
        "frozen_r": dict(zip(_COLUMNS, (0.1907, 0.4696, 0.3303, None), strict=True)),
        "trained_r": dict(zip(_COLUMNS, (0.2324, 0.5399, 0.3865, None), strict=True)),
        "frozen": dict(zip(_COLUMNS, (0.2331, 0.5476, 0.3955, None), strict=True)),
        "rta": dict(zip(_COLUMNS, (0.2837, 0.6162, 0.4606, None), strict=True)),
        "ppr": dict(zip(_COLUMNS, (0.2992, 0.6472, 0.4795, 0.5324), strict=True)),
    },
    "Instruments": {
        "frozen_r": dict(zip(_COLUMNS, (0.1973, 0.5613, 0.3818, None), strict=True)),
        "frozen": dict(zip(_COLUMNS, (0.1948, 0.5277, 0.3673, None), strict=True)),
        "ppr": dict(zip(_COLUMNS, (0.2586, 0.6115, 0.4393, None), strict=True)),
    },
    "Games": {
        "sasrec": dict(zip(_COLUMNS, (0.1535, None, 0.2762, 0.3234), strict=True)),
        "ppr": dict(zip(_COLUMNS, (0.3282, None, 0.4887, 0.5445), strict=True)),
    },
}


def pool(folders: Sequence[str | Path]) -> dict:
    """The test tasks of several runs of one setting as one sample.

    Seeds draw their own tasks and candidates, and train their own recommenders and policies; the users are the same
    people, so the intervals resample users over all seeds together.

    Args:
        folders: Finished run folders of the same dataset and profile.

    Returns:
        {"dataset", "profile", "seeds", "n_test", "metrics": {method: ...}, "differences": {"a - b": {metric: ...}}},
        shaped as result.json.

    Raises:
        UserError: No folder, a folder without ranks, or runs of different settings.
    """
    if not folders:
        raise UserError("A report needs at least one run folder, for example runs/demo.")
    results, tables = [read_result(folder) for folder in folders], [read_ranks(folder) for folder in folders]
    settings = {(result["dataset"], result["profile"]) for result in results}
    if len(settings) > 1:
        raise UserError(f"These runs differ in dataset or profile ({sorted(settings)}); report them one by one.")
    table = pd.concat(tables, ignore_index=True)
    methods = [name for name in table.columns if name not in ("task_id", "user")]
    users = table["user"].to_numpy()
    return {
        "dataset": results[0]["dataset"],
        "profile": results[0]["profile"],
        "seeds": [result["seed"] for result in results],
        "n_test": len(table),
        "metrics": {
            name: summarize(table[name], users) | _shares(name, results, [len(t) for t in tables]) for name in methods
        },
        "differences": {
            f"{a} - {b}": {m: paired_difference(table[a], table[b], users, m) for m in ("H@1", "N@10")}
            for a, b in COMPARED
            if {a, b} <= set(methods)
        },
    }


def _shares(name: str, results: Sequence[Mapping], weights: Sequence[int]) -> dict:
    """Valid answers and calls of a method, over all tasks of all runs."""
    return {
        key: float(np.average([result["metrics"][name][key] for result in results], weights=weights))
        for key in ("valid", "calls")
    }


def markdown(pooled: Mapping) -> str:
    """The pooled table, and the paired differences under it, as Markdown."""
    seeds = ", ".join(map(str, pooled["seeds"]))
    lines = [
        f"{pooled['dataset']}, profile {pooled['profile']}, seeds {seeds}, {pooled['n_test']} test tasks.",
        "",
        "| | " + " | ".join(SHOWN) + " | N@10, 95 % interval | valid | calls |",
        "|---" * (len(SHOWN) + 4) + "|",
    ]
    for name, metrics in pooled["metrics"].items():
        low, high = metrics["ci95"]["N@10"]
        shown = " | ".join(f"{metrics[m]:.3f}" for m in SHOWN)
        told = f"{low:.3f} .. {high:.3f} | {metrics['valid']:.3f} | {metrics['calls']:.1f}"
        lines.append(f"| {name} | {shown} | {told} |")
    lines += ["", "| paired difference | H@1 | N@10 |", "|---|---|---|"]
    for pair, by_metric in pooled["differences"].items():
        cells = [f"{d['difference']:+.3f} ({d['ci95'][0]:+.3f} .. {d['ci95'][1]:+.3f})" for d in by_metric.values()]
        lines.append(f"| {pair} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)
