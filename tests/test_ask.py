"""A trained agent asked by title: what is found, what is proposed, and what is shown."""

import numpy as np
import pytest
from typer.testing import CliRunner

from agenticrec_lite.cli import app
from agenticrec_lite.data import load_dataset
from agenticrec_lite.errors import UserError
from agenticrec_lite.experiment import start
from agenticrec_lite.experiment.ask import answer, item_of, proposals


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    found = start("toystore", "nano", 0, tmp_path_factory.mktemp("ask") / "run", {"policy.id": "nano"})
    yield found
    found.run.close()


@pytest.fixture(scope="module")
def log():
    return load_dataset("toystore")


def test_a_title_is_found_in_any_case_and_the_most_frequent_of_several(log):
    titles = log.items["title"].astype(str)
    counts = np.bincount(log.interactions["item"], minlength=log.n_items)
    code = int(counts.argmax())
    assert titles[item_of(log, f"  {titles[code].upper()} ", counts)].casefold() == titles[code].casefold()
    same = log.items.assign(title=["Same"] * len(titles))
    assert item_of(type(log)(**{**vars(log), "items": same}), "same", counts) == code


def test_a_title_that_is_nearly_right_is_suggested(log):
    title, counts = str(log.items["title"].iloc[7]), np.ones(log.n_items)
    with pytest.raises(UserError, match="No item is titled 'zzzzqq'.$"):
        item_of(log, "zzzzqq", counts)
    for wrong in (title[:-1], title[1:]):
        with pytest.raises(UserError) as said:
            item_of(log, wrong, counts)
        assert repr(title) in str(said.value) and "close to it: " in str(said.value)


def test_proposed_is_what_is_taken_together_with_the_history(experiment):
    history, knn = [3, 11], experiment.toolbox.itemknn
    ours = proposals(experiment.toolbox, history, 20)
    scores = knn.score([history], [ours])[0]
    rest = [item for item in range(experiment.log.n_items) if item not in {*ours, *history}]
    assert len({*ours}) == 20 and not {*ours} & {*history}
    assert (np.diff(scores) <= 1e-6).all() and knn.score([history], [rest])[0].max() <= scores[-1] + 1e-6


def test_the_agent_answers_about_titles(experiment):
    titles = experiment.log.items["title"].astype(str)
    history = [titles[3], titles[11]]
    asked = answer(experiment, history)
    assert asked.history == history and len(asked.candidates) == 20 and asked.stage == "frozen"
    assert set(asked.candidates) == {titles[i] for i in proposals(experiment.toolbox, [3, 11], 20)}
    if asked.trajectory.valid:
        assert asked.ranking == [asked.candidates[n - 1] for n in asked.trajectory.answer]
    own = answer(experiment, history, [titles[i] for i in range(20, 32)])
    assert {*own.candidates} == {titles[i] for i in range(20, 32)}
    assert answer(experiment, history).candidates == asked.candidates != answer(experiment, history, seed=1).candidates


@pytest.mark.parametrize(("history", "candidates", "says"), [
    ([""], [], "needs at least one title"), ([0], [1, 2], "ten or more different items"),
    ([0], [0] * 12, "ten or more different items"),
])  # fmt: skip
def test_too_little_is_refused(experiment, history, candidates, says):
    titles = experiment.log.items["title"].astype(str)
    given = [[titles[each] if isinstance(each, int) else each for each in part] for part in (history, candidates)]
    with pytest.raises(UserError, match=says):
        answer(experiment, *given)


def test_the_command_shows_the_trajectory_and_the_titles(experiment, monkeypatch):
    import agenticrec_lite.experiment.ask as asking

    titles = experiment.log.items["title"].astype(str)
    asked = answer(experiment, [titles[3]])
    monkeypatch.setattr(asking, "ask", lambda *_: asked)
    done = CliRunner().invoke(app, ["ask", "--history", titles[3]])
    assert f"You took: {titles[3]}" in done.output and "\x1b" not in done.output
    if asked.ranking:
        assert done.exit_code == 0 and f" 1. {asked.ranking[0]}" in done.output and "call        " in done.output
    else:
        assert done.exit_code == 2
