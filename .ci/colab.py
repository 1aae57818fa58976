"""Puts two cells at the head of every notebook: a Colab badge, and an install cell that acts only in Colab.

`make notebooks` calls it. The repository's address is [project.urls] Repository in pyproject.toml; the pins are read
from requirements.txt when the cell runs. A notebook that has these cells as they should be is left as it is.
"""

import sys
import tomllib
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
BADGE, INSTALL = "colab-badge", "colab-install"  # ids of the cells
# Colab brings the first three; the others are its own Jupyter, which a pin would replace under a running kernel.
BROUGHT = ("torch", "numpy", "pandas", "ipykernel", "ipywidgets", "jupyterlab", "nbgrader")

INSTALL_SOURCE = '''\
# In Colab this cell fetches the course and installs it. Anywhere else it does nothing.
import os
import subprocess
import sys
from importlib.util import find_spec

if find_spec("google") and find_spec("google.colab") and not os.path.exists("../requirements.txt"):
    setup = """
    git clone --quiet --depth 1 {REPOSITORY} agenticrec_lite ||
        [ -d agenticrec_lite ]
    cd agenticrec_lite
    grep -vE "^({BROUGHT})==" requirements.txt > ../pins.txt
    "$PYTHON" -m pip install --quiet -r ../pins.txt
    "$PYTHON" -m pip install --quiet --no-deps -e .
    """
    environment = os.environ | {"PYTHON": sys.executable}
    done = subprocess.run(["bash", "-ec", setup], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    os.chdir("agenticrec_lite/notebooks")
    sys.path.insert(0, os.path.abspath(".."))
'''


def repository() -> str:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]


def badge_source(path: Path) -> str:
    """The badge of the notebook at `path`, which lies somewhere in the repository."""
    where = repository().removeprefix("https://github.com/") + "/blob/main/" + path.relative_to(ROOT).as_posix()
    image, colab = "assets/colab-badge.svg", "https://colab.research.google.com"
    return f"[![Open in Colab]({colab}/{image})]({colab}/github/{where})"


def install_source() -> str:
    source = INSTALL_SOURCE.replace("{REPOSITORY}", repository()).replace("{BROUGHT}", "|".join(BROUGHT))
    return source.rstrip("\n")


def put_in(notebook: nbformat.NotebookNode, path: Path) -> bool:
    """Insert or refresh the two cells in place. Returns whether anything changed.

    An install cell that is new to an executed notebook becomes its first execution, and the others count on from it:
    outside Colab it does nothing, so no output depends on it.
    """
    before = nbformat.writes(notebook)
    old = next((cell for cell in notebook.cells if cell.id == INSTALL), None)
    rest = [cell for cell in notebook.cells if cell.id not in (BADGE, INSTALL)]
    badge = nbformat.v4.new_markdown_cell(badge_source(path), id=BADGE)
    install = nbformat.v4.new_code_cell(install_source(), id=INSTALL)
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
    notebook.cells = [badge, install, *rest]
    return nbformat.writes(notebook) != before


def notebooks() -> list[Path]:
    folder = ROOT / "notebooks"
    return sorted(folder.glob("*.ipynb")) + sorted((folder / "exercises").glob("*.ipynb"))


def refresh(paths: list[Path]) -> None:
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        if put_in(notebook, path):
            path.write_text(nbformat.writes(notebook).rstrip("\n") + "\n", encoding="utf-8")
            print(f"{path.relative_to(ROOT)}: Colab cells put in")


if __name__ == "__main__":
    refresh([Path(name).resolve() for name in sys.argv[1:]] or notebooks())
