"""Pooling seeds: the same numbers as one big sample, and clear refusals."""

import numpy as np
import pandas as pd
import pytest

from agenticrec_lite.errors import UserError
from agenticrec_lite.evaluation.metrics import summarize
from agenticrec_lite.paper import PAPER, beside_paper, claims, verdict
from agenticrec_lite.report import costs, markdown, pool
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
            run.write_result(dataset="toy", profile="nano", seed=seed, metrics=metrics, seconds={"rta": 60.0 + seed})
            run.log_metrics({"stage": "rta", "step": 1, "completion_tokens": 200})
            run.log_metrics({"stage": "rta", "step": 2, "completion_tokens": 150 + seed})
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
    with open_run(tmp_path / "longer", {"seed": 2, "rta": {"steps": 60}}) as run:
        run.write_result(dataset="toy", profile="nano", seed=2)
        run.write_ranks(folders[0][1])
    with pytest.raises(UserError, match="0 and .*0 hold the same seed"):
        pool([folders[0][0], folders[1][0], folders[0][0]])
    with pytest.raises(UserError, match="differ in rta, not only in their seed"):
        pool([*(folder for folder, _ in folders), tmp_path / "longer"])


@pytest.mark.parametrize("dataset", PAPER)
def test_what_the_paper_reports_is_possible(dataset):
    for figures in PAPER[dataset].values():
        known = [figures[name] for name in ("H@1", "N@5", "H@5") if figures[name] is not None]
        assert known == sorted(known)  # a discount lies between one and none
        assert figures["N@10"] is None or figures["N@10"] > figures["N@5"]


@pytest.mark.parametrize(("paper", "difference", "ci95", "told"), [
    (0.05, 0.02, (0.01, 0.03), "reproduced"),
    (0.05, 0.02, (-0.01, 0.05), "same direction"),
    (0.05, 0.0, (-0.01, 0.01), "not reproduced"),
    (0.05, -0.02, (-0.03, -0.01), "not reproduced"),
    (-0.05, -0.02, (-0.03, -0.01), "reproduced"),
    (-0.05, 0.02, (-0.01, 0.05), "not reproduced"),
])
def test_a_verdict_follows_the_interval(paper, difference, ci95, told):
    assert verdict(paper, {"difference": difference, "ci95": ci95}) == told


def test_what_no_run_has_cannot_be_tested(folders):
    told = claims(pool([folder for folder, _ in folders])).set_index("claim")["verdict"]
    assert set(told["PPR adds to RTA"]) == {"cannot be tested here"}  # these runs have no ppr
    assert set(told["trained with tools beats trained without"]) == {"cannot be tested here"}


def test_claims_hold_the_papers_differences_beside_ours(folders):
    pooled = pool([folder for folder, _ in folders])
    pooled["differences"] = {"rta - frozen": {"H@1": {"difference": 0.2, "ci95": [0.1, 0.3]}}}
    table = claims(pooled).set_index(["claim", "data", "metric"])
    row = table.loc[("training with tools beats the frozen agent", "CDs", "H@1")]
    assert row["paper"] == pytest.approx(0.2837 - 0.2331) and row["ours"] == 0.2 and row["verdict"] == "reproduced"
    assert table.loc[("PPR adds to RTA", "CDs", "N@5"), "paper"] == pytest.approx(0.4795 - 0.4606)
    untrained = "tools help an untrained agent (CDs) or hurt it (Instruments)"
    assert (table["paper"].drop(untrained) > 0).all()  # the better method comes first
    assert (table.loc[(untrained, "Instruments"), "paper"] < 0).all()


def test_deviation_is_ours_minus_the_papers(folders):
    pooled = pool([folder for folder, _ in folders])
    table = beside_paper(pooled).set_index(["data", "method", "metric"])
    row = table.loc[("CDs", "rta", "H@1")]
    assert row["deviation"] == pytest.approx(pooled["metrics"]["rta"]["H@1"] - 0.2837)
    assert row["low"] <= row["ours"] <= row["high"]
    assert np.isnan(table.loc[("CDs", "frozen_r", "H@1"), "ours"])
    assert ("CDs", "rta", "N@10") not in table.index  # not in our sources


def test_costs_are_those_of_each_run(folders):
    table = costs([folder for folder, _ in folders])
    assert table["rta"].tolist() == [60.0, 61.0] and (table["peak_rss_mb"] > 0).all()
    assert table["tokens, rta"].tolist() == [150, 151]  # of the last step


def test_a_run_that_was_killed_costs_at_least_its_steps(folders):
    with open_run(folders[0][0], {"seed": 0}) as run:
        run.log_metrics({"stage": "rta", "step": 3, "seconds_rollout": 70.0, "seconds_update": 50.0})
    assert costs([folder for folder, _ in folders])["rta"].tolist() == [120.0, 61.0]


def test_the_papers_frozen_policy_is_ours_after_a_warm_start(folders):
    pooled = pool([folder for folder, _ in folders])
    pooled["metrics"] |= {"frozen": pooled["metrics"]["sasrec"], "warm_start": pooled["metrics"]["rta"]}
    pooled["differences"] = {"rta - warm_start": {"H@1": {"difference": 0.2, "ci95": [0.1, 0.3]}}}
    assert claims(pooled)["ours"].dropna().tolist() == [0.2]
    table = beside_paper(pooled).set_index(["data", "method", "metric"])["ours"]
    assert table["CDs", "frozen", "H@1"] == pooled["metrics"]["rta"]["H@1"]
