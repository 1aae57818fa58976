"""The bandit of studies.bandit: rewarded as RTA is, and it finds the one list that knows."""

import numpy as np
import pytest
import torch
from test_rewards import trajectory

from agenticrec_lite.rewards import ADVANTAGES, listwise_reward
from agenticrec_lite.tools import LISTS
from studies.bandit import Tasks, beginning, learn, n10

KNOWS = list(LISTS.values()).index("session")


@pytest.fixture
def tasks() -> Tasks:
    """Lists of noise, but the session's has the positive in front in nine of ten tasks."""
    rng = np.random.default_rng(0)
    scores, positives = rng.integers(10, 90, (400, len(LISTS), 20)).astype(float), rng.integers(1, 21, 400)
    scores[np.arange(360), KNOWS, positives[:360] - 1] = 99
    return Tasks(scores, rng.permuted(np.tile(np.arange(20), (400, 1)), axis=1), positives)


def test_rewards_are_those_of_the_list_that_the_weights_make(tasks):
    rng = np.random.default_rng(1)
    for row in range(40):
        weights = rng.integers(0, 4, (3, len(LISTS)))
        for found, each in zip(tasks.rewards(row, weights), weights, strict=True):
            order = np.lexsort((tasks.places[row], -(each @ tasks.scores[row]))) + 1
            played = trajectory([int(n) for n in order[:10]], n_calls=3)
            assert found == pytest.approx(listwise_reward(played, int(tasks.positives[row])))


@pytest.mark.parametrize("name", ADVANTAGES)
def test_it_finds_the_list_that_knows(name, tasks):
    settings = {"steps": 60, "tasks_per_step": 8, "group_size": 8}
    weights = learn(tasks, torch.zeros(len(LISTS), 4), settings, ADVANTAGES[name], 0.2, 0)
    assert weights[KNOWS] == max(weights) and n10(tasks.ranks(weights)) > 0.8
    assert weights == learn(tasks, torch.zeros(len(LISTS), 4), settings, ADVANTAGES[name], 0.2, 0)


def test_it_begins_where_the_frozen_policy_does():
    answered = {"outcome": "answered", "steps": []}
    assert beginning([answered] * 9).softmax(-1)[:, 0].tolist() == pytest.approx([10 / 13] * len(LISTS))
    assert beginning([answered | {"outcome": "length"}]).softmax(-1).unique().tolist() == [0.25]
