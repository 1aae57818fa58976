"""Recommenders alone, on validation tasks: `python -m studies.recommenders OUT.json DATASET ...`.

The neural baselines with their defaults and with DRAWS random settings each, the same for every dataset, and the
recommenders of `studies.evidence`. What a default is worth, and what would be better, is read off here; the test part
is not looked at.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from agenticrec_lite.data import load_dataset
from agenticrec_lite.data.log import InteractionLog
from agenticrec_lite.data.split import temporal_split
from agenticrec_lite.data.tasks import build_tasks
from agenticrec_lite.evaluation import evaluate
from agenticrec_lite.evaluation.metrics import summarize
from agenticrec_lite.recommenders import Caser, GRU4Rec, SASRec
from agenticrec_lite.recommenders.base import Recommender
from studies import tables
from studies.evidence import RECOMMENDERS

SEED, TASKS, DRAWS = 0, 1000, 6
BASELINES = {"sasrec": SASRec, "gru4rec": GRU4Rec, "caser": Caser}
SPACE = {
    "epochs": (4, 8, 16), "learning_rate": (1e-3, 3e-3, 1e-2), "batch_size": (16, 32, 64), "width": (32, 64, 96),
    "dropout": (0.1, 0.2, 0.35, 0.5),
}  # fmt: skip
TITLE = "Recommenders alone, on validation tasks"
TEXT = (
    f"Seed {SEED}; the defaults, {DRAWS} random settings of each neural baseline, the same on every dataset, and the "
    "recommenders that the variants asks-... consult. Each is one fit; the interval is of the tasks' users."
)


def settings(name: str) -> Iterator[dict]:
    """The default, which sets nothing, then the draws."""
    rng = np.random.default_rng((SEED, list(BASELINES).index(name)))
    yield {}
    for _ in range(DRAWS):
        yield {key: values[rng.integers(len(values))] for key, values in SPACE.items()}


def contenders() -> Iterator[tuple[str, str, Callable[[InteractionLog], Recommender]]]:
    """Name, settings in words, and how to make it for a log."""
    for name, make in RECOMMENDERS.items():
        yield f"asks-{name}", "", make
    for name, kind in BASELINES.items():
        for drawn in settings(name):
            told = ", ".join(f"{key} {value:g}" for key, value in drawn.items()) or "default"
            yield name, told, lambda log, kind=kind, drawn=drawn: kind(**drawn)


def measure(dataset: str, out: Path) -> None:
    """Adds a row a contender to the table; written after each, and what is there is not measured again."""
    log = load_dataset(dataset)
    split = temporal_split(log)
    tasks, past = build_tasks(log, split, "validation", TASKS, SEED), log.interactions.iloc[split.rows("train")]
    for name, told, make in tqdm(list(contenders()), desc=dataset, unit="fit"):
        found = tables.rows(out)
        if any((row["dataset"], row["recommender"], row["settings"]) == (dataset, name, told) for row in found):
            continue
        started = time.monotonic()
        ranks = evaluate.baseline_ranks(make(log).fit(past, log.n_items, SEED), tasks)
        figures, users = summarize(ranks, evaluate.users_of(tasks)), len(set(evaluate.users_of(tasks)))
        low, high = figures["ci95"]["N@10"]
        row = {"dataset": dataset, "recommender": name, "settings": told, "tasks": len(tasks), "users": users,
               "H@1": figures["H@1"], "N@10": figures["N@10"], "low": low, "high": high,
               "seconds": time.monotonic() - started}  # fmt: skip
        tables.write(out, {"title": TITLE, "text": TEXT, "rows": [*found, row]})
        tqdm.write(f"{dataset} {name} {told}: N@10 {row['N@10']:.4f}, {row['seconds']:.0f} s")


def main(out: str, dataset: str, *more: str) -> None:
    for given in (dataset, *more):
        measure(given, Path(out))


if __name__ == "__main__":
    tables.command(main, "recommenders OUT.json DATASET ...")
