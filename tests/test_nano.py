"""Generated worlds and scripted teachers: valid, varied, and faithful to the evidence."""

import re

import numpy as np
import pytest

from agenticrec_lite.agent.environment import RankingEnvironment
from agenticrec_lite.tools.text import shown_scores
from agenticrec_lite.training.nano.pretrain import CALLS, Recipe, cross_entropy, lesson, phase_is_over
from agenticrec_lite.training.nano.teacher import (
    ORDERING,
    Script,
    choose_sources,
    play,
    ranking,
    scripted_pair,
    scripted_ranking,
)
from agenticrec_lite.training.nano.worlds import random_world


def test_every_script_of_every_world_is_a_valid_trajectory(tiny):
    chat, rng = tiny[1], np.random.default_rng(0)
    kinds = set()
    for _ in range(60):
        world = random_world(rng)
        for n_calls in (0, 1, 3, 5):
            trajectory = play(scripted_ranking(world, rng, n_calls, fuse=0.5), world, chat)
            assert trajectory.outcome == "answered" and trajectory.n_calls == n_calls
            kinds |= {step.tool for step in trajectory.steps if step.kind == "call"}
            kinds.add(re.search("keep|follow|fuse", trajectory.steps[-2].text)[0])
            for question in ("more", "less"):
                environment = RankingEnvironment(world, question)
                for turn in scripted_pair(world, rng, question, (3, 9), n_calls):
                    environment.step(turn)
                assert environment.answer in ("A", "B")
    assert len(kinds) == 7 + 3


def test_following_copies_the_list_that_was_shown():
    rng = np.random.default_rng(1)
    for _ in range(30):
        world = random_world(rng)
        call, answer = scripted_ranking(world, rng, 1, ORDERING)
        environment = RankingEnvironment(world)
        shown = [int(n) for n in re.findall(r" (\d+):\d\d\b", environment.step(call).split("Candidates by")[1])]
        if "follow" in answer:
            environment.step(answer)
            assert environment.answer == shown[:10]


def test_fusing_takes_two_orders_in_turn_and_skips_what_is_in_already():
    users, items = np.array([4.0, 3.0, 2.0, 1.0]), np.array([1.0, 4.0, 2.0, 3.0])
    assert ranking([users]) == [1, 2, 3, 4]
    assert ranking([users, items]) == [2, 1, 4, 3]  # items begin: 2; users: 1; items: 4; users: 2 is in, so 3
    assert ranking([items, users]) == [1, 2, 4, 3]


def test_teachers_fuse_what_was_shown_and_as_often_as_asked():
    rng, fused = np.random.default_rng(6), 0
    for _ in range(100):
        world = random_world(rng)
        *calls, answer = scripted_ranking(world, rng, 2, ORDERING, fuse=0.5)
        environment = RankingEnvironment(world)
        seen = [re.findall(r" (\d+):\d\d\b", environment.step(call)) for call in calls]
        if "fuse" in answer:
            fused += 1
            environment.step(answer)
            in_turn = [int(n) for n in (seen[1][0], seen[0][0], seen[1][1])]
            assert environment.answer[:2] == list(dict.fromkeys(in_turn))[:2]
    assert 30 < fused < 70


def test_pair_answers_agree_with_the_evidence_in_both_directions():
    rng = np.random.default_rng(2)
    for _ in range(40):
        world = random_world(rng)
        scores = shown_scores(world.collaborative.similar_users().scores)
        for question, sign in (("more", 1), ("less", -1)):
            turns = scripted_pair(world, rng, question, (1, 2), 7)
            think = re.search(r"similar users: A (\d+) B (\d+)", turns[-1])
            if think:
                assert [int(think[1]), int(think[2])] == scores[:2].tolist()
            sums = [sum(map(int, re.findall(rf" {side} (\d+)", turns[-1]))) for side in "AB"]
            if sums[0] != sums[1]:
                assert turns[-1].endswith(f"\\boxed{{{'A' if sign * (sums[0] - sums[1]) > 0 else 'B'}}}</answer>")


def test_teachers_have_no_favourite_evidence():
    rng = np.random.default_rng(3)
    chosen = [choose_sources(Script([], {"x": None, "y": None, "z": None}), rng) for _ in range(3000)]
    shares = [np.mean([source in sources for sources in chosen]) for source in "xyz"]
    assert np.ptp(shares) < 0.05 and {len(sources) for sources in chosen} == {1, 2, 3}


def test_titles_come_in_many_scripts():
    rng = np.random.default_rng(4)
    titles = "".join(card.title for _ in range(40) for card in random_world(rng).candidates)
    for low, high in ((0x391, 0x3C9), (0x410, 0x44F), (0x4E00, 0x4FFF), (0xAC00, 0xAD00), (0x80, 0xBF)):
        assert any(low <= ord(c) <= high for c in titles)


def test_numbers_and_scores_are_single_tokens(tiny):
    encode = lambda text: tiny[1].tokenizer.encode(text, add_special_tokens=False)  # noqa: E731
    assert all(len(encode(f"{before}{n}")) == 1 for n in range(1, 21) for before in ("", " ", ", "))
    assert all(len(encode(f":{n}")) == 1 for n in range(10, 100))


def test_lessons_go_from_drills_to_worlds_and_can_be_learnt(tiny):
    model, chat = tiny
    recipe, rng = Recipe(rehearsal=0, drill_tokens=400, worlds=2), np.random.default_rng(5)
    batches = [[lesson(chat, recipe, rng, phase) for _ in range(4)] for phase in range(3)]
    prompts = [[len(batch[0][0].prompt_ids) for batch in part] for part in batches]
    assert max(prompts[0] + prompts[1]) < 10 and min(prompts[2]) > 100
    assert {t.n_calls for batch in batches[0] for group in batch for t in group} == {1}
    action, observation = cross_entropy(model, batches[2][0])
    assert 5 < action < 9 and 5 < observation < 9  # an untrained policy: about log(vocabulary)
    assert sum(CALLS) == pytest.approx(1)


@pytest.mark.parametrize(
    ("phase", "losses", "over"),
    [
        (0, [0.1] * 20, True),
        (0, [0.1] * 19, False),
        (0, [0.2] * 40, False),
        (0, [0.2] * 450, True),
        (2, [0.0] * 99, False),
    ],
)
def test_drills_are_over_when_they_are_learnt_or_take_too_long(phase, losses, over):
    log = [{"phase": 7, "action_ce": 0.0}] * 30 + [{"phase": phase, "action_ce": loss} for loss in losses]
    assert phase_is_over(log, Recipe(learnt=(0.11, 0.16), longest=(450, 250))) == over
