"""The reader as the agent: the same rules, observations and rewards as the policy's."""

import pytest

from agenticrec_lite.errors import UserError
from agenticrec_lite.experiment import stages, start
from agenticrec_lite.play import YOU, Game, along, board, pages
from agenticrec_lite.rewards import listwise_reward
from agenticrec_lite.tools import LISTS, call_tool


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    found = start("toystore", "nano", 0, tmp_path_factory.mktemp("play") / "run", {"evaluation.n_test": 5})
    yield found
    found.run.close()


@pytest.fixture
def game(experiment):
    return Game(experiment)


def test_a_round_is_played_as_the_policy_plays_it(game):
    said = game.ask("get_similar_users")
    assert said == call_tool("get_similar_users", {}, game.context) and game.lists() == ["users"]
    assert game.ask("get_similar_users") == "Nothing new: this has been asked before."
    assert game.ask("get_session_behavior").splitlines()[-1].startswith("Candidates by session: ")
    assert game.weigh({"users": 0, "session": 2}).startswith("Candidates by weighed evidence: ")
    assert game.last_order() == game.environment.context.shown["session"].order[:10].tolist()
    mine, frozen = game.answer(game.last_order())
    assert mine.valid and mine.n_calls == 4 and frozen.task_id == mine.task_id == game.task.task_id
    assert mine.reward == listwise_reward(mine, game.task.positive) == game.rewards[YOU][0]
    assert game.over and game.ask("get_user_profile") == "This round is over."
    assert game.score().startswith("Round 1. Mean reward of 1: you ")
    game.deal()
    assert not game.over and game.lists() == [] and game.score().startswith("Round 2.")


@pytest.mark.parametrize("wrong", [[], [1] * 10, list(range(10)), list(range(12, 22)), list(range(1, 12))])
def test_an_answer_that_is_none_is_refused_and_the_round_goes_on(game, wrong):
    with pytest.raises(UserError, match="^An answer is 10 different numbers from 1 to 20.$"):
        game.answer(wrong)
    assert not game.over and game.rewards[YOU] == []


def test_the_eleventh_call_ends_the_round_and_earns_what_the_policy_would(game):
    for _ in range(10):
        assert game.ask("get_similar_users")
    assert game.ask("get_similar_users") == "No call is left; this ends the round."
    assert game.answer(list(range(1, 11)))[0].reward == -1


def test_every_test_task_is_dealt_once_before_any_comes_again(game):
    dealt = []
    for _ in game.order:
        dealt.append(game.task.task_id)
        game.deal()
    assert len({*dealt}) == len(game.order) and game.task.task_id == dealt[0]


def texts(widget) -> str:
    parts = [str(getattr(widget, "value", "")), str(getattr(widget, "description", ""))]
    return " ".join(parts + [texts(child) for child in getattr(widget, "children", ())])


def button(widget, name: str):
    found = [each for each in walk(widget) if type(each).__name__ == "Button" and each.description == name]
    return found[0]


def walk(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from walk(child)


def test_the_board_follows_the_game(game):
    widget = board(game)
    assert button(widget, "Weigh").disabled and "Which was taken next?" in texts(widget)
    for name in ("similar users", "session behavior"):
        button(widget, name).click()
    sliders = [each for each in walk(widget) if type(each).__name__ == "IntSlider"]
    assert [each.description for each in sliders] == ["users", "session"] == game.lists()
    sliders[0].value, sliders[1].value = 0, 3
    button(widget, "Weigh").click()
    assert "weigh_evidence {'users': 0, 'session': 3}" in texts(widget).replace("&#x27;", "'")
    button(widget, "Answer").click()
    assert game.over and "Taken next: " in texts(widget) and button(widget, "Answer").disabled
    button(widget, "Next task").click()
    assert not game.over and not [each for each in walk(widget) if type(each).__name__ == "IntSlider"]


def test_the_board_escapes_titles(game, monkeypatch):
    from dataclasses import replace

    hostile = replace(game.context.candidates[0], title="<script>alert(1)</script>")
    game.context = replace(game.context, candidates=[hostile, *game.context.candidates[1:]])
    assert "<script" not in texts(board(game)) and "script" in texts(board(game))


def test_the_board_says_what_is_wrong_with_an_answer(game):
    widget = board(game)
    text = next(each for each in walk(widget) if type(each).__name__ == "Text" and each.description == "answer")
    text.value = "7, 7"
    button(widget, "Answer").click()
    assert "10 different numbers" in texts(widget) and not game.over
    assert set(LISTS)  # every list tool has its button
    assert {tool.removeprefix("get_").replace("_", " ") for tool in LISTS} <= {
        each.description for each in walk(widget) if type(each).__name__ == "Button"
    }


def test_a_slider_shows_what_the_policy_did_with_one_task_after_each_checkpoint(tmp_path):
    small = {"steps": 3, "tasks_per_step": 2, "group_size": 4, "micro_groups": 1, "save_every": 1}
    settings = {f"rta.{name}": value for name, value in small.items()} | {"agent.max_calls": 4, "evaluation.n_test": 3}
    experiment, seen = start("toystore", "nano", 0, tmp_path / "run", settings), []
    with experiment.run:
        stages.train_rta(experiment, lambda history: seen.append(len(history)))
    found = pages(tmp_path / "run")
    assert list(found) == seen == [1, 2, 3]
    assert {row["task_id"] for row in found.values()} == {experiment.test[0].task_id}
    last = experiment.play(experiment.test[:1], experiment.test_contexts[:1])[0]  # by the policy of the last step
    assert [step["text"] for step in found[3]["steps"]] == [step.text for step in last.steps]
    slider, view = along(tmp_path / "run").children
    first = view.value
    slider.value = 3
    assert "After step 1: " in first and "After step 3: " in view.value
