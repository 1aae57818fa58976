"""Profiles: what loads, what may be overridden, what is refused."""

import pytest

from agenticrec_lite.errors import UserError
from agenticrec_lite.profiles import load_profile, parse_value, profile_names


@pytest.fixture(autouse=True)
def full_budget(monkeypatch):
    monkeypatch.delenv("AGENTICREC_BUDGET", raising=False)


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_has_the_same_sections(name):
    profile = load_profile(name)
    assert set(profile) == {"policy", "agent", "rta", "ppr", "evaluation"}
    assert profile["agent"]["max_calls"] == 10
    for stage in ("rta", "ppr"):
        assert isinstance(profile[stage]["learning_rate"], float)
        assert profile[stage]["tasks_per_step"] % profile[stage]["micro_groups"] == 0


def test_unknown_profile_names_the_known_ones():
    with pytest.raises(UserError, match="'nanoo'.*: nano"):
        load_profile("nanoo")


@pytest.mark.parametrize("name", ["../nano", "nano.yaml", ""])
def test_a_profile_name_is_not_a_path(name):
    with pytest.raises(UserError, match="Unknown profile"):
        load_profile(name)


def test_overrides_by_dotted_name_and_by_section():
    profile = load_profile("nano", rta={"steps": 7, "learning_rate": 1}, **{"policy.lora.r": 4})
    assert profile["rta"]["steps"] == 7
    assert profile["rta"]["learning_rate"] == 1.0 and isinstance(profile["rta"]["learning_rate"], float)
    assert profile["policy"]["lora"] == load_profile("nano")["policy"]["lora"] | {"r": 4}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"rtta.steps": 1}, "'rtta.steps'.*rta"),
        ({"rta.stepz": 1}, "'rta.stepz'.*rta.steps"),
        ({"rta": {"stepz": 1}}, "'rta.stepz'"),
        ({"rta.steps.more": 1}, "'rta.steps' is a value"),
        ({"short.rta": {}}, "no setting"),
        ({"rta.steps": "ten"}, "'rta.steps' must be like"),
        ({"rta.steps": 1.5}, "'rta.steps' must be like"),
        ({"rta.steps": True}, "'rta.steps' must be like"),
        ({"rta": 3}, "'rta' must be a section"),
    ],
)
def test_unknown_settings_and_wrong_types_are_refused(overrides, said):
    with pytest.raises(UserError, match=said):
        load_profile("nano", **overrides)


def test_short_budget_lies_between_the_file_and_the_overrides(monkeypatch):
    full = load_profile("nano")
    monkeypatch.setenv("AGENTICREC_BUDGET", "short")
    short = load_profile("nano", **{"rta.steps": 77})
    assert short["evaluation"]["n_test"] < full["evaluation"]["n_test"]
    assert short["ppr"]["steps"] < full["ppr"]["steps"]
    assert short["rta"]["steps"] == 77
    assert "short" not in short
    monkeypatch.setenv("AGENTICREC_BUDGET", "tiny")
    with pytest.raises(UserError, match="'tiny'"):
        load_profile("nano")


def test_profiles_do_not_share_state():
    load_profile("nano")["rta"]["steps"] = -1
    assert load_profile("nano")["rta"]["steps"] > 0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-5", 3e-5),
        ("3.0e-5", 3e-5),
        ("80", 80),
        ("none", "none"),
        ("a-2e5x", "a-2e5x"),
        ("[1, 2]", [1, 2]),
    ],
)
def test_parse_value(text, value):
    assert parse_value(text) == value and type(parse_value(text)) is type(value)


def test_parse_value_refuses_what_is_not_yaml():
    with pytest.raises(UserError, match="is not a value"):
        parse_value("[1")
