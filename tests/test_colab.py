"""Colab cells: badges, install cells and pins come from one place; the install cell does its work in a mock Colab."""

import os
import re
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import nbformat
import pytest
from packaging.requirements import Requirement

from agenticrec_lite import colab as setup

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / ".ci"))

import colab  # noqa: E402

PINS = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("path", colab.notebooks(), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_notebook_has_the_two_cells_below_its_title(path):
    title, first, second = nbformat.read(path, as_version=4).cells[:3]
    hint = "run .venv/bin/python .ci/colab.py"
    assert (first.id, first.cell_type, first.source) == (colab.BADGE, "markdown", colab.badge_source(path)), hint
    assert (second.id, second.cell_type, second.source) == (colab.INSTALL, "code", colab.install_source()), hint
    assert not second.outputs and second.metadata["cellView"] == "form"
    assert title.source.startswith("# ") and "\n" not in title.source


def test_the_address_is_the_same_wherever_it_stands():
    address = re.compile(r"github(?:\.com)?/([\w.-]+/agenticrec_lite)\b")
    texts = [ROOT / "README.md", *colab.notebooks(), *(ROOT / "agenticrec_lite").rglob("*.py")]
    found = {name for path in texts for name in address.findall(path.read_text(encoding="utf-8"))}
    assert found == {colab.repository().removeprefix("https://github.com/")}


def test_what_is_installed_and_suffices_stays():
    texts = ("torch>=2.11", "trl>=1.16,<1.17", "huggingface_hub>=1.27", "scipy>=1.16")
    requirements = [Requirement(text) for text in texts]
    installed = {"torch": "2.11.0+cu128", "trl": "1.17.0", "huggingface-hub": "1.30.0.dev1"}
    assert setup.lacking(requirements, installed) == ["trl", "scipy"]
    there = setup.versions()
    assert not set(setup.lacking(setup.needed(), there)), "the pins suffice"
    assert {"torch", "trl", "matplotlib", "ipywidgets"} <= {each.name for each in setup.needed()}
    assert not {"selenium", "pytest", "nbgrader", "jupyterlab", "papermill"} & {each.name for each in setup.needed()}


def test_what_is_lacking_is_installed_at_its_pin():
    assert setup.pins(["trl", "huggingface_hub"]) == [
        pin for pin in PINS if pin.startswith(("trl==", "huggingface_hub==", "huggingface-hub=="))
    ]
    names = [each.name for each in setup.needed()]
    assert len(setup.pins(names)) == len(names), "each has a pin"


def test_what_pip_changed_under_a_running_session_is_told(monkeypatch, capsys):
    before, after = {"a": "1", "pyyaml": "5"}, {"a": "1", "pyyaml": "6", "new": "2"}
    assert setup.changed(before, after) == {"new": "new 2", "pyyaml": "5 -> 6"}
    assert setup.loaded(["pyyaml", "new"], ["yaml.reader", "os"]) == ["pyyaml"]
    assert setup.loaded(["pyyaml"], ["os"]) == []
    asked, states = [], [before, after]
    monkeypatch.setattr(setup, "versions", lambda: states.pop(0))
    monkeypatch.setattr(setup, "needed", lambda: [Requirement("pyyaml>=6")])
    monkeypatch.setattr(setup.subprocess, "run", lambda words, **how: asked.append(words) or Done(0, ""))
    import yaml  # noqa: F401

    with pytest.raises(SystemExit, match="had loaded pyyaml before; restart it"):
        setup.install()
    assert asked[0][1:5] == ["-m", "pip", "install", "--quiet"] and asked[0][5].lower().startswith("pyyaml==")
    assert "new (new 2), pyyaml (5 -> 6)" in capsys.readouterr().out
    states += [after]
    setup.install()
    assert len(asked) == 1 and "is there" in capsys.readouterr().out
    states += [before]
    monkeypatch.setattr(setup.subprocess, "run", lambda words, **how: Done(1, "No matching distribution"))
    with pytest.raises(SystemExit, match="pip could not install"):
        setup.install()
    assert "No matching distribution" in capsys.readouterr().out


Done = namedtuple("Done", ["returncode", "stdout"])


def executed_notebook():
    code = [nbformat.v4.new_code_cell(text, id=text, execution_count=i + 1) for i, text in enumerate("ab")]
    code[1].outputs = [nbformat.v4.new_output("execute_result", {"text/plain": "1"}, execution_count=2)]
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# T", id="t"), *code])


def test_cells_are_put_in_once_and_the_counts_go_on_from_them():
    notebook, path = executed_notebook(), ROOT / "notebooks" / "09_x.ipynb"
    assert colab.put_in(notebook, path)
    assert [cell.id for cell in notebook.cells] == ["t", colab.BADGE, colab.INSTALL, "a", "b"]
    assert [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"] == [1, 2, 3]
    assert notebook.cells[-1].outputs[0].execution_count == 3
    assert not colab.put_in(notebook, path)
    notebook.cells[2].source = "an older form"
    assert colab.put_in(notebook, path)
    assert [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"] == [1, 2, 3]


def test_a_notebook_that_was_never_run_gets_no_counts():
    notebook = executed_notebook()
    for cell in notebook.cells[1:]:
        cell.update(execution_count=None, outputs=[])
    colab.put_in(notebook, ROOT / "notebooks" / "09_x.ipynb")
    assert all(cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")


def run_install_cell(folder: Path, environment: dict) -> str:
    folder.mkdir(exist_ok=True)
    code = f"{colab.install_source()}\nprint(os.getcwd(), sys.path[0], sep='|')"
    command, environment = [sys.executable, "-c", code], os.environ | environment
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def mock_colab(tmp_path):
    """The environment of a mock Colab: git finds a repository of ours, with a package of ours, at the address."""
    (tmp_path / "modules" / "google" / "colab").mkdir(parents=True)
    (tmp_path / "modules" / "google" / "colab" / "__init__.py").touch()
    upstream = tmp_path / "upstream"
    (upstream / "notebooks").mkdir(parents=True)
    (upstream / "notebooks" / "00.ipynb").touch()
    (upstream / "requirements.txt").touch()
    (upstream / "agenticrec_lite").mkdir()
    (upstream / "agenticrec_lite" / "__init__.py").touch()
    (upstream / "agenticrec_lite" / "colab.py").write_text("def install():\n    print('installing')\n")
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@x.x", "-C", str(upstream)]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], check=True)
    return {
        "PYTHONPATH": str(tmp_path / "modules"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{upstream}.insteadOf",
        "GIT_CONFIG_VALUE_0": colab.repository(),
    }


def test_in_colab_it_clones_installs_and_goes_to_the_notebooks(mock_colab, tmp_path):
    clone = tmp_path / "content" / "agenticrec_lite"
    for folder in (tmp_path / "content", tmp_path / "content", clone / "notebooks"):  # again, and after a restart
        told = run_install_cell(folder, mock_colab)
        assert told.splitlines() == ["installing", f"{clone / 'notebooks'}|{clone}"]


def test_in_colab_a_failed_clone_says_why(mock_colab, tmp_path):
    with pytest.raises(subprocess.CalledProcessError) as failed:
        run_install_cell(tmp_path / "content", mock_colab | {"GIT_CONFIG_KEY_0": f"url.file://{tmp_path}/no.insteadOf"})
    assert "does not appear to be a git repository" in failed.value.stderr and "Traceback" not in failed.value.stderr


def test_outside_colab_it_does_nothing(tmp_path):
    (tmp_path / "modules" / "google").mkdir(parents=True)
    (tmp_path / "modules" / "google" / "__init__.py").touch()  # without colab, wherever the test runs
    where = run_install_cell(tmp_path / "elsewhere", {"PYTHONPATH": str(tmp_path / "modules")})
    assert where.startswith(f"{tmp_path / 'elsewhere'}|") and not list((tmp_path / "elsewhere").iterdir())
