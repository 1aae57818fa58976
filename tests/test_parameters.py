"""Parameters as papermill types them: taken, or refused in a sentence before anything is written."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenticrec_lite.errors import UserError
from agenticrec_lite.experiment import start
from agenticrec_lite.parameters import name_or_path, whole_number


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
