"""Colab cells: badges, install cells and pins come from one place; the install cell does its work in a mock Colab."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / ".ci"))

import colab  # noqa: E402

PINS = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("path", colab.notebooks(), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_notebook_begins_with_the_two_cells(path):
    first, second = nbformat.read(path, as_version=4).cells[:2]
    hint = "run .venv/bin/python .ci/colab.py"
    assert (first.id, first.cell_type, first.source) == (colab.BADGE, "markdown", colab.badge_source(path)), hint
    assert (second.id, second.cell_type, second.source) == (colab.INSTALL, "code", colab.install_source()), hint
    assert not second.outputs


def test_the_address_is_the_same_wherever_it_stands():
    address = re.compile(r"github(?:\.com)?/([\w.-]+/agenticrec_lite)\b")
    texts = [ROOT / "README.md", *colab.notebooks(), *(ROOT / "agenticrec_lite").rglob("*.py")]
    found = {name for path in texts for name in address.findall(path.read_text(encoding="utf-8"))}
    assert found == {colab.repository().removeprefix("https://github.com/")}


def test_what_colab_brings_is_pinned_here_and_left_out_there():
    assert {"torch", "numpy", "pandas"} <= set(colab.BROUGHT) <= {pin.partition("==")[0] for pin in PINS}
    assert not re.search(r"==\d", colab.install_source()), "a pin is written into the install cell"


def executed_notebook():
    code = [nbformat.v4.new_code_cell(text, id=text, execution_count=i + 1) for i, text in enumerate("ab")]
    code[1].outputs = [nbformat.v4.new_output("execute_result", {"text/plain": "1"}, execution_count=2)]
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# T", id="t"), *code])


def test_cells_are_put_in_once_and_the_counts_go_on_from_them():
    notebook, path = executed_notebook(), ROOT / "notebooks" / "09_x.ipynb"
    assert colab.put_in(notebook, path)
    assert [cell.id for cell in notebook.cells] == [colab.BADGE, colab.INSTALL, "t", "a", "b"]
    assert [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"] == [1, 2, 3]
    assert notebook.cells[-1].outputs[0].execution_count == 3
    assert not colab.put_in(notebook, path)
    notebook.cells[1].source = "an older form"
    assert colab.put_in(notebook, path)
    assert [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"] == [1, 2, 3]


def test_a_notebook_that_was_never_run_gets_no_counts():
    notebook = executed_notebook()
    for cell in notebook.cells[1:]:
        cell.update(execution_count=None, outputs=[])
    colab.put_in(notebook, ROOT / "notebooks" / "09_x.ipynb")
    assert all(cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")


def run_install_cell(folder: Path, environment: dict, pip: str) -> str:
    folder.mkdir(exist_ok=True)
    code = f"import sys; sys.executable = {pip!r}\n{colab.install_source()}\nprint(os.getcwd(), sys.path[0], sep='|')"
    command, environment = [sys.executable, "-c", code], os.environ | environment
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def mock_colab(tmp_path):
    """(environment, interpreter that records instead of installing): git finds a repository of ours at the address."""
    (tmp_path / "modules" / "google" / "colab").mkdir(parents=True)
    (tmp_path / "modules" / "google" / "colab" / "__init__.py").touch()
    upstream = tmp_path / "upstream"
    (upstream / "notebooks").mkdir(parents=True)
    (upstream / "notebooks" / "00.ipynb").touch()
    (upstream / "requirements.txt").write_text((ROOT / "requirements.txt").read_text())
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@x.x", "-C", str(upstream)]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], check=True)
    pip = tmp_path / "pip"
    pip.write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/asked"\ncat ../pins.txt > "{tmp_path}/pins"\n')
    pip.chmod(0o755)
    environment = {
        "PYTHONPATH": str(tmp_path / "modules"),
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{upstream}.insteadOf",
        "GIT_CONFIG_VALUE_0": colab.repository(),
    }
    return environment, str(pip)


def test_in_colab_it_clones_installs_the_pins_and_goes_to_the_notebooks(mock_colab, tmp_path):
    environment, pip = mock_colab
    where = run_install_cell(tmp_path / "content", environment, pip)
    clone = tmp_path / "content" / "agenticrec_lite"
    assert where == f"{clone / 'notebooks'}|{clone}"
    assert (tmp_path / "asked").read_text().splitlines() == [
        "-m pip install --quiet -r ../pins.txt",
        "-m pip install --quiet --no-deps -e .",
    ]
    installed = [line for line in (tmp_path / "pins").read_text().splitlines() if line and not line.startswith("#")]
    assert installed == [pin for pin in PINS if pin.partition("==")[0] not in colab.BROUGHT]
    assert run_install_cell(tmp_path / "content", environment, pip) == where, "once more after a restart"


def test_outside_colab_it_does_nothing(tmp_path):
    where = run_install_cell(tmp_path / "elsewhere", {}, "/nothing/is/called")
    assert where.startswith(f"{tmp_path / 'elsewhere'}|") and not list((tmp_path / "elsewhere").iterdir())
