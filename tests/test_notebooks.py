"""Committed notebooks: one clean run each, in the course's template, with prose that agrees with its outputs.

Nothing is executed here; `make test-all` does that with nbval.
"""

import ast
import json
import math
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / ".ci"))

from clean_notebook import LOCAL_PATH  # noqa: E402

from agenticrec_lite.paper import PAPER  # noqa: E402

FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
TEXTS = ("text/plain", "text/markdown", "text/html")
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells_of(path: Path, kind: str | None = None) -> list[dict]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if kind in (None, cell["cell_type"])]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def prose(path: Path) -> str:
    return "\n\n".join(source(cell) for cell in cells_of(path, "markdown"))


def output_texts(output: dict, *kinds: str) -> list[str]:
    """What an output shows as text, all of it or only some kinds (and streams)."""
    shown = [output["text"]] if "text" in output else []
    shown += [value for kind, value in output.get("data", {}).items() if kind in (kinds or TEXTS)]
    return ["".join(text) for text in shown]


# -- One clean run ----------------------------------------------------------------------------------------------------


@every_notebook
def test_a_committed_notebook_is_one_clean_run(path):
    cells = cells_of(path, "code")
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert json.loads(path.read_text(encoding="utf-8"))["metadata"]["kernelspec"]["name"] == "python3"
    for cell in cells:
        for output in cell["outputs"]:
            assert output["output_type"] != "error" and output.get("name") != "stderr"
            assert not any("widget" in kind for kind in output.get("data", {})), "a widget shows only where it can run"


@every_notebook
def test_cells_are_short(path):
    for cell in cells_of(path, "code"):
        lines = source(cell).splitlines()
        assert len(lines) < 25 and max(map(len, lines)) <= 120, lines[0]


@every_notebook
def test_outputs_hold_no_warnings_no_walls_and_no_local_path(path):
    for cell in cells_of(path, "code"):
        for text in (text for output in cell["outputs"] for text in output_texts(output)):
            assert not re.search(r"\b\w*Warning: |\bwarnings\.warn\b|Traceback \(most recent", text), text[:300]
            assert not LOCAL_PATH.search(text), LOCAL_PATH.search(text).group()
        streams = "".join("".join(out["text"]) for out in cell["outputs"] if out["output_type"] == "stream")
        assert streams.count("\n") <= 80, f"a wall of text: {source(cell)[:80]}"


# -- The template -----------------------------------------------------------------------------------------------------


@every_notebook
def test_one_cell_takes_the_parameters(path):
    tagged = [cell for cell in cells_of(path) if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1 and tagged[0]["cell_type"] == "code"
    assert all(isinstance(node, ast.Assign) for node in ast.parse(source(tagged[0])).body), "plain assignments only"


@every_notebook
def test_a_notebook_follows_the_template(path):
    text = prose(path)
    assert re.search(rf"^# {path.stem[:2]} · .+: .+", text, re.M), "# NN · Title: a promise"
    assert "**Aim.**" in text or "**The promise.**" in text
    for part in ("**What you will be able to do**", "**Time.**", "**You need**"):
        assert part in text, part
    for heading in ("## Parameters", "## Discussion", "## Three questions", "## References"):
        assert text.count(f"\n{heading}\n") == 1, heading
    quiz = text.partition("\n## Three questions\n")[2].partition("\n## ")[0]
    assert quiz.count("<details><summary>Answer</summary>") == quiz.count("</details>") == 3
    assert re.search(r"^## (Exercises|Where to go next)$", text, re.M)


@every_notebook
def test_links_to_files_lead_somewhere(path):
    course = re.compile(r"0[0-8]_[a-z_]+\.ipynb")  # a notebook of the course may still be in the making
    for link in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", prose(path)):
        assert (FOLDER / link).exists() or course.fullmatch(link), link


@every_notebook
def test_checked_outputs_are_there_and_are_text(path):
    for cell in cells_of(path, "code"):
        if "NBVAL_CHECK_OUTPUT" in source(cell):
            assert source(cell).startswith("# NBVAL_CHECK_OUTPUT") and cell["outputs"]
            assert not any("image/png" in output.get("data", {}) for output in cell["outputs"])


# -- Numbers in the prose ---------------------------------------------------------------------------------------------
#
# A decimal that somebody typed into the text goes stale with the next run. So each one must be found somewhere in the
# notebook's outputs at the digits that the text gives, or be a number literal of its code, or be a constant: the
# paper's, a gain or a floor, or one that is stated below, with its reason. Formulas and code are not prose.

# Plain arithmetic of the text itself, in which nothing depends on data.
STATED: dict[str, dict[str, str]] = {
    "07_evaluation_and_ablations": {
        number: "quiz: two made-up intervals" for number in (".760", ".735", ".785", ".780", ".755", ".805")
    },
    "06_progressive_preference_refinement": dict.fromkeys((".60", ".47"), "H@1 of one run without rehearsal"),
    "08_reproduction": {number: "quiz: a made-up interval" for number in (".001", ".004", ".006")},
    "01_data_and_protocol": {
        ".45": "an example of a score, to be read against the floor",
        ".2045": "quiz: nine tenths of the floor",
        "99.71 %": "exercise: the paper's sparsity of CDs",
        "99.39 %": "exercise: the paper's sparsity of Games",
    },
}
NUMBER = re.compile(r"(?<![\w.,/:-])[-+−±]?(\d*)\.(\d+)(?![\d\w]|\.\d)(\s?%)?")
NOT_PROSE = re.compile(
    r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|https?://\S+|\]\([^)]*\)|doi \[[^]]*\]|\[[\d.]+/[^]]*\]|<[^>]+>"
    r"|arXiv[^,;\n]*",
    re.S,
)


def decimals(text: str) -> list[tuple[str, float, int]]:
    """(as written, value, digits) of each number with two decimals or more, or with any and a % sign."""
    found = []
    for match in NUMBER.finditer(text):
        whole, fraction, percent = match.groups()
        if len(fraction) >= 2 or percent:
            written = f"{whole}.{fraction}{' %' if percent else ''}"
            found.append((written, float(f"{whole or 0}.{fraction}"), len(fraction)))
    return found


def typed_prose(cells: list[dict]) -> list[str]:
    """What a person typed for a reader: Markdown cells, and the fixed parts of what code hands to Markdown(...)."""
    texts = [source(cell).partition("\n## References\n")[0] for cell in cells if cell["cell_type"] == "markdown"]
    for cell in cells:
        if cell["cell_type"] == "code" and "Markdown(" in source(cell):
            for call in (node for node in ast.walk(ast.parse(plain(cell))) if isinstance(node, ast.Call)):
                if getattr(call.func, "id", None) == "Markdown":
                    texts += [piece for argument in call.args for piece in fixed_parts(argument)]
    return texts


def fixed_parts(node: ast.AST) -> list[str]:
    """Literal text in an expression, without what stands in the braces of an f-string."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    inner = [part for part in ast.iter_child_nodes(node) if not isinstance(part, ast.FormattedValue)]
    if isinstance(node, ast.JoinedStr):
        return [" \0 ".join(text for part in inner for text in fixed_parts(part))]
    return [text for part in inner for text in fixed_parts(part)]


def plain(cell: dict) -> str:
    """The cell without IPython's magics."""
    return "\n".join(line for line in source(cell).split("\n") if not line.lstrip().startswith(("%", "!")))


def constants() -> set[float]:
    """Numbers that no run can change: gains, floors of 20 and 100 candidates, and what the paper reports."""
    gains = [1 / math.log2(place + 1) for place in range(1, 21)]
    floors = [value / n for n in (20, 100) for k in (1, 5, 10) for value in (k, sum(gains[:k]))]
    paper = [value for rows in PAPER.values() for row in rows.values() for value in row.values() if value is not None]
    return {*gains, *floors, *paper}


def numbers_of(cells: list[dict]) -> set[float]:
    """All numbers in the outputs, and all number literals in the code."""
    found = set(constants())
    for cell in (cell for cell in cells if cell["cell_type"] == "code"):
        literals = (node for node in ast.walk(ast.parse(plain(cell))) if isinstance(node, ast.Constant))
        found |= {float(node.value) for node in literals if type(node.value) in (int, float)}
        for text in (text for output in cell["outputs"] for text in output_texts(output, *TEXTS[:2])):
            found |= {float(number) for number in re.findall(r"(?<![\w.])\d*\.?\d+(?:e[-+]?\d+)?", text)}
    return found


def unfounded(cells: list[dict], stated: set[str] = frozenset()) -> list[str]:
    """Decimals in the prose that nothing in the notebook bears out."""
    known = numbers_of(cells)
    lost = []
    for text in typed_prose(cells):
        for written, value, digits in decimals(NOT_PROSE.sub(" ", text)):
            near = 0.5 * 10**-digits + 1e-9
            scales = (1, 100) if written.endswith("%") else (1,)
            if written not in stated and not any(abs(number * s - value) <= near for number in known for s in scales):
                lost.append(written)
    return lost


@every_notebook
def test_numbers_in_the_prose_are_in_the_outputs_or_constants(path):
    cells, stated = cells_of(path), STATED.get(path.stem, {})
    assert not unfounded(cells, set(stated)), "render it from the computed value, or state the constant and its reason"
    typed = {written for text in typed_prose(cells) for written, *_ in decimals(NOT_PROSE.sub(" ", text))}
    assert set(stated) <= typed, "a stated constant that is no longer in the text"


def notebook_of(text: str, code: str = "x = 1", output: str = "") -> list[dict]:
    outputs = [{"output_type": "stream", "name": "stdout", "text": [output]}]
    return [
        {"cell_type": "markdown", "source": [text], "metadata": {}},
        {"cell_type": "code", "source": [code], "outputs": outputs, "metadata": {}},
    ]


@pytest.mark.parametrize(
    ("text", "code", "output", "lost"),
    [
        ("It gets .734 of them.", "x = 1", "N@10 0.7439", [".734"]),
        ("It gets .744 of them, or 0.74.", "x = 1", "N@10 0.7439", []),
        ("It gains -0.013.", "x = 1", "difference -0.0129", []),
        ("All of 99.5 % are valid.", "x = 1", "valid 0.9951", []),
        ("All of 98.5 % are valid.", "x = 1", "valid 0.9951", ["98.5 %"]),
        ("A random order has .227, place two is worth .63, SASRec on CDs .2145.", "x = 1", "", []),
        ("The toy gives $.9 \\cdot .333 = .2997$ and `0.777`.", "x = 1", "", []),
        ("Version 3.11 and 2 cores.", "x = 1", "", ["3.11"]),
        ("A rate of .003 is too high.", "rate = 3e-3", "", []),
        ("See [1.23](a/2.34) and arXiv 2603.21613.", "x = 1", "", ["1.23"]),
        ("Fine.", "Markdown(f'it is {x:.3f}, once .456')", "it is 0.111, once .457", [".456"]),
        ("Fine.", "Markdown(f'it is {x * 0.4567:.3f}')", "it is 0.111", []),
    ],
)
def test_stale_numbers_are_found(text, code, output, lost):
    assert unfounded(notebook_of(text, code, output)) == lost


def test_what_a_reader_brings_fits_into_twelve_lines():
    for cell in cells_of(FOLDER / "09_make_it_yours.ipynb", "code"):
        if "colab" not in cell.get("id", ""):
            assert len(source(cell).splitlines()) <= 12, source(cell)
