"""Exercises: the solution earns all points, the empty version none, and whatever students do to cells is survived."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER, STUDENTS = ROOT / "teacher" / "exercises", ROOT / "notebooks" / "exercises"
EXERCISES = sorted(FOLDER.glob("*.ipynb"))
HIDDEN = ("BEGIN SOLUTION", "END SOLUTION", "BEGIN HIDDEN TESTS", "END HIDDEN TESTS")


def cells_of(path: Path) -> list[dict]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell | {"text": "".join(cell["source"])} for cell in cells]


def points(path: Path) -> int:
    return sum(cell["metadata"].get("nbgrader", {}).get("points", 0) for cell in cells_of(path))


def test_the_docs_tell_how_many_points_there_are():
    assert len(EXERCISES) == 7
    readme = (ROOT / "docs" / "running.md").read_text(encoding="utf-8")
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


@pytest.mark.parametrize("path", EXERCISES, ids=lambda path: path.stem)
def test_students_get_the_same_cells_without_solutions_and_hidden_tests(path):
    given, teachers = cells_of(STUDENTS / path.name), cells_of(path)
    assert [cell["id"] for cell in given] == [cell["id"] for cell in teachers]
    for mine, theirs in zip(given, teachers, strict=True):
        marks = theirs["metadata"].get("nbgrader", {})
        assert not any(mark in mine["text"] for mark in HIDDEN)
        if not marks:
            assert mine["text"] == theirs["text"]
        elif marks["solution"]:
            assert "NotImplementedError" in mine["text"]
        else:
            assert mine["text"].strip() == theirs["text"].split("### BEGIN HIDDEN TESTS")[0].strip()


# --- the grader: what students do to a notebook ---


@pytest.fixture
def grader():
    sys.path.insert(0, str(ROOT / "teacher"))
    import grade

    yield grade
    sys.path.remove(str(ROOT / "teacher"))


SOLVED = FOLDER / "05_violations_and_pairs.ipynb"
FULL = {"pool": (3, 3), "questions": (3, 3), "preference": (3, 3)}


def named(cells, name):
    return next(i for i, cell in enumerate(cells) if cell["metadata"].get("nbgrader", {}).get("grade_id") == name)


def doubled(cells):
    cells.insert(2, dict(cells[named(cells, "pool")]))
    cells.append(dict(cells[named(cells, "pool-hidden")]))


def moved(cells):
    cells.append(cells.pop(named(cells, "questions")))
    cells.insert(0, cells.pop(named(cells, "pool-visible")))


def with_an_import_of_its_own(cells):
    cells.insert(3, code("from math import log"))
    cell = cells[named(cells, "preference")]
    cell["source"] = "".join(cell["source"]).replace("math.log", "log")


def without_tests(cells):
    cells[:] = [cell for cell in cells if not cell["metadata"].get("nbgrader", {}).get("points")]


def with_tests_that_pass_for_nothing(cells):
    for cell in cells:
        if cell["metadata"].get("nbgrader", {}).get("points"):
            cell["source"] = "pass"


def with_cell_magic(cells):
    cells.insert(3, code("%matplotlib inline\n!true"))


def without_ids(cells):
    for cell in cells:
        cell.pop("id", None)


def code(source):
    return {"cell_type": "code", "metadata": {}, "source": source, "outputs": [], "execution_count": None}


def submission(tmp_path, change, name="my answers (1).ipynb", of=SOLVED):
    notebook = json.loads(of.read_text(encoding="utf-8"))
    change(notebook["cells"])
    path = tmp_path / name
    path.write_text(json.dumps(notebook), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "change",
    [doubled, moved, with_an_import_of_its_own, without_tests, with_tests_that_pass_for_nothing, with_cell_magic,
     without_ids],
    ids=lambda change: change.__name__,
)  # fmt: skip
def test_right_solutions_earn_all_points_whatever_was_done_to_other_cells(grader, tmp_path, change):
    exercise, points, _ = grader.grade(submission(tmp_path, change))
    assert exercise == SOLVED.stem and points == FULL


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        (None, "pool is missing."),
        ("def pool(answer, positive:", "pool does not run: SyntaxError"),
        ("while True: pass", "pool does not run: TimeoutError: it ran longer than 2 seconds"),
        ("raise SystemExit", "pool does not run: SystemExit; pool-visible: NameError"),
        ("def pool(answer, positive): return []", "pool-visible: AssertionError"),
        ("def pool(answer, positive):\n    raise NotImplementedError()", "nothing is written there yet"),
    ],
)
def test_a_solution_that_is_wrong_loses_its_own_points_and_the_reason_is_told(grader, tmp_path, written, reason):
    def change(cells):
        place = named(cells, "pool")
        if written is None:
            del cells[place]
        else:
            cells[place]["source"] = written

    _, points, remarks = grader.grade(submission(tmp_path, change), seconds=2)
    assert points == FULL | {"pool": (0, 3)}
    assert len(remarks) == 1 and reason in remarks[0]


def test_of_two_solutions_the_last_counts_and_it_is_said(grader, tmp_path):
    def change(cells):
        wrong = {**cells[named(cells, "pool")], "source": "def pool(answer, positive): return []"}
        cells.insert(named(cells, "pool") + 1, wrong)

    _, points, remarks = grader.grade(submission(tmp_path, change))
    assert points["pool"] == (0, 3) and "pool is there 2 times; the last one counts." in remarks


def test_a_process_that_ends_early_earns_nothing(grader, tmp_path):
    def change(cells):
        cells[named(cells, "pool")]["source"] = "import os\nos._exit(0)"

    _, points, remarks = grader.grade(submission(tmp_path, change))
    assert sum(earned for earned, _ in points.values()) == 0 and "it ended the process" in " ".join(remarks)


def test_the_command_grades_what_it_can_and_says_what_is_no_submission(grader, tmp_path, monkeypatch, capsys):
    right = submission(tmp_path, lambda cells: None)
    (tmp_path / "torn.ipynb").write_text(right.read_text(encoding="utf-8")[:500], encoding="utf-8")
    other = submission(tmp_path, lambda cells: cells.clear(), "other.ipynb")
    files = [tmp_path / "torn.ipynb", tmp_path / "nowhere.ipynb", other, right]
    monkeypatch.setattr(sys, "argv", ["grade.py", *map(str, files), "--csv", str(tmp_path / "points.csv")])
    assert grader.main() == 1
    printed = capsys.readouterr().out
    assert f"{right}: {SOLVED.stem}, 9 of 9 points" in printed and "Traceback" not in printed
    assert printed.count("not graded: ") == 3 and "has no cell of any exercise" in printed
    rows = (tmp_path / "points.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 4 and rows[1].endswith("pool,3,3")


def test_tests_that_pass_for_nothing_earn_nothing(grader, tmp_path):
    path = submission(tmp_path, with_tests_that_pass_for_nothing, of=STUDENTS / SOLVED.name)
    assert sum(earned for earned, _ in grader.grade(path)[1].values()) == 0


@pytest.mark.parametrize("path", EXERCISES, ids=lambda path: path.stem)
def test_the_grader_gives_the_solution_all_points_and_the_empty_version_none(grader, path):
    for folder, share in ((FOLDER, 1), (STUDENTS, 0)):
        _, found, _ = grader.grade(folder / path.name)
        assert sum(earned for earned, _ in found.values()) == share * points(path)


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
        assert text == (STUDENTS / path.name).read_text(encoding="utf-8"), "make exercises writes them anew"

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
