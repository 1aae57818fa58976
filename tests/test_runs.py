"""Run folders: the lock, files written whole, growing metrics, resuming, another configuration."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agenticrec_lite.agent.trajectory import Step, Trajectory
from agenticrec_lite.errors import UserError
from agenticrec_lite.runs import (
    files,
    open_run,
    plain,
    read_config,
    read_metrics,
    read_result,
    read_trajectories,
    replacing,
    versions,
)

CONFIG = {
    "dataset": "toy",
    "seed": 0,
    "profile": {"name": "nano", "rta": {"steps": 3, "learning_rate": 3e-5}},
}

HOLD = """
    import sys, time
    from agenticrec_lite.runs import open_run
    run = open_run(sys.argv[1], {"seed": 0})
    run.log_trajectories([{"stage": "rta", "step": 0}])
    with open(run.folder / "trajectories" / "rta.jsonl", "a") as file:
        file.write('{"stage": "rta", "st')  # cut off in the middle of a row
    (run.folder / ".state.json.1.tmp").write_text("{")
    print("holding", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A second process that holds the lock of tmp_path/run."""
    command = [sys.executable, "-c", textwrap.dedent(HOLD), str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "holding\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.fault("a second run", "the same folder")
@pytest.mark.fault("kill -9 in the middle of a row", "trajectories")
def test_a_second_process_is_refused_until_the_first_is_dead(holder, tmp_path):
    """A sentence while the first lives; once it is dead the lock is free, and half a row and half a file are gone."""
    with pytest.raises(UserError, match="Another process is writing"):
        open_run(tmp_path / "run", {"seed": 0})
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with open_run(tmp_path / "run", {"seed": 0}) as run:
        assert list(read_trajectories(run.folder)) == [{"stage": "rta", "step": 0}]
        run.log_trajectories([{"stage": "rta", "step": 1}])
        assert [row["step"] for row in read_trajectories(run.folder)] == [0, 1]
        assert not list(run.folder.glob(".*.tmp"))


def test_the_same_process_may_open_its_run_again(tmp_path):
    first = open_run(tmp_path, CONFIG)
    second = open_run(tmp_path, CONFIG)  # a notebook cell that is run twice
    second.mark("fit")
    first.close()
    with open_run(tmp_path, CONFIG) as third:
        assert third.done("fit")


def test_a_refused_call_does_not_free_the_lock_of_a_run_that_goes_on(tmp_path):
    with open_run(tmp_path, CONFIG):
        with pytest.raises(UserError, match="another run"):
            open_run(tmp_path, CONFIG | {"seed": 1})
        attempt = f"from agenticrec_lite.runs import open_run; open_run({str(tmp_path)!r}, {CONFIG!r})"
        done = subprocess.run([sys.executable, "-c", attempt], capture_output=True, text=True, check=False)
        assert "Another process is writing" in done.stderr


def test_files_are_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "file.txt"
    with replacing(path) as temporary:
        temporary.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(UserError, match="No space left"), replacing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_run_as_it_was(tmp_path, monkeypatch):
    with open_run(tmp_path, CONFIG) as run:
        run.log_metrics({"stage": "rta", "step": 0})
        run.mark("fit", {"n": 1})
        run.write_result(n_test=3)
        before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file() and p.name != ".lock"}

        def broken(*_):
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "replace", broken)
        for write in (
            lambda: run.log_metrics({"stage": "rta", "step": 1}),
            lambda: run.mark("rta"),
            lambda: run.write_result(n_test=4),
        ):
            with pytest.raises(UserError, match="Input/output error"):
                write()
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.name in before} == before
    assert not list(tmp_path.glob(".*.tmp"))


def test_metrics_take_new_columns_in_mid_run_and_after_reopening(tmp_path):
    with open_run(tmp_path, CONFIG) as run:
        run.log_metrics({"stage": "rta", "step": 0, "reward_mean": np.float32(0.5)})
        run.log_metrics(
            {"stage": "rta", "step": 1, "reward_mean": torch.tensor(0.25), "tool_get_user_profile": 3}
        )
    with open_run(tmp_path, CONFIG) as run:
        run.log_metrics({"stage": "ppr", "step": 0, "entropy": float("nan"), "odd": 'a,"b"\nc'})
    table = read_metrics(tmp_path)
    assert list(table) == ["stage", "step", "reward_mean", "tool_get_user_profile", "entropy", "odd"]
    assert table.reward_mean.tolist()[:2] == [0.5, 0.25]
    assert table.tool_get_user_profile.isna().tolist() == [True, False, True]
    assert table.odd[2] == 'a,"b"\nc' and table.entropy.isna().all()


def test_rewind_forgets_what_a_stage_is_about_to_repeat(tmp_path):
    with open_run(tmp_path, CONFIG) as run:
        run.rewind("rta")
        for stage, step in [("frozen", 0), ("rta", 0), ("rta", 1), ("rta", 2)]:
            run.log_metrics({"stage": stage, "step": step})
            run.log_trajectories([{"stage": stage, "step": step, "text": "\u2028é"}] * 2)
    with open_run(tmp_path, CONFIG) as run:
        run.rewind("rta", step=1)
        assert read_metrics(tmp_path)[["stage", "step"]].values.tolist() == [["frozen", 0], ["rta", 0]]
        assert [(row["stage"], row["step"]) for row in read_trajectories(tmp_path)] == [
            ("frozen", 0), ("frozen", 0), ("rta", 0), ("rta", 0),
        ]  # fmt: skip
        run.rewind("rta")
        run.rewind("frozen")
        assert not (tmp_path / "metrics.csv").exists() and list(read_trajectories(tmp_path)) == []


def test_finished_stages_are_remembered_with_what_they_left(tmp_path):
    with open_run(tmp_path, CONFIG) as run:
        assert not run.done("fit")
        run.mark("fit", {"weights": np.arange(2), "loss": np.float32(0.5), "where": tmp_path / "x"})
        run.mark("mining")
    with open_run(tmp_path, CONFIG) as run:
        assert run.done("fit") and run.done("mining") and not run.done("ppr")
        assert run.payload("fit") == {"weights": [0, 1], "loss": 0.5, "where": str(tmp_path / "x")}
        with pytest.raises(KeyError):
            run.payload("ppr")


def test_what_runs_below_are_just_writing_is_left_alone(tmp_path):
    writing, left_over = tmp_path / "x" / ".config.yaml.1.tmp", tmp_path / ".result.json.1.tmp"
    writing.parent.mkdir()
    for path in (writing, left_over):
        path.write_text("half")
    with open_run(tmp_path, {"seed": 0}):
        assert writing.exists() and not left_over.exists()


def test_only_its_own_leftovers_are_removed(tmp_path):
    """`.NAME.PID.tmp` with a name that a run writes there; a user's file of a similar name stays."""
    with open_run(tmp_path, {"seed": 0}) as run:
        (run.checkpoints / "rta_steps").mkdir()
    users = [".notes.tmp", ".plan.1.tmp", ".metrics.csv.tmp", ".xmetrics.csv.1.tmp", "checkpoints/rta_steps/.x.1.tmp"]
    ours = [".metrics.csv.1.tmp", "checkpoints/.rta.12.tmp/README.md", "checkpoints/rta_steps/.3.safetensors.1.tmp"]
    for name in users + ours:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    with open_run(tmp_path, {"seed": 0}):
        assert [name for name in users + ours if (tmp_path / name).exists()] == users
    assert not (tmp_path / "checkpoints" / ".rta.12.tmp").exists()


@pytest.mark.parametrize(
    "name",
    ["state.json", "metrics.csv", "result.json", "ranks.csv", "checkpoints/best.bin", "trajectories/of_birds.jsonl"],
)
def test_a_new_run_leaves_a_folder_with_files_of_such_names_alone(name, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("my thesis")
    with pytest.raises(UserError, match=f"Cannot open the run folder .* it holds {name.partition('/')[0]}.* no config"):
        open_run(tmp_path, CONFIG)
    assert path.read_text() == "my thesis"
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == [path]


def test_files_of_other_names_do_not_keep_a_run_out(tmp_path):
    (tmp_path / "notes.md").write_text("mine")
    with open_run(tmp_path, CONFIG) as run:
        (tmp_path / "trajectories").mkdir()
        (tmp_path / "trajectories" / "mine.jsonl").write_text("half a row")  # of a stage that is not this run's
        run.log_trajectories([{"stage": "rta", "step": 1}])
    open_run(tmp_path, CONFIG).close()
    assert (tmp_path / "trajectories" / "mine.jsonl").read_text() == "half a row"
    assert (tmp_path / "notes.md").read_text() == "mine"


@pytest.mark.parametrize("name", ["thesis.md", "deep/adapter.bin"])
def test_a_folder_is_replaced_only_by_one_that_has_all_its_names(name, tmp_path):
    def write(text):
        with replacing(tmp_path / "out") as fresh:
            fresh.mkdir()
            (fresh / "adapter.bin").write_text(text)

    write("old")
    write("new")
    assert (tmp_path / "out" / "adapter.bin").read_text() == "new"
    path = tmp_path / "out" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    with pytest.raises(UserError, match=f"out cannot be written: it holds {name}, which is not of this command"):
        write("newer")
    assert path.read_text() == "mine" and (tmp_path / "out" / "adapter.bin").read_text() == "new"
    assert [each.name for each in tmp_path.iterdir()] == ["out"]


def bytes_read() -> int:
    """That this process has read so far, where the system counts them."""
    counts = Path("/proc/self/io")
    return int(counts.read_text(encoding="utf-8").split()[1]) if counts.exists() else 0


def test_opening_a_run_reads_no_more_of_its_trajectories_than_their_ends(tmp_path):
    """Between the first rows and the last is a gigabyte that is no row, and that is not read."""
    with open_run(tmp_path, CONFIG) as run:
        for step in (1, 2, 3):
            run.log_metrics({"stage": "rta", "step": step})
            run.log_trajectories([{"stage": "rta", "step": step}])
    path = tmp_path / "trajectories" / "rta.jsonl"
    rows = path.read_bytes()
    with open(path, "wb") as file:
        file.write(rows)
        file.seek(2**30)
        file.write(b"\n" + rows)
    before = bytes_read()
    with open_run(tmp_path, CONFIG) as run:
        assert run.logged_steps("rta") == 3
        run.rewind("rta", 3)
        assert run.logged_steps("rta") == 2
        run.log_trajectories([{"stage": "rta", "step": 3}])
        assert run.logged_steps("rta") == 2, "metrics.csv was rewound, too"
        run.log_metrics({"stage": "rta", "step": 3})
        assert run.logged_steps("rta") == 3 and path.stat().st_size == 2**30 + 1 + len(rows)
    assert bytes_read() - before < 1e6


@given(st.lists(st.one_of(
    st.tuples(st.just("log"), st.integers(1, 3)), st.tuples(st.just("rewind"), st.integers(0, 6)),
    st.tuples(st.just("kill"), st.binary(max_size=5)),
), max_size=12))  # fmt: skip
def test_the_trajectories_are_the_rows_logged_and_not_rewound(moves):
    """A log of whole rows, whatever is logged, rewound and cut off in the middle of a row."""
    with tempfile.TemporaryDirectory() as folder, open_run(folder, CONFIG) as run:
        rows = [{"stage": "rta", "step": 1, "text": ""}]
        run.log_trajectories(rows)
        for move, value in moves:
            if move == "log":
                more = [{"stage": "rta", "step": rows[-1]["step"] + 1 if rows else 1, "text": "\u2028é\n"}] * value
                run.log_trajectories(more)
                rows += more
            elif move == "rewind":
                run.rewind("rta", value)
                rows = [row for row in rows if row["step"] < value]
            elif (path := Path(folder, "trajectories", "rta.jsonl")).exists():
                with open(path, "ab") as file:
                    file.write(value.replace(b"\n", b""))
            kept = list(read_trajectories(folder, "rta"))
            assert kept == rows and list(read_trajectories(folder)) == rows
            last = next((row["step"] for _, row in files.rows_from_end(Path(folder, "trajectories", "rta.jsonl"))), 0)
            assert last == (rows[-1]["step"] if rows else 0)


def test_steps_are_logged_up_to_the_first_that_a_log_lacks(tmp_path):
    with open_run(tmp_path, CONFIG) as run:
        assert run.logged_steps("rta") == 0
        for step in (1, 2, 4):
            run.log_metrics({"stage": "rta", "step": step})
        for step in (1, 2, 3, 4):
            run.log_trajectories([{"stage": "rta", "step": step}])
        assert run.logged_steps("rta") == 2 and run.logged_steps("ppr") == 0
        (tmp_path / "trajectories" / "rta.jsonl").unlink()
        run.log_trajectories([{"stage": "rta", "step": 2}])
        assert run.logged_steps("rta") == 0, "step 1 is lost"


def test_what_is_logged_of_a_trajectory_is_all_but_its_tokens():
    steps = [Step("call", "I ask.", "item_info_search", {"item_name": "Jaws"}), Step("observation", "1975")]
    played = Trajectory("t", 1, "rank", [1], [2], [1], [-0.5], steps, [3, 1], "answered", 1, 0.5, None, False)
    tokens = {"prompt_ids", "completion_ids", "action_mask", "logprobs"}
    expected = {name: value for name, value in asdict(played).items() if name not in tokens}
    assert played.row() == expected and list(played.row()) == list(expected)


def test_another_part_handed_in_is_refused_by_its_name(tmp_path):
    """The doors of `start`: what was handed in stands in config.yaml, and in the sentence."""
    reward = {"extensions": {"reward": "mine.my_reward 1a2b", "tools": ["mine.tool"]}}
    open_run(tmp_path, CONFIG | reward).close()
    with pytest.raises(UserError, match=r"\(extensions.reward was mine.my_reward 1a2b, now None, extensions.tools was"):
        open_run(tmp_path, CONFIG)
    other = {"extensions": reward["extensions"] | {"reward": "mine.my_reward 3c4d"}}
    with pytest.raises(UserError, match=r"\(extensions.reward was mine.my_reward 1a2b, now mine.my_reward 3c4d\)"):
        open_run(tmp_path, CONFIG | other)
    open_run(tmp_path, CONFIG | reward).close()


def test_another_configuration_is_refused_with_what_differs(tmp_path):
    open_run(tmp_path, CONFIG).close()
    before = (tmp_path / "config.yaml").read_text()
    other = {**CONFIG, "seed": 1, "profile": {"name": "nano", "rta": {"steps": 9, "learning_rate": 3e-5}}}
    with pytest.raises(UserError, match=r"seed was 0, now 1, profile.rta.steps was 3, now 9"):
        open_run(tmp_path, other)
    assert (tmp_path / "config.yaml").read_text() == before
    with open_run(tmp_path, CONFIG) as run:  # the refused call holds no lock, and the float came back equal
        assert run.config == CONFIG


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot open the run folder"):
        open_run(tmp_path / "file" / "run", CONFIG)


def test_result_gathers_fields_seconds_memory_and_versions(tmp_path):
    with open_run(tmp_path, CONFIG) as run:
        with run.timer("fit"):
            pass
        with pytest.raises(RuntimeError), run.timer("rta"):
            raise RuntimeError
        run.write_result(metrics={"rta": {"N@10": np.float64(0.7), "ci95": {"N@10": (0.6, np.nan)}}})
    result = read_result(tmp_path)
    assert list(result["seconds"]) == ["fit", "rta"]
    assert result["metrics"] == {"rta": {"N@10": 0.7, "ci95": {"N@10": [0.6, None]}}}
    assert 10 < result["peak_rss_mb"] < 1e5
    assert result["versions"] == versions() and result["versions"]["torch"].startswith(version("torch").split("+")[0])
    with open_run(tmp_path, CONFIG) as run:
        run.write_result(n_test=4)
    assert read_result(tmp_path)["metrics"] == result["metrics"]


@pytest.mark.parametrize("read", [read_result, read_metrics, read_trajectories])
def test_reading_what_is_not_there(read, tmp_path):
    with pytest.raises(UserError, match="There is no"):
        list(read(tmp_path))


def test_plain_is_json():
    value = {1: (np.int64(2), torch.tensor([1.5]), np.array([np.inf])), "a": {True}, "b": None}
    assert plain(value) == {"1": [2, [1.5], [None]], "a": [True], "b": None}
    json.dumps(plain(value), allow_nan=False)


def test_a_reader_gets_the_configuration_without_the_lock(tmp_path):
    with open_run(tmp_path / "run", CONFIG):
        assert read_config(tmp_path / "run") == CONFIG
    with pytest.raises(UserError, match="config.yaml"):
        read_config(tmp_path)


def test_the_peak_of_memory_is_known_on_windows_too(monkeypatch):
    """There is no module `resource` there; psutil says it."""
    import builtins
    from types import SimpleNamespace

    import psutil

    from agenticrec_lite.runs import peak_rss_mb

    real = builtins.__import__

    def without_resource(name, *rest):
        if name == "resource":
            raise ModuleNotFoundError(name)
        return real(name, *rest)

    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setattr(builtins, "__import__", without_resource)
    memory = SimpleNamespace(peak_wset=2.5e9)
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(memory_info=lambda: memory))
    assert peak_rss_mb() == 2500.0
