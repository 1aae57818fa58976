"""The number of threads: what is chosen on made-up timings, what the user has set, and where the choice is used."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trl import GRPOTrainer, SFTTrainer

from agenticrec_lite.agent import rollout as engine
from agenticrec_lite.agent.episodes import Group, Sampling
from agenticrec_lite.recommenders import SASRec
from agenticrec_lite.runs import open_run, threads
from agenticrec_lite.runs.threads import Chooser
from agenticrec_lite.training.checkpoint import check_resumed
from agenticrec_lite.training.grpo import ListwiseGRPOTrainer
from agenticrec_lite.training.sft import DemonstrationTrainer


class Machine:
    """Does pieces of work on a made-up clock, with the number of threads that a chooser gives.

    Args:
        one: Seconds of a piece with one thread.
        factor: How many times as long it takes with two: a number, or a function of the time.
        noise: Standard deviation of a piece's logarithm.
    """

    def __init__(self, one: float, factor, noise: float = 0.0):
        self.one, self.noise, self.rng = one, noise, np.random.default_rng(0)
        self.factor = factor if callable(factor) else lambda now: factor
        self.chooser, self.now, self.pieces = Chooser((1, 2)), 0.0, 0

    def work(self, until: float, kind=lambda n: "work", size=lambda n: 1.0) -> "Machine":
        while self.now < until:
            count = self.chooser.next(kind(self.pieces), self.now)
            seconds = self.one * size(self.pieces) * (self.factor(self.now) if count == 2 else 1)
            seconds *= np.exp(self.noise * self.rng.standard_normal())
            self.now += seconds
            self.chooser.record(count, size(self.pieces), seconds, self.now)
            self.pieces += 1
        return self

    def slower_than(self, count: int) -> float:
        """How many times as long it took as with a set number of threads."""
        return self.now / (self.pieces * self.one * (self.factor(0) if count == 2 else 1))


PIECES = st.floats(0.003, 0.15)
made_up = settings(max_examples=60, derandomize=True)


@made_up
@given(PIECES, st.floats(0.5, 1.0))
def test_on_a_quiet_machine_it_takes_about_as_long_as_with_all_cores(one, factor):
    machine = Machine(one, factor, noise=0.05).work(until=30)
    assert machine.chooser.kept == 2 or factor > 0.9
    assert machine.slower_than(2) < 1.05


@made_up
@given(PIECES, st.floats(1.7, 30.0))
def test_beside_a_busy_process_it_takes_about_as_long_as_with_one_thread(one, factor):
    machine = Machine(one, factor, noise=0.05).work(until=30)
    assert machine.chooser.kept == 1
    assert machine.slower_than(1) < 1.5


def test_it_follows_a_process_that_begins_and_ends():
    machine = Machine(0.02, lambda now: 5 if 30 < now < 60 else 0.75)
    assert [machine.work(until=at).chooser.kept for at in (29, 35, 59, 65)] == [2, 1, 1, 2]


@pytest.mark.parametrize(("factor", "kept"), [(1.1, 2), (1.4, 1)])
def test_all_cores_are_kept_unless_one_thread_is_clearly_faster(factor, kept):
    assert Machine(0.01, factor).work(until=20).chooser.kept == kept


@made_up
@given(st.lists(st.floats(0.2, 5.0), min_size=7, max_size=7), st.sampled_from([0.7, 3.0]))
def test_pieces_count_by_their_size(sizes, factor):
    machine = Machine(0.02, factor).work(until=20, size=lambda n: sizes[n % 7])
    assert machine.chooser.kept == (2 if factor < 1 else 1)


def test_pieces_of_different_kinds_are_not_compared():
    """One thread is tried on long pieces only; two then look fast on short ones, and are three times as slow."""
    chooser, now = Chooser((1, 2)), 0.0
    for one in [0.2] * 2 + [0.01] * 20:
        count = chooser.next(f"pieces of {one} s", now)
        seconds = one * (3 if count == 2 else 1)
        now += seconds
        chooser.record(count, 1, seconds, now)
    assert chooser.kept == 1


@made_up
@given(st.integers(2, 60), st.floats(1.6, 30.0))
def test_looks_that_are_cut_off_cost_little_too(alike, factor):
    """The kind of work changes after so many pieces, as when rows of a batch have ended."""
    machine = Machine(0.01, factor).work(until=10)
    assert machine.chooser.kept == 1
    machine.work(until=60, kind=lambda n: f"kind {n // alike}")
    assert machine.slower_than(1) < 1.5


def test_of_more_than_two_numbers_the_best_is_kept():
    """Eight cores, three of them taken: eight threads wait for each other, four do not."""
    chooser, now = Chooser((1, 4, 8)), 0.0
    while now < 10:
        count = chooser.next("work", now)
        seconds = {1: 0.04, 4: 0.012, 8: 0.1}[count]
        now += seconds
        chooser.record(count, 1, seconds, now)
    assert chooser.kept == 4


# In torch itself.


@pytest.fixture
def free(monkeypatch):
    """Two threads by default, and nobody has set the number; every piece is a look, long enough for a verdict."""
    before = torch.get_num_threads()
    for name in (*threads.SET_BY, "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name, value in {"DEFAULT": 2, "COUNTS": (1, 2), "LOOK": 1e-9, "STAY": 0}.items():
        monkeypatch.setattr(threads, name, value)
    monkeypatch.setattr(threads, "_chooser", Chooser((1, 2)))
    torch.set_num_threads(2)
    yield monkeypatch
    torch.set_num_threads(before)


def used() -> set[int]:
    """The numbers of threads that some pieces of work have."""
    found = set()
    for _ in range(6):
        with threads.timed("work"):
            found.add(torch.get_num_threads())
    return found


def numbers() -> set[int]:
    """Those that they have in a block."""
    with threads.chosen():
        return used()


def test_both_numbers_are_tried_and_the_number_from_before_comes_back(free):
    assert numbers() == {1, 2}
    assert torch.get_num_threads() == 2


def test_the_number_from_before_comes_back_after_an_error(free):
    threads._chooser.kept = 1
    with pytest.raises(ZeroDivisionError), threads.chosen(), threads.timed("work"):
        1 / 0  # noqa: B018
    assert torch.get_num_threads() == 2
    assert numbers() == {1, 2}  # and choosing goes on


@pytest.mark.parametrize("kept", [1, 2])
def test_a_block_in_a_block_goes_on_choosing(free, kept):
    threads._chooser.kept = kept
    with threads.chosen():
        assert numbers() == {1, 2}
        assert torch.get_num_threads() == threads._chooser.kept
        assert used() == {1, 2}
    assert torch.get_num_threads() == 2


def set_by_torch(monkeypatch):
    torch.set_num_threads(1)


def on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.mark.parametrize(
    "setting",
    ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "WORLD_SIZE", set_by_torch, on_a_gpu],
    ids=["OMP_NUM_THREADS", "MKL_NUM_THREADS", "WORLD_SIZE", "torch", "gpu"],
)
def test_what_the_user_has_set_stays(free, setting):
    free.setenv(setting, "2") if isinstance(setting, str) else setting(free)
    before = torch.get_num_threads()
    assert numbers() == {before} and threads.description() == before
    assert torch.get_num_threads() == before


def test_outside_of_a_block_nothing_is_tried(free):
    assert used() == {2}


def test_a_fit_chooses(free):
    seen = set()

    class Watched(SASRec):
        class network_type(SASRec.network_type):  # noqa: N801
            def loss(self, windows):
                seen.add(torch.get_num_threads())
                return super().loss(windows)

    rows = pd.DataFrame([(u, i, 0, i) for u in range(40) for i in range(6)], columns=["user", "item", "r", "t"])
    Watched(epochs=2, batch_size=8).fit(rows, 6)
    assert seen == {1, 2} and torch.get_num_threads() == 2


def test_rollouts_choose(free, tiny, context):
    from agenticrec_lite.agent.environment import RankingEnvironment

    seen, forward = set(), engine.Batch._forward

    def watched(self, ids, *rest):
        if ids.shape[1] == 1:
            seen.add(torch.get_num_threads())
        return forward(self, ids, *rest)

    free.setattr(engine.Batch, "_forward", watched)
    model, chat = tiny
    group = Group("t", chat.prompt_ids(context), [RankingEnvironment(context) for _ in range(2)])
    engine.rollout(model, chat, [group], Sampling(max_turn_tokens=30), torch.Generator().manual_seed(0))
    assert seen == {1, 2} and torch.get_num_threads() == 2


@pytest.mark.parametrize(("ours", "theirs"), [(ListwiseGRPOTrainer, GRPOTrainer), (DemonstrationTrainer, SFTTrainer)])
def test_a_trainer_computes_with_the_number_that_is_kept(free, ours, theirs):
    threads._chooser.kept = 1
    free.setattr(theirs, "train", lambda self: torch.get_num_threads())
    assert ours.__new__(ours).train() == 1
    assert torch.get_num_threads() == 2


def test_a_run_knows_that_the_number_is_chosen(free, tmp_path, capsys):
    for number in (None, None, "1"):
        if number:
            free.setenv("OMP_NUM_THREADS", number)
            torch.set_num_threads(int(number))
        with open_run(tmp_path, {"seed": 0}) as run:
            check_resumed(run, ("rta",))
            assert run.result["computed_with"]["threads"] == "1 or 2"
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1 and "'threads': '1 or 2'" in said[0] and "'threads': 1" in said[0]
