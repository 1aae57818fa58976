"""The paper's formulas against numbers worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.evaluation.metrics import ndcg
from agenticrec_lite.rewards import (
    group_advantages,
    listwise_reward,
    ndcg_at_10,
    pairwise_reward,
    refinement_reward,
    standardised_advantages,
)
from agenticrec_lite.training.mining import violation_pool

TEN = [8, 3, 15, 1, 2, 4, 5, 6, 7, 9]


def trajectory(answer=None, n_calls=1, outcome="answered"):
    return Trajectory("t", 0, "rank", [], answer=answer, n_calls=n_calls, outcome=outcome)


@pytest.mark.parametrize(
    ("positive", "n_calls", "reward"),
    [
        (8, 1, 1.1),  # first, with a tool: the bonus
        (8, 0, 1.0),  # first, without: no bonus
        (3, 2, 1 / math.log2(3)),
        (15, 0, 0.5),
        (9, 1, 1 / math.log2(11)),  # tenth
        (20, 3, -0.5),  # valid, but missed
    ],
)
def test_listwise_reward_of_a_valid_list(positive, n_calls, reward):
    assert listwise_reward(trajectory(TEN, n_calls), positive) == pytest.approx(reward)


@pytest.mark.parametrize("outcome", ["bad_turn", "bad_answer", "over_budget", "length"])
def test_anything_else_is_minus_one(outcome):
    assert listwise_reward(trajectory(None, outcome=outcome), 8) == -1
    assert pairwise_reward(trajectory(None, outcome=outcome), "A") == -1


@pytest.mark.parametrize("direction", ["more", "less"])
def test_refinement_rewards_a_letter_for_a_pair_and_a_list_for_a_ranking(direction):
    ranking, letter = trajectory(list(range(1, 11))), trajectory("A")
    letter.kind = direction
    assert refinement_reward(ranking, 2) == listwise_reward(ranking, 2) and refinement_reward(letter, "A") == 1
    assert ranking.kind == "rank"


def test_pairwise_reward():
    assert pairwise_reward(trajectory("A"), "A") == 1 and pairwise_reward(trajectory("B"), "A") == 0


def test_advantage_is_reward_minus_group_mean_without_deviation():
    advantages, dropped = group_advantages([1.1, 0.5, -0.5, -1.0, 1.0, 0.0, 0.0, 0.0], 4)
    assert advantages == pytest.approx([1.075, 0.475, -0.525, -1.025, 0.75, -0.25, -0.25, -0.25])
    assert not dropped.any()


def test_a_group_of_negative_rewards_is_dropped_even_if_it_mixes_them():
    advantages, dropped = group_advantages([-0.5, -1.0, -1.0, -1.0, 0.0, -1.0, -1.0, -1.0], 4)
    assert dropped.tolist() == [True, False]
    assert advantages == pytest.approx([0, 0, 0, 0, 0.75, -0.25, -0.25, -0.25])


def test_standardised_advantages_are_those_of_a_group_over_its_standard_deviation():
    rewards = [1.1, 0.5, -0.5, -0.5, -1.0, -0.5, -0.5, -0.5, 0.3, 0.3, 0.3, 0.3]
    plain, dropped = group_advantages(rewards, 4)
    scaled, same = standardised_advantages(rewards, 4)
    assert scaled[:4] == pytest.approx(plain[:4] / (np.std(rewards[:4], ddof=1) + 1e-4))
    assert dropped.tolist() == same.tolist() == [False, True, False] and not scaled[4:].any()


@given(st.lists(st.floats(-1, 1.1), min_size=16, max_size=16))
def test_advantages_of_a_group_sum_to_zero(rewards):
    advantages, _ = group_advantages(rewards, 8)
    assert np.abs(advantages.reshape(2, 8).sum(1)).max() < 1e-9


def test_random_lists_have_the_floor_of_the_protocol():
    floor = sum(1 / math.log2(rank + 1) for rank in range(1, 11)) / 20
    assert floor == pytest.approx(0.2272, abs=1e-4)
    rng = np.random.default_rng(0)
    mean = np.mean([ndcg_at_10((rng.permutation(20)[:10] + 1).tolist(), 1) for _ in range(4000)])
    assert mean == pytest.approx(floor, abs=0.02)


def test_the_pool_of_hard_negatives_is_what_stands_above_the_positive():
    assert violation_pool(TEN, 1) == (8, 3, 15)
    assert violation_pool(TEN, 8) == ()
    assert violation_pool(TEN, 20) == tuple(TEN)


@given(st.permutations(range(1, 21)), st.integers(1, 20))
def test_the_rewards_gain_is_the_reported_metric(order, positive):
    assert ndcg_at_10(order, positive) == pytest.approx(ndcg([order.index(positive) + 1], 10))
