"""Generated worlds and scripted teachers: valid, varied, and faithful to the evidence."""

import re

import numpy as np
import pytest

from agenticrec_lite.agent.environment import RankingEnvironment
from agenticrec_lite.tools.text import shown_scores
from agenticrec_lite.training.nano.pretrain import CALLS, Recipe, cross_entropy, lessons
from agenticrec_lite.training.nano.teacher import (
    ORDERING,
    SCORING,
    Script,
    choose_sources,
    mean_scores,
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
            trajectory = play(scripted_ranking(world, rng, n_calls, sort=0.5), world, chat)
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


def test_fusing_ranks_by_the_mean_of_the_shown_scores():
    evidence = {"users": np.array([3.0, 2.0, 1.0, 0.0]), "items": np.array([0.0, 3.0, 1.0, -9.0])}
    mean = np.mean([shown_scores(scores) for scores in evidence.values()], axis=0)
    assert ranking(evidence) == (np.argsort(-mean) + 1).tolist()
    assert mean_scores(evidence).tolist() == np.floor(mean).tolist()
    assert ranking({"users": evidence["users"]}) == [1, 2, 3, 4]


def test_ties_of_the_mean_stay_as_the_last_ordering_tool_listed_them():
    users, popularity = np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0])
    assert ranking({"similar users": users, "popularity": popularity}) == [3, 2, 1]
    assert ranking({"popularity": popularity}) == [1, 2, 3]


def test_a_teacher_that_fuses_thinks_the_scores_it_ranks_by():
    rng, seen = np.random.default_rng(6), set()
    for _ in range(40):
        answer = scripted_ranking(random_world(rng), rng, 3, SCORING, sort=1)[-1]
        kind = re.search("fuse|follow popularity", answer)[0]
        thought = [(int(n), int(s)) for n, s in re.findall(r" (\d+):(\d\d)", answer)]
        if kind == "fuse":  # all candidates with their fused score, as listed; then the best ten in order
            fused, thought = thought[:20], thought[20:]
            assert len(dict(fused)) == 20 and dict(thought).items() <= dict(fused).items()
        assert f"[{', '.join(str(n) for n, _ in thought)}]" in answer and len(thought) == 10
        assert [s for _, s in thought] == sorted((s for _, s in thought), reverse=True)
        seen.add(kind)
    assert seen == {"fuse", "follow popularity"}


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


@pytest.mark.parametrize("steps", [12])
def test_lessons_go_from_drills_to_worlds_and_can_be_learnt(tiny, steps):
    model, chat = tiny
    recipe = Recipe(steps=steps, drills=(0.1, 0.2, 0.5), rehearsal=0, drill_tokens=400, worlds=2)
    batches = list(lessons(chat, recipe, np.random.default_rng(5)))
    prompts = [len(batch[0][0].prompt_ids) for batch in batches]
    assert max(prompts[: steps // 2]) < 10 and min(prompts[steps // 2 :]) > 100
    action, observation = cross_entropy(model, batches[-1])
    assert 5 < action < 9 and 5 < observation < 9  # an untrained policy: about log(vocabulary)
    assert sum(CALLS) == pytest.approx(1)
