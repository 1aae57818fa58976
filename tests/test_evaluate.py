"""Evaluation: the ceiling, ranks from trajectories, and the fitted tools on a small made-up log."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import approx_fprime, minimize
from scipy.special import logsumexp
from scipy.stats import chisquare

from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.data.log import make_log
from agenticrec_lite.data.split import temporal_split
from agenticrec_lite.data.tasks import build_tasks
from agenticrec_lite.evaluation import evaluate
from agenticrec_lite.evaluation.evaluate import evidence_features, fit_ceiling, random_ranks, trajectory_ranks
from agenticrec_lite.evaluation.metrics import ndcg, ranks_from_scores
from agenticrec_lite.tools import TOOLS, call_tool
from agenticrec_lite.tools.text import standardise
from agenticrec_lite.tools.toolbox import Toolbox


@pytest.fixture(scope="module")
def made_up():
    """Two tastes: half of the users take even items, half odd ones."""
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user}", f"i{2 * rng.integers(40) + user % 2}", float(rng.integers(1, 6)), 1000 * step + user)
        for user in range(60)
        for step in range(30)
    ]
    interactions = pd.DataFrame(rows, columns=["user_id", "item_id", "rating", "timestamp"])
    interactions = interactions.drop_duplicates(["user_id", "item_id"])
    items = pd.DataFrame(
        {
            "item_id": [f"i{i}" for i in range(80)],
            "title": [f"Thing {i}" for i in range(80)],
            "categories": [("odd",) if i % 2 else ("even",) for i in range(80)],
            "price": np.nan,
            "year": 2000.0,
        }
    )
    log = make_log("made-up", interactions, items)
    split = temporal_split(log)
    return log, split, Toolbox.fit(log, split.rows("train"))


def test_collaborative_evidence_knows_the_taste_of_a_user_never_seen(made_up):
    log, split, toolbox = made_up
    tasks = build_tasks(log, split, "test", 40, 0)
    parity = lambda item: int(log.items["item_id"][item][1:]) % 2  # noqa: E731
    for task, context in zip(tasks, toolbox.contexts(tasks), strict=True):
        same = np.array([parity(item) == parity(task.history[0]) for item in task.candidates])
        for evidence in (context.collaborative.similar_users(), context.collaborative.similar_items(None)):
            assert evidence.scores[same].mean() > evidence.scores[~same].mean()


def test_every_tool_speaks_about_every_task(made_up):
    log, split, toolbox = made_up
    for context in toolbox.contexts(build_tasks(log, split, "test", 10, 0)):
        for name in TOOLS:
            given = {"item_info_search": {"item_name": "1"}, "weigh_evidence": {"weights": "users 1, session 3"}}
            observation = call_tool(name, given.get(name, {}), context)
            assert observation and "Error" not in observation
        assert evidence_features(context).shape == (20, 9) and np.isfinite(evidence_features(context)).all()


def test_statistics_come_from_the_fitted_rows_only(made_up):
    log, split, toolbox = made_up
    counts = np.bincount(log.interactions["item"].iloc[split.rows("train")], minlength=log.n_items)
    assert [card.count for card in toolbox.cards] == counts.tolist()


def test_the_ceiling_recovers_the_weights_that_made_the_choices():
    rng = np.random.default_rng(1)
    features, truth = rng.normal(size=(4000, 20, 3)), np.array([2.0, -1.0, 0.0])
    chosen = (features @ truth + rng.gumbel(size=(4000, 20))).argmax(1) + 1
    assert fit_ceiling(features, chosen, penalty=0) == pytest.approx(truth, abs=0.1)


@pytest.mark.parametrize("penalty", [0.01, 0.3])
def test_the_ceiling_is_the_optimum_of_the_penalised_likelihood(penalty):
    """Against scipy without a gradient of ours, and against the condition that defines the optimum."""
    rng = np.random.default_rng(2)
    features, chosen = rng.normal(size=(200, 8, 3)), rng.integers(1, 9, size=200)
    features[np.arange(200), chosen - 1] += [1.0, -0.5, 0.0]

    def loss(weights):
        scores = features @ weights
        return np.mean(logsumexp(scores, axis=1) - scores[np.arange(200), chosen - 1]) + penalty * np.sum(weights**2)

    weights = fit_ceiling(features, chosen, penalty)
    assert weights == pytest.approx(minimize(loss, np.zeros(3), method="Nelder-Mead", tol=1e-10).x, abs=1e-4)
    assert approx_fprime(weights, loss) == pytest.approx(np.zeros(3), abs=1e-4)


def test_what_the_ceiling_reads_of_each_candidate(context):
    """The films of the fixture: counts and votes rise with the number, co-occurrence falls; odd ones are dramas."""
    features = evidence_features(context)
    rising = (np.arange(20) - 9.5) / np.arange(20).std()
    assert features[:, 0] == pytest.approx(rising) and features[:, 1] == pytest.approx(-rising)
    assert features[:, 2] == pytest.approx(standardise(np.arange(20) % 7))
    assert features[:, 5] == pytest.approx(standardise(np.log1p(np.arange(1, 21)))) and (features[:, 3:5] == 0).all()
    assert features[:, 6].argmax() == 1 and (np.sort(features[:, 7:].argsort(0)[-2:], 0) == [[0, 0], [1, 1]]).all()
    history = [replace(context.history[0], categories=("Drama",), year=1990), context.history[1]]
    seen = evidence_features(replace(context, history=history))
    assert (seen[::2, 3] > 0).all() and (seen[1::2, 3] < 0).all()


def test_the_ceiling_is_fitted_on_validation_tasks_and_no_others(made_up, monkeypatch):
    log, split, toolbox = made_up
    validation, test = (build_tasks(log, split, part, n, 0) for part, n in (("validation", 30), ("test", 20)))
    fitted = []
    monkeypatch.setattr(evaluate, "fit_ceiling", lambda *given: fitted.append(given) or np.eye(9)[0])
    ranks = evaluate.ceiling_ranks(toolbox, validation, test, toolbox.contexts(test))
    features, positives = fitted[0]
    assert len(fitted) == 1 and positives == [task.positive for task in validation]
    assert np.array_equal(features[0], evidence_features(toolbox.contexts(validation)[0]))
    by_first = [evidence_features(context)[:, 0] for context in toolbox.contexts(test)]
    assert ranks.tolist() == ranks_from_scores(np.stack(by_first), [task.positive for task in test]).tolist()


def test_a_missing_positive_and_an_invalid_answer_have_no_rank(made_up):
    log, split, _ = made_up
    tasks = build_tasks(log, split, "test", 3, 0)
    others = [n for n in range(1, 21) if n != tasks[1].positive][:10]
    first = [tasks[0].positive, *(n for n in range(1, 21) if n != tasks[0].positive)][:10]
    answers = [("answered", first), ("answered", others), ("bad_turn", None)]
    played = [
        Trajectory(task.task_id, 0, "rank", [], answer=answer, outcome=outcome)
        for task, (outcome, answer) in zip(tasks, answers, strict=True)
    ]
    assert trajectory_ranks(played, tasks).tolist() == [1, np.inf, np.inf]


def test_random_ranks_have_the_floor(made_up):
    log, split, _ = made_up
    tasks = list(build_tasks(log, split, "train_late", None, 0)) * 20
    assert ndcg(random_ranks(tasks, 0), 10) == pytest.approx(0.227, abs=0.02)


def test_random_ranks_are_uniform_and_seeded(made_up):
    log, split, _ = made_up
    tasks = list(build_tasks(log, split, "train_late", None, 0)) * 20
    ranks = random_ranks(tasks, 0)
    counts = np.bincount(ranks.astype(int), minlength=21)
    assert counts[0] == 0 and len(counts) == 21 and chisquare(counts[1:]).pvalue > 0.001
    assert np.array_equal(ranks, random_ranks(tasks, 0)) and not np.array_equal(ranks, random_ranks(tasks, 1))
