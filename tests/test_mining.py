"""Hard negatives and the questions made of them."""

import numpy as np

from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.data.tasks import RankingTask
from agenticrec_lite.training.mining import HardNegative, mine_hard_negatives, pair_questions

TEN = [8, 3, 15, 1, 2, 4, 5, 6, 7, 9]


def task(name, positive):
    return RankingTask(name, 0, (1, 2, 3), (5.0, 5.0, 5.0), tuple(range(20)), positive, 0)


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
    questions = pair_questions(mined, dict.fromkeys(names), dict.fromkeys(names, ()), 0)
    assert len(questions) == 400 and len({q.task_id for q in questions}) == 400
    for more, less in zip(questions[::2], questions[1::2], strict=True):
        assert (more.kind, less.kind) == ("more", "less")
        assert more.task_id.split(":")[0] == less.task_id.split(":")[0]
        assert more.pair["AB".index(more.right)] == 4 and less.pair["AB".index(less.right)] == 9
    first = np.mean([q.pair[0] == 4 for q in questions])
    assert 0.4 < first < 0.6
    assert [q.task_id for q in questions] != sorted(q.task_id for q in questions)


def test_a_rehearsed_ranking_follows_its_pair_and_leaves_the_questions_as_they_are():
    mined = [HardNegative(f"t{i}", 4, 9, (9,)) for i in range(20)]
    names = [pair.task_id for pair in mined]
    plain, rehearsed = (
        pair_questions(mined, dict.fromkeys(names), dict.fromkeys(names, ()), 0, rehearse) for rehearse in (False, True)
    )
    assert [q for q in rehearsed if q.kind != "rank"] == plain
    for more, rank in zip(rehearsed[::3], rehearsed[2::3], strict=True):
        assert (rank.kind, rank.right, rank.pair) == ("rank", 4, None)
        assert more.task_id.split(":")[0] == rank.task_id.split(":")[0] and len({q.task_id for q in rehearsed}) == 60
