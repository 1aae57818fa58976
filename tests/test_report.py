"""Pooling seeds: the same numbers as one big sample, and clear refusals."""

import numpy as np
import pandas as pd
import pytest

from agenticrec_lite.errors import UserError
from agenticrec_lite.evaluation.metrics import summarize
from agenticrec_lite.report import PAPER, markdown, pool
from agenticrec_lite.runs import open_run


@pytest.fixture
def folders(tmp_path):
    rng, made = np.random.default_rng(0), []
    for seed, n in enumerate((30, 50)):
        ranks = pd.DataFrame({"task_id": [f"t{i}" for i in range(n)], "user": rng.integers(9, size=n)})
        ranks["sasrec"] = rng.integers(1, 21, size=n).astype(float)
        ranks["rta"] = np.where(rng.random(n) < 0.5, 1.0, np.inf)
        with open_run(tmp_path / str(seed), {"seed": seed}) as run:
            run.write_ranks(ranks)
            metrics = {m: summarize(ranks[m], ranks["user"], calls=[seed + 1] * n) for m in ("sasrec", "rta")}
            run.write_result(dataset="toy", profile="nano", seed=seed, metrics=metrics)
        made.append((tmp_path / str(seed), ranks))
    return made


def test_pooled_figures_are_those_of_all_tasks_together(folders):
    pooled = pool([folder for folder, _ in folders])
    together = pd.concat([ranks for _, ranks in folders])
    assert pooled["n_test"] == 80 and pooled["seeds"] == [0, 1]
    assert pooled["metrics"]["rta"]["H@1"] == pytest.approx(np.mean(together["rta"] == 1))
    assert pooled["metrics"]["rta"]["calls"] == pytest.approx((30 * 1 + 50 * 2) / 80)
    gain = pooled["differences"]["rta - sasrec"]["N@10"]
    assert gain["ci95"][0] < gain["difference"] < gain["ci95"][1]
    assert "| rta |" in markdown(pooled) and "rta - sasrec" in markdown(pooled)


def test_what_cannot_be_pooled_is_refused(folders, tmp_path):
    with pytest.raises(UserError, match="at least one"):
        pool([])
    with pytest.raises(UserError, match="There is no"):
        pool([tmp_path / "nowhere"])
    with open_run(tmp_path / "1", {"seed": 1}) as run:
        run.write_result(dataset="other", profile="nano", seed=1)
    with pytest.raises(UserError, match="differ"):
        pool([folder for folder, _ in folders])


@pytest.mark.parametrize("dataset", PAPER)
def test_what_the_paper_reports_is_possible(dataset):
    for figures in PAPER[dataset].values():
        known = [figures[name] for name in ("H@1", "N@5", "H@5") if figures[name] is not None]
        assert known == sorted(known)  # a discount lies between one and none
        assert figures["N@10"] is None or figures["N@10"] > figures["N@5"]
