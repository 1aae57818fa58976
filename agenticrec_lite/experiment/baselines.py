"""What a policy is compared with: random order, recommenders, lists and weights of them, ceiling; of a store, Bayes."""

from collections.abc import Sequence

import numpy as np

from agenticrec_lite.data.tasks import RankingTask
from agenticrec_lite.evaluation import evaluate
from agenticrec_lite.evaluation.lists import best_weights, list_ranks, shown_lists, stacked, weighed_ranks
from agenticrec_lite.evaluation.metrics import summarize
from agenticrec_lite.experiment.experiment import Experiment
from agenticrec_lite.experiment.results import record, result_metrics
from agenticrec_lite.recommenders import RECOMMENDERS
from agenticrec_lite.tools import LISTS, TaskContext


def evaluate_baselines(experiment: Experiment) -> dict:
    """Random order, the recommenders and the evidence ceiling on the test tasks; of a generated store also Bayes."""
    test, run, log = experiment.test, experiment.run, experiment.log
    if not run.done("baselines"):
        toolbox, past = experiment.toolbox, log.interactions.iloc[experiment.split.fit_rows("test")]
        validation = experiment.tasks("validation", experiment.profile["evaluation"]["n_validation"])
        known = getattr(toolbox, "recommenders", {})  # the tools' own, fitted already
        with run.timer("baselines"):
            ranks = {"random": evaluate.random_ranks(test, experiment.seed)}
            for name, kind in (RECOMMENDERS | dict(experiment.extensions.recommenders)).items():
                model = known.get(name) or kind().fit(past, log.n_items, experiment.seed)
                ranks[name] = evaluate.baseline_ranks(model, test)
            ranks |= list_baselines(validation, toolbox.contexts(validation), test, experiment.test_contexts)
            ranks["ceiling"] = evaluate.ceiling_ranks(toolbox, validation, test, experiment.test_contexts)
            if log.truth:
                from agenticrec_lite.evaluation.bayes import bayes_ranks, oracle_ranks  # and DuckDB, where it is needed

                ranks |= {"bayes": bayes_ranks(test, log), "oracle": oracle_ranks(test, log)}
        run.mark("baselines", {name: values.tolist() for name, values in ranks.items()})
    for name, values in run.payload("baselines").items():
        record(experiment, name, np.array(values), summarize(values, evaluate.users_of(test)))
    return result_metrics(run)


def list_baselines(
    validation: Sequence[RankingTask], known: Sequence[TaskContext], test: Sequence[RankingTask],
    contexts: Sequence[TaskContext],
) -> dict[str, np.ndarray]:  # fmt: skip
    """Ranks of the test positives [n]: by each list, by equal weights of all, by the best weights on validation.

    Args:
        validation, known: Tasks and their contexts that the weights are chosen on.
        test, contexts: Tasks and contexts that are ranked.
    """
    lists, positives = [shown_lists(context) for context in contexts], [task.positive for task in test]
    ranks = {f"list_{name}": list_ranks(lists, positives, name) for name in LISTS.values()}
    chosen = best_weights(*stacked([shown_lists(context) for context in known]), [t.positive for t in validation])
    for name, weights in (("equal_weights", (1,) * len(LISTS)), ("fixed_weights", chosen)):
        ranks[name] = weighed_ranks(*stacked(lists), positives, weights)
    return ranks
