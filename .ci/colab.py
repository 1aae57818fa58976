"""Puts two cells below the title of every notebook: a Colab badge, and an install cell that acts only in Colab.

`make notebooks` calls it. The repository's address is [project.urls] Repository in pyproject.toml; what there is to
install is decided when the cell runs, by agenticrec_lite/colab.py. A notebook that has these cells as they should be is
left as it is.
"""

import sys
import tomllib
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
BADGE, INSTALL = "colab-badge", "colab-install"  # ids of the cells
FOLDED = {"cellView": "form", "jupyter": {"source_hidden": True}}  # in Colab, in JupyterLab

INSTALL_SOURCE = '''\
# @title In Colab, run this cell first: it fetches the course and installs what is missing. {display-mode: "form"}
import os
import subprocess
import sys
from importlib.util import find_spec

if find_spec("google") and find_spec("google.colab"):
    if not os.path.exists("../requirements.txt"):
        if not os.path.isdir("agenticrec_lite"):
            clone = "git clone --quiet --depth 1 {REPOSITORY} agenticrec_lite"
            done = subprocess.run(clone.split(), capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(done.stderr)
        os.chdir("agenticrec_lite/notebooks")
    sys.path.insert(0, os.path.abspath(".."))
    from agenticrec_lite import colab

    colab.install()
'''


def repository() -> str:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]


def badge_source(path: Path) -> str:
    """The badge of the notebook at `path`; a teacher's exercise has that of the students' version."""
    students = path.relative_to(ROOT).as_posix().replace("teacher/", "notebooks/")
    where = repository().removeprefix("https://github.com/") + "/blob/main/" + students
    image, colab = "assets/colab-badge.svg", "https://colab.research.google.com"
    return f"[![Open in Colab]({colab}/{image})]({colab}/github/{where})"


def install_source() -> str:
    return INSTALL_SOURCE.replace("{REPOSITORY}", repository()).rstrip("\n")


def put_in(notebook: nbformat.NotebookNode, path: Path) -> bool:
    """Insert or refresh the two cells in place, below the title. Returns whether anything changed.

    An install cell that is new to an executed notebook becomes its first execution, and the others count on from it:
    outside Colab it does nothing, so no output depends on it.
    """
    before = nbformat.writes(notebook)
    old = next((cell for cell in notebook.cells if cell.id == INSTALL), None)
    rest = [cell for cell in notebook.cells if cell.id not in (BADGE, INSTALL)]
    badge = nbformat.v4.new_markdown_cell(badge_source(path), id=BADGE)
    install = nbformat.v4.new_code_cell(install_source(), id=INSTALL, metadata=FOLDED)
    executed = [cell for cell in rest if cell.cell_type == "code" and cell.execution_count]
    if old:
        install.execution_count = old.execution_count
    elif executed:
        install.execution_count = 1
        for cell in executed:
            cell.execution_count += 1
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = cell.execution_count
    title, _, text = rest[0].source.partition("\n")
    rest[0].source = title
    rest[1:1] = [nbformat.v4.new_markdown_cell(text.strip())] if text.strip() else []
    notebook.cells = [rest[0], badge, install, *rest[1:]]
    return nbformat.writes(notebook) != before


def notebooks() -> list[Path]:
    """Those that have the cells; `make exercises` makes the students' exercises from the teacher's."""
    return [path for folder in ("notebooks", "teacher/exercises") for path in sorted((ROOT / folder).glob("*.ipynb"))]


def refresh(paths: list[Path]) -> None:
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        if put_in(notebook, path):
            path.write_text(nbformat.writes(notebook).rstrip("\n") + "\n", encoding="utf-8")
            print(f"{path.relative_to(ROOT)}: Colab cells put in")


if __name__ == "__main__":
    refresh([Path(name).resolve() for name in sys.argv[1:]] or notebooks())
