"""Hard negatives and the questions made of them."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from agenticrec_lite.agent.prompts import task_prompt
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.data.tasks import RankingTask
from agenticrec_lite.experiment import stages
from agenticrec_lite.experiment.extensions import Extensions
from agenticrec_lite.tools import TaskContext
from agenticrec_lite.training.mining import HardNegative, mine_hard_negatives, pair_questions

STAGES = {"rta": {"steps": 4, "tasks_per_step": 2}, "ppr": {"mining_tasks": 3}}
EMPTY = TaskContext([], [], [], None)
TEN = [8, 3, 15, 1, 2, 4, 5, 6, 7, 9]


def task(name, positive):
    return RankingTask(name, 0, (1, 2, 3), (5.0, 5.0, 5.0), tuple(range(20)), positive, 0)


def known(names):
    """Contexts and candidates by task id."""
    return dict.fromkeys(names, EMPTY), dict.fromkeys(names, ())


def played(answer, outcome="answered"):
    return Trajectory("t", 0, "rank", [], answer=answer, outcome=outcome)


def test_only_violations_are_mined_and_the_negative_comes_from_the_pool():
    tasks = [task("first", 8), task("third", 15), task("missing", 20), task("invalid", 8)]
    mined = mine_hard_negatives([played(TEN), played(TEN), played(TEN), played(None, "bad_turn")], tasks, 0)
    assert [pair.task_id for pair in mined] == ["third", "missing"]
    assert mined[0].pool == (8, 3) and mined[1].pool == tuple(TEN)
    assert all(pair.negative in pair.pool and pair.negative != pair.positive for pair in mined)


def test_the_negative_is_random_not_the_hardest():
    negatives = [mine_hard_negatives([played(TEN)], [task("t", 20)], seed)[0].negative for seed in range(300)]
    counts = np.bincount(negatives, minlength=16)[TEN]
    assert counts.min() > 10 and counts.max() < 60


def test_every_pair_is_asked_in_both_directions_with_the_right_answer():
    mined = [HardNegative(f"t{i}", 4, 9, (9,)) for i in range(200)]
    names = [pair.task_id for pair in mined]
    questions = pair_questions(mined, *known(names), 0)
    assert len(questions) == 400 and len({q.task_id for q in questions}) == 400
    for more, less in zip(questions[::2], questions[1::2], strict=True):
        assert (more.kind, less.kind) == ("more", "less")
        assert more.task_id.split(":")[0] == less.task_id.split(":")[0]
        assert more.context.pair["AB".index(more.right)] == 4 and less.context.pair["AB".index(less.right)] == 9
    first = np.mean([q.context.pair[0] == 4 for q in questions])
    assert 0.4 < first < 0.6
    assert [q.task_id for q in questions] != sorted(q.task_id for q in questions)


def test_the_seed_decides_about_letters_and_the_order_of_pairs():
    mined = [HardNegative(f"t{i}", 4, 9, (9,)) for i in range(20)]
    names = [pair.task_id for pair in mined]
    first, again, other = (pair_questions(mined, *known(names), s) for s in (1, 1, 2))
    assert first == again and [q.task_id for q in first] != [q.task_id for q in other]
    assert [q.context.pair for q in first] != [q.context.pair for q in other]


def test_a_rehearsed_ranking_follows_its_pair_and_leaves_the_questions_as_they_are():
    mined = [HardNegative(f"t{i}", 4, 9, (9,)) for i in range(20)]
    names = [pair.task_id for pair in mined]
    plain, rehearsed = (
        pair_questions(mined, *known(names), 0, rehearse) for rehearse in (False, True)
    )
    assert [q for q in rehearsed if q.kind != "rank"] == plain
    for more, rank in zip(rehearsed[::3], rehearsed[2::3], strict=True):
        assert (rank.kind, rank.right, rank.context.pair) == ("rank", 4, None)
        assert more.task_id.split(":")[0] == rank.task_id.split(":")[0] and len({q.task_id for q in rehearsed}) == 60


def test_the_question_of_a_pair_names_its_letters_and_its_direction(context):
    more, less = (task_prompt(replace(context, pair=(4, 9)), kind) for kind in ("more", "less"))
    ask = "Which is {} likely the next item, A or B? <answer>\\boxed{{A or B}}</answer>"
    assert more.endswith("Candidates:\nA. Film 4\nB. Film 9\n" + ask.format("MORE"))
    assert less.endswith(ask.format("LESS"))
    assert more.replace("MORE", "LESS") == less


def experiment_of(n_tasks: int):
    """An experiment with so many training tasks, whose stage 1 has been left out and nothing else done."""
    tasks = [task(f"t{i}", 1) for i in range(n_tasks)]
    toolbox = SimpleNamespace(contexts=lambda tasks: [EMPTY] * len(tasks))
    run = SimpleNamespace(
        done=lambda stage: False, mark=lambda *_: None, payload=lambda stage: [], result={"not_run": {"rta": "few"}}
    )
    return SimpleNamespace(
        training=tasks, early_toolbox=toolbox, run=run, profile=STAGES, seed=0, extensions=Extensions(),
        stage_before=lambda stage: "frozen", policy_after=lambda stage: f"policy of {stage}",
    )  # fmt: skip


@pytest.mark.parametrize("n_tasks, trained", [(20, 8), (8, 8), (5, 8), (2, 6)])
def test_few_tasks_are_trained_on_again_but_three_times_at_most(monkeypatch, n_tasks, trained):
    asked = []
    monkeypatch.setattr(stages, "warm_start", lambda experiment: None)
    monkeypatch.setattr(stages, "train", lambda experiment, stage, questions, watch: asked.extend(questions))
    stages.train_rta(experiment_of(n_tasks))
    assert [question.task_id for question in asked] == [f"t{i % n_tasks}" for i in range(trained)]


@pytest.mark.parametrize("n_tasks, mined", [(20, ["t8", "t9", "t10"]), (9, ["t8", "t0", "t1"]), (2, ["t0", "t1"])])
def test_mining_takes_fresh_tasks_first_and_those_trained_on_when_they_run_out(monkeypatch, n_tasks, mined):
    asked = []

    def play(experiment, stage, tasks, contexts, policy):
        assert (stage, policy, len(contexts)) == ("mining", "policy of frozen", len(tasks))
        asked.extend(tasks)
        return []

    monkeypatch.setattr(stages, "play_logged", play)
    monkeypatch.setattr(stages, "mine_hard_negatives", lambda *_: [])
    stages.mine(experiment_of(n_tasks))
    assert [task.task_id for task in asked] == mined
