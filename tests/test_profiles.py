"""Profiles: what loads, what may be overridden, what is refused, and what a file of one's own can hold."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agenticrec_lite.errors import UserError
from agenticrec_lite.profiles import completed, describe, load_profile, parse_value, profile_names
from agenticrec_lite.profiles.settings import Profile, checked, each_setting, is_section
from agenticrec_lite.runs import read_config, settings_of

ROOT = Path(__file__).resolve().parents[1]
FIELDS = dict(each_setting())
# Settings that came later, with the values at which everything is as it was before them: a run that lacks them was made
# so. A new setting with a default gets a line here; a line never changes.
CAME_LATER = {
    "policy": {
        "revision": "main", "chat_template": "own", "tools": "words", "attention": "sdpa",
        "gradient_checkpointing": False,
    },
    "warm_start": {
        "steps": 0, "when": "always", "batch": 8, "micro_batch": 8, "learning_rate": 1e-3, "warmup_steps": 4,
    },
    "tasks": {"n_candidates": 20, "history_length": 10, "min_history": 3},
    "agent": {"weigh_evidence": False, "engine": "own", "vllm": {
        "mode": "colocate", "gpu_memory_utilization": 0.3, "tensor_parallel_size": 1, "enable_sleep_mode": False,
        "server_base_url": None,
    }},
    "rta": {"save_every": 1, "scale_rewards": "none"}, "ppr": {"save_every": 1, "scale_rewards": "none"},
    "tracking": {"report_to": "none"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def full_budget(monkeypatch):
    monkeypatch.delenv("AGENTICREC_BUDGET", raising=False)


@pytest.mark.parametrize("budget", ["", "short"])
@pytest.mark.parametrize("name", profile_names())
def test_every_profile_has_nanos_settings_of_nanos_types(name, budget, monkeypatch):
    monkeypatch.setenv("AGENTICREC_BUDGET", budget)
    profile, nano = load_profile(name), load_profile("nano")
    assert set(profile) == set("policy warm_start tasks agent rta ppr evaluation tracking".split())
    for section, values in nano.items():
        assert {key: type(value) for key, value in profile[section].items()} == {
            key: type(value) for key, value in values.items()
        }
    assert budget or profile["agent"]["max_calls"] == 10
    assert profile["warm_start"]["batch"] % profile["warm_start"]["micro_batch"] == 0
    for stage in ("rta", "ppr"):
        assert profile[stage]["tasks_per_step"] % profile[stage]["micro_groups"] == 0


def test_the_profiles_are_those_that_the_readme_names():
    assert profile_names() == ["consumer24", "nano", "paper", "qwen3-0.6b", "smol", "smol-360m", "t4"]
    assert "warm_start" in load_profile("smol") and load_profile("smol")["warm_start"]["steps"]


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_makes_the_trainers_arguments(name, tmp_path, monkeypatch):
    """Down to trl's own checks: batches that groups divide, known losses, no two precisions."""
    from agenticrec_lite.policy import DTYPES, quantization_config
    from agenticrec_lite.training.arguments import grpo_config, sft_config

    profile = load_profile(name)
    for stage in ("rta", "ppr"):
        settings = profile[stage]
        config = grpo_config(settings, profile["agent"], str(tmp_path), 0)
        questions = config.per_device_train_batch_size * config.gradient_accumulation_steps / config.num_generations
        assert questions == settings["tasks_per_step"] and config.num_generations == settings["group_size"]
        assert config.max_completion_length == profile["agent"]["max_completion_tokens"]
        assert config.temperature == settings["temperature"] and config.loss_type == "dr_grpo"
    warm = sft_config(profile["warm_start"], profile["policy"]["dtype"], 0, str(tmp_path))
    assert warm.per_device_train_batch_size * warm.gradient_accumulation_steps == profile["warm_start"]["batch"]
    nf4 = quantization_config(profile["policy"]["quantize"], DTYPES[profile["policy"]["dtype"]])
    assert (nf4 is None) == (name == "paper") and (nf4 is None or nf4.bnb_4bit_use_double_quant)


@pytest.mark.parametrize(
    ("gpu", "dtype", "said"),
    [
        (False, "bfloat16", {"use_cpu": True, "bf16": False, "fp16": False}),
        (True, "bfloat16", {"use_cpu": False, "bf16": True, "fp16": False}),
        (True, "float16", {"use_cpu": False, "bf16": False, "fp16": True}),
    ],
)
def test_precision_follows_the_policy_and_the_machine(gpu, dtype, said, monkeypatch):
    import torch

    from agenticrec_lite.policy import precision

    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert precision(dtype) == {**said, "gradient_checkpointing": False}


def test_a_configuration_of_an_earlier_version_is_completed_with_what_did_the_same():
    full = load_profile("smol")
    old = {
        name: {key: value for key, value in section.items() if key not in CAME_LATER.get(name, {})}
        for name, section in full.items()
    }
    old = {name: section for name, section in old.items() if section}
    new = completed({"dataset": "x", **old})
    assert new == {"dataset": "x"} | {name: section | CAME_LATER.get(name, {}) for name, section in full.items()}
    assert completed({"dataset": "x"}) == {"dataset": "x"} and old["policy"].keys() < new["policy"].keys()
    assert completed({"policy": {}, "agent": {"vllm": {"mode": "server"}}})["agent"]["vllm"] == (
        CAME_LATER["agent"]["vllm"] | {"mode": "server"}
    )


@pytest.mark.parametrize(
    "path", sorted((ROOT / "data" / "results").rglob("config.yaml")), ids=lambda p: str(p.parent)[-50:]
)
def test_the_configuration_of_every_shipped_run_is_valid_once_completed(path):
    written, config = yaml.safe_load(path.read_text(encoding="utf-8")), read_config(path.parent)
    profile = settings_of(config)
    assert checked(profile, path.name) == profile
    for section, later in CAME_LATER.items():
        assert config[section] == later | written.get(section, {}) | {
            key: value | written[section][key]
            for key, value in later.items() if isinstance(value, dict) and key in written.get(section, {})
        }  # fmt: skip


def test_chat_template_from_a_file_and_a_missing_one(tmp_path):
    from agenticrec_lite.policy import load_policy

    settings = load_profile("nano")["policy"]
    (tmp_path / "plain.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    policy = load_policy(settings | {"chat_template": str(tmp_path / "plain.jinja")})
    messages = [{"role": "user", "content": "x"}]
    assert policy.tokenizer.apply_chat_template(messages, tokenize=False) == "x"
    with pytest.raises(UserError, match="nowhere.jinja.*name a file, or own"):
        load_policy(settings | {"chat_template": str(tmp_path / "nowhere.jinja")})


def test_unknown_profile_names_the_known_ones():
    with pytest.raises(UserError, match="'nanoo'.*: consumer24, nano"):
        load_profile("nanoo")


def test_overrides_by_dotted_name_and_by_section():
    profile = load_profile("nano", rta={"steps": 7, "temperature": 2}, **{"policy.lora.r": 4})
    assert profile["rta"]["steps"] == 7
    assert profile["rta"]["temperature"] == 2.0 and isinstance(profile["rta"]["temperature"], float)
    assert profile["policy"]["lora"] == load_profile("nano")["policy"]["lora"] | {"r": 4}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"rtta.steps": 1}, "Profile 'nano' has no setting 'rtta'; here it has: policy, .*rta"),
        ({"rta.stepz": 1}, "'rta.stepz'; here it has: rta.steps, rta.tasks_per_step"),
        ({"rta": {"stepz": 1}}, "'rta.stepz'"),
        ({"policy.lora.rank": 1}, "'policy.lora.rank'; here it has: policy.lora.r, policy.lora.alpha"),
        ({"rta.steps.more": 1}, "'rta.steps' must be a whole number, not {'more': 1}"),
        ({"short.rta": {}}, "has no setting 'short'"),
        ({"rta.steps": "ten"}, "'rta.steps' must be a whole number, not 'ten'"),
        ({"rta.steps": 1.5}, "'rta.steps' must be a whole number, not 1.5"),
        ({"rta.steps": True}, "'rta.steps' must be a whole number, not True"),
        ({"rta.temperature": True}, "'rta.temperature' must be a number, not True"),
        ({"rta.learning_rate": "3e-5"}, "'rta.learning_rate' must be a number, not '3e-5'"),
        ({"rta.learning_rate": float("nan")}, "'rta.learning_rate' must be a finite number, not nan"),
        ({"policy.brief": 1}, "'policy.brief' must be true or false, not 1"),
        ({"policy.id": 7}, "'policy.id' must be text, not 7"),
        ({"rta": 3}, "'rta' must be a section of settings, not 3"),
        ({"policy.lora": None}, "'policy.lora' must be a section of settings, not None"),
        ({"policy.dtype": "fp16"}, "'policy.dtype' must be float32, bfloat16 or float16, not 'fp16'"),
        ({"policy.quantize": "int8"}, "'policy.quantize' must be nf4 or none"),
        ({"policy.attention": "flash_attention_2"}, "'policy.attention' must be sdpa or eager"),
        ({"policy.lora.targets": "q_proj"}, "'policy.lora.targets' must be all-linear or a list of names"),
        ({"policy.lora.targets": ["q_proj", 1]}, r"'policy.lora.targets' .*, not \['q_proj', 1\]"),
        ({"agent.engine": "vlm"}, "'agent.engine' must be own or vllm"),
        ({"agent.vllm.gpu_memory_utilization": 9}, "gpu_memory_utilization' must be above 0 and at most 1, not 9"),
        ({"agent.vllm.server_base_url": 7}, "server_base_url' must be null or an http.s. address, not 7"),
        ({"agent.vllm.server_base_url": "localhost:8000"}, "must be null or an http.s. address, not 'localhost:8000'"),
        ({"tasks.n_candidates": 9}, "'tasks.n_candidates' must be 10 or more, not 9"),
        ({"rta.learning_rate": -1}, "'rta.learning_rate' must be above 0 and below 1, not -1"),
        ({"rta.learning_rate": 1}, "'rta.learning_rate' must be above 0 and below 1, not 1"),
        ({"rta.save_every": 0}, "'rta.save_every' must be 1 or more, not 0"),
        ({"rta.micro_groups": 0}, "'rta.micro_groups' must be 1 or more, not 0"),
        ({"rta.group_size": 1}, "'rta.group_size' must be 2 or more, not 1"),
        ({"rta.steps": -1}, "'rta.steps' must be 0 or more"),
        ({"evaluation.n_test": -1}, "'evaluation.n_test' must be 1 or more"),
        ({"ppr.temperature": 0}, "'ppr.temperature' must be above 0, not 0"),
        ({"ppr.temperature": 0, "rta.steps": -1}, "'rta.steps'"),
        ({"name": "x"}, "has no setting 'name'"),
    ],
)
def test_unknown_settings_and_wrong_types_are_refused(overrides, said):
    with pytest.raises(UserError, match=said):
        load_profile("nano", **overrides)


# --- any value of any setting ---


def values_of(field) -> st.SearchStrategy:
    """Values that a setting can take, by its name's description in this file and not by its own bounds."""
    if get_origin(field.annotation) is Literal:
        return st.sampled_from(get_args(field.annotation))
    return {bool: st.booleans(), int: st.integers(10, 10**6), float: st.floats(1e-9, 0.999), str: st.text()}.get(
        field.annotation, st.none()
    )


RANDOM = {name: values_of(field) for name, field in FIELDS.items()} | {
    "policy.lora.targets": st.just("all-linear") | st.lists(st.text(min_size=1), min_size=1),
    "agent.vllm.server_base_url": st.none() | st.sampled_from(["http://localhost:8000", "https://a.b/c?d=e"]),
}
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=3)
)


def at(profile: dict, setting: str):
    for name in setting.split("."):
        profile = profile[name]
    return profile


@given(st.data())
def test_a_valid_value_comes_back_also_by_way_of_a_file(data):
    chosen = data.draw(st.lists(st.sampled_from(sorted(RANDOM)), min_size=1, max_size=4, unique=True))
    changes = {name: data.draw(RANDOM[name], label=name) for name in chosen}
    profile = load_profile("nano", **changes)
    assert {name: at(profile, name) for name in changes} == changes
    rest = {name: at(load_profile("nano"), name) for name in FIELDS if name not in changes}
    assert {name: at(profile, name) for name in rest} == rest
    text = yaml.safe_dump(profile, allow_unicode=True)
    assert yaml.safe_load(text) == profile == checked(yaml.safe_load(text), "x")


@given(st.sampled_from(sorted(FIELDS)), ANY)
def test_any_value_is_taken_as_it_is_or_refused_by_a_sentence_that_names_the_setting(name, value):
    try:
        taken = at(load_profile("nano", **{name: value}), name)
    except UserError as error:
        assert str(error).startswith(f"Setting {name!r} must be ") and str(error).endswith(f", not {value!r}.")
        assert "pydantic" not in str(error) and "\n" not in str(error)
        assert error.__context__ is None or error.__suppress_context__
    else:
        assert taken == value and isinstance(taken, bool) == isinstance(value, bool)
        assert type(taken) is type(value) or (type(value), type(taken)) == (int, float)


@given(st.sampled_from(sorted(name for name in FIELDS if FIELDS[name].annotation in (int, float))), st.data())
def test_a_number_below_its_range_and_what_is_no_number_are_refused(name, data):
    number = st.integers(max_value=-1) | st.floats(max_value=-1e-9)
    value = data.draw(number | st.booleans() | st.text() | st.none() | st.lists(st.integers()), label="value")
    with pytest.raises(UserError, match=re.escape(f"Setting {name!r} must be ")):
        load_profile("nano", **{name: value})


def test_every_setting_and_section_has_a_meaning_and_every_number_a_range():
    def fields(section):
        for name, field in section.model_fields.items():
            yield name, field
            if is_section(field):
                yield from fields(field.annotation)

    assert not [name for name, field in fields(Profile) if not (field.description or "").strip()]
    table = describe().set_index("setting")
    assert not [name for name, field in FIELDS.items() if field.annotation in (int, float) and not table.range[name]]


def test_describe_says_type_range_value_and_meaning():
    table = describe()
    assert list(table.columns) == ["setting", "type", "range", "value", "meaning"] and list(table.setting) == [*FIELDS]
    rows = table.set_index("setting")
    assert rows.loc["rta.group_size"].tolist()[:3] == ["a whole number", "2 or more", 8]
    assert rows.loc["rta.learning_rate"].tolist()[:3] == ["a number", "above 0 and below 1", 4e-3]
    assert rows.loc["policy.quantize"].tolist()[:3] == ["a word", "nf4 or none", "nf4"]
    assert rows.value["policy.brief"] is True and rows.value["agent.vllm.server_base_url"] is None
    assert set(describe("agent.vllm").setting) == {name for name in FIELDS if name.startswith("agent.vllm.")}
    assert describe("rta", "paper").set_index("setting").value["rta.steps"] == load_profile("paper")["rta"]["steps"]
    assert list(describe("rta.steps").setting) == ["rta.steps"]
    with pytest.raises(UserError, match="has no setting 'rt'; its sections are: policy"):
        describe("rt")


def test_pydantic_is_only_imported_where_settings_are_checked():
    code = "import sys, agenticrec_lite.cli; sys.exit('pydantic' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# --- a file of one's own ---


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", [str, Path])
def test_a_file_holds_what_differs_from_nano(tmp_path, kind):
    path = write(
        tmp_path / "mine.yaml", "rta: {steps: 3, learning_rate: 3e-5}\npolicy.lora.r: 4\npolicy: {quantize: none}\n"
    )
    expected = load_profile("nano", rta={"steps": 3, "learning_rate": 3e-5}, policy={"lora.r": 4, "quantize": "none"})
    assert load_profile(kind(path)) == expected
    assert load_profile(kind(path), **{"rta.steps": 5})["rta"]["steps"] == 5
    assert describe("rta.steps", kind(path)).value.tolist() == [3]


def test_a_file_may_be_based_on_another_profile_and_need_no_suffix(tmp_path, monkeypatch):
    path = write(tmp_path / "mine", "based_on: t4\nshort: {rta: {steps: 2}}\n")
    assert load_profile(str(path)) == load_profile("t4")
    monkeypatch.setenv("AGENTICREC_BUDGET", "short")
    assert load_profile(str(path)) == load_profile("t4", **{"rta.steps": 2})
    assert load_profile(str(path), **{"rta.steps": 3})["rta"]["steps"] == 3


def test_a_shipped_profile_may_be_based_on_another():
    for name, base in (("qwen3-0.6b", "t4"), ("smol-360m", "smol")):
        given, theirs = load_profile(name), load_profile(base)
        assert given["policy"].pop("id") != theirs["policy"].pop("id")
        del given["policy"]["revision"], theirs["policy"]["revision"]
        assert given == theirs


def test_the_name_of_a_shipped_profile_is_never_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "nano", "rta: {steps: 3}")
    assert load_profile("nano")["rta"]["steps"] != 3 and load_profile(Path("nano"))["rta"]["steps"] == 3


@pytest.mark.parametrize("name", profile_names())
def test_a_resolved_profile_written_to_a_file_is_the_same_profile(name, tmp_path):
    path = write(tmp_path / "whole.yml", yaml.safe_dump(load_profile(name)))
    assert load_profile(path) == load_profile(name)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rta: {steps: many}", "Setting 'rta.steps' in {path} must be a whole number, not 'many'."),
        ("rta: {stepz: 1}", "Profile '{path}' has no setting 'rta.stepz'; here it has: rta.steps, "),
        ("rta:", "Setting 'rta' in {path} must be a section of settings, not None."),
        ("1: 2", "Profile '{path}' has no setting '1'; "),
        ("based_on: t5", "Unknown profile 't5' in {path}; the known ones are: "),
        ("based_on: [t4]", "Unknown profile ['t4'] in {path}; "),
        ("short: 3", "Setting 'short' in {path} must be a section of settings, not 3."),
        ("short: {rta: {steps: -1}}", "Setting 'rta.steps' in {path} must be 0 or more, not -1."),
        ("", "{path} cannot be read as a profile: it holds no sections"),
        ("- rta", "{path} cannot be read as a profile: it holds no sections"),
        ("rta: [", "{path} cannot be read as a profile: "),
        ("rta: 2001-99-99", "{path} cannot be read as a profile: "),
        ("rta: " + 2000 * "[", "{path} cannot be read as a profile: "),
        ("rta: \0", "{path} cannot be read as a profile: "),
    ],
)
@pytest.mark.parametrize("budget", ["", "short"])
def test_a_mistake_in_a_file_is_a_sentence_that_names_the_file(text, said, budget, tmp_path, monkeypatch):
    path = write(tmp_path / "mine.yaml", text)
    monkeypatch.setenv("AGENTICREC_BUDGET", budget)
    with pytest.raises(UserError) as error:
        load_profile(path)
    assert str(error.value).startswith(said.format(path=path)) and "\n" not in str(error.value)


def test_a_mistake_in_an_override_does_not_blame_the_file(tmp_path):
    path = write(tmp_path / "mine.yaml", "rta: {steps: 1}")
    with pytest.raises(UserError, match="^Setting 'rta.steps' must be 0 or more, not -1.$"):
        load_profile(path, rta={"steps": -1})


def test_a_file_that_is_not_there_or_no_text(tmp_path):
    for name in (tmp_path / "no.yaml", "no.yml"):
        with pytest.raises(UserError, match="There is no file .*no.ya?ml; a profile is a YAML file, or one of: cons"):
            load_profile(name)
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\xff")
    for name in ("x.yaml", "."):
        with pytest.raises(UserError, match="cannot be read as a profile"):
            load_profile(tmp_path / name)
    for name in ("nanoo", "", "../nano", 7, None):
        with pytest.raises(UserError, match="Unknown profile"):
            load_profile(name)


# --- the budget, and values as they are typed ---


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


@pytest.mark.parametrize("text", ["[1", "2001-99-99", "[" * 2000, "\0", "!!python/object:os.system x"])
def test_parse_value_refuses_what_is_not_yaml(text):
    with pytest.raises(UserError, match="is not a value"):
        parse_value(text)
