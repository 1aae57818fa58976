"""A run that is cut off at any moment goes on with the same command, and ends bit for bit as if it had not been."""

import copy
import csv
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch

from agenticrec_lite import cli
from agenticrec_lite.agent.protocol import write_answer, write_call
from agenticrec_lite.agent.question import Question
from agenticrec_lite.agent.teacher import run_script
from agenticrec_lite.data import make_log
from agenticrec_lite.experiment import experiment
from agenticrec_lite.experiment.experiment import Experiment
from agenticrec_lite.experiment.extensions import Extensions
from agenticrec_lite.experiment.stages import run_experiment, train
from agenticrec_lite.nano.worlds import random_world
from agenticrec_lite.policy import Policy, add_adapter
from agenticrec_lite.rewards import listwise_reward
from agenticrec_lite.runs import Run, open_run, read_trajectories
from agenticrec_lite.training import checkpoint, grpo
from agenticrec_lite.training.checkpoint import check_resumed

SMALL = {
    "agent": {"max_calls": 2},
    "rta": {"steps": 4, "tasks_per_step": 2, "group_size": 3, "micro_groups": 1},
    "ppr": {"mining_tasks": 8, "steps": 2, "tasks_per_step": 2, "group_size": 3, "micro_groups": 1},
    "evaluation": {"n_test": 6, "n_validation": 12},
}


def small_log(name: str = "small", users: int = 40):
    """60 items, and users with 30 interactions each, at random."""
    rng = np.random.default_rng(0)
    rows = [(f"u{u}", f"i{i}", 3.0, int(rng.integers(10**6))) for u in range(users) for i in rng.permutation(60)[:30]]
    items = [(f"i{i}", f"Title {i}", ("Drama", "Comedy")[i % 2 :], np.nan, 1990 + i % 9) for i in range(60)]
    return make_log(
        name,
        pd.DataFrame(rows, columns=["user_id", "item_id", "rating", "timestamp"]),
        pd.DataFrame(items, columns=["item_id", "title", "categories", "price", "year"]),
    )


def tell_stages(folder) -> None:
    """Small data and one thread for this process; a file beside the folder names the stage that it is in."""
    torch.set_num_threads(1)
    experiment.load_dataset = small_log
    timer = Run.timer

    def telling(run, stage):
        stage_file(folder).write_text(stage)
        return timer(run, stage)

    Run.timer = telling


def stage_file(folder) -> Path:
    return Path(f"{folder}.stage")


def run_small(folder) -> None:
    """A whole run in this process: small data, few steps."""
    tell_stages(folder)
    sys.stderr = open(os.devnull, "w", encoding="utf-8")  # progress bars
    run_experiment("small", "nano", 0, folder, SMALL)


def run_small_by_command(folder) -> None:
    """The same, as `agenticrec run`; what it says to the user is in a file beside the folder."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
    tell_stages(folder)
    sys.stderr = open(f"{folder}.stderr", "w", encoding="utf-8")
    changes = [f"{section}.{key}={value}" for section, settings in SMALL.items() for key, value in settings.items()]
    cli.app(["run", "--dataset", "small", "--out", str(folder), *(word for c in changes for word in ("--set", c))])


def rows_of(folder: Path) -> list[dict]:
    """metrics.csv without its times."""
    with open(folder / "metrics.csv", encoding="utf-8", newline="") as file:
        return [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in csv.DictReader(file)]


LOGGED = ("evaluate_frozen_greedy", "evaluate_frozen_sampled", "rta", "evaluate_rta", "mining", "ppr", "evaluate_ppr")


def content(folder: Path) -> dict:
    """All that a run leaves but times and memory, as bytes where it can be."""
    files = ["config.yaml", "state.json", "ranks.csv", *(f"trajectories/{stage}.jsonl" for stage in LOGGED)]
    files += [f"checkpoints/{stage}/{name}" for stage in ("rta", "ppr") for name in
              ("adapter_model.safetensors", "adapter_config.json")]  # fmt: skip
    result = json.loads((folder / "result.json").read_text())
    for measured in ("seconds", "peak_rss_mb"):
        del result[measured]
    return {name: (folder / name).read_bytes() for name in files} | {"metrics": rows_of(folder), "result": result}


def assert_equal(folder: Path, whole: dict) -> None:
    found = content(folder)
    assert [name for name in found if found[name] != whole[name]] == []
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["ppr", "rta"], "checkpoints are left"
    assert not list(folder.rglob(".*.tmp"))


@pytest.fixture(scope="module")
def start():
    """Starts `run_small` in a fresh process; its libraries are imported once for all of them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["test_resume"])

    def start(folder, target=run_small):
        process = context.Process(target=target, args=(folder,))
        process.start()
        return process

    return start


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory) -> dict:
    """What an uninterrupted run leaves, and the seconds of its stages."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    process = start(folder)
    process.join()
    assert process.exitcode == 0
    return content(folder) | {"seconds": json.loads((folder / "result.json").read_text())["seconds"]}


# Fast: one training stage of an untrained policy of two layers, with scripted rollouts that its generator chooses.

STEPS = {
    "steps": 5, "tasks_per_step": 2, "group_size": 3, "micro_groups": 1, "learning_rate": 1e-2, "warmup_steps": 1,
    "temperature": 1.0,
}  # fmt: skip
OFF = {"report_to": "none"}
AGENT = {"max_calls": 10, "max_turn_tokens": 40, "max_completion_tokens": 900, "batch_rows": 64, "merge": True}
LORA = {"r": 4, "alpha": 8, "targets": "all-linear"}
CALL = write_call("get_similar_users", {}, "I ask.")
ANSWERS = [write_answer([first, *(n for n in range(1, 21) if n != first)][:10]) for first in (3, 7, 12)]
SCRIPTS = [[CALL, ANSWERS[1]], [ANSWERS[0]], ["nonsense"], [CALL, CALL, ANSWERS[2]], [ANSWERS[2]]]


@dataclass
class Stage:
    """A training stage that may be run again and again in one folder; `before` is called before each rollout."""

    folder: Path
    before: Callable = lambda trajectories, step: None
    watch: Callable | None = None
    reward: Callable = listwise_reward
    scripts: list = field(default_factory=lambda: SCRIPTS)
    save_every: int = 1

    def train(self) -> None:
        worlds = [random_world(np.random.default_rng(i), 3, 3) for i in range(10)]
        questions = [Question(f"q{i}", world, "rank", 7, tuple(range(20))) for i, world in enumerate(worlds)]
        with open_run(self.folder, {"seed": 0}) as run:
            settings = STEPS | {"save_every": self.save_every}
            profile = {"policy": {}, "agent": AGENT, "rta": settings, "tracking": OFF}
            opened = Experiment(None, profile, 0, run, Extensions(reward=self.reward))
            opened.test = opened.test_contexts = []  # no task is followed through the training
            train(opened, "rta", questions, self.watch)

    def rollout(self, model, chat, groups, sampling, generator=None):
        trajectories = []
        for g, group in enumerate(groups):
            for environment in group.environments:
                turns = self.scripts[int(torch.randint(len(self.scripts), (1,), generator=generator))]
                trajectory = run_script(turns, environment.context, chat, "rank", group.prompt_ids)
                trajectory.task_id, trajectory.group = group.task_id, g
                trajectories.append(trajectory)
        self.before(trajectories, generator.initial_seed() + 1)
        return trajectories

    def left(self) -> dict:
        """What it has left in its folder, but for times."""
        adapter = self.folder / "checkpoints" / "rta" / "adapter_model.safetensors"
        trajectories = (self.folder / "trajectories" / "rta.jsonl").read_bytes()
        return {"metrics": rows_of(self.folder), "trajectories": trajectories, "adapter": adapter.read_bytes()}

    @property
    def checkpoints(self) -> list[Path]:
        return sorted((self.folder / "checkpoints" / "rta_steps").glob("*.safetensors"))


def stages(monkeypatch, tiny, folder: Path) -> Callable[..., Stage]:
    """Makes stages in folders below `folder`; the last one made is the one whose rollouts are played."""

    def load(settings, adapter=None):
        torch.manual_seed(0)
        return Policy(add_adapter(copy.deepcopy(tiny[0]), LORA, adapter), tiny[1].tokenizer, True)

    def make(name: str, **how) -> Stage:
        stage = Stage(folder / name, **how)
        monkeypatch.setattr(grpo, "rollout", stage.rollout)
        return stage

    monkeypatch.setattr(experiment, "load_policy", load)
    return make


@pytest.fixture
def stage_of(monkeypatch, tiny, tmp_path):
    return stages(monkeypatch, tiny, tmp_path)


class PowerCut(BaseException):
    """Nothing catches it."""


def cut_before(step: int) -> Callable:
    """The power fails in the rollouts of a step."""

    def before(trajectories, now):
        if now == step:
            raise PowerCut

    return before


def interrupted(stage: Stage, step: int) -> Stage:
    """The stage, cut off in a step; the same command then goes on without that fault."""
    before = stage.before
    stage.before = lambda trajectories, now: (before(trajectories, now), cut_before(step)(trajectories, now))
    with pytest.raises(PowerCut):
        stage.train()
    stage.before = before
    return stage


@pytest.fixture(scope="module")
def uninterrupted(tiny, tmp_path_factory) -> dict:
    with pytest.MonkeyPatch.context() as monkeypatch:
        stage = stages(monkeypatch, tiny, tmp_path_factory.mktemp("stage"))("whole")
        stage.train()
        return stage.left()


def test_the_last_checkpoint_holds_every_bit_of_the_state(stage_of):
    """Adapter, Adam's moments, schedule and generators after four steps are the same, however often cut off."""
    kept = []
    for name, cuts in (("whole", []), ("cut", [2, 4])):
        stage = stage_of(name)
        for step in cuts:
            interrupted(stage, step)
        interrupted(stage, 5)
        assert [path.name for path in stage.checkpoints] == ["3.safetensors", "4.safetensors"]
        kept.append(checkpoint._read(stage.checkpoints[-1]))
    (tensors, state), (again, state_again) = kept
    assert state == state_again and {name.partition(".")[0] for name in tensors} == {"adapter", "adam", "generator"}
    assert tensors.keys() == again.keys() and all(torch.equal(tensors[name], again[name]) for name in tensors)


def test_a_stage_cut_off_goes_on_and_ends_the_same(stage_of, uninterrupted, capsys):
    stage = interrupted(stage_of("cut"), 4)
    logged = rows_of(stage.folder)
    seen = []
    stage.watch = lambda history: seen.append([row["step"] for row in history])
    stage.train()
    assert "going on after step 3" in capsys.readouterr().out
    assert seen[0] == [1, 2, 3, 4], "curves begin where the stage began"
    assert rows_of(stage.folder)[:3] == logged and stage.left() == uninterrupted
    assert [path.name for path in (stage.folder / "checkpoints").iterdir()] == ["rta"], "checkpoints stay behind"


@pytest.mark.fault("kill between log and checkpoint", "RTA")
def test_steps_logged_after_the_checkpoint_are_forgotten(stage_of, uninterrupted):
    """Step 4 stands in both logs, its checkpoint was not written: it is played again, and logged once."""
    stage = interrupted(stage_of("cut"), 5)
    stage.checkpoints[-1].unlink()
    stage.train()
    assert stage.left() == uninterrupted


@pytest.mark.parametrize(("every", "cut", "kept"), [(1, 5, [3, 4]), (2, 5, [2, 4]), (3, 5, [3]), (3, 3, [])])
def test_with_a_checkpoint_every_so_many_steps_it_ends_the_same(every, cut, kept, stage_of, uninterrupted):
    """The logs are rewound to the checkpoint's step before the steps after it are played again."""
    stage = interrupted(stage_of("cut", save_every=every), cut)
    assert [path.name for path in stage.checkpoints] == [f"{step}.safetensors" for step in kept]
    assert [int(row["step"]) for row in rows_of(stage.folder)] == [*range(1, cut)]
    rewound = []

    def look(trajectories, now):
        played = {row["step"] for row in read_trajectories(stage.folder)} if now > 1 else set()
        rewound.append((now, sorted(played)))

    stage.before = look
    stage.train()
    last = kept[-1] if kept else 0
    assert rewound == [(now, [*range(1, now)]) for now in range(last + 1, 6)]
    assert stage.left() == uninterrupted


def scaled(monkeypatch, **how) -> None:
    """Stages train with a scale of the loss, as accelerate does it on a GPU in fp16."""
    init, norm = grpo.ListwiseGRPOTrainer.__init__, grpo.ListwiseGRPOTrainer._get_grad_norm

    def with_scaler(self, *arguments, **named):
        init(self, *arguments, **named)
        self.accelerator.scaler = torch.amp.GradScaler("cpu", **how)

    def unscaled(self, *arguments, **named):
        self.accelerator.scaler.unscale_(self.optimizer.optimizer)
        return norm(self, *arguments, **named)

    monkeypatch.setattr(grpo.ListwiseGRPOTrainer, "__init__", with_scaler)
    monkeypatch.setattr(grpo.ListwiseGRPOTrainer, "_get_grad_norm", unscaled)


@pytest.mark.parametrize("cut", [2, 4, 5])
def test_the_scale_of_the_loss_goes_on_too(cut, stage_of, monkeypatch):
    """It doubles after every second good step, so that a cut at any of these is seen in the scale or its counter."""
    scaled(monkeypatch, init_scale=8.0, growth_interval=2)
    left = []
    for name, cuts in (("whole", []), ("cut", [cut])):
        stage = stage_of(name)
        for step in cuts:
            interrupted(stage, step)
        stage.train()
        left.append(stage.left())
    assert [row["loss_scale"] for row in left[0]["metrics"]] == ["8.0", "16.0", "16.0", "32.0", "32.0"]
    assert left[0] == left[1]


@pytest.mark.fault("clock going backwards", "checkpoints")
def test_the_clock_decides_nothing(stage_of, uninterrupted, monkeypatch, capsys):
    """The newest checkpoint is the one of the last step, though its time is the oldest."""
    seconds = itertools.count(2e9, -3600)
    monkeypatch.setattr(time, "time", lambda: float(next(seconds)))
    stage = interrupted(stage_of("cut"), 5)
    for age, path in enumerate(stage.checkpoints):
        os.utime(path, (1e9 - age, 1e9 - age))
    stage.train()
    assert "going on after step 4" in capsys.readouterr().out
    assert stage.left() == uninterrupted


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(truncate, marks=pytest.mark.fault("truncated file", "checkpoint")),
        pytest.param(flip_a_bit, marks=pytest.mark.fault("flipped bit", "checkpoint")),
    ],
)
def test_a_damaged_checkpoint_is_told_and_the_one_before_serves(stage_of, uninterrupted, damage, capsys):
    """The stage goes on after step 3 in place of 4, and says so."""
    stage = interrupted(stage_of("cut"), 5)
    damage(stage.checkpoints[-1])
    stage.train()
    told = capsys.readouterr().out
    assert "4.safetensors cannot be used" in told and "going on after step 3" in told
    assert stage.left() == uninterrupted


def test_without_a_good_checkpoint_the_stage_begins_anew(stage_of, uninterrupted):
    stage = interrupted(stage_of("cut"), 5)
    for path in stage.checkpoints:
        truncate(path)
    stage.train()
    assert stage.left() == uninterrupted


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("metrics.csv", marks=pytest.mark.fault("file deleted", "metrics.csv")),
        pytest.param("trajectories/rta.jsonl", marks=pytest.mark.fault("file deleted", "trajectories")),
    ],
)
def test_a_lost_log_is_made_again(stage_of, uninterrupted, name, capsys):
    """A checkpoint whose steps are not all in the logs does not count: the stage begins anew, and says so."""
    stage = interrupted(stage_of("cut"), 5)
    (stage.folder / name).unlink()
    stage.train()
    assert "have steps up to 0 only" in capsys.readouterr().out
    assert stage.left() == uninterrupted


def test_a_users_file_among_the_checkpoints_stays(stage_of, uninterrupted):
    stage = interrupted(stage_of("cut"), 5)
    users = [stage.folder / "checkpoints" / "rta_steps" / name for name in ("best.safetensors", "notes.md")]
    for path in users:
        path.write_text("mine")
    stage.train()
    assert stage.left() == uninterrupted
    with open_run(stage.folder, {"seed": 0}) as run:
        check_resumed(run, ("rta",))
    assert [path.read_text() for path in users] == ["mine", "mine"]
    assert sorted(path.name for path in users[0].parent.iterdir()) == ["best.safetensors", "notes.md"]


def test_another_number_of_threads_is_told_once_a_start(tmp_path, capsys):
    before = torch.get_num_threads()
    try:
        for threads in (1, 1, 2):
            torch.set_num_threads(threads)
            with open_run(tmp_path, {"seed": 0}) as run:
                check_resumed(run, ("rta",))
    finally:
        torch.set_num_threads(before)
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 1 and "began with {'threads': 1" in told[0] and "{'threads': 2" in told[0]


# The whole way, in processes of their own.

STAGES = (
    "recommenders", "evaluate_frozen_greedy", "evaluate_frozen_sampled", "rta", "evaluate_rta", "mining", "ppr",
    "evaluate_ppr",
)  # fmt: skip


def marked(folder: Path) -> list[str]:
    """The stages that are finished."""
    path = folder / "state.json"
    return list(json.loads(path.read_text())) if path.exists() else []


def kill_in(start, folder: Path, stage: str, seconds: float, number=signal.SIGKILL) -> str:
    """Start a run, and kill it so many seconds after it has entered a stage; says where that was."""
    stage_file(folder).unlink(missing_ok=True)
    process = start(folder)
    while process.is_alive() and not (stage_file(folder).exists() and stage_file(folder).read_text() == stage):
        time.sleep(0.005)
    process.join(seconds)
    if not process.is_alive():
        assert process.exitcode == 0, "the run failed by itself"
        return f"{stage}: done before"
    os.kill(process.pid, number)
    process.join()
    return f"{stage} after step {steps_of(folder, stage)}" if stage in SMALL else stage


def steps_of(folder: Path, stage: str) -> int:
    """Steps that a stage has logged."""
    return sum(row["stage"] == stage for row in rows_of(folder)) if (folder / "metrics.csv").exists() else 0


def assert_ends_equal(start, folder: Path, whole: dict) -> None:
    """The same command ends, and has left what an uninterrupted one leaves."""
    process = start(folder)
    process.join()
    assert process.exitcode == 0
    assert_equal(folder, whole)


@pytest.mark.all
@pytest.mark.fault("kill -9", "recommender fit")
@pytest.mark.fault("kill -9", "evaluation")
@pytest.mark.fault("kill -9", "RTA")
@pytest.mark.fault("kill -9", "mining")
@pytest.mark.fault("kill -9", "PPR")
def test_a_run_killed_in_every_stage_ends_bit_for_bit_the_same(start, whole, tmp_path, record_property):
    rng, folder, places = random.Random(3), tmp_path / "run", []
    for stage in ("recommenders", "evaluate_frozen_greedy", "rta", "rta", "mining", "ppr", "evaluate_ppr"):
        places.append(kill_in(start, folder, stage, rng.uniform(0, 0.4) * whole["seconds"][stage]))
    record_property("detail", "killed at a random moment of " + "; ".join(places))
    assert not any("done before" in place for place in places)
    assert_ends_equal(start, folder, whole)


@pytest.mark.all
def test_a_run_cut_off_goes_on_on_a_fresh_machine_that_has_the_folder(start, whole, tmp_path):
    """As a run on a mounted drive does when its machine is gone: nothing but the folder's files is left."""
    before, after = tmp_path / "drive" / "my run", tmp_path / "mounted again" / "my run"
    for folder in (before, after):
        folder.parent.mkdir()
    assert "done before" not in kill_in(start, before, "rta", 0.4 * whole["seconds"]["rta"])
    shutil.copytree(before, after, copy_function=shutil.copyfile)  # no times, no locks
    shutil.rmtree(before)
    assert_ends_equal(start, after, whole)


@pytest.mark.long
@pytest.mark.parametrize("stage", STAGES)
def test_a_run_killed_ten_times_in_a_stage_ends_bit_for_bit_the_same(stage, start, whole, tmp_path):
    """Where the stage comes to its end between two kills, that run must end the same, and another one is begun."""
    rng, folder, places = random.Random(stage), tmp_path / "run0", []
    while sum("done before" not in place for place in places) < 10:
        places.append(kill_in(start, folder, stage, rng.uniform(0, 1.1) * whole["seconds"][stage]))
        if stage in marked(folder) or "done before" in places[-1]:
            assert_ends_equal(start, folder, whole)
            folder = tmp_path / f"run{len(places)}"
    print("; ".join(places))
    assert_ends_equal(start, folder, whole)


@pytest.mark.all
@pytest.mark.fault("Ctrl-C", "RTA")
def test_an_interrupted_command_says_so_and_goes_on(start, whole, tmp_path):
    """One sentence, exit code 130; the run then ends bit for bit as if it had not been interrupted."""
    folder = tmp_path / "run"
    processes = []

    def started(folder):
        processes.append(start(folder, run_small_by_command))
        return processes[0]

    kill_in(started, folder, "rta", 0.1 * whole["seconds"]["rta"], signal.SIGINT)
    told = (tmp_path / "run.stderr").read_text()
    assert processes[0].exitcode == 130 and "Traceback" not in told
    assert "Interrupted; the same command goes on" in told.splitlines()[-1]
    assert_ends_equal(start, folder, whole)


NOTEBOOK = """
import sys
sys.path[:0] = [{tests!r}, {root!r}]
from test_resume import run_small
run_small({folder!r})
"""


def start_notebook(folder: Path) -> subprocess.Popen:
    """papermill executes a notebook that goes the whole way in `folder`, which it shares with its kernel's run."""
    root, source = Path(__file__).parents[1], folder.parent / "source.ipynb"
    code = NOTEBOOK.format(tests=str(Path(__file__).parent), root=str(root), folder=str(folder))
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [nbformat.v4.new_code_cell(code, id="run")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": spec}), source)
    command = [sys.executable, "-m", "papermill", str(source), str(folder.parent / "done.ipynb"), "-k", "python3"]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


@pytest.mark.long
@pytest.mark.fault("kill -9", "papermill")
def test_papermill_killed_at_ten_random_moments_ends_bit_for_bit_the_same(whole, tmp_path, record_property):
    """Its kernel notices within a second, and gives the folder free; the notebook is then executed again."""
    rng, folder, places = random.Random(1), tmp_path / "run", []
    for wanted in sorted(rng.choices(STAGES, k=10), key=STAGES.index):
        stage_file(folder).unlink(missing_ok=True)
        process = start_notebook(folder)
        while process.poll() is None and not (stage_file(folder).exists() and stage_file(folder).read_text() == wanted):
            if wanted in marked(folder):
                break  # an earlier kernel lived until that stage was done
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 1) * whole["seconds"][wanted])
        places.append(f"{wanted}{'' if process.poll() is None else ': done before'}")
        process.kill()
        process.wait()
        time.sleep(3)
    record_property("detail", "; ".join(places))
    assert start_notebook(folder).wait() == 0
    assert_equal(folder, whole)
