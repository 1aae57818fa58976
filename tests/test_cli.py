"""The command line: what it calls, what it prints, and one sentence for every mistake."""

import json
import re
import subprocess
import sys
import types

import pytest
from typer.testing import CliRunner

from agenticrec_lite.cli import app, result_table
from agenticrec_lite.errors import UserError
from agenticrec_lite.profiles import describe, load_profile

FIGURES = {"H@1": 0.5, "H@5": 0.9, "H@10": 1.0, "N@5": 0.72, "N@10": 0.7456, "valid": 0.99}
RESULT = {
    "dataset": "ml-100k",
    "profile": "nano",
    "seed": 0,
    "n_test": 40,
    "metrics": {
        "random": {
            "H@1": 0.05,
            "H@5": 0.25,
            "H@10": 0.5,
            "N@5": 0.14,
            "N@10": 0.227,
            "valid": None,
            "ci95": {},
        },
        "rta": FIGURES | {"ci95": {"H@1": [0.4, 0.6], "N@10": [0.7, 0.789]}},
    },
    "seconds": {"fit": 30.0, "rta": 60.0},
    "peak_rss_mb": 1500.0,
}


def call(*arguments: str):
    return CliRunner().invoke(app, arguments)


def in_one_line(result, exit_code: int = 2) -> str:
    """The single line on standard error of a call that failed as it should."""
    assert result.exit_code == exit_code, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and "Traceback" not in result.output
    return lines[0]


@pytest.fixture
def stages(monkeypatch):
    """Stands in for the stages of an experiment: records how it is called, or raises what a test gives it."""
    calls = []

    def run_experiment(dataset, profile, seed, out, overrides):
        calls.append((dataset, profile, seed, str(out), overrides))
        if module.raises:
            raise module.raises
        out.mkdir(parents=True, exist_ok=True)
        (out / "result.json").write_text(json.dumps(RESULT))

    module = types.SimpleNamespace(run_experiment=run_experiment, calls=calls, raises=None)
    monkeypatch.setitem(sys.modules, "agenticrec_lite.experiment.stages", module)
    return module


def test_run_hands_everything_on_and_prints_the_table(stages, tmp_path):
    out = str(tmp_path / "x")
    settings = ("--set", "rta.steps=10", "--set", "rta.learning_rate=3e-5")
    result = call("run", "--dataset", "d", "--profile", "nano", "--seed", "3", "--out", out, *settings)
    assert result.exit_code == 0, result.output
    assert stages.calls == [("d", "nano", 3, out, {"rta.steps": 10, "rta.learning_rate": 3e-5})]
    assert ".746" in result.stdout


def test_run_tells_a_user_error_in_one_line(stages, tmp_path):
    stages.raises = UserError("There is no dataset 'd'.")
    assert (
        in_one_line(call("run", "--dataset", "d", "--out", str(tmp_path / "x")))
        == "Error: There is no dataset 'd'."
    )


def test_an_interrupted_run_says_how_to_go_on(stages, tmp_path):
    stages.raises = KeyboardInterrupt()
    assert "same command goes on" in in_one_line(call("run", "--out", str(tmp_path / "x")), 130)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--profile", "huge"), "'huge'"),
        (("--set", "rta.stepz=1"), "'rta.stepz'"),
        (("--set", "rta.steps"), "KEY=VALUE"),
        (("--set", "=1"), "KEY=VALUE"),
        (("--set", "rta.steps=many"), "'rta.steps' must be a whole number, not 'many'"),
        (("--set", "rta.steps=1.5"), "'rta.steps' must be a whole number, not 1.5"),
        (("--set", "rta.steps=[1"), "'[1' is not a value"),
        (("--set", "rta.steps="), "'rta.steps' must be a whole number, not None"),
        (("--set", "rta.learning_rate=-1"), "'rta.learning_rate' must be above 0 and below 1, not -1"),
        (("--set", "rta.group_size=1"), "'rta.group_size' must be 2 or more, not 1"),
        (("--set", "agent.vllm.gpu_memory_utilization=9"), "gpu_memory_utilization' must be above 0 and at most 1"),
        (("--set", "agent.vllm.server_base_url=7"), "'agent.vllm.server_base_url' must be null or an http(s) address"),
        (("--profile", "no.yaml"), "There is no file no.yaml"),
    ],
)
def test_wrong_settings_are_told_before_anything_runs(stages, tmp_path, arguments, said):
    out = tmp_path / "x"
    assert said in in_one_line(call("run", "--out", str(out), *arguments))
    assert stages.calls == [] and not out.exists()


def test_a_profile_of_ones_own_gets_through_to_the_run_and_to_the_plan(stages, tmp_path, monkeypatch):
    path = tmp_path / "mine.yaml"
    path.write_text("based_on: smol\nrta: {steps: 3}\n")
    assert call("run", "--out", str(tmp_path / "x"), "--profile", str(path)).exit_code == 0
    assert [made[1] for made in stages.calls] == [str(path)]
    planned = []
    pace = types.SimpleNamespace(plan_table=lambda *given: planned.append(given))
    monkeypatch.setitem(sys.modules, "agenticrec_lite.pace", pace)
    plan = types.SimpleNamespace(check_hardware=lambda *given: None)
    monkeypatch.setitem(sys.modules, "agenticrec_lite.plan", plan)
    assert call("plan", "--profile", str(path), "--set", "rta.group_size=4").exit_code == 0
    assert planned == [(str(path), load_profile("smol", rta={"steps": 3, "group_size": 4}), None)]


def test_settings_prints_each_with_its_value_type_range_and_meaning(tmp_path):
    lines = call("settings").stdout.splitlines()
    assert lines[0].split() == ["setting", "type", "range", "value", "meaning"]
    assert [line.split()[0] for line in lines[1:]] == describe().setting.tolist()
    path = tmp_path / "mine.yaml"
    path.write_text("rta: {group_size: 5}\npolicy: {lora: {targets: [q_proj]}}\n")
    shown = call("settings", "rta", "--profile", str(path)).stdout.splitlines()
    assert len(shown) == 1 + len(load_profile("nano")["rta"])
    assert any(re.match(r"rta.group_size +a whole number +2 or more +5 +trajectories", line) for line in shown)
    assert '["q_proj"]' in call("settings", "policy.lora", "--profile", str(path)).stdout
    assert re.search(r" null +address", call("settings", "agent.vllm").stdout)
    assert "no setting 'rt'" in in_one_line(call("settings", "rt"))
    assert "Unknown profile 'huge'" in in_one_line(call("settings", "--profile", "huge"))


def test_fetch_unknown_dataset(tmp_path, monkeypatch):
    pytest.importorskip("agenticrec_lite.data.fetch")
    monkeypatch.setenv("AGENTICREC_CACHE", str(tmp_path))
    assert "nosuch" in in_one_line(call("fetch", "nosuch"))
    assert list(tmp_path.iterdir()) == []


def test_show_prints_figures_with_intervals_in_80_columns(tmp_path):
    (tmp_path / "result.json").write_text(json.dumps(RESULT))
    result = call("show", str(tmp_path))
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "40 test tasks" in lines[0]
    assert lines[2].split() == ["random", ".050", ".250", ".500", ".140", ".227", "-"]
    assert lines[4].split() == ["rta", ".500", ".900", "1.00", ".720", ".746", ".990"]
    assert lines[5].split() == [".400-.600", ".700-.789"]
    assert lines[-1] == "1.5 minutes, peak memory 1.5 GB"


def test_show_of_what_is_no_finished_run(tmp_path):
    assert "result.json" in in_one_line(call("show", str(tmp_path)))
    with pytest.raises(UserError, match="no figures yet"):
        result_table({"seconds": {"fit": 1.0}})


def test_pretrain_nano_hands_on_the_folder(monkeypatch, tmp_path):
    calls = []
    module = types.SimpleNamespace(pretrain=lambda out: calls.append(out))
    monkeypatch.setitem(sys.modules, "agenticrec_lite.nano.pretrain", module)
    assert call("pretrain-nano", "--out", str(tmp_path)).exit_code == 0
    assert calls == [tmp_path]


def test_the_real_command_answers_a_mistake_with_one_line_and_code_2(tmp_path):
    command = [
        sys.executable,
        "-m",
        "agenticrec_lite.cli",
        "run",
        "--profile",
        "huge",
        "--out",
        str(tmp_path / "x"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "Error: Unknown profile 'huge'; the known ones are: consumer24, nano, paper, smol, t4.\n"
    assert not (tmp_path / "x").exists()


@pytest.mark.all
def test_a_real_run_refuses_an_unknown_dataset_with_one_line(tmp_path):
    command = [
        sys.executable,
        "-m",
        "agenticrec_lite.cli",
        "run",
        "--dataset",
        "nosuch",
        "--out",
        str(tmp_path / "x"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1 and "'nosuch'" in done.stderr
    assert not (tmp_path / "x").exists()


def test_help_needs_no_notebook_library():
    """`agenticrec --help` loads neither papermill nor torch."""
    program = (
        "import sys; from typer.testing import CliRunner; from agenticrec_lite.cli import app; "
        "shown = CliRunner().invoke(app, ['--help']); assert 'reproduce' in shown.output and 'demo' in shown.output; "
        "print([name for name in ('papermill', 'nbformat', 'nbconvert', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
