"""Pair-wise questions as a measurement: all four forms, and log-odds that are those of the model."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from agenticrec_lite.agent.environment import RankingEnvironment
from agenticrec_lite.agent.protocol import write_answer, write_call
from agenticrec_lite.agent.record import declared_answer, evidence_of
from agenticrec_lite.agent.teacher import follow, run_script
from agenticrec_lite.evaluation.pairs import ask, deltas, four_questions, letter_log_odds, mean_interval
from agenticrec_lite.nano.worlds import random_world
from agenticrec_lite.policy import Policy
from agenticrec_lite.training.mining import HardNegative

PAIR = HardNegative("t", 4, 9, (9,))
AGENT = {"max_calls": 2, "max_turn_tokens": 20, "max_completion_tokens": 200, "batch_rows": 8, "merge": True}


def test_a_pair_is_asked_in_both_directions_and_both_orders(context):
    questions = four_questions(PAIR, context)
    assert [(q.kind, q.context.pair, q.right) for q in questions] == [
        ("more", (4, 9), "A"), ("more", (9, 4), "B"), ("less", (4, 9), "B"), ("less", (9, 4), "A"),
    ]  # fmt: skip
    assert len({q.task_id for q in questions}) == 4


def test_questions_are_played_and_rewarded(tiny, context):
    model, chat = tiny
    played = ask(Policy(model, chat.tokenizer, True), four_questions(PAIR, context), AGENT)
    assert [t.kind for t in played] == ["more", "more", "less", "less"]
    assert {t.reward for t in played} <= {-1.0, 0.0, 1.0}


def test_log_odds_are_those_of_the_model_given_what_was_written_before(tiny, context):
    model, chat = tiny
    context = replace(context, pair=(4, 9))
    prompt = chat.prompt_ids(context, "more")
    turns = [write_call("get_similar_users", {}, "I ask."), write_answer("B", "I follow users.")]
    asked = [run_script(turns, context, chat, "more", prompt), run_script(turns[1:], context, chat, "more", prompt)]
    found = letter_log_odds(Policy(model, chat.tokenizer, True), asked, batch_rows=2)
    b, a = (chat.tokenizer.convert_tokens_to_ids(letter) for letter in "BA")
    for value, trajectory in zip(found, asked, strict=True):
        ids = trajectory.completion_ids
        until = prompt + ids[: len(ids) - ids[::-1].index(b) - 1]
        with torch.no_grad():
            logits = model(torch.tensor([until])).logits[0, -1]
        assert value == pytest.approx(float(logits[a] - logits[b]), abs=1e-4)


@pytest.mark.parametrize(("kind", "letter", "word"), [("more", "A", "first"), ("less", "B", "last")])
def test_a_pair_is_answered_by_the_ends_of_the_list_that_the_thought_names(context, tiny, kind, letter, word):
    """Candidate 9 is more popular than 4 in the fixture."""
    asked = replace(context, pair=(9, 4))
    script = [write_call("candidates_analyze", {}), write_call("weigh_evidence", {"weights": "popularity 2"})]
    thought = f"Which is {kind.upper()} likely? The {word} of weighed evidence."
    answer = write_answer(letter, thought)
    played = run_script([*script, answer], asked, tiny[1], kind)
    assert declared_answer(played) == letter and evidence_of(played) == {"popularity": 2}
    taught = run_script(lambda environment: conclusion_after(environment, script), asked, tiny[1], kind)
    assert taught.answer == letter and taught.steps[-2].text == thought


def conclusion_after(environment, calls):
    """Turns of a teacher that has made these calls."""
    yield from calls
    yield follow(environment, "weighed evidence")


def test_a_list_is_held_to_the_format_and_no_answer_is_nan(tiny, context):
    model, chat = tiny
    letter = run_script([write_answer("A", "Thought.")], context, chat, "more")
    ten = run_script([write_answer(list(range(1, 11)), "Thought.")], context, chat, "more")
    silent = run_script(["<think>nothing"], context, chat, "more")
    for trajectory in (letter, ten, silent):
        trajectory.prompt_ids = chat.prompt_ids(replace(context, pair=(4, 9)), "more")
    found = letter_log_odds(Policy(model, chat.tokenizer, True), [letter, ten, silent])
    assert found[0] == pytest.approx(found[1], abs=1e-4) and np.isnan(found[2])


def test_a_liking_for_a_letter_is_no_preference(context):
    questions = four_questions(PAIR, context) * 2
    preferred = np.array([1, -1, -1, 1] * 2) * np.repeat([0.5, -2.0], 4)  # the letter of the positive, both directions
    more, less, leaning = deltas(preferred + 3.0, questions)
    np.testing.assert_allclose([more, less, leaning], [[0.5, -2.0], [0.5, -2.0], [3.0, 3.0]])
    same_letter = deltas([1.0, -1.0, 1.0, -1.0], questions[:4])  # the same item is named, whatever is asked
    np.testing.assert_allclose(np.ravel(same_letter), [1.0, -1.0, 0.0])


def test_intervals_draw_users_and_not_tasks():
    values, many = [1.0] * 50 + [0.0] * 50, list(range(100))
    mean, low, high = mean_interval(values, many)
    assert mean == 0.5 and 0.35 < low < 0.5 < high < 0.65
    assert mean_interval(values, [0] * 50 + [1] * 50)[1:] == (0.0, 1.0)


@pytest.mark.parametrize("kind", ["more", "less", "rank"])
def test_a_pair_question_is_said_once_more_after_each_observation(kind):
    world = replace(random_world(np.random.default_rng(0), 2, 4), pair=None if kind == "rank" else (3, 5))
    environment = RankingEnvironment(world, kind)
    calls = [("get_similar_users", {}), ("get_similar_users", {}), ("weigh_evidence", {"weights": "luck 1"})]
    for name, arguments in calls:  # a list, the same again, a mistake
        said = environment.step(write_call(name, arguments))
        asked = "" if kind == "rank" else f"\nWhich is {kind.upper()} likely, A or B?"
        assert said.endswith(asked) and ("Which is" in said) == bool(asked)
    assert environment.steps[-1].text == said
