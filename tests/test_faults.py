"""Faults that come from outside: nothing is lost, nothing is silently wrong, and one sentence says what to do."""

import errno
import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from test_resume import ANSWERS, CALL, interrupted, rows_of, scaled, stage_of, uninterrupted  # noqa: F401

from agenticrec_lite.agent.environment import RankingEnvironment
from agenticrec_lite.agent.episodes import Group, Sampling, enough_memory
from agenticrec_lite.agent.rollout import rollout
from agenticrec_lite.data import toystore
from agenticrec_lite.data.toystore_world import DESIGNS
from agenticrec_lite.errors import UserError
from agenticrec_lite.evaluation.metrics import summarize
from agenticrec_lite.experiment import stages
from agenticrec_lite.experiment.experiment import Experiment
from agenticrec_lite.experiment.shipped import SHIPPED
from agenticrec_lite.nano import pretrain
from agenticrec_lite.nano.card import CARD, has_card
from agenticrec_lite.policy import NANO
from agenticrec_lite.report import full_report
from agenticrec_lite.runs import open_run, read_config, read_metrics, read_ranks, read_result, read_trajectories
from agenticrec_lite.tools import TOOLS, call_tool
from agenticrec_lite.training import checkpoint
from agenticrec_lite.training.checkpoint import check_resumed
from agenticrec_lite.training.grpo import MOST_SKIPPED


def fault(what: str, where: str, *values):
    return pytest.param(*values, marks=pytest.mark.fault(what, where))


def one_sentence(error: Exception, *parts: str) -> None:
    text = str(error)
    assert "\n" not in text and text.endswith(".") and [part for part in parts if part not in text] == []


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


# --- a disk that is full ---


class FullDisk:
    """From now on, what is written to a file or folder of that name never reaches the disk."""

    def __init__(self, monkeypatch, folder: Path, name: str):
        self.full, self.folder, self.name, self.fsync = True, folder, name, os.fsync
        monkeypatch.setattr(os, "fsync", self)

    def __call__(self, descriptor: int) -> None:
        written = os.fstat(descriptor)
        of_it = [p for p in self.folder.rglob("*") if p.is_file() and os.path.samestat(p.stat(), written)]
        if self.full and any(part.strip(".").startswith(self.name) for p in of_it for part in p.parts):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.fsync(descriptor)


WRITES = {
    "config.yaml": lambda run: None,  # as the folder is made
    "state.json": lambda run: run.mark("rta"),
    "metrics.csv": lambda run: run.log_metrics({"stage": "rta", "step": 2}),
    "rta.jsonl": lambda run: run.log_trajectories([{"stage": "rta", "step": 2}] * 3),
    "result.json": lambda run: run.write_result(n_test=4),
    "ranks.csv": lambda run: run.write_ranks(pd.DataFrame({"task_id": ["b"]})),
}
PATHS = {name: f"trajectories/{name}" if name == "rta.jsonl" else name for name in WRITES}


@pytest.mark.parametrize("name", [fault("disk full", path, name) for name, path in PATHS.items()])
def test_a_full_disk_leaves_the_file_as_it_was_and_then_the_run_goes_on(name, tmp_path, monkeypatch):
    """One sentence with "No space left" and the file's name; the file is as before; with space, it is written."""
    if name != "config.yaml":
        with open_run(tmp_path, {"seed": 0}) as run:
            for write in WRITES.values():
                write(run)
    before = files(tmp_path)
    disk = FullDisk(monkeypatch, tmp_path, name)
    with pytest.raises(UserError) as stop, open_run(tmp_path, {"seed": 0}) as run:
        WRITES[name](run)
    one_sentence(stop.value, "Could not write", name, "No space left", "goes on")
    assert files(tmp_path) == before
    disk.full = False
    with open_run(tmp_path, {"seed": 0}) as run:
        WRITES[name](run)
    assert files(tmp_path).keys() == before.keys() | {PATHS[name]}


def test_a_stage_that_could_not_be_marked_is_not_done(tmp_path, monkeypatch):
    with open_run(tmp_path, {"seed": 0}) as run:
        FullDisk(monkeypatch, tmp_path, "state.json")
        with pytest.raises(UserError):
            run.mark("rta")
        assert not run.done("rta")


@pytest.mark.parametrize(
    "name",
    [fault("disk full", "checkpoint", "3.safetensors"), fault("disk full", "adapter", f"rta.{os.getpid()}.")],
    ids=["checkpoint", "adapter"],  # of the same names in every process
)
def test_a_full_disk_in_training_costs_at_most_a_step(name, stage_of, uninterrupted, monkeypatch):  # noqa: F811
    """The stage stops with a sentence and goes on from the last checkpoint; the result is the same bit for bit."""
    stage = stage_of("full")
    disk = FullDisk(monkeypatch, stage.folder, name)
    with pytest.raises(UserError) as stop:
        stage.train()
    one_sentence(stop.value, "No space left", name.partition(".")[0])
    assert not (stage.folder / "checkpoints" / "rta").exists() and not list(stage.folder.rglob(".*.tmp"))
    kept = len(stage.checkpoints)
    disk.full = False
    stage.train()
    assert kept == 2 and stage.left() == uninterrupted


def test_safetensors_that_the_system_stops_writing_is_one_sentence(stage_of):  # noqa: F811
    """Not a stand-in: no file may grow beyond the size that the system allows this process."""
    stage, allowed = stage_of("full"), resource.getrlimit(resource.RLIMIT_FSIZE)

    def before(trajectories, now):
        if now == 2:
            most = stage.checkpoints[0].stat().st_size - 1000
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, allowed[1]))

    stage.before = before
    try:
        with pytest.raises(UserError) as stop:
            stage.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, allowed)
    one_sentence(stop.value, "Could not write", "2.safetensors")
    assert [path.name for path in stage.checkpoints] == ["1.safetensors"] and not list(stage.folder.rglob(".*.tmp"))


@pytest.mark.fault("no permission", "run folder")
def test_a_folder_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    """Opening a run in a read-only folder, with a half-written file in it, ends in a sentence."""
    open_run(tmp_path, {"seed": 0}).close()
    (tmp_path / ".state.json.1.tmp").write_text("{")

    def refused(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(UserError) as stop:
        open_run(tmp_path, {"seed": 0})
    one_sentence(stop.value, "Cannot open the run folder", "Permission denied", "choose one that can be written")


# --- files that are not as they were written ---

READERS = {
    "config.yaml": read_config,
    "state.json": lambda folder: open_run(folder, {"seed": 0}),
    "result.json": read_result,
    "metrics.csv": read_metrics,
    "rta.jsonl": lambda folder: list(read_trajectories(folder)),
    "ranks.csv": read_ranks,
}
DAMAGES = {
    "config.yaml": b"seed: [0\n",
    "state.json": b'{"fit": ',
    "result.json": b'["no", "object"]',
    "metrics.csv": b"stage,step\nrta,1\nrta,2,3,4\n",
    "rta.jsonl": b'{"stage": "rta", "step": 1}\n{"stage": "rta", "st\x00\n{"stage": "rta", "step": 3}\n',
    "ranks.csv": b"",
}


@pytest.mark.parametrize("name", [fault("damaged file", PATHS[name], name) for name in READERS])
def test_a_damaged_file_is_named_with_what_to_do(name, tmp_path):
    """The reader, and the run that would go on with it, say which file is damaged and how to mend it."""
    with open_run(tmp_path, {"seed": 0}) as run:
        for write in WRITES.values():
            write(run)
    damaged = tmp_path / PATHS[name]
    damaged.write_bytes(DAMAGES[name])
    for read in (READERS[name], lambda folder: open_run(folder, {"seed": 0}).rewind("rta", 2)):
        if name == "ranks.csv" and read is not READERS[name]:
            continue  # a run only writes it
        with pytest.raises(UserError) as stop:
            read(tmp_path)
        one_sentence(stop.value, str(damaged), "damaged", "delete it" if name[:2] in ("st", "re") else "")
        if name == "rta.jsonl":
            assert ("in line 2" if read is READERS[name] else "at byte 28") in str(stop.value)


@pytest.mark.parametrize("text", ["stage,step\nrta,two\n", "stage,step\nrta\n", "\xff\xfe\n"])
def test_a_metrics_file_whose_steps_make_no_sense_is_damaged(text, tmp_path):
    open_run(tmp_path, {"seed": 0}).close()
    (tmp_path / "metrics.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match="metrics.csv is damaged"):
        open_run(tmp_path, {"seed": 0})


@pytest.mark.parametrize(
    "damage",
    [
        fault("folder deleted", "adapter of a finished stage", shutil.rmtree),
        fault("truncated file", "adapter of a finished stage",
              lambda folder: os.truncate(folder / "adapter_model.safetensors", 5000)),
    ],
)  # fmt: skip
def test_a_finished_stage_without_its_adapter_is_told(damage, stage_of):  # noqa: F811
    """Nothing is evaluated with another policy in its place: a sentence says what to put back or delete."""
    stage = stage_of("run")
    stage.train()
    damage(stage.folder / "checkpoints" / "rta")
    with open_run(stage.folder, {"seed": 0}) as run:
        experiment = Experiment(None, {"policy": {}}, 0, run)
        with pytest.raises(UserError) as stop:
            experiment.policy  # noqa: B018
    one_sentence(stop.value, "missing or damaged", "state.json", "every stage runs again")


@pytest.mark.fault("file deleted", "state.json")
def test_without_its_state_a_run_does_everything_again(stage_of, uninterrupted):  # noqa: F811
    """The stage is trained anew and its rows are not logged twice."""
    stage = stage_of("run")
    stage.train()
    (stage.folder / "state.json").unlink()
    stage.train()
    assert stage.left() == uninterrupted


@pytest.mark.fault("file deleted", "result.json")
def test_lost_figures_are_made_again_from_the_trajectories(tmp_path, monkeypatch):
    """evaluate_stage finds its mark but no figures: it computes them from the log, without playing."""
    users, ranks = [1, 1, 2], np.array([1.0, np.inf, 4.0])
    rows = [{"stage": "evaluate_rta", "step": 0, "task_id": i, "outcome": outcome, "n_calls": i}
            for i, outcome in enumerate(["answered", "length", "answered"])]  # fmt: skip
    monkeypatch.setattr(stages.evaluate, "users_of", lambda tasks: users)
    with open_run(tmp_path, {"seed": 0}) as run:
        experiment = Experiment(None, {}, 0, run)
        vars(experiment)["test"] = [None] * 3
        run.log_trajectories(rows)
        run.mark("evaluate_rta", ranks)
        stages.evaluate_stage(experiment, "rta")
        expected = summarize(ranks, users, valid=[True, False, True], calls=[0, 1, 2])
        assert run.result["metrics"]["rta"] == expected and expected["valid"] == pytest.approx(2 / 3)
    (tmp_path / "result.json").unlink()
    (tmp_path / "trajectories" / "evaluate_rta.jsonl").write_text("")
    with open_run(tmp_path, {"seed": 0}) as run:
        experiment.run = run
        with pytest.raises(UserError) as stop:
            stages.evaluate_stage(experiment, "rta")
    one_sentence(stop.value, "lost result.json", "trajectories of evaluate_rta")


def test_lost_curves_of_a_finished_stage_are_told(stage_of, capsys):  # noqa: F811
    stage = stage_of("run")
    stage.train()
    (stage.folder / "metrics.csv").unlink()
    with open_run(stage.folder, {"seed": 0}) as run:
        check_resumed(run, ("rta", "ppr"))
    assert "has lost the steps of rta; its results stand" in capsys.readouterr().out


# --- memory ---

CPU_ALLOCATOR = (
    "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried to allocate"
)
OUT_OF_MEMORY = [MemoryError(), torch.OutOfMemoryError("CUDA out of memory."), RuntimeError(CPU_ALLOCATOR)]


@pytest.mark.fault("out of memory", "rollouts")
@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_out_of_memory_in_rollouts_names_the_settings(error, tiny, context, monkeypatch):
    """MemoryError, torch's error on a GPU and its plain one on a CPU end in the settings to make smaller."""
    model, chat = tiny

    def fails(*_, **__):
        raise error

    monkeypatch.setattr(model.get_decoder(), "forward", fails)
    group = Group("a", chat.prompt_ids(context), [RankingEnvironment(context)])
    with pytest.raises(UserError) as stop:
        rollout(model, chat, [group], Sampling(0.0))
    one_sentence(stop.value, "rollouts", "agent.batch_rows", "agent.max_completion_tokens", "another folder")


@pytest.mark.fault("out of memory", "update")
def test_out_of_memory_in_an_update_names_the_settings_and_the_stage_can_go_on(
    stage_of, uninterrupted, monkeypatch  # noqa: F811
):  # fmt: skip
    """torch's error in the scoring of step 3: a sentence; with memory again the stage goes on after step 2."""
    stage, score = stage_of("run"), stages.ListwiseGRPOTrainer._get_per_token_logps_and_entropies

    def fails(self, *arguments, **named):
        if self.state.global_step == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return score(self, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(stages.ListwiseGRPOTrainer, "_get_per_token_logps_and_entropies", fails)
        with pytest.raises(UserError) as stop:
            stage.train()
    one_sentence(stop.value, "update of RTA", "rta.micro_groups", "rta.group_size", "agent.max_completion_tokens")
    stage.train()
    assert stage.left() == uninterrupted


def test_other_errors_are_not_called_a_want_of_memory():
    with pytest.raises(RuntimeError, match="shapes"), enough_memory("x", "y"):
        raise RuntimeError("shapes differ")


# --- numbers that are none ---


SPOILT = ["NaN reward", "NaN gradient", "infinite gradient"]


def spoil(stage, kind: str | None, steps, monkeypatch) -> None:
    """What some of its steps compute is not finite, or all of their groups are dropped."""
    state, training_step = {"now": 0}, stages.ListwiseGRPOTrainer.training_step

    def before(trajectories, now):
        state["now"] = now
        if now in steps and kind == "all dropped":
            for t in trajectories:
                t.outcome, t.answer = "bad_turn", None

    def spoilt_step(self, model, *arguments):
        loss = training_step(self, model, *arguments)
        if state["now"] in steps and kind in SPOILT[1:]:
            parameter = next(p for p in model.parameters() if p.grad is not None)
            parameter.grad.view(-1)[0] = float("nan" if kind == "NaN gradient" else "inf")
        return loss

    monkeypatch.setattr(stages.ListwiseGRPOTrainer, "training_step", spoilt_step)
    stage.before, reward = before, stage.reward
    stage.reward = lambda t, right: float("nan") if state["now"] in steps and kind == SPOILT[0] else reward(t, right)


@pytest.mark.parametrize(
    "kind",
    [
        fault("NaN", "reward", "NaN reward"),
        fault("NaN", "gradient", "NaN gradient"),
        fault("infinity", "gradient", "infinite gradient"),
        fault("every group dropped", "a step", "all dropped"),
        None,
    ],
)
def test_a_step_that_is_spoilt_moves_neither_weights_nor_moments(kind, stage_of, monkeypatch):  # noqa: F811
    """Step 4 is spoilt: adapter and Adam's moments are bit for bit those after step 3, and metrics.csv counts it."""
    stage = stage_of("run")
    spoil(stage, kind, {4}, monkeypatch)
    interrupted(stage, 5)
    assert [path.name for path in stage.checkpoints] == ["3.safetensors", "4.safetensors"]
    (before, _), (after, _) = (checkpoint._read(path) for path in stage.checkpoints)
    names = [name for name in before if name.startswith(("adapter.", "adam."))]
    assert len(names) > 50 and before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in names) == (kind is not None)
    skipped = [row.get("skipped", "") for row in rows_of(stage.folder)]
    assert skipped == ["", "", "", "1" if kind in SPOILT else ""]


def test_too_many_spoilt_steps_in_a_row_stop_the_stage_now_and_again(stage_of, monkeypatch):  # noqa: F811
    """Counted across an interruption; the same command says the same."""
    stage = stage_of("run")
    spoil(stage, "NaN gradient", set(range(1, 6)), monkeypatch)
    interrupted(stage, 3)
    for _ in range(2):
        with pytest.raises(UserError) as stop:
            stage.train()
        one_sentence(stop.value, f"last {MOST_SKIPPED} steps of rta", "not finite", "rta.learning_rate")
    assert [row["skipped"] for row in rows_of(stage.folder)] == ["1"] * MOST_SKIPPED


@pytest.mark.parametrize(("scale", "stops"), [(16.0, False), (1.0, True)])
def test_steps_in_which_the_scale_of_the_loss_settles_are_not_counted(scale, stops, stage_of, monkeypatch):  # noqa: F811
    """Five steps in a row without a finite gradient: above a scale of 1 fp16 begins so, below it is a fault."""
    scaled(monkeypatch, init_scale=scale)
    stage = stage_of("run")
    spoil(stage, "infinite gradient", set(range(1, 6)), monkeypatch)
    if stops:
        with pytest.raises(UserError, match=f"last {MOST_SKIPPED} steps of rta moved nothing"):
            stage.train()
    else:
        stage.train()
    scales = [float(row["loss_scale"]) for row in rows_of(stage.folder)]
    assert scales == [scale / 2**n for n in range(1, 6)]


# --- files of others ---


def of_toystore(folder: Path) -> None:
    toystore.generate(folder, users=20, items=64, types=2)


def of_report(folder: Path) -> None:
    full_report([SHIPPED], folder)


def of_nano(folder: Path) -> None:
    pretrain.pretrain(folder)


@pytest.fixture
def no_training(monkeypatch):
    """Pre-training of nano takes an hour: it writes its card only."""

    def write(work, arguments, workers):
        (arguments[1] / "README.md").write_text(CARD)

    monkeypatch.setattr(pretrain.torch.multiprocessing, "spawn", write)


@pytest.mark.parametrize(
    ("write", "name"),
    [
        *[(of_toystore, name) for name in (*toystore.file_names("toystore"), toystore.TRUTH)],
        (of_report, "report.md"), (of_report, "dynamics-nano-ml-100k.png"),
        (of_nano, "README.md"), (of_nano, "config.json"), (of_nano, "thesis.md"),
    ],
)  # fmt: skip
def test_a_users_file_of_such_a_name_is_not_written_over(write, name, tmp_path, no_training):
    (tmp_path / name).write_text("my thesis")
    with pytest.raises(UserError) as stop:
        write(tmp_path)
    one_sentence(stop.value, str(tmp_path), f"it holds {name}", "choose another folder")
    assert (tmp_path / name).read_text() == "my thesis" and [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("write", [of_toystore, of_report, of_nano])
def test_what_a_command_has_written_it_writes_again(write, tmp_path, no_training):
    write(tmp_path)
    before = files(tmp_path)
    for path in tmp_path.iterdir():
        if path.suffix in (".gz", ".png"):
            path.write_bytes(b"damaged")
    write(tmp_path)
    assert files(tmp_path).keys() == before.keys() and b"damaged" not in files(tmp_path).values()


def test_a_toystore_half_written_is_written_again(tmp_path):
    of_toystore(tmp_path)
    (tmp_path / toystore.TRUTH).unlink()
    of_toystore(tmp_path)
    assert (tmp_path / toystore.TRUTH).exists()


def test_shipped_files_can_be_made_again():
    """data/nano, data/toystore and data/moodstore are what the commands know as theirs."""
    assert has_card(NANO) and all(toystore._is_store(toystore.SHIPPED / kind) for kind in DESIGNS)


# --- tools and policies that do what they should not ---


@pytest.mark.fault("unexpected exception", "tool")
def test_a_tool_that_fails_is_an_observation(context, monkeypatch, caplog):
    """The policy reads that the tool failed and may go on; the log has the reason, the observation has not."""

    def broken(context):
        raise KeyError("<answer>secret</answer>")

    monkeypatch.setitem(TOOLS, "get_similar_users", broken)
    environment = RankingEnvironment(context)
    assert environment.step(CALL) == "Error: get_similar_users failed (KeyError)."
    assert environment.outcome is None and "secret" in caplog.text
    assert environment.step(ANSWERS[0]) is None and environment.outcome == "answered"


def test_a_tool_without_memory_is_no_observation(context, monkeypatch):
    def starved(context):
        raise MemoryError

    monkeypatch.setitem(TOOLS, "get_similar_users", starved)
    with pytest.raises(MemoryError):
        call_tool("get_similar_users", {}, context)


def speaks(model, chat, turns, monkeypatch):
    """Makes a model write these turns, one after the other; past their end, its first token for ever."""
    tokens = [token for turn in turns for token in turn]

    def choose(sampling, logits, drawn=None):
        token = tokens.pop(0) if tokens else chat.turn_ids("x")[0]
        return torch.full((len(logits),), token), torch.zeros(len(logits))

    monkeypatch.setattr("agenticrec_lite.agent.episodes.Sampling.choose", choose)


@pytest.mark.fault("a megabyte of observation", "tool")
@pytest.mark.parametrize("text", ["word " * 200_000, "\u00e9\u4e16" * 300_000, "x" * 1_000_000])
def test_a_megabyte_of_observation_is_cut_to_its_budget_and_says_so(text, tiny, context, monkeypatch):
    """At most a quarter of the trajectory's tokens, the cut marked; the trajectory goes on to its answer."""
    model, chat = tiny
    monkeypatch.setitem(TOOLS, "get_similar_users", lambda context: text)
    speaks(model, chat, [chat.turn_ids(CALL), chat.turn_ids(ANSWERS[0])], monkeypatch)
    group = Group("a", chat.prompt_ids(context), [RankingEnvironment(context)])
    sampling = Sampling(0.0, max_turn_tokens=120, max_completion_tokens=800)
    (trajectory,) = rollout(model, chat, [group], sampling)
    shown = trajectory.steps[-2]
    assert shown.kind == "observation" and shown.text.endswith(f"… (cut, {len(text)} characters)")
    assert text.startswith(shown.text[: shown.text.index("… (cut")])
    assert trajectory.outcome == "answered" and 150 < trajectory.action_mask.count(0) < 300
    assert chat.tokenizer.decode(trajectory.completion_ids).count(shown.text) == 1, "what is logged was read"


@pytest.mark.fault("never ends its turn", "policy")
def test_a_policy_that_never_stops_is_stopped(tiny, context, monkeypatch):
    """Without an end-of-turn token the trajectory ends after max_turn_tokens, as "length"."""
    model, chat = tiny
    speaks(model, chat, [], monkeypatch)
    group = Group("a", chat.prompt_ids(context), [RankingEnvironment(context)])
    (trajectory,) = rollout(model, chat, [group], Sampling(0.0, max_turn_tokens=30))
    assert trajectory.outcome == "length" and len(trajectory.completion_ids) == 30 and not trajectory.valid


@pytest.mark.fault("calls a tool for ever", "policy")
def test_a_policy_that_only_calls_tools_is_stopped(tiny, context, monkeypatch):
    """After its budget of calls, as "over_budget"."""
    model, chat = tiny
    speaks(model, chat, [chat.turn_ids(CALL)] * 9, monkeypatch)
    group = Group("a", chat.prompt_ids(context), [RankingEnvironment(context, max_calls=3)])
    (trajectory,) = rollout(model, chat, [group], Sampling(0.0, max_completion_tokens=5000))
    assert trajectory.outcome == "over_budget" and trajectory.n_calls == 3


@pytest.mark.fault("no valid trajectory", "every group of a stage")
def test_a_policy_that_never_answers_ends_where_it_began(stage_of):  # noqa: F811
    """All rollouts are invalid: the stage ends, no weight has moved, the metrics say dropped_groups 1."""
    stage = stage_of("run", scripts=[["nonsense"], [CALL, "more nonsense"]])
    stage.train()
    adapter = load_file(stage.folder / "checkpoints" / "rta" / "adapter_model.safetensors")
    assert all(not tensor.any() for name, tensor in adapter.items() if "lora_B" in name)
    assert [row["dropped_groups"] for row in rows_of(stage.folder)] == ["1.0"] * 5
    assert {row["reward"] for row in read_trajectories(stage.folder)} == {-1.0}
