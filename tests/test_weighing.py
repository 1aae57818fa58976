"""What studies.weighing counts, on trajectories written by hand."""

import numpy as np
import pandas as pd
import pytest

from agenticrec_lite.agent.trajectory import Step, Trajectory
from studies.weighing import by_sentence, differences, rests_on

PLEASED, LET_DOWN = "Last rated 5 stars: pleased.", "Last rated 2 stars: let down."


def played(weights: str, told: str = "", thought: str = "I weigh.", outcome: str = "answered") -> dict:
    """Lists of users, items and popularity, a sentence if there is one, weights, and an answer that follows them."""
    tools = {"users": "get_similar_users", "items": "get_similar_items", "popularity": "candidates_analyze"}
    steps = []
    for name in [name for name in tools if name in weights]:
        steps += [Step("call", "", tools[name], {}), Step("observation", f"Candidates by {name}: 2:60, 1:40")]
    if told:
        steps += [Step("call", "", "get_rating_behavior", {}), Step("observation", f"High: h1. {told}")]
    steps += [
        Step("think", thought), Step("call", "", "weigh_evidence", {"weights": weights}),
        Step("observation", "Candidates by weighed evidence: 2, 1"), Step("think", "I follow weighed evidence."),
    ]  # fmt: skip
    return Trajectory("t", 0, "rank", [], [], steps=steps, outcome=outcome, n_calls=len(steps) // 2).row()


def rule(pleased: str, let_down: str, mood: str, first: str) -> str:
    return f"{pleased} if pleased, {let_down} if let down. User {mood}: {first} 3."


ROWS = [
    played("users 3, items 3"), played("users 2, items 1"), played("users 1"), played("users 9", outcome="bad_turn"),
    played("users 3", PLEASED, rule("users", "popularity", "pleased", "users")),
    played("popularity 3, items 1", LET_DOWN, rule("users", "popularity", "let down", "popularity")),
    played("items 3", LET_DOWN, rule("users", "items", "let down", "items")),
]  # fmt: skip


def test_what_answers_rest_on():
    found = rests_on(ROWS)
    assert found["n"] == 7 and found["valid"] == 6 / 7
    assert found["weights"]["users"] == pytest.approx((3 + 2 + 1 + 3) / 6) and found["weights"]["session"] == 0
    assert found["called"]["candidates_analyze"] == 1 / 6 and found["called"]["weigh_evidence"] == 1
    assert found["good"] == 2 / 6  # one list alone is not weighed, popularity is none of the good ones
    assert found["rules"] == [
        ["users if pleased, popularity if let down", 2 / 3], ["users if pleased, items if let down", 1 / 3],
    ]  # fmt: skip
    assert dict(map(tuple, found["commonest"]))["items 3, users 3"] == 1 / 6


def test_answers_are_told_apart_by_the_mood_that_they_were_told():
    found = by_sentence(ROWS)
    assert {mood: part["n"] for mood, part in found.items()} == {"pleased": 1, "let down": 2, "None": 4}
    assert found["let down"]["weights"]["popularity"] == 1.5 and found["pleased"]["weights"]["popularity"] == 0


def test_differences_are_paired_and_resample_users():
    ranks = pd.DataFrame({"task_id": range(40), "user": np.arange(40) // 2, "rta": 1.0, "users": [1.0, np.nan] * 20})
    difference, low, high = differences(ranks, "rta")["users"]
    assert difference == low == high == 0.5  # each user has one task that users misses, so no draw of users differs
