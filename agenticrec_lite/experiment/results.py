"""A run's results: the figures of each method, the table of them, and what a finished run leaves."""

import numpy as np
import pandas as pd

from agenticrec_lite.errors import UserError
from agenticrec_lite.evaluation import evaluate
from agenticrec_lite.evaluation.metrics import paired_difference, summarize
from agenticrec_lite.experiment.experiment import Experiment
from agenticrec_lite.methods import compared, is_part, ordered
from agenticrec_lite.runs import Run


def record(experiment: Experiment, name: str, ranks: np.ndarray, metrics: dict) -> None:
    """Put one method's figures into result.json."""
    experiment.ranks[name] = ranks
    metrics_by_name = result_metrics(experiment.run) | {name: metrics}
    experiment.run.write_result(metrics={key: metrics_by_name[key] for key in ordered(metrics_by_name)})


def result_metrics(run: Run) -> dict:
    return run.result.get("metrics", {})


def results_table(run: Run) -> pd.DataFrame:
    """The methods measured so far, a row each; 95 % intervals in brackets."""
    rows = {}
    for name, figures in result_metrics(run).items():
        if not is_part(name):
            rows[name] = {
                metric: "{:.3f} [{:.3f}, {:.3f}]".format(figures[metric], *figures["ci95"][metric])
                for metric in ("H@1", "H@5", "N@10")
            } | {"valid": f"{figures['valid']:.1%}", "calls": f"{figures['calls']:.1f}"}
    return pd.DataFrame(rows).T


def figures_again(experiment: Experiment, stage: str, ranks: np.ndarray) -> dict:
    """The figures of a policy out of what is logged of its evaluation.

    Raises:
        UserError: the trajectories are lost, too.
    """
    rows, test = experiment.logged(stage), experiment.test
    if len(rows) != len(test):
        folder = experiment.run.folder
        raise UserError(f"{folder} has lost result.json and the trajectories of {stage}; put back one of them.")
    shares = {"valid": [row["outcome"] == "answered" for row in rows], "calls": [row["n_calls"] for row in rows]}
    return summarize(ranks, evaluate.users_of(test), **shares)


def finish(experiment: Experiment) -> dict:
    """Ranks task by task, paired comparisons, and the run's result."""
    test, ranks = experiment.test, experiment.ranks
    users = evaluate.users_of(test)
    table = pd.DataFrame({"task_id": [task.task_id for task in test], "user": users})
    experiment.run.write_ranks(table.assign(**{name: ranks[name] for name in ordered(ranks)}))
    differences = {
        f"{a} - {b}": {m: paired_difference(ranks[a], ranks[b], users, m) for m in ("H@1", "N@10")}
        for a, b in compared(ranks)
    }
    experiment.run.write_result(differences=differences)
    return experiment.run.result
