"""The planner: known parameter counts, profiles that fit their cards, and the estimate against measured memory."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from agenticrec_lite import plan as planner
from agenticrec_lite.cli import app
from agenticrec_lite.data.cache import cache_folder
from agenticrec_lite.errors import UserError
from agenticrec_lite.plan import architecture, check_hardware, cpu_has_bf16, needs_gpu, peak, plan
from agenticrec_lite.policy import NANO, load_policy
from agenticrec_lite.profiles import load_profile, profile_names

# Bytes that torch reports of a T4, a 3090, an A100.
CARDS = {"qwen3-0.6b": 15.8e9, "t4": 15.8e9, "consumer24": 25.3e9, "paper": 85e9}


@pytest.fixture(autouse=True)
def full_budget(monkeypatch):
    monkeypatch.delenv("AGENTICREC_BUDGET", raising=False)


@pytest.fixture
def gpu(monkeypatch):
    """A machine with a GPU of so much memory, as far as torch says; this process holds 1 GB that it does not use."""

    def make(memory, bf16=True, free=None):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: ((free or memory) - 1e9, memory))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 3e9)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 2e9)

    return make


@pytest.mark.parametrize(
    ("model", "count"),
    [
        ("Qwen/Qwen3-0.6B", 596_049_920),
        ("Qwen/Qwen3-1.7B", 1_720_574_976),
        ("Qwen/Qwen3-4B-Instruct-2507", 4_022_468_096),
        ("smollm2-135m", 134_515_008),
        ("HuggingFaceTB/SmolLM2-360M-Instruct", 361_821_120),
    ],
)
def test_architectures_have_the_published_parameter_counts(model, count):
    shape = architecture(model)
    assert shape.matrices + shape.others == count


def test_nanos_architecture_and_adapter_are_those_of_its_checkpoint():
    settings = load_profile("nano", **{"policy.quantize": "none"})["policy"]
    parameters = list(load_policy(settings).model.parameters())
    shape = architecture("nano")
    assert shape.matrices + shape.others == sum(p.numel() for p in parameters if not p.requires_grad)
    assert shape.adapter(settings["lora"]) == sum(p.numel() for p in parameters if p.requires_grad)


def test_smollm2_is_what_its_config_says():
    path = cache_folder() / "smollm2-135m-unpacked" / "config.json"
    if not path.exists():
        pytest.skip("smollm2-135m is not in the cache")
    config, shape = json.loads(path.read_text()), architecture("smollm2-135m")
    assert all(config[name] == value for name, value in vars(shape).items() if name in config)


def test_an_adapter_of_named_matrices_is_smaller():
    shape = architecture("Qwen/Qwen3-1.7B")
    assert shape.adapter({"r": 8, "targets": ["q_proj", "v_proj"]}) == 28 * 8 * (2048 + 2048 + 2048 + 1024)


@pytest.mark.parametrize(
    ("name", "gb"),
    [("nano", 6.2), ("smol", 10.4), ("smol-360m", 13.8), ("qwen3-0.6b", 12.9), ("t4", 13.8), ("consumer24", 20.0),
     ("paper", 77.3)],
)  # fmt: skip
def test_the_peak_of_each_profile(name, gb):
    """A last turn counts: of max_turn_tokens, after a trajectory that just went on."""
    profile = load_profile(name)
    assert peak(plan(profile)) / 1e9 == pytest.approx(gb, abs=0.05)
    longest = profile["agent"]["max_completion_tokens"] + profile["agent"]["max_turn_tokens"]
    assert plan(profile) == plan(profile, completion=longest)


@pytest.mark.parametrize(("tools", "tokens"), [("words", 600), ("schemas", 1110)])
def test_schemas_of_the_tools_make_a_prompt_longer(tools, tokens):
    profile = load_profile("t4", **{"policy.tools": tools})
    assert plan(profile) == plan(profile, prompt=tokens)


def test_float16_is_for_a_gpu(monkeypatch):
    """Qwen3-0.6B is small enough for a CPU, which computes float16 at a small part of float32's speed."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="'qwen3-0.6b' needs a CUDA GPU"):
        check_hardware("qwen3-0.6b", load_profile("qwen3-0.6b"))
    assert not needs_gpu(load_profile("qwen3-0.6b", **{"policy.dtype": "float32"}))


@pytest.mark.parametrize(("name", "gb"), [("t4", 16.7), ("paper", 84.6)])
def test_what_merging_would_take_is_planned_in_float32_only(name, gb):
    parts, shape = plan(load_profile(name, **{"agent.merge": True})), architecture(load_profile(name)["policy"]["id"])
    assert "merged weights" not in parts["rollouts"]
    assert (sum(parts["rollouts"].values()) + 2 * shape.matrices) / 1e9 == pytest.approx(gb, abs=0.05)
    assert plan(load_profile("nano"))["rollouts"]["merged weights"] == 4 * architecture("nano").matrices


@pytest.mark.parametrize("name", CARDS)
def test_each_profile_fits_the_card_it_is_made_for(name):
    assert 0.4 * CARDS[name] < peak(plan(load_profile(name))) < 0.95 * CARDS[name]


def test_checkpointing_and_smaller_micro_batches_take_less():
    base = load_profile("t4", **{"rta.micro_groups": 2})
    assert peak(plan(load_profile("t4"))) < peak(plan(base))
    without = plan(load_profile("t4", **{"policy.gradient_checkpointing": False}))
    assert sum(without["update"].values()) > 5 * sum(plan(load_profile("t4"))["update"].values())


@pytest.mark.parametrize("name", profile_names())
def test_the_command_prints_every_part_and_says_that_it_is_estimated(name):
    done = CliRunner().invoke(app, ["plan", "--profile", name])
    assert done.exit_code == 0, done.output
    for part in ("weights", "adapter", "optimiser", "gradients", "KV cache", "activations", "logits", "peak", "hours"):
        assert part in done.output
    assert done.output.count("estimated") >= 3


@pytest.mark.fault("no GPU", "a profile that needs one")
def test_a_missing_gpu_is_told_before_anything_is_downloaded(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="'t4' needs a CUDA GPU"):
        check_hardware("t4", load_profile("t4"))


@pytest.mark.fault("a GPU without bf16", "a profile in bf16")
def test_missing_bf16_is_told(gpu):
    gpu(25.3e9, bf16=False)
    with pytest.raises(UserError, match="bfloat16.*policy.dtype=float16"):
        check_hardware("consumer24", load_profile("consumer24"))
    gpu(25.3e9)
    check_hardware("consumer24", load_profile("consumer24"))


@pytest.mark.fault("a CPU without bf16", "a profile in bf16")
def test_a_cpu_without_bf16_is_told(monkeypatch):
    """It would emulate it, at a fortieth of the speed."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(planner, "cpu_has_bf16", lambda: False)
    with pytest.raises(UserError, match="bfloat16.*this CPU lacks.*policy.dtype=float32"):
        check_hardware("smol", load_profile("smol", **{"policy.dtype": "bfloat16"}))
    check_hardware("smol", load_profile("smol"))
    monkeypatch.setattr(planner, "cpu_has_bf16", lambda: True)
    check_hardware("smol", load_profile("smol", **{"policy.dtype": "bfloat16"}))


@pytest.mark.fault("too little memory", "a GPU, a machine")
def test_too_little_memory_is_told_with_what_to_make_smaller(gpu, monkeypatch):
    gpu(8e9)
    with pytest.raises(UserError, match="this GPU has 8.0 GB; set a smaller rta.micro_groups"):
        check_hardware("t4", load_profile("t4"))
    gpu(15.8e9, free=8e9)
    with pytest.raises(UserError, match="this GPU has 8.0 GB free of 15.8 GB; end what else uses it"):
        check_hardware("t4", load_profile("t4"))
    gpu(15.8e9, free=14.5e9)
    check_hardware("t4", load_profile("t4"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    memory = SimpleNamespace(available=2e9, total=4e9)
    monkeypatch.setattr(planner.psutil, "virtual_memory", lambda: memory)
    with pytest.raises(UserError, match="this machine has 4.0 GB; set"):
        check_hardware("nano", load_profile("nano"))


def test_memory_in_use_on_a_cpu_is_said_and_does_not_stop(monkeypatch, capsys):
    """Pages of other programs can make room, where a card's cannot."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    memory = SimpleNamespace(available=3e9, total=8e9)
    monkeypatch.setattr(planner.psutil, "virtual_memory", lambda: memory)
    check_hardware("nano", load_profile("nano"))
    assert "this machine has 3.0 GB free of 8.0 GB; close other programs" in capsys.readouterr().out
    memory.available = 7e9
    check_hardware("nano", load_profile("nano"))
    assert capsys.readouterr().out == ""


@pytest.mark.fault("disk full", "the cache of hub models")
def test_too_little_disk_is_told(gpu, monkeypatch):
    gpu(15.8e9)
    monkeypatch.setattr(planner.shutil, "disk_usage", lambda _: SimpleNamespace(free=1e9))
    with pytest.raises(UserError, match="keeps a model of 3.8 GB"):
        check_hardware("t4", load_profile("t4"))
    check_hardware("nano", load_profile("nano"))  # is there already


CONFIGS = {
    "no model": None,
    "damaged": "{",
    "no sizes": '{"model_type": "llama", "hidden_size": "wide"}',
    "of no known family": '{"model_type": "made_up", "hidden_size": 8}',
    "with code of its own": '{"model_type": "made_up", "auto_map": {"AutoConfig": "code.Config"}}',
    "not divisible": '{"model_type": "llama", "hidden_size": 10, "num_attention_heads": 0}',
}


@pytest.mark.parametrize("config", CONFIGS)
def test_a_model_of_unknown_size_is_said_once_and_does_not_stop(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if CONFIGS[config] is not None:
        (tmp_path / "config.json").write_text(CONFIGS[config])
    model = str(tmp_path) if CONFIGS[config] is not None else "some/model"
    profile = load_profile("nano", **{"policy.id": model})
    assert architecture(model) is None and plan(profile) == {}
    check_hardware("nano", profile)
    said = f"The size of {model!r} is not known, so memory is not estimated.\n"
    assert capsys.readouterr().out == said
    done = CliRunner().invoke(app, ["plan", "--profile", "nano", "--set", f"policy.id={model}"])
    assert done.exit_code == 0 and done.output.count(said) == 1


def test_a_folder_is_as_known_as_what_it_holds():
    assert architecture(str(NANO)) == architecture("nano")


def test_a_trajectory_longer_than_the_model_reads_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        UserError, match="reads 4096 tokens at most, and a trajectory may have 4520; set a smaller agent"
    ):
        check_hardware("nano", load_profile("nano", **{"agent.max_completion_tokens": 4000}))


MEASURE = """
import json, sys, tempfile
import numpy as np, torch
from pathlib import Path
from agenticrec_lite.policy import load_policy
from agenticrec_lite.profiles import load_profile
from agenticrec_lite.agent import scoring
from agenticrec_lite.agent.question import Question
from agenticrec_lite.nano.worlds import random_world
from agenticrec_lite.training.grpo import ListwiseGRPOTrainer

shared = scoring.shared_turns  # the plan is for trajectories that have nothing in common
scoring.shared_turns = lambda turns, at=0: [s for row in turns for s in shared({row: turns[row]}, at)]

def status(name):
    return 1024 * int(Path("/proc/self/status").read_text().split(name + ":")[1].split()[0])

torch.set_num_threads(1)
name, overrides = sys.argv[1], json.loads(sys.argv[2])
profile = load_profile(name, **overrides)
stage, draw = profile["rta"], np.random.default_rng(1)
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
policy = load_policy(profile["policy"])
worlds = [random_world(draw, longest=6) for _ in range(stage["steps"] * stage["tasks_per_step"])]
questions = [Question(str(i), world, "rank", 1) for i, world in enumerate(worlds)]
with tempfile.TemporaryDirectory() as out:
    trainer = ListwiseGRPOTrainer(
        policy, questions, lambda *_: float(draw.random()), stage, profile["agent"], None, "rta", 0, out
    )
    trainer.train()
rows = trainer.trajectories
print(json.dumps({"grown": status("VmHWM") - before, "prompt": sum(len(t.prompt_ids) for t in rows) / len(rows),
                  "completion": sum(len(t.completion_ids) for t in rows) / len(rows)}))
"""
SMALL_SMOL = {"rta": {"steps": 1, "tasks_per_step": 1}, "agent": {"max_turn_tokens": 200, "max_completion_tokens": 400}}


@pytest.mark.all
@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("nano", {"rta": {"steps": 2}}),
        ("nano", {"rta": {"steps": 2, "micro_groups": 8}}),
        ("nano", {"rta": {"steps": 2}, "policy": {"gradient_checkpointing": True}}),
        ("smol", SMALL_SMOL),
        ("smol", SMALL_SMOL | {"policy": {"gradient_checkpointing": False}}),
        ("smol", SMALL_SMOL | {"policy": {"dtype": "bfloat16"}}),
    ],
    ids=["nano", "nano-8", "nano-checkpointed", "smol", "smol-whole", "smol-bf16"],
)
def test_the_estimate_is_within_a_fifth_of_the_measured_growth(name, overrides, record_property):
    """Of the resident size of a fresh process, from after its imports to the peak of rollouts and updates."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("only Linux tells the peak since a moment")
    if name == "smol":
        if not (cache_folder() / "smollm2-135m-unpacked").exists():
            pytest.skip("smollm2-135m is not in the cache")
        if overrides.get("policy", {}).get("dtype") == "bfloat16" and not cpu_has_bf16():
            pytest.skip("this CPU has no bf16")
    done = subprocess.run([sys.executable, "-c", MEASURE, name, json.dumps(overrides)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    estimate = peak(plan(load_profile(name, **overrides), round(told["prompt"]), round(told["completion"])))
    print(f"{name}: estimated {estimate / 1e6:.0f} MB, measured {told['grown'] / 1e6:.0f} MB")
    assert estimate == pytest.approx(told["grown"], rel=0.2)
