"""`python -m benchmarks.tune`: GRU4Rec, Caser and SASRec on validation tasks, each with the same budget.

Every configuration in CONFIGURATIONS is fitted once on the train split, with the seed SEED, and ranks the same
validation tasks; all else is as the classes' defaults have it. One thread, 17 minutes of it for both datasets. The
best of each is in the docstring of its class. (Shipped results were made with SASRec's defaults, so those stay
whatever comes out.)
"""

import argparse
import time

import torch

from agenticrec_lite.data import build_tasks, load_dataset, temporal_split
from agenticrec_lite.evaluation.metrics import ndcg, ranks_from_scores
from agenticrec_lite.recommenders import Caser, GRU4Rec, SASRec

CONFIGURATIONS = (  # of each model: epochs, learning rate, dropout
    (8, 3e-3, 0.2),
    (8, 1e-2, 0.2),
    (8, 3e-3, 0.5),
    (16, 3e-3, 0.2),
)
SEED, TASKS = 0, 1000


def tune(dataset: str) -> None:
    """Prints a row a fit, then the best configuration of each model."""
    log = load_dataset(dataset)
    split = temporal_split(log)
    tasks = build_tasks(log, split, "validation", TASKS, SEED)
    histories, candidates = [task.history for task in tasks], [task.candidates for task in tasks]
    positives, train = [task.positive for task in tasks], log.interactions.iloc[split.rows("train")]
    print(f"\n{dataset}: {len(tasks)} validation tasks, {len(CONFIGURATIONS)} configurations each, seed {SEED}\n")
    print("| model | epochs | learning rate | dropout | N@10 | CPU s |\n|---|---|---|---|---|---|", flush=True)
    best = {}
    for model in (GRU4Rec, Caser, SASRec):
        for configuration in CONFIGURATIONS:
            epochs, rate, dropout = configuration
            start = time.process_time()
            fitted = model(epochs=epochs, learning_rate=rate, dropout=dropout).fit(train, log.n_items, SEED)
            gain = ndcg(ranks_from_scores(fitted.score(histories, candidates), positives), 10)
            seconds, name = time.process_time() - start, model.__name__
            print(f"| {name} | {epochs} | {rate:g} | {dropout} | {gain:.4f} | {seconds:.0f} |", flush=True)
            best[name] = max(best.get(name, (0.0,)), (gain, *configuration))
    for name, (gain, epochs, rate, dropout) in best.items():
        print(f"best of {name}: {gain:.4f} with {epochs} epochs, learning rate {rate:g}, dropout {dropout}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("datasets", nargs="*", default=["ml-100k", "toystore"])
    torch.set_num_threads(1)
    for each in parser.parse_args().datasets:
        tune(each)
