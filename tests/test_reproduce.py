"""`agenticrec reproduce` and `agenticrec demo`, with small notebooks in place of the course's.

A stand-in takes the place of the training run.
"""

import errno
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from nbclient.exceptions import DeadKernelError
from test_cli import RESULT
from typer.testing import CliRunner

from agenticrec_lite import reproduce
from agenticrec_lite.cli import app

ROOT = Path(__file__).resolve().parents[1]
PARAMETERS = {
    "00_quickstart": "dataset = 'ml-100k'\nprofile = 'nano'\nseed = 0\nout = ''\noverrides = {}",
    "01_alone": "n = 2",
    "02_each": "seed = 7\nrun_dir = ''  # the shipped run",
    "08_together": "dataset, other = 'x', 1\nprofile = ''\nseeds = []\nruns = []\nout = ''",
}


def write_notebook(root: Path, name: str, body: str = "print('done')") -> None:
    cells = [nbformat.v4.new_code_cell(text, id=f"c{i}") for i, text in enumerate((PARAMETERS[name], body))]
    cells[0].metadata.tags = ["parameters"]
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": spec})
    nbformat.write(notebook, root / "notebooks" / f"{name}.ipynb")


@pytest.fixture
def course(tmp_path, monkeypatch):
    """(current folder, which holds notebooks; the runs asked for; how they end). `agenticrec run` does nothing."""
    asked = []
    (tmp_path / "notebooks").mkdir()
    for name in PARAMETERS:
        write_notebook(tmp_path, name)
    monkeypatch.setattr(reproduce, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.chdir(tmp_path)

    def run(command, **_):
        asked.append(command[3:])
        return subprocess.CompletedProcess(command, course_of.fails)

    course_of = type("", (), {"fails": 0})
    monkeypatch.setattr(reproduce.subprocess, "run", run)
    return tmp_path, asked, course_of


def call(*arguments: str, fails: int = 0):
    """The command with these arguments; the exit code must be `fails`."""
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == fails, done.output
    return done


def stopped(*arguments: str) -> str:
    """The sentence with which it stops."""
    lines = call(*arguments, fails=2).stderr.strip().splitlines()
    assert lines[-1].startswith("Error: ")
    return lines[-1]


def times(out: Path) -> dict[str, int]:
    return {str(p.relative_to(out)): p.stat().st_mtime_ns for p in (out / "notebooks").rglob("*.ipynb")}


READ_ONLY = """mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && ! touch "$0/x" 2>/dev/null && exec "$@\""""


def test_a_read_only_folder_of_notebooks_is_enough(tmp_path):
    folder, out = tmp_path / "the notebooks", tmp_path / "out"
    folder.mkdir()
    (tmp_path / "notebooks").symlink_to(folder)
    result = f"Path(out, 'result.json').write_text(json.dumps({RESULT!r}))"
    write_notebook(tmp_path, "00_quickstart", f"import json\nfrom pathlib import Path\n{result}\nprint('done')")
    code = (
        "import sys; from pathlib import Path; from agenticrec_lite import cli, reproduce; "
        "reproduce.NOTEBOOKS = Path(sys.argv[1]); cli.app(['demo', '--out', sys.argv[2]])"
    )
    command = [sys.executable, "-c", code, str(folder), str(out)]
    if os.geteuid() == 0:  # whom no mode stops
        alone = ["unshare", "--mount", "sh", "-c", READ_ONLY, str(folder)]
        if subprocess.run([*alone, "true"], check=False).returncode:
            pytest.skip("root may not mount here")
        command = [*alone, *command]
    folder.chmod(0o555)
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    folder.chmod(0o755)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "done" in (out / "00_quickstart.ipynb").read_text(encoding="utf-8")
    assert [path.name for path in folder.iterdir()] == ["00_quickstart.ipynb"]


def test_parameters_are_those_that_the_cell_assigns(course):
    root, *_ = course
    out = root / "runs" / "reproduce-d-p"
    names = sorted(PARAMETERS)[1:]
    known = {name: reproduce.jobs(root / "notebooks" / f"{name}.ipynb", "d", "p", [3, 4], out) for name in names}
    folder = "../runs/reproduce-d-p/seed-"
    assert known["01_alone"] == [(out / "notebooks" / "01_alone.ipynb", {})]
    assert known["02_each"] == [
        (out / "notebooks" / f"seed-{seed}" / "02_each.ipynb", {"seed": seed, "run_dir": f"{folder}{seed}"})
        for seed in (3, 4)
    ]
    values = {"profile": "p", "seeds": [3, 4], "runs": [f"{folder}3", f"{folder}4"]}
    values["out"] = "../runs/reproduce-d-p/report"
    ((_, together),) = known["08_together"]
    assert together == values, "a tuple is not a plain assignment; papermill would not find it either"


def test_it_goes_all_the_way_keeps_what_is_finished_and_ends_in_a_report(course):
    root, asked, _ = course
    write_notebook(root, "02_each", "open(f'ran-{seed}', 'x').close()\nassert seed != 1, 'not\\nyet'")
    arguments = ["reproduce", "--dataset", "d", "--profile", "p", "--seeds", "0 1 0", "--set", "rta.steps=2"]
    said = stopped(*arguments)
    out = Path("runs", "reproduce-d-p")
    assert "02_each failed with AssertionError: not yet" in said and "goes on there" in said
    common = ["run", "--dataset", "d", "--profile", "p", "--seed"]
    assert asked == [[*common, s, "--out", str(out / f"seed-{s}"), "--set", "rta.steps=2"] for s in "01"]
    assert {"notebooks/01_alone.ipynb", "notebooks/seed-0/02_each.ipynb"} < set(times(out))
    assert not (out / "notebooks" / "seed-1" / "02_each.ipynb").exists()

    before = times(out)
    write_notebook(root, "02_each", "print(seed)")  # repaired: it is run again for both seeds, 01 is kept
    assert "index.html" in call(*arguments).stdout.splitlines()[-1]
    after = times(out)
    assert after["notebooks/01_alone.ipynb"] == before["notebooks/01_alone.ipynb"]
    assert after["notebooks/seed-0/02_each.ipynb"] > before["notebooks/seed-0/02_each.ipynb"]
    assert not list(out.rglob("*.partial.*"))
    page = (out / "report" / "index.html").read_text()
    for link in ("01_alone", "seed-0/02_each", "seed-1/02_each", "08_together"):
        assert f'href="{link}.html"' in page and (out / "report" / f"{link}.html").exists()

    assert 'Begin with <a href="08_together.html">' in page
    call(*arguments)
    assert times(out) == after, "nothing was left to do"
    call(*arguments[:6], "0", *arguments[7:])
    assert [name for name, when in times(out).items() if when != after[name]] == ["notebooks/08_together.ipynb"]


@pytest.mark.parametrize("seeds", ["", "one", "0 -1", "1.5"])
def test_wrong_seeds_are_told_in_one_sentence(course, seeds):
    _, asked, _ = course
    assert "--seeds takes whole numbers" in stopped("reproduce", f"--seeds={seeds}")
    assert not asked


def test_a_run_that_fails_stops_it_with_the_same_code(course):
    root, asked, course_of = course
    course_of.fails = 3
    call("reproduce", "--seeds", "0 1", fails=3)
    assert len(asked) == 1
    assert not (root / "runs" / "reproduce-ml-100k-nano" / "notebooks").exists()


def executes(monkeypatch, error):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(papermill, "execute_notebook", fails)


@pytest.mark.fault("Ctrl-C that also stops the kernel", "agenticrec reproduce")
def test_a_kernel_that_was_stopped_is_one_sentence(course, monkeypatch):
    """The notebook it was in is named, exit code 2; the same command executes that one again."""
    arguments = ["reproduce", "--dataset", "d", "--profile", "p"]
    with monkeypatch.context() as patch:
        executes(patch, DeadKernelError("Kernel died"))
        said = stopped(*arguments)
    assert "kernel of 01_alone was stopped" in said and "goes on there" in said
    call(*arguments)


def test_an_interrupt_says_that_the_same_command_goes_on(course, monkeypatch):
    executes(monkeypatch, KeyboardInterrupt())
    for command in ("demo", "reproduce"):
        assert "the same command goes on" in call(command, fails=130).stderr


@pytest.mark.fault("disk full", "executed notebook")
def test_a_full_disk_is_one_sentence(course, monkeypatch):
    """It names the file and what the system said."""
    executes(monkeypatch, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "01_alone.partial.ipynb"))
    for command in ("demo", "reproduce"):
        said = stopped(command)
        assert "01_alone.partial.ipynb" in said and "No space left" in said


@pytest.mark.fault("disk full", "report")
def test_a_full_disk_while_the_report_is_written_keeps_the_notebooks(course, monkeypatch):
    """The notebooks are finished; the same command only writes the report again."""
    arguments = ["reproduce", "--dataset", "d", "--profile", "p"]
    out = Path("runs", "reproduce-d-p")
    write_text = Path.write_text

    def full(path, *rest, **named):
        if path.suffix == ".html":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write_text(path, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        said = stopped(*arguments)
    assert "01_alone.html" in said and "No space left" in said
    before = times(out)
    call(*arguments)
    assert times(out) == before and (out / "report" / "index.html").exists()


@pytest.mark.fault("damaged file", "executed notebook")
@pytest.mark.parametrize("content", ["", "{", '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'])
def test_a_damaged_notebook_is_not_finished(course, content):
    """An executed notebook that is no notebook, or not of papermill, does not count as finished: it is run again."""
    root, *_ = course
    source, target = root / "notebooks" / "01_alone.ipynb", root / "01_alone.ipynb"
    target.write_text(content)
    assert not reproduce.finished(source, target, {})
    reproduce.execute(source, target, {})
    assert reproduce.finished(source, target, {}) and "done" in target.read_text()


# -- demo, and where notebooks and folders are ------------------------------------------------------------------------


@pytest.fixture
def executed(monkeypatch):
    """(source, target, parameters, folder of the kernel) of each execution; papermill only leaves a result."""
    seen = []

    def execute_notebook(source, target, values, *, kernel_name, cwd):
        seen.append((source, target, values, cwd))
        Path(target).write_text("executed", encoding="utf-8")
        (cwd / values["out"] / "result.json").write_text(json.dumps(RESULT))

    monkeypatch.setattr(papermill, "execute_notebook", execute_notebook)
    return seen


def test_demo_hands_everything_on_and_prints_the_table(course, executed):
    root, *_ = course
    given = ("-p", "seed=1", "-p", "dataset=toystore", "--set", "rta.steps=15", "--set", "rta.learning_rate=3e-5")
    printed = call("demo", "--out", "runs/a b", *given).stdout
    ((source, _, values, cwd),) = executed
    assert source == root / "notebooks" / "00_quickstart.ipynb" and cwd == source.parent
    overrides = {"rta.steps": 15, "rta.learning_rate": 3e-5}
    assert values == {"out": "../runs/a b", "seed": 1, "dataset": "toystore", "overrides": overrides}
    assert (root / "runs" / "a b" / "00_quickstart.ipynb").read_text() == "executed"
    assert ".746" in printed and "seed 0" in printed


@pytest.mark.parametrize("below", [".", "notebooks", "runs/deep er"])
def test_demo_writes_below_the_current_folder_wherever_that_is(course, executed, monkeypatch, below):
    root, *_ = course
    (root / below).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(root / below)
    call("demo")
    assert (root / below / "runs" / "demo" / "result.json").exists()
    call("demo", "--out", str(root / "else where"))
    assert (root / "else where" / "00_quickstart.ipynb").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("sed=1", "no parameter 'sed'; -p takes dataset, overrides, profile, seed."),
        ("out=x", "no parameter 'out'"),
        ("seed", "NAME=VALUE"),
        ("=1", "NAME=VALUE"),
    ],
)
def test_wrong_parameters_of_demo_are_told_before_anything_runs(course, executed, given, said):
    assert said in stopped("demo", "-p", given)
    assert not executed and not Path("runs").exists()


def test_a_user_error_of_the_notebook_is_the_sentence_of_demo(course):
    """A real kernel; the folder's earlier notebook stays, and the failed one lies beside it."""
    root, *_ = course
    body = "class UserError(Exception): pass\nraise UserError(f'{out} holds another run; choose another folder.')"
    write_notebook(root, "00_quickstart", body)
    Path("runs", "a b").mkdir(parents=True)
    Path("runs", "a b", "00_quickstart.ipynb").write_text("the earlier one", encoding="utf-8")
    done = call("demo", "--out", "runs/a b", fails=2)
    assert "Traceback" not in done.output
    said = done.stderr.strip().splitlines()[-1]
    here = Path("runs", "a b")
    assert said.startswith(f"Error: {here} holds another run; choose another folder. As far as 00_quickstart came: ")
    partial = Path("runs", "a b", "00_quickstart.partial.ipynb")
    assert str(partial) in said and "UserError" in partial.read_text(encoding="utf-8")
    assert Path("runs", "a b", "00_quickstart.ipynb").read_text(encoding="utf-8") == "the earlier one"


def test_demo_in_a_real_kernel_with_blanks_in_its_paths(course):
    root, *_ = course
    write_notebook(
        root, "00_quickstart", f"import pathlib\npathlib.Path(out, 'result.json').write_text({json.dumps(RESULT)!r})"
    )
    assert ".746" in call("demo", "--out", "runs/a b").stdout
    assert not list(Path("runs", "a b").glob("*.partial*"))


def test_reproduce_with_blanks_in_its_paths(course):
    _, asked, _ = course
    said = call("reproduce", "--dataset", "d", "--profile", "p", "--out", "runs/a b").stdout
    assert asked[0][-1] == str(Path("runs", "a b", "seed-0"))
    assert said.splitlines()[-1] == f"The report: {Path('runs', 'a b', 'report', 'index.html')}"
    together = nbformat.read(Path("runs", "a b", "notebooks", "08_together.ipynb"), as_version=4)
    assert together.metadata.papermill.parameters["runs"] == ["../runs/a b/seed-0"]


def test_on_another_drive_a_path_is_absolute(tmp_path, monkeypatch):
    def relpath(*_):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(os.path, "relpath", relpath)
    assert reproduce.seen_from(tmp_path / "notebooks", tmp_path / "run") == (tmp_path / "run").resolve().as_posix()


@pytest.mark.parametrize("command", ["demo", "reproduce"])
def test_without_the_notebooks_it_says_that_a_checkout_is_needed(course, monkeypatch, tmp_path, command):
    _, asked, _ = course
    monkeypatch.setattr(reproduce, "NOTEBOOKS", tmp_path / "site-packages" / "notebooks")
    assert "no notebooks in" in (said := stopped(command)) and "checkout" in said
    assert not asked and not Path("runs").exists()


@pytest.mark.parametrize("missing", ["papermill", "nbformat", "nbconvert", "nbclient"])
@pytest.mark.parametrize("command", ["demo", "reproduce"])
def test_without_papermill_it_says_what_to_install(monkeypatch, missing, command):
    monkeypatch.delitem(sys.modules, "agenticrec_lite.reproduce")
    for name in [name for name in sys.modules if name.partition(".")[0] == missing]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, missing, None)
    assert "need papermill and nbconvert; pip install them with the extra course" in stopped(command)


@pytest.mark.skipif(not shutil.which("make"), reason="make is not here")
@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["demo", "DEMO=runs/a b", "DEMO_ARGS=-p seed=1"], ["demo", "--out", "runs/a b", "-p", "seed=1"]),
        (
            ["reproduce", "DATASET=a b", "SEEDS=0 1", "SET=rta.steps=2 rta.seed=1"],
            ["reproduce", "--dataset", "a b", "--profile", "nano", "--seeds", "0 1"]
            + ["--set", "rta.steps=2", "--set", "rta.seed=1"],
        ),
    ],
)
def test_make_only_calls_the_command(given, wanted):
    shown = subprocess.run(["make", "-n", *given], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    commands = [line for line in shown.replace("\\\n", "").splitlines() if "agenticrec_lite.cli" in line]
    assert [shlex.split(command)[3:] for command in commands] == [wanted]
