"""`python -m benchmarks.catalogue [--items N ...] [--out FILE.json]`: what a large catalogue costs.

Generates logs with 1 user and 20 interactions an item, from 20,000 to 1,000,000 items; items are taken by a power law.
Measures, each size in a process of its own: making the log object and its tasks, everything of `Toolbox.fit` but the
sequential recommender, a task, a context, the two collaborative tools, and 50 training steps of SASRec. One thread.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ROOT = Path(__file__).parents[1]
ITEMS = (20_000, 100_000, 300_000, 1_000_000)
PER_USER = 20  # interactions, on average
TASKS, STEPS = 200, 50


class ByPopularity:
    """Stands in for the sequential recommender: scores are counts, embeddings are random."""

    def fit(self, interactions: pd.DataFrame, n_items: int, seed: int = 0) -> "ByPopularity":
        self.counts = np.bincount(interactions["item"], minlength=n_items).astype(np.float32)
        self.item_embeddings = np.random.default_rng(seed).normal(size=(n_items, 64)).astype(np.float32)
        return self

    def score(self, histories: Sequence[Sequence[int]], candidates: Sequence[Sequence[int]]) -> np.ndarray:
        return self.counts[np.asarray(candidates)]


def generate(n_items: int, seed: int = 0):
    """A log of as many users as items: an item's chance falls as 1 / (its rank + 100) ** 0.8; users take 20 items on
    average, geometrically many, at random times of a year of their own; titles and categories are short."""
    from agenticrec_lite.data.log import InteractionLog

    rng, n_users, n = np.random.default_rng(seed), n_items, PER_USER * n_items
    per_user = rng.multinomial(n - n_users, rng.dirichlet(np.ones(n_users))) + 1
    users = np.repeat(np.arange(n_users, dtype=np.int32), per_user)
    chances = np.cumsum((np.arange(n_items) + 100.0) ** -0.8)
    ranks = np.searchsorted(chances, rng.random(n) * chances[-1])
    items = rng.permutation(n_items).astype(np.int32)[ranks]
    seconds = 10**9 + rng.integers(0, 9 * 31_536_000, size=n_users)[users] + rng.integers(0, 31_536_000, size=n)
    order = np.argsort(seconds, kind="stable")
    interactions = pd.DataFrame({
        "user": users[order], "item": items[order], "timestamp": seconds[order],
        "rating": rng.integers(1, 6, size=n).astype(np.float32),
    })[["user", "item", "rating", "timestamp"]]  # fmt: skip
    described = pd.DataFrame({
        "item_id": [f"i{i:07d}" for i in range(n_items)], "title": [f"Thing {i}" for i in range(n_items)],
        "categories": [("Things",)] * n_items, "price": 1.0, "year": np.nan,
    })  # fmt: skip
    return InteractionLog("generated", interactions, described, np.array([f"u{u:07d}" for u in range(n_users)], object))


class Meter:
    """CPU seconds, so that other work on the machine does not count, and peak memory, by name."""

    def __init__(self):
        self.found: dict[str, float] = {}

    def once(self, name: str, work: Callable[[], Any]) -> Any:
        """What `work` returns; its seconds, and the most gigabytes that this process ever held."""
        start = time.process_time()
        result = work()
        self.found[f"{name}, s"] = round(time.process_time() - start, 2)
        self.found[f"{name}, peak GB"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
        return result

    def each(self, name: str, work: Callable[[Any], Any], arguments: Sequence) -> list:
        """What `work` returns of each argument; mean and 95th percentile of its milliseconds."""
        seconds, results = [], []
        for argument in arguments:
            start = time.process_time()
            results.append(work(argument))
            seconds.append(time.process_time() - start)
        self.found[f"{name}, ms"] = round(1e3 * float(np.mean(seconds)), 2)
        self.found[f"{name}, p95 ms"] = round(1e3 * float(np.quantile(seconds, 0.95)), 2)
        return results


def measure(n_items: int) -> dict[str, float]:
    """All figures of one size, of this process."""
    import torch

    from agenticrec_lite.data import temporal_split

    torch.set_num_threads(1)
    meter = Meter()
    log = meter.once("log", lambda: generate(n_items))
    meter.once("its digest", log.digest)
    split = temporal_split(log)
    measure_evidence(meter, log, split)
    measure_training(meter, log.interactions.iloc[split.rows("train")], n_items)
    return {"items": n_items, **meter.found}


def measure_evidence(meter: Meter, log, split) -> None:
    from agenticrec_lite.data import build_tasks
    from agenticrec_lite.tools import call_tool
    from agenticrec_lite.tools.toolbox import Toolbox

    drawn = meter.once("tasks laid out", lambda: build_tasks(log, split, "test", TASKS, 0))
    box = meter.once("fit but the sequential", lambda: Toolbox.fit(log, split.rows("train"), sequential=ByPopularity()))
    meter.once("users of items", lambda: (box.taken_columns, box.user_sizes, box.item_sizes))
    tasks = meter.each("a task", lambda place: drawn[place], range(len(drawn)))
    contexts = meter.each("a context", lambda task: box.contexts([task])[0], tasks)
    meter.each("ItemKNN's scores", lambda task: box.itemknn.score([task.history], [task.candidates]), tasks)
    for name in ("get_similar_users", "get_similar_items"):
        meter.each(name, lambda context, name=name: call_tool(name, {}, context), contexts)


def measure_training(meter: Meter, past: pd.DataFrame, n_items: int) -> None:
    from agenticrec_lite.recommenders import SASRec
    from agenticrec_lite.recommenders.sequential import _Sequences

    sequences = meter.once("users' sequences", lambda: _Sequences(past, n_items))
    meter.once("windows of an epoch", lambda: sequences.cut(50, np.random.default_rng(0)))
    model = SASRec(epochs=1)
    few = past[past["user"] < STEPS * model.batch_size]  # about one window a user
    meter.once(f"SASRec begun, and {STEPS} steps", lambda: model.fit(few, n_items))


def table(rows: Sequence[dict]) -> str:
    """Markdown, a line a figure and a column a size."""
    lines = [["", *(f"{row['items']:,} items" for row in rows)], ["---"] * (len(rows) + 1)]
    lines += [[name, *(f"{row[name]:,}" for row in rows)] for name in rows[0] if name != "items"]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(items: Sequence[int], out: Path | None) -> None:
    rows = []
    for n_items in items:
        command = [sys.executable, "-m", "benchmarks.catalogue", "--measure", str(n_items)]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
    print(f"\n{table(rows)}")
    if out:
        out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--items", type=int, nargs="+", default=ITEMS)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
    else:
        main(arguments.items, arguments.out)
