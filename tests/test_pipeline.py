"""The whole way on the real data, with a budget that proves the way and not the numbers."""

import json
import time

import pytest

from agenticrec_lite.data import load_dataset
from agenticrec_lite.errors import UserError
from agenticrec_lite.experiment.stages import run_experiment
from agenticrec_lite.methods import METHODS
from agenticrec_lite.report import pool
from agenticrec_lite.runs import read_metrics, read_trajectories

SHORT = {
    "rta": {"steps": 2, "tasks_per_step": 2, "group_size": 4, "micro_groups": 1},
    "ppr": {"mining_tasks": 24, "steps": 1, "tasks_per_step": 2, "group_size": 4, "micro_groups": 1},
    "evaluation": {"n_test": 24, "n_validation": 60},
}
ROW = {"step", "stage", "task_id", "group", "seed", "candidates", "positive", "steps", "answer", "n_calls", "outcome"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    try:
        load_dataset("ml-100k")
    except UserError as error:
        pytest.skip(f"MovieLens 100K is not to be had here: {error}")
    folder = tmp_path_factory.mktemp("runs") / "short"
    run_experiment("ml-100k", "nano", 0, folder, SHORT)
    return folder


@pytest.mark.all
def test_a_run_leaves_what_readers_rely_on(folder):
    result = json.loads((folder / "result.json").read_text())
    others = {"bayes", "oracle", "warm_start", "sft", "frozen_r", "trained_r"}  # of other datasets, profiles, variants
    assert set(METHODS) - others <= set(result["metrics"]) and result["n_test"] == 24
    for metrics in result["metrics"].values():
        assert {"H@1", "H@5", "H@10", "N@5", "N@10", "valid", "ci95"} <= set(metrics)
    assert {"recommenders", "rta", "mining"} <= set(result["seconds"]) and result["peak_rss_mb"] > 0
    assert read_metrics(folder).query("stage == 'rta'")["step"].tolist() == [1, 2]
    rows = list(read_trajectories(folder))
    assert all(set(row) >= ROW for row in rows)
    assert sum(row["stage"] == "rta" for row in rows) == 2 * 2 * 4
    assert (folder / "checkpoints" / "rta" / "adapter_model.safetensors").exists()
    assert not list(folder.rglob("*.pt")) + list(folder.rglob("*.bin"))


@pytest.mark.all
def test_a_finished_run_is_not_run_again_and_can_be_reported(folder):
    before = {path: path.read_bytes() for path in (folder / "trajectories" / "rta.jsonl", folder / "metrics.csv")}
    started = time.monotonic()
    result = run_experiment("ml-100k", "nano", 0, folder, SHORT)
    assert all(path.read_bytes() == content for path, content in before.items())
    assert time.monotonic() - started < 30  # nothing is fitted or played again
    assert pool([folder])["metrics"]["rta"]["N@10"] == pytest.approx(result["metrics"]["rta"]["N@10"])


@pytest.mark.all
def test_the_tools_that_serve_training_never_saw_its_tasks(folder):
    from agenticrec_lite.data.split import temporal_split
    from agenticrec_lite.data.tasks import build_tasks

    log = load_dataset("ml-100k")
    split = temporal_split(log)
    fitted = log.interactions.iloc[split.rows("train_early")]["timestamp"].max()
    assert min(task.cutoff for task in build_tasks(log, split, "train_late", None, 0)) >= fitted
