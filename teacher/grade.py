"""Grades exercises: `python teacher/grade.py SUBMITTED.ipynb ...` prints points and reasons.

A submission is known by its cells, not by its file's name. From it come the solutions and the cells that the student
has added; everything else comes from the teacher's file, in its order. So a test that was moved, changed, doubled or
deleted costs nothing and earns nothing, and a solution that is missing earns none of its points. Each submission runs
in a process of its own.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

EXERCISES = Path(__file__).resolve().parent / "exercises"
SECONDS = 30  # for one cell; whoever writes an endless loop loses that cell's points, not the others'
MARK = "verdicts "  # begins the line that the process of a submission ends with


class Unreadable(Exception):
    """The file is no submission of an exercise; the message says why."""


def code_cells(path: Path) -> list[dict]:
    """Each {"name": grade_id or None, "id", "source", "points"}, in the order of the file.

    Raises:
        Unreadable: It is no notebook.
    """
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        found = []
        for cell in cells:
            if cell["cell_type"] == "code":
                marks = cell.get("metadata", {}).get("nbgrader", {})
                source = cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])
                name, points = marks.get("grade_id"), marks.get("points", 0)
                found.append({"name": name, "id": cell.get("id"), "source": source, "points": points})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unreadable(f"{path} cannot be read as a notebook ({type(error).__name__}).") from None
    return found


def teachers_file(cells: list[dict]) -> Path:
    """The exercise that a submission is of: the one that most of its named cells belong to.

    Raises:
        Unreadable: It has cells of none.
    """
    names = {cell["name"] for cell in cells} - {None}
    shared = {
        path: len(names & {cell["name"] for cell in code_cells(path)}) for path in sorted(EXERCISES.glob("*.ipynb"))
    }
    best = max(shared, key=shared.get)
    if not shared[best]:
        raise Unreadable("has no cell of any exercise: their names are gone, or it is another notebook.")
    return best


def plan(submitted: list[dict], teacher: list[dict]) -> list[dict]:
    """What is run: cells that the student has added, then the teacher's file with the student's solutions put in."""
    names, ids = {cell["name"] for cell in teacher} - {None}, {cell["id"] for cell in teacher} | {"colab-install"}
    added = [cell for cell in submitted if cell["name"] not in names and cell["id"] not in ids]
    solutions = {cell["name"]: cell for cell in submitted if cell["name"] in names}  # of two, the last one
    course = [cell for cell in teacher if cell["id"] != "colab-install"]
    asked = [cell if cell["points"] or not cell["name"] else solutions.get(cell["name"]) for cell in course]
    return [cell | {"points": 0} for cell in added] + [cell for cell in asked if cell]


def reason_of(error: BaseException) -> str:
    """One line."""
    if type(error) is NotImplementedError:
        return "nothing is written there yet"
    said = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}{': ' * bool(said)}{said}"


def run(cells: list[dict], seconds: int) -> None:
    """Run cells in one namespace, and print what came of each as JSON; in a process of its own."""
    import signal

    from IPython.core.inputtransformer2 import TransformerManager

    def too_long(*_):
        raise TimeoutError(f"it ran longer than {seconds} seconds")

    namespace: dict = {"__name__": "__main__", "display": print, "get_ipython": lambda: None}
    verdicts = []
    if can_stop := hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, too_long)
    for cell in cells:
        reason = ""
        try:
            if can_stop:
                signal.alarm(seconds)
            exec(compile(TransformerManager().transform_cell(cell["source"]), "<cell>", "exec"), namespace)
        except BaseException as error:  # a student's SystemExit, too
            reason = reason_of(error)
        finally:
            if can_stop:
                signal.alarm(0)
        verdicts.append(reason)
    print("\n" + MARK + json.dumps(verdicts), flush=True)
    os._exit(0)  # whatever threads a student has begun


def verdicts_of(cells: list[dict], seconds: int) -> list[str]:
    """Of each cell: empty if it ran, else why not."""
    with tempfile.TemporaryDirectory() as scratch:
        given = Path(scratch, "cells.json")
        given.write_text(json.dumps(cells), encoding="utf-8")
        command = [sys.executable, str(Path(__file__).resolve()), "--cells", str(given), "--seconds", str(seconds)]
        paths = [str(EXERCISES.parents[1]), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "MPLBACKEND": "agg"}
        try:
            done = subprocess.run(
                command, cwd=scratch, env=environment, capture_output=True, text=True, encoding="utf-8",
                errors="replace", stdin=subprocess.DEVNULL, timeout=seconds * (len(cells) + 1), check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return ["it never ended"] * len(cells)
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    return json.loads(lines[-1].removeprefix(MARK)) if lines else ["it ended the process"] * len(cells)


def grade(path: Path, seconds: int = SECONDS) -> tuple[str, dict[str, tuple[int, int]], list[str]]:
    """Grade one submission.

    Returns:
        The exercise; by solution its points and how many there are; what the teacher should know.

    Raises:
        Unreadable: The file is no submission.
    """
    submitted = code_cells(path)
    exercise = teachers_file(submitted)
    teacher = code_cells(exercise)
    cells = plan(submitted, teacher)
    found = dict(zip(range(len(cells)), verdicts_of(cells, seconds), strict=True))
    solutions = [cell["name"] for cell in teacher if cell["name"] and not cell["points"]]
    count = {name: sum(cell["name"] == name for cell in submitted) for name in solutions}
    points, remarks = {}, []
    for name in solutions:
        parts = [i for i, cell in enumerate(cells) if cell["points"] and cell["name"].rpartition("-")[0] == name]
        there = sum(cells[i]["points"] for i in parts)
        earned = sum(cells[i]["points"] for i in parts if not found[i]) if count[name] else 0
        points[name] = earned, there
        reasons = [f"{cells[i]['name']}: {found[i]}" for i in parts if found[i]]
        own = [found[i] for i, cell in enumerate(cells) if cell["name"] == name and found[i]]
        if not count[name]:
            remarks.append(f"{name} is missing.")
        elif earned < there:
            remarks.append("; ".join([*(f"{name} does not run: {each}" for each in own), *reasons]) + ".")
        if count[name] > 1:
            remarks.append(f"{name} is there {count[name]} times; the last one counts.")
    return exercise.stem, points, remarks


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("submitted", nargs="*", type=Path)
    parser.add_argument("--csv", type=Path, help="also write a row a submission and solution here")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="that one cell may take")
    parser.add_argument("--cells", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.cells:
        run(json.loads(given.cells.read_text(encoding="utf-8")), given.seconds)
    if not given.submitted:
        parser.error("name at least one notebook")
    rows, failed = [], 0
    for path in given.submitted:
        try:
            exercise, points, remarks = grade(path, given.seconds)
        except Unreadable as reason:
            print(f"{path}: not graded: {reason}")
            failed = 1
            continue
        total, most = (sum(column) for column in zip(*points.values(), strict=True))
        print(f"{path}: {exercise}, {total} of {most} points")
        for remark in remarks:
            print(f"    {remark}")
        rows += [(str(path), exercise, name, *each) for name, each in points.items()]
    if given.csv:
        with given.csv.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("file", "exercise", "solution", "points", "of"), *rows])
    return failed


if __name__ == "__main__":
    sys.exit(main())
