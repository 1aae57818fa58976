"""Generated worlds and scripted teachers: valid, varied, and faithful to the evidence."""

import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agenticrec_lite.agent.protocol import write_call
from agenticrec_lite.agent.record import declared_answer, evidence_of, followed, lists_of, rule_of, weights_of
from agenticrec_lite.agent.teacher import (
    HABIT,
    NO_HABIT,
    Mistake,
    by_a_rule,
    demonstration,
    free_weights,
    run_script,
    some_tools,
)  # fmt: skip
from agenticrec_lite.agent.trajectory import Step
from agenticrec_lite.nano import lessons, pretrain
from agenticrec_lite.nano.exam import KINDS, marks_of
from agenticrec_lite.nano.exam import _worlds as exam_worlds
from agenticrec_lite.nano.lessons import DRILL_TOKENS, DRILLS, LESSON_TOKENS, Lesson, batch, lesson_world
from agenticrec_lite.nano.muon import Muon, orthogonalise
from agenticrec_lite.nano.pretrain import CALLS, HABIT_CALLS, Part, Recipe, cross_entropy, syllabus
from agenticrec_lite.nano.tokenizer import SCAFFOLD
from agenticrec_lite.nano.worlds import long_title, made_up_tool, random_world
from agenticrec_lite.tools import LISTS, TOOLS, call_tool, tools_of


def played(chat, rng, n_calls, world=None, kind="rank", **teacher):
    world = world or random_world(rng)
    return run_script(demonstration(rng, n_calls, **teacher), world, chat, kind)


def test_every_script_of_every_world_is_a_valid_trajectory(tiny):
    chat, rng = tiny[1], np.random.default_rng(0)
    called, followed_lists = Counter(), Counter()
    for _ in range(40):
        world = lesson_world("usual", rng, 0.3)
        pair = replace(world, pair=(3, 9))
        for n_calls in (0, 1, 3, 6):
            for asked, kind in ((world, "rank"), (pair, "more"), (pair, "less")):
                trajectory = played(chat, rng, n_calls, asked, kind, mistakes=0.2)
                assert trajectory.valid, trajectory.steps[-1]
                assert trajectory.answer == (declared_answer(trajectory) or trajectory.answer)
                if followed(trajectory) is not None:
                    assert followed(trajectory) == list(lists_of(trajectory))[-1]
                called.update(step.tool for step in trajectory.steps if step.kind == "call")
                followed_lists[followed(trajectory)] += 1
    assert set(TOOLS) < set(called) and {None, "weighed evidence"} < set(followed_lists) and len(followed_lists) > 5


@given(st.integers(0, 10_000))
def test_an_answer_is_what_the_calculator_says_by_the_weights_in_the_thought(seed):
    """By hand: the sum of the scores in the observations, each times the weight that the thought names."""
    rng = np.random.default_rng(seed)
    steps = played(CHAT, rng, 5, random_world(rng, 2, 4)).steps
    said = re.search(r"(?:I weigh|User pleased:|User let down:) (.*)", "\n".join(step.text for step in steps))
    if said is None:
        return
    weights = dict(re.findall(r"([a-z0-9 ]+?) (\d)(?:, |\.)", said[1]))
    shown = {}
    for step in steps:
        for name, line in re.findall(r"Candidates by ([^:]+): (.*)", step.text if step.kind == "observation" else ""):
            shown[name] = {int(n): int(score) for n, score in re.findall(r"(\d+):(\d+)", line)}
    total = {n: sum(int(w) * shown[name][n] for name, w in weights.items()) for n in range(1, 21)}
    answer = [int(n) for n in re.findall(r"\d+", steps[-1].text)]
    assert [total[n] for n in answer] == sorted(total.values(), reverse=True)[:10]


@pytest.fixture(autouse=True, scope="module")
def _chat(tiny):
    global CHAT
    CHAT = tiny[1]


def test_a_mistake_is_seen_and_not_learnt(tiny):
    chat, rng = tiny[1], np.random.default_rng(3)
    seen = set()
    for _ in range(60):
        world = random_world(rng, 2, 4)
        marked, turns = [], demonstration(rng, 3, mistakes=0.5)

        def script(environment, turns=turns, marked=marked):
            for turn in turns(environment):
                marked.append(isinstance(turn, Mistake))
                yield turn

        trajectory = run_script(script, world, chat)
        own = [sum(part) > 0 for part in turns_of(trajectory, chat)]
        assert own == [not mistake for mistake in marked]
        seen |= {step.text.split(":")[0] for step in trajectory.steps if step.text.startswith(("Error", "Nothing new"))}
    assert seen == {"Error", "Nothing new"}


def test_the_loss_does_not_see_what_a_mistake_says(tiny):
    model, chat = tiny
    losses = []
    for name in ("taste", "luck"):
        wrong = Mistake(write_call("weigh_evidence", {"weights": f"{name} 2"}))
        world = random_world(np.random.default_rng(1), 2, 4)
        trajectory = run_script([wrong], world, chat, "rank", chat.prompt_ids(world))
        assert set(trajectory.action_mask) == {-1, 0}
        n = trajectory.action_mask.count(-1)
        trajectory.completion_ids, trajectory.action_mask = trajectory.completion_ids[:n], trajectory.action_mask[:n]
        losses.append(float(cross_entropy(model, [[trajectory]])[1].detach()))
    assert losses == [0.0, 0.0]


def turns_of(trajectory, chat):
    """The action mask of each turn of the policy, mistakes too."""
    ends, parts, start = chat.end_of_turn, [], 0
    opening = chat.tokenizer.encode(chat.observation_prefix, add_special_tokens=False)
    for i, token in enumerate(trajectory.completion_ids):
        if token == ends and (i + 1 == len(trajectory.completion_ids)
                              or trajectory.completion_ids[i + 1 : i + 1 + len(opening)] == opening):  # fmt: skip
            parts.append(trajectory.action_mask[start : i + 1])
        elif token == ends:
            start = i + 1
    return parts


def test_drills_copy_one_thing_each_from_what_is_there(tiny):
    chat, rng, lengths = tiny[1], np.random.default_rng(6), {}
    for kind in [kind for kind in DRILLS if kind != "rule"]:
        for (row,) in batch(Lesson(kind, 2), chat, rng):
            before = chat.tokenizer.decode(row.prompt_ids + row.completion_ids[: row.last_turn])
            written = chat.tokenizer.decode(row.completion_ids[row.last_turn :])
            shown = re.findall(r"Candidates by ([^:]+): ([^<\n]*)", before)
            if not shown:  # the tools that were called have no list
                assert "I have no evidence" in written and kind == "names"
                continue
            name, order = shown[-1][0], [pair.partition(":")[0] for pair in shown[-1][1].split(", ")]
            if kind == "verdict":
                place = {"MORE": 0, "LESS": -1}[re.search("MORE|LESS", before)[0]]
                assert f"{{{order[place]}}}" in written and order[:2] in (["A", "B"], ["B", "A"])
                continue
            assert f"I follow {name}." in written
            assert re.findall(r"\d+", written.split("boxed")[1]) == order[:10]
            assert kind == "names" or (name == "weighed evidence") == (kind != "scores")
            lengths.setdefault(kind, []).append(len(order))
        if kind == "names":
            listed = re.findall(r"^(\w+)\(", before, re.M)
            assert set(re.findall(r'"name": "(\w+)"', before)) <= {*listed} and {*listed} - set(TOOLS)
    assert min(lengths["weighed"]) < 8 and max(lengths["weighed"]) == 20 and max(lengths["many"]) > 60


def test_the_habit_asks_and_weighs_what_says_least_more_often_and_makes_nothing_impossible(tiny):
    rng = np.random.default_rng(7)
    bad = {"get_user_profile", "candidates_analyze", "get_rating_behavior"}
    first = [[some_tools(rng, 1, list(TOOLS), habit)[0] for _ in range(3000)] for habit in (NO_HABIT, HABIT)]
    shares = [np.mean([tool in bad for tool in tools]) for tools in first]
    assert shares == pytest.approx([3 / 7, 4.8 / 8.2], abs=0.03)
    assert len(set(first[1])) == 7 and "weigh_evidence" not in first[1]
    lists = list(LISTS.values())
    weights = [free_weights(lists, rng, HABIT) for _ in range(1000)]
    means = {name: np.mean([given[name] for given in weights]) for name in lists}
    distractors = ("profile", "ratings", "popularity")
    assert [means[name] for name in distractors] == pytest.approx([1.9] * 3, abs=0.12)
    assert [means[name] for name in ("users", "items", "session")] == pytest.approx([1.1] * 3, abs=0.12)
    assert all({given[name] for given in weights} == {0, 1, 2, 3} for name in lists)
    trusted = [next(iter(by_a_rule(lists, "pleased", rng, HABIT)[1])) for _ in range(1000)]
    assert np.mean([name in distractors for name in trusted]) == pytest.approx(1.9 / 3, abs=0.05)
    assert {*trusted} == {*lists}


def test_teachers_without_a_habit_have_no_favourite_list(tiny):
    rng = np.random.default_rng(8)
    rows = [evidence_of(played(tiny[1], rng, 7, random_world(rng, 2, 3))) for _ in range(500)]
    means = [np.mean([row.get(name, 0) for row in rows]) for name in LISTS.values() if name != "items"]
    assert np.ptp(means) < 0.35 and min(means) > 0.9  # items is asked of single items too


RULE = re.compile(r"([a-z0-9 ]+) if pleased, ([a-z0-9 ]+) if let down\. User (pleased|let down): ([a-z0-9 ]+) (\d)")


def test_once_the_mood_is_told_a_thought_states_a_rule_and_follows_it(tiny):
    """And the rule is drawn by lot: no lesson says which list goes with which mood."""
    rng, by_mood = np.random.default_rng(9), {"pleased": Counter(), "let down": Counter()}
    for _ in range(4000):
        trajectory = played(tiny[1], rng, 6, random_world(rng, 1, 3))
        text = "\n".join(step.text for step in trajectory.steps)
        told, stated = re.search(r"Last rated .*: (pleased|let down)\.", text), RULE.search(text)
        assert bool(told) == bool(stated) and ("I weigh" in text) != bool(told)
        if stated:
            pleased, let_down, mood, first, weight = stated.groups()
            assert mood == told[1] and first == {"pleased": pleased, "let down": let_down}[mood]
            assert weight == "3" == str(weights_of(trajectory)[first])
            by_mood["pleased"][pleased] += 1
            by_mood["let down"][let_down] += 1
    names = ["users", "session", "profile", "ratings", "popularity"]
    shares = np.array([[row[name] / row.total() for name in names] for row in by_mood.values()])
    assert np.abs(shares[0] - shares[1]).max() < 0.06 and np.ptp(shares) < 0.09


def test_of_a_rule_one_name_is_learnt_the_one_that_follows_from_rule_and_mood(tiny):
    chat, rng = tiny[1], np.random.default_rng(13)
    for (row,) in batch(Lesson("rule", 2), chat, rng):
        at = row.action_mask.index(1)
        assert Counter(row.action_mask) == {1: 1, -1: len(row.completion_ids) - 1}
        before, after = (chat.tokenizer.decode(ids) for ids in (row.completion_ids[:at], row.completion_ids[at:]))
        pleased, let_down, mood = re.search(r"([\w ]+) if pleased, ([\w ]+) if let down\. User (.+):$", before).groups()
        assert after.startswith(f" {pleased if mood == 'pleased' else let_down} 3")


def test_made_up_tools_show_lists_that_can_be_weighed():
    rng = np.random.default_rng(10)
    for _ in range(50):
        world = random_world(rng, 2, 3)
        tool = made_up_tool(rng, 20)
        world = replace(world, tools={tool.__name__: tool, "weigh_evidence": TOOLS["weigh_evidence"]})
        takes = "item" in tool.__code__.co_varnames[: tool.__code__.co_argcount]
        call_tool(tool.__name__, {"item": "h1"} if takes else {}, world)
        (name,) = world.shown
        assert "Error" not in call_tool("weigh_evidence", {"weights": f"{name} 2"}, world)


def test_titles_come_in_many_scripts_and_can_be_long():
    rng = np.random.default_rng(4)
    titles = "".join(card.title for _ in range(40) for card in random_world(rng).candidates)
    for low, high in ((0x391, 0x3C9), (0x410, 0x44F), (0x4E00, 0x4FFF), (0xAC00, 0xAD00), (0x80, 0xBF)):
        assert any(low <= ord(c) <= high for c in titles)
    assert all(len(long_title(rng)) >= 80 for _ in range(50))


def test_numbers_scores_and_fixed_text_are_single_tokens(tiny):
    encode = lambda text: tiny[1].tokenizer.encode(text, add_special_tokens=False)  # noqa: E731
    assert all(len(encode(f"{before}{n}")) == 1 for n in range(1, 101) for before in (" ", ", "))
    assert all(len(encode(str(n))) == 1 for n in range(1, 21))
    assert all(len(encode(f":{n}")) == 1 for n in range(10, 100))
    assert all(len(encode(text)) == 1 for text in SCAFFOLD)
    for text in ('{"name": "x", "arguments": {"weights": "a 1"}}', "\\boxed{[100, 7]}", "Candidates by b: A:9, B:10"):
        assert tiny[1].tokenizer.decode(encode(text)) == text


def test_lessons_go_from_drills_to_worlds_and_can_be_learnt(tiny):
    model, chat = tiny
    rng = np.random.default_rng(5)
    easy, hard, kinds = (1.0, 0.0, 0.0, 0.0), (0.3, 0.3, 0.2, 0.2), (1 / len(DRILLS),) * len(DRILLS)
    recipe = Recipe(parts=(Part(0, kinds), Part(50, kinds, 2, easy), Part(200, kinds, 2, hard),
                           Part(900, kinds, 2, hard, habit=True)))  # fmt: skip
    ends = [each.begin for each in recipe.parts] + [1100]
    drawn = [[lesson for i in range(*between) for lesson in syllabus(recipe, i)] for between in pairwise(ends)]
    whole = [{lesson.kind for lesson in part} - {*DRILLS} for part in drawn]
    assert whole == [set(), {"worlds"}, {"worlds"}, {"habits"}]
    assert all({*DRILLS} <= {lesson.kind for lesson in part} for part in drawn)
    assert {lesson.n_calls for lesson in drawn[0]} == {1} and len(drawn[0]) == 50 * recipe.drills
    assert {lesson.n_calls for lesson in drawn[1] if lesson.kind in DRILLS} == {1, 2}
    easy, hard = ([lesson for lesson in part if lesson.kind == "worlds"] for part in drawn[1:3])
    assert {lesson.size for lesson in easy} == {"short"} and len(easy) == 150
    assert {lesson.size for lesson in hard} == {"short", "usual", "long", "many"}
    assert {lesson.n_calls for lesson in hard} == set(range(7))
    assert max(lesson.n_calls for lesson in hard if lesson.size == "many") == 3
    assert {(each.other_tools, each.mistakes) for each in hard} == {(recipe.other_tools, recipe.mistakes)}
    for step in range(200, 260):  # workers practise other drills beside worlds that take as long
        mine, other = (syllabus(recipe, step, rank) for rank in (0, 1))
        assert mine[0] == other[0]
    assert any(syllabus(recipe, step, 0) != syllabus(recipe, step, 1) for step in range(200, 260))
    begins = [part.begin for part in Recipe().parts]
    assert begins[0] == 0 and begins[-1] == Recipe().steps and Recipe().parts[-1].habit
    assert all(before < after for before, after in pairwise(begins))
    shares = [each for part in Recipe().parts for each in (part.kinds, part.sizes) if each]
    assert all(sum(each) == pytest.approx(1) for each in shares)
    drills, worlds = batch(Lesson("weighed", 1), chat, rng), batch(Lesson("worlds", 2), chat, rng)
    for groups, tokens in ((drills, DRILL_TOKENS), (worlds, LESSON_TOKENS)):
        total = sum(len(group[0].prompt_ids) + sum(len(t.completion_ids) for t in group) for group in groups)
        assert tokens <= total < 1.6 * tokens
    many = batch(Lesson("worlds", 1, "many"), chat, rng)
    assert max(len(re.findall(r"^\d+\. ", chat.tokenizer.decode(g[0].prompt_ids), re.M)) for g in many) > 20
    action, observation = cross_entropy(model, worlds)
    assert 5 < action < 9 and 5 < observation < 9  # an untrained policy: about log(vocabulary)
    assert sum(CALLS) == pytest.approx(1) and sum(HABIT_CALLS) == pytest.approx(1)


def test_of_a_verdict_the_last_turn_alone_is_learnt(tiny):
    chat = tiny[1]
    for (trajectory,) in batch(Lesson("verdict", 2), chat, np.random.default_rng(6)):
        learnt = [i for i, mine in zip(trajectory.completion_ids, trajectory.action_mask, strict=True) if mine]
        text = chat.tokenizer.decode(learnt)
        word, end = {"more": ("MORE", "first"), "less": ("LESS", "last")}[trajectory.kind]
        said = f"<think>Which is {word} likely? The {end} of weighed evidence.</think>"
        assert text == f"{said}<answer>\\boxed{{{trajectory.answer}}}</answer><|im_end|>"


def test_the_exam_counts_valid_answers_and_those_that_keep_their_word(tiny):
    chat, rng = tiny[1], np.random.default_rng(11)
    right = [played(chat, rng, 3) for _ in range(6)]
    wrong = replace(right[0], answer=right[0].answer[::-1])
    lost = replace(right[1], outcome="bad_turn", answer=None)
    found = marks_of([*right, wrong, lost])
    named = sum(declared_answer(t) is not None for t in [*right, wrong])
    assert found["valid"] == 7 / 8 and found["named"] == named and found["exact"] == (named - 1) / named
    said = "users if pleased, like h3 if let down. User let down: "
    broken, kept, silent = (
        replace(lost, steps=steps)
        for steps in ([Step("think", f"{said}users 3.")], [Step("think", f"{said}like h3 3.")], [])
    )
    one_list = replace(lost, steps=[Step("think", f"{said}users 3.".replace("like h3", "users"))])
    found = marks_of([broken, kept, kept, one_list, silent])
    assert found["stated"] == 3 and found["kept"] == 2 / 3 and found["valid"] == 0
    assert rule_of(kept) == ({"pleased": "users", "let down": "like h3"}, "let down", "like h3")
    assert rule_of(silent) is None
    for kind in KINDS:
        worlds, questions = exam_worlds(kind, 4, rng)
        assert len(worlds) == 4 and set(questions) == ({"more", "less"} if kind == "pairs" else {"rank"})
        assert (min(len(w.candidates) for w in worlds) > 20) == (kind == "many candidates")
        assert any(tools_of(world) != TOOLS for world in worlds) == (kind == "other tools")


def test_a_saved_checkpoint_is_sharpened_by_a_factor_on_its_logits(tiny, tmp_path):
    model, chat = tiny
    before = [p.clone() for p in model.parameters()]
    pretrain.save(model, chat, Recipe(sharpen=1.5), tmp_path / "saved")
    saved, ids = pretrain.load(tmp_path / "saved"), torch.arange(40)[None]
    with torch.no_grad():
        torch.testing.assert_close(saved(ids).logits, 1.5 * model(ids).logits)
    for p, q in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(p, q)


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


def made(folder):
    folder.mkdir()
    return folder


def test_embeddings_begin_as_long_as_they_will_be_and_apart():
    """At a tenth of that, MORE and LESS became one vector, and which of them was asked could not be read."""
    weight = pretrain.new_policy(Recipe(layers=1), 300).model.embed_tokens.weight.detach()
    assert weight.norm(dim=1).mean() == pytest.approx(1, rel=0.1)
    unit = torch.nn.functional.normalize(weight)
    assert (unit @ unit.T - torch.eye(len(unit))).abs().max() < 0.5


def test_an_interrupted_pre_training_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    recipe = Recipe(steps=3, habit_steps=1, hidden=32, layers=2)
    tokenizer = pretrain.new_tokenizer(np.random.default_rng(0), worlds=60)
    chat = pretrain.ChatFormat.of(tokenizer, brief=True)
    monkeypatch.setattr(pretrain, "KEEP_EVERY", 2)
    monkeypatch.setattr(lessons, "DRILL_TOKENS", 400)
    monkeypatch.setattr(lessons, "LESSON_TOKENS", 400)
    whole, parted = (pretrain.new_policy(recipe, len(tokenizer)) for _ in range(2))
    log = pretrain.train(whole, chat, recipe, 0, made(tmp_path / "whole"))

    def stop_at_the_fourth(model, steppers, batch, recipe, step, real=pretrain.train_step):
        if step == 3:
            raise KeyboardInterrupt
        return real(model, steppers, batch, recipe, step)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pretrain, "train_step", stop_at_the_fourth)
        pretrain.train(parted, chat, recipe, 0, made(tmp_path / "parted"))
    parted = pretrain.new_policy(recipe, len(tokenizer))
    again = pretrain.train(parted, chat, recipe, 0, tmp_path / "parted")
    assert [row["action_ce"] for row in again] == [row["action_ce"] for row in log]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parted.parameters(), strict=True))
    other = replace(recipe, muon_rate=0.01)
    kept = tmp_path / "parted" / pretrain.UNFINISHED
    assert not pretrain.resume(kept, parted, pretrain.optimizers(parted, other), other)


@pytest.mark.all
def test_two_workers_rebuild_a_policy_with_its_card(tmp_path):
    out = pretrain.pretrain(tmp_path / "nano", Recipe(steps=20, habit_steps=5, hidden=32, layers=2))
    names = {path.name for path in out.iterdir()}
    assert {"model.safetensors", "tokenizer.json", "training_log.csv", "README.md"} <= names
    assert "unfinished.safetensors" not in names
    assert len((out / "training_log.csv").read_text().splitlines()) == 2
