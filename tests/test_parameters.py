"""Parameters as papermill types them: taken, or refused in a sentence before anything is written."""

from pathlib import Path

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenticrec_lite.errors import UserError
from agenticrec_lite.experiment import start
from agenticrec_lite.parameters import list_of, name_or_path, number, whole_number


@given(st.one_of(st.integers(), st.floats(), st.booleans(), st.text(), st.none(), st.lists(st.integers())))
def test_a_whole_number_is_taken_or_refused_in_a_sentence(value):
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    if plain and value == value and abs(value) != float("inf") and value == int(value) and value >= 0:
        assert whole_number("seed", value) == value and type(whole_number("seed", value)) is int
    else:
        with pytest.raises(UserError, match="^seed must be a whole number, 0 or more, not "):
            whole_number("seed", value)


def test_a_number_may_be_a_name():
    assert name_or_path("out", 2026) == "2026" and name_or_path("out", Path("a b")) == Path("a b")
    for value in (None, 1.5, True, "", " ", ["x"]):
        with pytest.raises(UserError, match="^out must be a name or a path, not "):
            name_or_path("out", value)


@pytest.mark.parametrize("wrong, says", [
    ({"seed": 1.5}, "seed must be a whole number"), ({"seed": -1}, "seed must be a whole number"),
    ({"seed": "1"}, "seed must be a whole number"), ({"dataset": None}, "dataset must be a name"),
    ({"dataset": 5}, "5"), ({"profile": None}, "profile must be a name"), ({"out": []}, "out must be a name"),
])  # fmt: skip
def test_an_experiment_refuses_before_it_writes(tmp_path, monkeypatch, wrong, says):
    monkeypatch.chdir(tmp_path)
    given = {"dataset": "toystore", "profile": "nano", "seed": 0, "out": "run"} | wrong
    with pytest.raises(UserError, match=says):
        start(**given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value, read", [
    ([0, 1.0], [0, 1]), ("[0, 1]", [0, 1]), (2, [2]), ((3,), [3]),
])  # fmt: skip
def test_a_list_may_come_as_text_or_as_its_only_entry(value, read):
    assert list_of(whole_number, "seeds", value) == read


@pytest.mark.parametrize("value", ["[0, 1", "[]", [], "0, 1", [1.5], None, ["a"], {"a": 1}])
def test_a_list_of_something_else_is_refused(value):
    with pytest.raises(UserError, match="^seeds must be a "):
        list_of(whole_number, "seeds", value)


@given(st.one_of(st.integers(), st.floats(), st.booleans(), st.text(), st.none()))
def test_a_number_is_above_0_and_finite(value):
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf"):
        assert number("hot", value) == value
    else:
        with pytest.raises(UserError, match="^hot must be a number above 0, not "):
            number("hot", value)


NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("[0-9][0-9]_*.ipynb"))[1:]
AS_PAPERMILL_TYPES = [0, 1, 3.0, 1.5, -1, float("nan"), None, True, "", "a b", "[0, 1]", "[0.5, oh", [0, 1], {"a": 1}]


def first_cells(path: Path) -> tuple[str, str]:
    """The cell of parameters, and the one after it, which checks them."""
    cells = nbformat.read(path, as_version=4).cells
    place = next(i for i, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", ()))
    return cells[place].source, cells[place + 1].source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem[:2])
def test_every_parameter_of_every_notebook_is_taken_or_refused_before_anything_is_written(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    parameters, check = first_cells(path)
    defaults: dict = {}
    exec(parameters, defaults)
    names = [name for name in defaults if not name.startswith("__")]
    for name in names:
        refused = 0
        for value in AS_PAPERMILL_TYPES:
            space = {key: defaults[key] for key in names} | {name: value}
            try:
                exec(check, space)
            except UserError as error:
                assert str(error).startswith(f"{name} must be ") and str(error).endswith(".")
                refused += 1
            else:
                like = (str, list) if name == "runs" else type(defaults[name])
                assert isinstance(space[name], like)
        assert 0 < refused < len(AS_PAPERMILL_TYPES), name
    assert [entry.name for entry in tmp_path.iterdir()] == ["temporary"]
