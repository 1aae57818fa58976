"""Generated worlds and scripted teachers: valid, varied, and faithful to the evidence."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from agenticrec_lite.agent.environment import RankingEnvironment
from agenticrec_lite.agent.teacher import (
    LIST_TOOLS,
    Script,
    choose_sources,
    run_script,
    scripted_pair,
    scripted_ranking,
    some_tools,
)
from agenticrec_lite.nano import lessons, pretrain
from agenticrec_lite.nano.lessons import CALLS, DRILL_TOKENS, batch
from agenticrec_lite.nano.muon import Muon, orthogonalise
from agenticrec_lite.nano.pretrain import Recipe, cross_entropy, phase_is_over, syllabus
from agenticrec_lite.nano.worlds import random_world
from agenticrec_lite.tools import TOOLS
from agenticrec_lite.tools.text import shown_scores


def test_every_script_of_every_world_is_a_valid_trajectory(tiny):
    chat, rng = tiny[1], np.random.default_rng(0)
    kinds = set()
    for _ in range(60):
        world = random_world(rng)
        for n_calls in (0, 1, 3, 5):
            trajectory = run_script(scripted_ranking(world, rng, some_tools(rng, n_calls)), world, chat)
            assert trajectory.outcome == "answered" and trajectory.n_calls == n_calls
            kinds |= {step.tool for step in trajectory.steps if step.kind == "call"}
            kinds.add(re.search("keep|follow", trajectory.steps[-2].text)[0])
            for question in ("more", "less"):
                environment = RankingEnvironment(world, question)
                for turn in scripted_pair(world, rng, question, (3, 9), some_tools(rng, n_calls)):
                    environment.step(turn)
                assert environment.answer in ("A", "B")
    assert len(kinds) == 7 + 2


def test_following_copies_the_list_that_was_shown():
    rng = np.random.default_rng(1)
    for _ in range(30):
        world = random_world(rng)
        call, answer = scripted_ranking(world, rng, some_tools(rng, 1, LIST_TOOLS))
        environment = RankingEnvironment(world)
        shown = [int(n) for n in re.findall(r" (\d+):\d\d\b", environment.step(call).split("Candidates by")[1])]
        if "follow" in answer:
            environment.step(answer)
            assert environment.answer == shown[:10]


def test_each_list_is_followed_once_and_only_the_answers_are_learnt_from(tiny):
    chat, rng = tiny[1], np.random.default_rng(6)
    for kind in ("contrast", "choices"):
        groups = batch(kind, chat, rng, 4)
        assert max(map(len, groups)) > 1
        for group in groups:
            answers = [chat.tokenizer.decode(row.completion_ids) for row in group]
            sources = [re.search(r"I follow (.*?)\.", answer)[1] for answer in answers]
            assert len(set(sources)) == len(sources)
            assert all(row.prompt_ids == group[0].prompt_ids and all(row.action_mask) for row in group)
            shown = chat.tokenizer.decode(group[0].prompt_ids)
            for source, answer in zip(sources, answers, strict=True):
                numbers = re.search(r"boxed\{\[(.*?)\]", answer)[1]
                order = re.search(rf"Candidates by {source}[^:]*: ([^<\n]*)", shown)[1]
                assert re.findall(r"(\d+):", order)[:10] == numbers.split(", ")


def test_a_habit_makes_asking_for_lists_rarer_and_nothing_impossible():
    rng = np.random.default_rng(7)
    first = [[some_tools(rng, 1, favour=favour)[0] for _ in range(2000)] for favour in (1.0, 2.0)]
    shares = [np.mean([tool in LIST_TOOLS for tool in tools]) for tools in first]
    assert shares == pytest.approx([2 / 7, 2 / 12], abs=0.03)
    assert len(set(first[1])) == 7 and sorted(some_tools(rng, 7, favour=2.0)) == sorted(TOOLS)


def test_pair_answers_agree_with_the_evidence_in_both_directions():
    rng = np.random.default_rng(2)
    for _ in range(40):
        world = random_world(rng)
        scores = shown_scores(world.collaborative.similar_users().scores)
        for question, sign in (("more", 1), ("less", -1)):
            turns = scripted_pair(world, rng, question, (1, 2), some_tools(rng, 7))
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
    rng = np.random.default_rng(5)
    kinds = [{syllabus(Recipe(), np.random.default_rng([0, i]), phase)[0] for i in range(200)} for phase in range(4)]
    assert kinds[:3] == [{"copy"}, {"contrast"}, {"contrast", "worlds", "choices"}]
    assert kinds[3] == {"contrast", "habits", "choices"}
    drills, worlds = batch("copy", chat, rng, 1), batch("worlds", chat, rng, 2)
    assert {t.n_calls for group in drills for t in group} == {1} and {t.n_calls for g in worlds for t in g} == {2}
    assert 0.5 < sum(len(t.completion_ids) for group in drills for t in group) / DRILL_TOKENS < 1.5
    action, observation = cross_entropy(model, worlds)
    assert 5 < action < 9 and 5 < observation < 9  # an untrained policy: about log(vocabulary)
    assert sum(CALLS) == pytest.approx(1)


def test_muon_is_torchs_in_fp32():
    torch.manual_seed(0)
    for shape in ((48, 16), (16, 48)):
        ours, theirs = (torch.nn.Parameter(torch.ones(shape)) for _ in range(2))
        step, reference = Muon([ours], 0.02), torch.optim.Muon([theirs], 0.02, 0.01, adjust_lr_fn="original")
        for _ in range(4):
            ours.grad = torch.randn(shape)
            theirs.grad = ours.grad.clone()
            step.step()
            reference.step()
        assert (ours - theirs).norm() < 0.03 * (ours - 1).norm()  # torch's runs in bf16
        assert (torch.linalg.svdvals(orthogonalise(torch.randn(shape))) - 1).abs().max() < 0.4


def test_an_interrupted_pre_training_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    recipe = Recipe(steps=3, habit_steps=1, hidden=32, layers=2, longest=(1, 1))
    tokenizer = pretrain.new_tokenizer(np.random.default_rng(0), worlds=60)
    chat = pretrain.ChatFormat.of(tokenizer, brief=True)
    monkeypatch.setattr(pretrain, "KEEP_EVERY", 2)
    monkeypatch.setattr(lessons, "DRILL_TOKENS", 400)
    whole, parted = (pretrain.new_policy(recipe, len(tokenizer)) for _ in range(2))
    log = pretrain.train(whole, chat, recipe, 0, tmp_path / "whole.safetensors")

    def stop_at_the_fourth(model, steppers, batch, recipe, step, real=pretrain.train_step):
        if step == 3:
            raise KeyboardInterrupt
        return real(model, steppers, batch, recipe, step)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pretrain, "train_step", stop_at_the_fourth)
        pretrain.train(parted, chat, recipe, 0, tmp_path / "parted.safetensors")
    parted = pretrain.new_policy(recipe, len(tokenizer))
    again = pretrain.train(parted, chat, recipe, 0, tmp_path / "parted.safetensors")
    assert [row["action_ce"] for row in again] == [row["action_ce"] for row in log]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parted.parameters(), strict=True))
    other = replace(recipe, muon_rate=0.01)
    assert not pretrain.resume(tmp_path / "parted.safetensors", parted, pretrain.optimizers(parted, other), other)


@pytest.mark.all
def test_two_workers_rebuild_a_policy_with_its_card(tmp_path):
    out = pretrain.pretrain(tmp_path / "nano", Recipe(steps=20, habit_steps=5, hidden=32, layers=2, longest=(10, 10)))
    names = {path.name for path in out.iterdir()}
    assert {"model.safetensors", "tokenizer.json", "training_log.csv", "README.md"} <= names
    assert "unfinished.safetensors" not in names
    assert len((out / "training_log.csv").read_text().splitlines()) == 2


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
    assert phase_is_over(log, Recipe(learnt=(0.11, 0.06), longest=(450, 300))) == over
