"""`make reproduce`, with small notebooks in place of 01-08 and a stand-in for the training run."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import DeadKernelError

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / ".ci"))

import reproduce  # noqa: E402

PARAMETERS = {
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
    """(folder with three notebooks, the runs asked for); `agenticrec run` only leaves a folder."""
    asked = []
    (tmp_path / "notebooks").mkdir()
    for name in PARAMETERS:
        write_notebook(tmp_path, name)

    def run(command, **_):
        asked.append(command[3:])
        return subprocess.CompletedProcess(command, course_of.fails)

    course_of = type("", (), {"fails": 0})
    monkeypatch.setattr(reproduce.subprocess, "run", run)
    return tmp_path, asked, course_of


def stopped(capsys, arguments, root) -> str:
    """The sentence with which it stops."""
    with pytest.raises(SystemExit) as stop:
        reproduce.main(arguments, root)
    lines = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and lines[-1].startswith("Error: ")
    return lines[-1]


def times(out: Path) -> dict[str, int]:
    return {str(p.relative_to(out)): p.stat().st_mtime_ns for p in (out / "notebooks").rglob("*.ipynb")}


def test_parameters_are_those_that_the_cell_assigns(course):
    root, *_ = course
    out = root / "runs" / "reproduce-d-p"
    known = {name: reproduce.jobs(root / "notebooks" / f"{name}.ipynb", "d", "p", [3, 4], out) for name in PARAMETERS}
    folder = "../runs/reproduce-d-p/seed-"
    assert known["01_alone"] == [(out / "notebooks" / "01_alone.ipynb", {})]
    assert known["02_each"] == [
        (out / "notebooks" / f"seed-{seed}" / "02_each.ipynb", {"seed": seed, "run_dir": f"{folder}{seed}"})
        for seed in (3, 4)
    ]
    values = {"profile": "p", "seeds": [3, 4], "runs": [f"{folder}3", f"{folder}4"]}
    values["out"] = "../runs/reproduce-d-p/report"
    (_, together), = known["08_together"]
    assert together == values, "a tuple is not a plain assignment; papermill would not find it either"


def test_it_goes_all_the_way_keeps_what_is_finished_and_ends_in_a_report(course, capsys):
    root, asked, _ = course
    write_notebook(root, "02_each", "open(f'ran-{seed}', 'x').close()\nassert seed != 1, 'not\\nyet'")
    arguments = ["--dataset", "d", "--profile", "p", "--seeds", "0 1 0", "--set", "rta.steps=2"]
    said = stopped(capsys, arguments, root)
    out = root / "runs" / "reproduce-d-p"
    assert "02_each failed with AssertionError: not yet" in said and "goes on there" in said
    common = ["run", "--dataset", "d", "--profile", "p", "--seed"]
    assert asked == [[*common, s, "--out", str(out / f"seed-{s}"), "--set", "rta.steps=2"] for s in "01"]
    assert {"notebooks/01_alone.ipynb", "notebooks/seed-0/02_each.ipynb"} < set(times(out))
    assert not (out / "notebooks" / "seed-1" / "02_each.ipynb").exists()

    before = times(out)
    write_notebook(root, "02_each", "print(seed)")  # mended: it is run again for both seeds, 01 is kept
    reproduce.main(arguments, root)
    assert "index.html" in capsys.readouterr().out.splitlines()[-1]
    after = times(out)
    assert after["notebooks/01_alone.ipynb"] == before["notebooks/01_alone.ipynb"]
    assert after["notebooks/seed-0/02_each.ipynb"] > before["notebooks/seed-0/02_each.ipynb"]
    assert not list(out.rglob("*.partial.*"))
    page = (out / "report" / "index.html").read_text()
    for link in ("01_alone", "seed-0/02_each", "seed-1/02_each", "08_together"):
        assert f'href="{link}.html"' in page and (out / "report" / f"{link}.html").exists()

    assert 'Begin with <a href="08_together.html">' in page
    reproduce.main(arguments, root)
    assert times(out) == after, "nothing was left to do"
    reproduce.main([*arguments[:5], "0", *arguments[6:]], root)
    assert [name for name, when in times(out).items() if when != after[name]] == ["notebooks/08_together.ipynb"]


@pytest.mark.parametrize("seeds", ["", "one", "0 -1", "1.5"])
def test_wrong_seeds_are_told_in_one_sentence(course, capsys, seeds):
    root, asked, _ = course
    assert "SEEDS takes whole numbers" in stopped(capsys, [f"--seeds={seeds}"], root)
    assert not asked


def test_a_run_that_fails_stops_it_with_the_same_code(course):
    root, asked, course_of = course
    course_of.fails = 2
    with pytest.raises(SystemExit) as stop:
        reproduce.main(["--seeds", "0 1"], root)
    assert stop.value.code == 2 and len(asked) == 1
    assert not (root / "runs" / "reproduce-ml-100k-nano" / "notebooks").exists()


def executes(monkeypatch, error):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(reproduce.papermill, "execute_notebook", fails)


@pytest.mark.fault("Ctrl-C that also stops the kernel", "make reproduce")
def test_a_kernel_that_was_stopped_is_one_sentence(course, capsys, monkeypatch):
    """The notebook it was in is named, exit code 2; the same command executes that one again."""
    root, *_ = course
    with monkeypatch.context() as patch:
        executes(patch, DeadKernelError("Kernel died"))
        said = stopped(capsys, ["--dataset", "d", "--profile", "p"], root)
    assert "kernel of 01_alone was stopped" in said and "goes on there" in said
    reproduce.main(["--dataset", "d", "--profile", "p"], root)


@pytest.mark.fault("disk full", "executed notebook")
def test_a_full_disk_is_one_sentence(course, capsys, monkeypatch):
    """It names the file and what the system said."""
    root, *_ = course
    executes(monkeypatch, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "01_alone.partial.ipynb"))
    said = stopped(capsys, [], root)
    assert "01_alone.partial.ipynb" in said and "No space left" in said


@pytest.mark.fault("disk full", "report")
def test_a_full_disk_while_the_report_is_written_keeps_the_notebooks(course, capsys, monkeypatch):
    """The notebooks are finished; the same command only writes the report again."""
    root, *_ = course
    arguments = ["--dataset", "d", "--profile", "p"]
    out = root / "runs" / "reproduce-d-p"
    write_text = Path.write_text

    def full(path, *rest, **named):
        if path.suffix == ".html":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write_text(path, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        said = stopped(capsys, arguments, root)
    assert "01_alone.html" in said and "No space left" in said
    before = times(out)
    reproduce.main(arguments, root)
    assert times(out) == before and (out / "report" / "index.html").exists()


@pytest.mark.fault("damaged file", "executed notebook")
@pytest.mark.parametrize("content", ["", "{", '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'])
def test_a_damaged_notebook_is_executed_again(course, content):
    """An executed notebook that is no notebook, or not of papermill, does not count as finished."""
    root, *_ = course
    arguments = ["--dataset", "d", "--profile", "p"]
    target = root / "runs" / "reproduce-d-p" / "notebooks" / "01_alone.ipynb"
    target.parent.mkdir(parents=True)
    target.write_text(content)
    reproduce.main(arguments, root)
    assert "done" in target.read_text()
