"""What is sampled and what is recorded: both follow softmax(logits / temperature), and training computes the same."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch.distributions import Categorical

from agenticrec_lite.agent.environment import RankingEnvironment
from agenticrec_lite.agent.episodes import Group, Sampling
from agenticrec_lite.agent.rollout import rollout
from agenticrec_lite.agent.scoring import action_logprobs, pad, token_logprobs
from agenticrec_lite.nano.worlds import random_world

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5])
NOTHING = -torch.inf


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draws(n, seed=0):
    return torch.rand(n, generator=seeded(seed))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_the_softmax_says(temperature):
    """Chi-square of 40,000 draws: one row each, all in one batch, so that rows must draw independently."""
    n = 40_000
    tokens, _ = Sampling(temperature).choose(LOGITS.repeat(n, 1), draws(n))
    weights = np.exp(LOGITS.numpy().astype(float) / temperature)
    counts = np.bincount(tokens, minlength=len(weights))
    assert stats.chisquare(counts, n * weights / weights.sum()).pvalue > 0.001


@given(st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=9), st.floats(0.1, 5), st.integers(0, 99))
def test_the_recorded_log_probability_is_that_of_the_chosen_token(logits, temperature, seed):
    rows = torch.tensor([logits, logits[::-1]])
    tokens, recorded = Sampling(temperature).choose(rows, draws(2, seed))
    torch.testing.assert_close(recorded, Categorical(logits=rows / temperature).log_prob(tokens), atol=1e-4, rtol=1e-4)


def test_greedy_takes_the_likeliest_token_and_records_the_unscaled_log_probability():
    rows = torch.stack([LOGITS, LOGITS.flip(0)])
    tokens, recorded = Sampling(0).choose(rows)
    assert tokens.tolist() == [0, 4]
    torch.testing.assert_close(recorded, Categorical(logits=rows).log_prob(tokens))


def test_a_token_without_probability_is_never_written():
    """At both ends of what a random number can be: 0, and the last one below 1."""
    assert Sampling(1.0).choose(torch.tensor([[NOTHING, 0.0, 1.0]]), torch.zeros(1))[0].tolist() == [1]
    rows = torch.randn(64, 50_000, generator=seeded())
    rows[:, -10:] = NOTHING  # the float sum of so many probabilities is a little less than 1 in some rows
    assert Sampling(1.0).choose(rows, torch.full((64,), 1 - 2.0**-24))[1].isfinite().all()


def test_logits_that_are_not_finite_still_give_a_token():
    """The trainer then sees that nothing is finite, and says so; an index error would say nothing."""
    tokens, recorded = Sampling(1.0).choose(torch.full((2, 5), torch.nan), draws(2))
    assert all(0 <= token < 5 for token in tokens.tolist()) and recorded.isnan().all()


def test_decoding_is_as_the_profile_says():
    agent = {"max_turn_tokens": 7, "max_completion_tokens": 80, "batch_rows": 9, "merge": True, "max_calls": 3}
    assert Sampling.of(agent, 0.6) == Sampling(0.6, 7, 80, 9, True)


@pytest.mark.parametrize("temperature", [0.7, 1.5])
def test_the_engine_records_what_training_computes(tiny, temperature):
    """On policy, the ratio of the two is 1, at every temperature."""
    model, chat = tiny
    worlds = [random_world(np.random.default_rng(i), 5, 8) for i in range(2)]
    groups = [
        Group(f"w{i}", chat.prompt_ids(w), [RankingEnvironment(w) for _ in range(3)]) for i, w in enumerate(worlds)
    ]
    played = rollout(model, chat, groups, Sampling(temperature, 15), seeded(1))
    prompts = pad([group.prompt_ids for group in groups], 0, left=True)
    completions = pad([t.completion_ids for t in played], 0)
    actions = pad([t.action_mask for t in played], 0)[0].bool()
    group_of = torch.tensor([t.group for t in played])
    with torch.no_grad():
        computed, _ = action_logprobs(model, *prompts, *completions, actions, group_of, temperature=temperature)
    recorded = [p for t in played for p, own in zip(t.logprobs, t.action_mask, strict=True) if own]
    torch.testing.assert_close(computed, torch.tensor(recorded), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_log_probability_and_entropy_are_those_of_the_categorical_distribution(tiny, temperature):
    model = tiny[0]
    head = model.get_output_embeddings()
    states = 3 * torch.randn(6, head.weight.shape[1], generator=seeded())
    targets = torch.arange(6) * 11
    expected = Categorical(logits=head(states).float() / temperature)
    found, entropies = token_logprobs(model, states, targets, temperature)
    torch.testing.assert_close(found, expected.log_prob(targets), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(entropies, expected.entropy(), atol=1e-4, rtol=1e-4)
    assert found.requires_grad and not entropies.requires_grad
