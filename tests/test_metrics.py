"""Metrics by hand and against ir-measures; intervals against what resampling users must give."""

import time

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import Success, nDCG

from agenticrec_lite.evaluation.metrics import (
    gains,
    hit_rate,
    ndcg,
    paired_difference,
    ranks_from_scores,
    summarize,
)

KEYS = {"H@1", "H@5", "H@10", "N@1", "N@5", "N@10", "valid", "calls", "ci95"}
RANKS = st.lists(st.one_of(st.integers(1, 20), st.just(np.inf)), min_size=1, max_size=12)


def test_by_hand():
    ranks = [1, 3, 7, np.inf]
    assert hit_rate(ranks, 1) == 1 / 4 and hit_rate(ranks, 5) == 2 / 4 and hit_rate(ranks, 10) == 3 / 4
    assert ndcg(ranks, 1) == 1 / 4
    assert ndcg(ranks, 5) == pytest.approx((1 + 1 / 2) / 4)
    assert ndcg(ranks, 10) == pytest.approx((1 + 1 / 2 + 1 / 3) / 4)
    assert hit_rate([10], 10) == 1 and hit_rate([11], 10) == 0


@settings(max_examples=60)
@given(RANKS, st.sampled_from([1, 5, 10]))
def test_ir_measures_agrees(ranks, k):
    relevant = {str(task): {"positive": 1} for task in range(len(ranks))}
    lists = {}
    for task, rank in enumerate(ranks):
        items = ["positive" if place == rank else f"negative{place}" for place in range(1, 21)]
        lists[str(task)] = {item: 100.0 - place for place, item in enumerate(items)}
    oracle = ir_measures.calc_aggregate([Success @ k, nDCG @ k], relevant, lists)
    assert hit_rate(ranks, k) == pytest.approx(oracle[Success @ k])
    assert ndcg(ranks, k) == pytest.approx(oracle[nDCG @ k])


def test_a_random_order_of_20_gives_the_known_floor():
    ranks = np.arange(1, 21)
    assert [hit_rate(ranks, k) for k in (1, 5, 10)] == [0.05, 0.25, 0.5]
    assert ndcg(ranks, 10) == pytest.approx(0.227, abs=0.0005)


@pytest.mark.parametrize("metric", ["H", "H@", "M@5", "N@-1", "N@x"])
def test_an_unknown_metric_is_an_error(metric):
    with pytest.raises(ValueError, match="no metric"):
        gains([1], metric)


@pytest.mark.parametrize("ranks", [[0], [1, np.nan], [-np.inf]])
def test_a_rank_below_one_is_an_error(ranks):
    with pytest.raises(ValueError, match="start at 1"):
        hit_rate(ranks, 5)


def test_ranks_from_scores():
    scores = [[0.1, 0.9, 0.5], [0.1, 0.9, 0.5], [2.0, 2.0, 2.0], [-1e4, np.finfo(np.float32).min, 0.0]]
    assert ranks_from_scores(scores, [1, 2, 3, 2]).tolist() == [3, 1, 3, 3]


@given(st.lists(st.integers(0, 3), min_size=2, max_size=40), st.data())
def test_a_rank_counts_what_is_better_and_what_is_equal_and_shown_before(scores, data):
    place = data.draw(st.integers(1, len(scores)))
    own = scores[place - 1]
    before = sum(score > own for score in scores) + sum(score == own for score in scores[: place - 1])
    assert ranks_from_scores([scores], [place]).tolist() == [before + 1]


def test_equal_scores_favour_nobody():
    places = np.random.default_rng(0).integers(1, 21, size=20_000)
    assert ranks_from_scores(np.ones((20_000, 20)), places).mean() == pytest.approx(10.5, abs=0.2)


def test_summary_of_a_method():
    summary = summarize([1, 2, np.inf, 6], users=[0, 0, 1, 2], valid=[1, 1, 0, 1], calls=[2, 4, 0, 2])
    assert set(summary) == KEYS
    assert set(summary["ci95"]) == KEYS - {"valid", "calls", "ci95"}
    assert (summary["H@1"], summary["H@5"], summary["H@10"]) == (0.25, 0.5, 0.75)
    assert summary["N@10"] == ndcg([1, 2, np.inf, 6], 10) and summary["N@1"] == summary["H@1"]
    assert (summary["valid"], summary["calls"]) == (0.75, 2.0)
    for metric, (low, high) in summary["ci95"].items():
        assert 0 <= low <= summary[metric] <= high <= 1
        assert type(low) is float and type(summary[metric]) is float, "must go into JSON"


def test_a_recommender_always_answers_and_calls_nothing():
    summary = summarize([1, 2], users=["a", "b"])
    assert (summary["valid"], summary["calls"]) == (1.0, 0.0)


def clustered(seed=0, n_users=150, n_tasks=10):
    """Tasks of one user share their difficulty entirely: 150 independent draws, not 1,500."""
    users = np.repeat(np.arange(n_users), n_tasks)
    return np.random.default_rng(seed).integers(1, 21, n_users)[users], users


def width(interval):
    return interval[1] - interval[0]


def test_users_are_resampled_not_tasks():
    ranks, users = clustered()
    by_user = width(summarize(ranks, users)["ci95"]["N@10"])
    naive = width(summarize(ranks, np.arange(len(ranks)))["ci95"]["N@10"])
    assert by_user / naive == pytest.approx(np.sqrt(10), rel=0.15)


def test_users_with_more_tasks_weigh_more_and_cannot_widen_what_is_constant():
    """The mean of a resample divides by the tasks that were drawn, not by those there are."""
    low, high = summarize([3] * 111, users=[0] * 100 + [1] * 10 + [2])["ci95"]["N@10"]
    assert low == pytest.approx(0.5) and high == pytest.approx(0.5)


def test_the_interval_has_the_width_that_theory_gives():
    ranks, users = clustered()
    own = gains(ranks[::10], "N@10")  # one value a user, and all users have as many tasks
    theory = 2 * 1.96 * own.std() / np.sqrt(len(own))
    assert width(summarize(ranks, users)["ci95"]["N@10"]) == pytest.approx(theory, rel=0.1)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    truth = ndcg(np.arange(1, 21), 10)
    inside = 0
    for seed in range(200):
        low, high = summarize(*clustered(seed, n_users=60, n_tasks=3))["ci95"]["N@10"]
        inside += low <= truth <= high
    assert 0.89 < inside / 200 < 0.99


def test_intervals_are_seeded_and_blind_to_names_and_order():
    ranks, users = clustered(n_users=30)
    base = summarize(ranks, users)
    assert summarize(ranks, users) == base
    assert summarize(ranks, users, seed=1)["ci95"] != base["ci95"]
    backwards = summarize(ranks[::-1], [f"user{user:03d}" for user in users[::-1]])
    np.testing.assert_allclose(list(backwards["ci95"].values()), list(base["ci95"].values()))


def test_paired_difference():
    ranks, users = clustered()
    better = np.maximum(ranks - 1, 1)
    result = paired_difference(better, ranks, users, "N@10")
    assert result["difference"] == pytest.approx(ndcg(better, 10) - ndcg(ranks, 10))
    low, high = result["ci95"]
    assert 0 < low < result["difference"] < high
    swapped = paired_difference(ranks, better, users, "N@10")
    assert swapped["difference"] == -result["difference"]
    np.testing.assert_allclose(swapped["ci95"], [-high, -low])
    assert width(result["ci95"]) < 0.5 * width(summarize(ranks, users)["ci95"]["N@10"]), "pairing narrows"
    assert paired_difference(ranks, ranks, users, "H@1") == {"difference": 0.0, "ci95": [0.0, 0.0]}


def test_ranks_and_users_must_belong_together():
    with pytest.raises(ValueError, match="2 ranks, but 3 users"):
        summarize([1, 2], users=[0, 1, 2])


def test_two_thousand_tasks_take_less_than_a_second():
    ranks, users = clustered(n_users=200)
    start = time.process_time()
    summarize(ranks, users)
    assert len(ranks) == 2000 and time.process_time() - start < 1
