"""The evidence: what ships can be reported in seconds, and any cell of its main tables can be made again."""

import time
from pathlib import Path

import numpy as np
import pytest

from agenticrec_lite.experiment.shipped import FIRST
from agenticrec_lite.methods import METHODS
from agenticrec_lite.report import full_report
from agenticrec_lite.runs import read_config, read_result, settings_of

RUNS = sorted(FIRST.glob("nano-*/seed-*"))


@pytest.mark.skipif(not RUNS, reason="no runs ship with this checkout")
def test_the_report_on_all_that_ships_is_made_in_under_a_minute(tmp_path):
    started = time.monotonic()
    text = full_report([FIRST], tmp_path)
    assert time.monotonic() - started < 60
    for dataset in {read_config(run)["dataset"] for run in RUNS}:
        assert f"# {dataset}, nano" in text and (tmp_path / f"dynamics-nano-{dataset}.png").exists()
    assert "| rta - sasrec |" in text and "| PPR adds to RTA |" in text


def again(run: Path, method: str, folder: Path) -> dict:
    """The figures of one method of a run, made from nothing but its configuration."""
    from agenticrec_lite.experiment import stages, start
    from agenticrec_lite.experiment.baselines import evaluate_baselines

    config = read_config(run)
    experiment = start(config["dataset"], config["profile"], config["seed"], folder, settings_of(config))
    with experiment.run:
        if not method.startswith(("frozen", "rta", "ppr")):
            return evaluate_baselines(experiment)[method]
        if method.startswith("frozen"):
            stages.evaluate_frozen(experiment)
        else:
            stages.train_rta(experiment)
            if method == "ppr":
                stages.train_ppr(experiment, stages.mine(experiment))
            stages.evaluate_stage(experiment, method)
        return experiment.run.result["metrics"][method]


@pytest.mark.long
@pytest.mark.skipif(not RUNS, reason="no runs ship with this checkout")
def test_a_cell_chosen_at_random_lands_inside_its_interval(tmp_path, monkeypatch):
    monkeypatch.delenv("AGENTICREC_BUDGET", raising=False)
    rng = np.random.default_rng()  # another cell each time
    run = RUNS[rng.integers(len(RUNS))]
    shipped = read_result(run)["metrics"]
    method = str(rng.choice([name for name in METHODS if name in shipped]))
    metric = str(rng.choice(["H@1", "H@5", "N@5", "N@10"]))
    low, high = shipped[method]["ci95"][metric]
    found = again(run, method, tmp_path / "again")[metric]
    print(f"{run.parent.name} {run.name}, {method}, {metric}: {found:.4f}, shipped {shipped[method][metric]:.4f}")
    assert low <= found <= high
