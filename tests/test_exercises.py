"""Exercises in nbgrader's format: the solution earns all points, the empty student version none."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "notebooks" / "exercises"
EXERCISES = sorted(FOLDER.glob("*.ipynb"))
HIDDEN = ("BEGIN SOLUTION", "END SOLUTION", "BEGIN HIDDEN TESTS", "END HIDDEN TESTS")


def cells_of(path: Path) -> list[dict]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell | {"text": "".join(cell["source"])} for cell in cells]


def points(path: Path) -> int:
    return sum(cell["metadata"].get("nbgrader", {}).get("points", 0) for cell in cells_of(path))


def test_the_readme_tells_how_many_points_there_are():
    assert len(EXERCISES) == 6
    readme = (FOLDER.parents[1] / "README.md").read_text(encoding="utf-8")
    assert f"in nbgrader's format, {sum(map(points, EXERCISES))} points" in readme


@pytest.mark.parametrize("path", EXERCISES, ids=lambda path: path.stem)
def test_an_exercise_has_solutions_and_tests_that_are_seen_and_hidden(path):
    cells = cells_of(path)
    marks = {cell["metadata"]["nbgrader"]["grade_id"]: cell for cell in cells if "nbgrader" in cell["metadata"]}
    solutions = [name for name, cell in marks.items() if cell["metadata"]["nbgrader"]["solution"]]
    assert len(marks) == 3 * len(solutions) and solutions
    for name in solutions:
        assert "### BEGIN SOLUTION" in marks[name]["text"]
        assert "BEGIN HIDDEN TESTS" not in marks[f"{name}-visible"]["text"]
        shown, hidden = marks[f"{name}-hidden"]["text"].split("### BEGIN HIDDEN TESTS")
        assert "assert" in shown or "print" in shown, "a student sees what the cell is about"
        assert "assert" in hidden
    first = next(cell["text"] for cell in cells if cell["text"].startswith("**Aim.**"))
    assert f"**{points(path)} points," in first.replace("\n", " ")


@pytest.mark.parametrize("path", EXERCISES, ids=lambda path: path.stem)
def test_an_exercise_is_committed_without_outputs(path):
    code = [cell for cell in cells_of(path) if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    assert max(cell["text"].count("\n") for cell in code) < 25


@pytest.mark.all
def test_the_solution_earns_all_points_and_the_empty_student_version_none(tmp_path, monkeypatch):
    course, name = tmp_path / "course", FOLDER.name
    shutil.copytree(FOLDER, course / "source" / name, ignore=shutil.ignore_patterns(".*"))
    # nbgrader keeps its own settings and runtime files: in the scratch folder, not in the home of whoever tests.
    scratch = {f"JUPYTER_{kind}_DIR": str(tmp_path / kind) for kind in ("CONFIG", "RUNTIME")}
    programs = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}  # it calls alembic by name
    for key, value in (scratch | programs | {"PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}).items():
        monkeypatch.setenv(key, value)

    def nbgrader(*arguments: str) -> None:
        command = [sys.executable, "-m", "nbgrader", *arguments, f"--CourseDirectory.root={course}"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]

    nbgrader("generate_assignment", name)
    released = sorted((course / "release" / name).glob("*.ipynb"))
    assert [path.name for path in released] == [path.name for path in EXERCISES]
    for path in released:
        text = path.read_text(encoding="utf-8")
        assert not any(mark in text for mark in HIDDEN) and "NotImplementedError" in text

    shutil.copytree(course / "source" / name, course / "submitted" / "solution" / name)
    shutil.copytree(course / "release" / name, course / "submitted" / "empty" / name)
    nbgrader("autograde", name)

    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as gradebook:
        graded = {
            (student, notebook.name): (notebook.score, notebook.max_score)
            for student in ("solution", "empty")
            for notebook in gradebook.find_submission(name, student).notebooks
        }
    for path in EXERCISES:
        assert graded["solution", path.stem] == (points(path), points(path)), path.stem
        assert graded["empty", path.stem] == (0, points(path)), path.stem
