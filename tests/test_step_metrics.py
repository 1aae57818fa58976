"""A row of metrics.csv, figure by figure, against counts made by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenticrec_lite.agent.question import Question
from agenticrec_lite.agent.trajectory import Step, Trajectory
from agenticrec_lite.tools import LISTS
from agenticrec_lite.training.metrics import split_variance, step_metrics, trajectory_rows


def trajectory(reward, calls=(), outcome="answered", question="rank", actions=2, observed=1):
    """Each call has its observation; action tokens have log-probability -0.5, observed ones 0."""
    steps = [Step(kind, "", tool) for tool in calls for kind in ("call", "observation")]
    return Trajectory(
        "t", 0, question, [], [9] * (actions + observed), [1] * actions + [0] * observed,
        [-0.5] * actions + [0.0] * observed, steps, None, outcome, len(calls), reward,
    )  # fmt: skip


GROUPS = [
    trajectory(1.1, ["users", "users"]), trajectory(0.0), trajectory(-1.0, ["items"], "bad_turn", actions=6),
    trajectory(-1.0, outcome="length"), trajectory(-1.0, outcome="bad_turn"), trajectory(-1.0, outcome="bad_turn"),
    trajectory(0.5), trajectory(0.5), trajectory(0.5, ["items"]),
]  # fmt: skip


def test_every_figure_by_hand():
    row = step_metrics(GROUPS, 3, ["users", "items", "never"])
    expected = {
        "reward_mean": (1.1 - 1 - 3 + 1.5) / 9,
        "reward_max": (1.1 - 1 + 0.5) / 3,  # of the best of each group
        "right": 4 / 9,
        "valid": 5 / 9,
        "calls": 4 / 9,
        "positive_with_tool": 2 / 4,
        "protocol_variance": (2 * (0.55 + 1) ** 2 / 9) / 3,  # of the first group alone: valid mean .55, invalid -1
        "evidence_variance": (2 * 0.55**2 / 3) / 3,
        **dict.fromkeys([f"weight_{name}" for name in LISTS.values()], 0.0),
        "zero_advantage": 2 / 3,  # all rewards of a group alike, whatever they are
        "dropped_groups": 1 / 3,  # all rewards negative
        "completion_tokens": (9 * 3 + 4) / 9,
        "action_tokens": (9 * 2 + 4) / 9,
        "entropy": 0.5,
        "tool_users": 2 / 9,
        "tool_items": 2 / 9,
        "tool_never": 0.0,
        "outcome_answered": 5 / 9,
        "outcome_bad_turn": 3 / 9,
        "outcome_length": 1 / 9,
    }
    assert row == pytest.approx(expected)


@given(st.lists(st.tuples(st.floats(-1, 1.1), st.booleans()), min_size=8, max_size=8))
def test_the_two_variances_add_up_to_the_whole(drawn):
    rewards, valid = (np.array(column).reshape(-1, 4) for column in zip(*drawn, strict=True))
    protocol, evidence = split_variance(rewards, valid)
    assert protocol + evidence == pytest.approx(rewards.var(1).mean()) and evidence >= 0 and protocol >= -1e-12
    alike = np.ones_like(valid)
    assert split_variance(rewards, alike) == pytest.approx((0.0, rewards.var(1).mean()))


def weighing(weights: str, source: str = "weighed evidence", outcome: str = "answered", said: str = "") -> Trajectory:
    """Lists of users and items, weights, and an answer that follows `source`."""
    played = trajectory(0.5, outcome=outcome)
    played.steps = [
        Step("call", "", "get_similar_users", {}), Step("observation", "Candidates by users: 2:60, 1:40"),
        Step("call", "", "weigh_evidence", {"weights": weights}),
        Step("observation", said or "Candidates by weighed evidence: 2, 1"), Step("think", f"I follow {source}."),
    ]  # fmt: skip
    return played


def test_mean_weights_are_of_what_valid_answers_follow():
    """3 and 1 of users are weighed, 1 is copied; a failed weighing and an invalid trajectory count nothing."""
    group = [
        weighing("users 3, items 1"), weighing("users 1, items 0, novelty 2"), weighing("users 2", source="users"),
        weighing("items 3", said="Error: no list 'items' has been shown; shown so far: users."),
        weighing("users 3", outcome="bad_turn"),
    ]  # fmt: skip
    row = step_metrics(group, 5)
    assert {name: row[f"weight_{name}"] for name in ("users", "items", "session", "novelty")} == {
        "users": 5 / 4, "items": 1 / 4, "session": 0, "novelty": 2 / 4,
    }  # fmt: skip


def test_weights_are_told_apart_by_the_mood_that_a_tool_has_told():
    def told(weights: str, sentence: str) -> Trajectory:
        played = weighing(weights)
        played.steps = [Step("call", "", "get_rating_behavior", {}), Step("observation", sentence), *played.steps]
        return played

    group = [
        told("users 3, items 1", "High: h1. Last rated 5 stars: pleased."), weighing("users 2, items 2"),
        told("users 1, items 1", "Low: h1. Last rated 1 star: let down."), told("users 0, items 3", "Last not rated."),
        told("users 3, items 2", "Low: h1. Last rated 2.5 stars: let down."),
    ]  # fmt: skip
    row = step_metrics(group, 5)
    assert (row["pleased_users"], row["pleased_items"]) == (3, 1)
    assert (row["let_down_users"], row["let_down_items"], row["let_down_session"]) == (2, 1.5, 0)
    assert row["weight_users"] == 9 / 5
    assert not any(name.startswith(("pleased", "let_down")) for name in step_metrics([weighing("users 1")], 1))


def test_pairs_have_figures_of_their_own():
    played = [
        trajectory(1.0, question="more"), trajectory(-1.0, question="less", outcome="bad_answer"), trajectory(0.25),
        trajectory(0.25),
    ]  # fmt: skip
    row = step_metrics(played, 2)
    assert (row["reward_pairs"], row["valid_pairs"], row["valid"]) == (0.0, 0.5, 0.75)
    assert "reward_pairs" not in step_metrics(played[2:], 2)


def test_a_step_without_a_right_answer_or_an_action_has_no_share_of_them():
    row = step_metrics([trajectory(-1.0, outcome="length", actions=0, observed=0)], 1)
    assert row["positive_with_tool"] is None and row["entropy"] is None


def test_a_logged_trajectory_knows_its_question():
    played = trajectory(0.5)
    played.task_id = "b"
    questions = {name: Question(name, None, "rank", right, (right, 8)) for name, right in (("a", 3), ("b", 4))}
    (row,) = trajectory_rows([played], questions, "rta", 7, 2)
    wanted = {"step": 7, "stage": "rta", "seed": 2, "positive": 4, "candidates": (4, 8), "task_id": "b", "reward": 0.5}
    assert wanted.items() <= row.items() and "completion_ids" not in row
