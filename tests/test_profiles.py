"""Profiles: what loads, what may be overridden, what is refused."""

import pytest

from agenticrec_lite.errors import UserError
from agenticrec_lite.profiles import ADDED, completed, load_profile, parse_value, profile_names


@pytest.fixture(autouse=True)
def full_budget(monkeypatch):
    monkeypatch.delenv("AGENTICREC_BUDGET", raising=False)


@pytest.mark.parametrize("budget", ["", "short"])
@pytest.mark.parametrize("name", profile_names())
def test_every_profile_has_nanos_settings_of_nanos_types(name, budget, monkeypatch):
    monkeypatch.setenv("AGENTICREC_BUDGET", budget)
    profile, nano = load_profile(name), load_profile("nano")
    assert set(profile) == {"policy", "warm_start", "agent", "rta", "ppr", "evaluation", "tracking"}
    for section, settings in nano.items():
        assert {key: type(value) for key, value in profile[section].items()} == {
            key: type(value) for key, value in settings.items()
        }
    assert budget or profile["agent"]["max_calls"] == 10
    assert profile["warm_start"]["batch"] % profile["warm_start"]["micro_batch"] == 0
    for stage in ("rta", "ppr"):
        assert profile[stage]["tasks_per_step"] % profile[stage]["micro_groups"] == 0


def test_the_profiles_are_those_that_the_readme_names():
    assert profile_names() == ["consumer24", "nano", "paper", "smol", "t4"]
    assert "warm_start" in load_profile("smol") and load_profile("smol")["warm_start"]["steps"]


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_makes_the_trainers_arguments(name, tmp_path, monkeypatch):
    """Down to trl's own checks: batches that groups divide, known losses, no two precisions."""
    from agenticrec_lite.policy import DTYPES, quantization_config
    from agenticrec_lite.training.grpo import grpo_config
    from agenticrec_lite.experiment.warm_start import sft_config

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
    nano = load_profile("nano")
    old = {
        name: {key: value for key, value in section.items() if key not in ADDED.get(name, {})}
        for name, section in nano.items()
    }
    new = completed({"dataset": "x", **old})
    for section, added in ADDED.items():
        assert {key: nano[section][key] for key in added} == added == {key: new[section][key] for key in added}
    assert completed({"dataset": "x"}) == {"dataset": "x"} and old["policy"].keys() < new["policy"].keys()


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
        ({"policy.dtype": "fp16"}, "'policy.dtype' must be float32 or bfloat16 or float16, not 'fp16'"),
        ({"policy.quantize": "int8"}, "'policy.quantize' must be nf4 or none"),
        ({"policy.attention": "flash_attention_2"}, "'policy.attention' must be sdpa or eager"),
        ({"policy.lora.targets": "q_proj"}, "'policy.lora.targets' must be all-linear"),
        ({"agent.engine": "vlm"}, "'agent.engine' must be own or vllm"),
        ({"rta.micro_groups": 0}, "'rta.micro_groups' must be 1 or more, not 0"),
        ({"rta.group_size": 1}, "'rta.group_size' must be 2 or more, not 1"),
        ({"rta.steps": -1}, "'rta.steps' must be 0 or more"),
        ({"evaluation.n_test": -1}, "'evaluation.n_test' must be 1 or more"),
        ({"ppr.temperature": 0}, "'ppr.temperature' must be above 0, not 0"),
        ({"name": "x"}, "has no setting 'name'"),
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
