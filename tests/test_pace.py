"""The planner's times: against what was measured, by hand, and in the table of cards."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from agenticrec_lite import pace as pacer
from agenticrec_lite.cli import app
from agenticrec_lite.errors import UserError
from agenticrec_lite.pace import CARDS, PACES, Card, floor, pace_on, plan_table, seconds, step_seconds
from agenticrec_lite.plan import peak, plan
from agenticrec_lite.profiles import load_profile
from agenticrec_lite.runs import read_metrics

ROOT = Path(__file__).resolve().parents[1]
H100 = Card(85e9, 3350e9, 989e12, 67e12)
# With trajectories of 600 + 2,048 tokens (docs/gpu.md): card, profile, tokens/s decoded in 16 rows, and trained.
MEASURED = [(CARDS["H200"], "t4", 451, 9290), (CARDS["H200"], "consumer24", 319, 4710), (H100, "t4", 404, 10_800)]


@pytest.fixture(autouse=True)
def full_budget(monkeypatch):
    monkeypatch.delenv("AGENTICREC_BUDGET", raising=False)


@pytest.mark.parametrize(("card", "name", "decoded", "trained"), MEASURED)
def test_tokens_a_second_are_within_a_fifth_of_what_gpus_did(card, name, decoded, trained):
    profile = load_profile(name)
    assert 16 / step_seconds(profile, card, 16, 2648) == pytest.approx(decoded, rel=0.2)
    assert pace_on(name, profile, card).trained == pytest.approx(trained, rel=0.2)


def test_steps_are_within_a_fifth_of_what_cpus_did():
    """smol in its run; nano in its steps on the moodstore, whose pace is of ml-100k: 309 tokens and not 350."""
    metrics = read_metrics(ROOT / "data" / "results" / "first" / "smol-ml-100k" / "seed-0")
    metrics["seconds"] = metrics["seconds_update"] + metrics["seconds_rollout"].fillna(0)
    measured = metrics.groupby("stage")["seconds"].median()
    profile = load_profile("smol")
    told = seconds(profile, PACES["smol"])
    both = sum(profile[stage]["steps"] * measured[stage] for stage in ("rta", "ppr"))
    assert told["rta"] == pytest.approx(measured["rta"], rel=0.2)
    assert sum(profile[stage]["steps"] * told[stage] for stage in ("rta", "ppr")) == pytest.approx(both, rel=0.2)
    assert told["warm start"] == pytest.approx(60 * measured["warm_start"], rel=0.2)
    assert seconds(load_profile("nano"), PACES["nano"])["rta"] == pytest.approx(4.71 + 3.46, rel=0.2)


@pytest.mark.parametrize(("rows", "ms"), [(0, 10.75), (16, 25.9)])
def test_the_floor_is_the_weights_and_the_rows_of_the_cache_read_once(rows, ms):
    """1.72 billion weights of 2 bytes at 320 GB/s; 114,688 bytes a token and row."""
    profile = load_profile("t4", **{"policy.quantize": "none"})
    assert 1e3 * floor(profile, CARDS["T4"], rows, 2648) == pytest.approx(ms, abs=0.05)


def test_unpacking_nf4_takes_more_than_reading_16_bits():
    packed, plain = (load_profile("t4", **{"policy.quantize": kind}) for kind in ("nf4", "none"))
    assert floor(packed, CARDS["T4"], 0, 0) > 1.9 * floor(plain, CARDS["T4"], 0, 0)


@pytest.mark.parametrize(
    ("name", "card", "hours"), [("t4", "T4", 2.5), ("qwen3-0.6b", "T4", 2.5), ("consumer24", "RTX 4090", 6)]
)
def test_a_profile_goes_on_its_card_and_ends_in_its_time(name, card, hours):
    profile = load_profile(name)
    assert peak(plan(profile)) < 0.95 * CARDS[card].memory
    assert seconds(profile, pace_on(name, profile, CARDS[card]))["whole"] < 3600 * hours
    assert CARDS[card].bf16 or profile["policy"]["dtype"] == "float16"
    assert max(profile[stage]["save_every"] for stage in ("rta", "ppr")) <= 2  # what a session that ends may lose


def test_turns_of_t4_are_short():
    assert load_profile("t4")["agent"]["max_turn_tokens"] <= 192


def test_the_whole_is_its_parts():
    profile = load_profile("t4")
    told = seconds(profile, pace_on("t4", profile, CARDS["T4"]))
    assert told["whole"] == pytest.approx(30 * told["rta"] + 12 * told["ppr"] + told["warm start"] + told["else"])
    without = load_profile("t4", **{"warm_start.steps": 0})
    shorter = seconds(without, pace_on("t4", without, CARDS["T4"]))
    assert shorter["warm start"] == 0 and shorter["else"] < told["else"]  # two policies fewer to evaluate


def lines(table: str) -> dict[str, list[str]]:
    """The rows of the table of cards, by what they begin with."""
    return {name: row.split() for name in ("CPU", *CARDS) for row in table.splitlines() if row.startswith(f"{name} ")}


def test_all_cards_are_in_the_table_or_the_one_that_is_asked_for():
    rows = lines(plan_table("consumer24", load_profile("consumer24")))
    assert list(rows) == list(CARDS)
    assert "large" in rows["T4"] and "yes" in rows["RTX 4090"]
    small = {"agent.batch_rows": 8, "agent.max_completion_tokens": 600}
    assert "bf16" in lines(plan_table("consumer24", load_profile("consumer24", **small)))["T4"]
    assert list(lines(plan_table("nano", load_profile("nano")))) == ["CPU", *CARDS]
    assert list(lines(plan_table("mine.yaml", load_profile("nano")))) == list(CARDS)
    done = CliRunner().invoke(app, ["plan", "--profile", "t4", "--card", "T4"])
    assert done.exit_code == 0 and list(lines(done.output)) == ["T4"]
    with pytest.raises(UserError, match="There is no card 'T3'; the known ones are: T4, L4, RTX 4090, A100, H200."):
        plan_table("t4", load_profile("t4"), "T3")


@pytest.mark.parametrize(
    ("name", "card"), [("Tesla T4", "T4"), ("NVIDIA GeForce RTX 4090", "RTX 4090"), ("NVIDIA A100-SXM4-80GB", "A100"),
                       ("NVIDIA L40S", None)],
)  # fmt: skip
def test_the_card_that_is_here_is_known_by_its_name(name, card, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    assert pacer.card_here() == card


def test_of_the_card_that_is_here_only_free_memory_counts(monkeypatch):
    monkeypatch.setattr(pacer, "card_here", lambda: "T4")
    monkeypatch.setattr(pacer, "gpu_memory", lambda: (5e9, 15.8e9))
    rows = lines(plan_table("t4", load_profile("t4")))
    assert rows["T4"][2] == "5.0" and "large" in rows["T4"] and "yes" in rows["L4"]


def test_of_a_cpu_free_memory_is_told(monkeypatch):
    monkeypatch.setattr(pacer.psutil, "virtual_memory", lambda: SimpleNamespace(available=2e9))
    assert "large" in lines(plan_table("nano", load_profile("nano")))["CPU"]
