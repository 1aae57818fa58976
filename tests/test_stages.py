"""A stage's name always means the policy of that stage; what did not run is "not run"."""

import zlib

import numpy as np
import pandas as pd
import pytest
from test_extensions import SHORT, shop

from agenticrec_lite.errors import UserError
from agenticrec_lite.evaluation.evaluate import trajectory_ranks
from agenticrec_lite.experiment import stages, start
from agenticrec_lite.experiment.results import finish
from agenticrec_lite.paper import claims, verdict
from agenticrec_lite.report import costs, full_report, markdown, pool
from agenticrec_lite.training.mining import HardNegative

HOT = SHORT | {"rta.steps": 2, "rta.learning_rate": 0.004, "ppr.learning_rate": 0.004}
HOT |= {"rta.warmup_steps": 0, "ppr.warmup_steps": 0}


def drawn(trajectory, right):
    """A reward that tells all trajectories apart, so that every step moves the policy."""
    return zlib.crc32(repr(trajectory.completion_ids).encode()) / 2**32


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Both stages trained, hot enough to change the answers, and nothing evaluated before them."""
    folder = tmp_path_factory.mktemp("stages") / "run"
    experiment = start(shop(), "nano", 0, folder, HOT, reward=drawn, pair_reward=drawn)
    with experiment.run:
        stages.train_rta(experiment)
        tasks = experiment.training[:2]
        stages.train_ppr(experiment, [HardNegative(t.task_id, t.positive, t.positive % 20 + 1, (1,)) for t in tasks])
        yield experiment


def answers(experiment, policy):
    return [t.completion_ids for t in experiment.play(experiment.test, experiment.test_contexts, policy=policy)]


def test_each_stage_has_its_own_policy_in_whatever_order_it_is_asked_for(trained):
    assert trained.stage == "ppr"
    found = {stage: answers(trained, trained.policy_after(stage)) for stage in ("ppr", "frozen", "rta")}
    assert found["frozen"] != found["rta"] != found["ppr"] != found["frozen"]
    for stage in ("rta", "frozen", "ppr"):
        assert answers(trained, trained.policy_after(stage)) == found[stage]


def test_the_frozen_policy_that_is_evaluated_last_is_the_one_that_is_evaluated_first(trained, tmp_path):
    stages.evaluate_frozen(trained)
    with start(shop(), "nano", 0, tmp_path / "run", HOT).run:
        fresh = start(shop(), "nano", 0, tmp_path / "run", HOT)
        stages.evaluate_frozen(fresh)
    for name in ("frozen", "frozen_greedy", "frozen_sampled"):
        assert trained.ranks[name].tolist() == fresh.ranks[name].tolist()


def test_a_stage_that_is_evaluated_after_the_next_one_is_still_itself(trained):
    stages.evaluate_stage(trained, "rta")
    stages.evaluate_stage(trained, "ppr")
    for stage in ("rta", "ppr"):
        played = trained.play(trained.test, trained.test_contexts, policy=trained.policy_after(stage))
        assert trained.ranks[stage].tolist() == trajectory_ranks(played, trained.test).tolist()


def test_stages_that_have_not_been_trained_are_said(tmp_path):
    experiment = start(shop(), "nano", 0, tmp_path / "run", HOT)
    with experiment.run:
        for name in ("rta", "ppr", "warm_start"):
            with pytest.raises(UserError, match=f"{name} has not been trained in .*run; train that stage first"):
                stages.evaluate_stage(experiment, name)
        with pytest.raises(UserError, match="Stage 2 goes on from stage 1; train that first in"):
            stages.mine(experiment)
        with pytest.raises(UserError, match="Stage 2 goes on from stage 1"):
            stages.train_ppr(experiment, [])
        assert experiment.run.result.get("metrics", {}) == {}


def test_a_stage_without_enough_questions_is_not_run_and_has_no_row(tmp_path, capsys):
    folder = tmp_path / "run"
    experiment = start(shop(), "nano", 0, folder, HOT | {"rta.steps": 0})
    with experiment.run:
        stages.train_rta(experiment)
        stages.evaluate_stage(experiment, "rta")
        assert "rta is not run: rta.steps is 0." in capsys.readouterr().out
        stages.train_ppr(experiment, [])
        stages.evaluate_stage(experiment, "ppr")
        said = capsys.readouterr().out
        assert "ppr is not run: 0 questions, a step takes 2. The policy stays as it is." in said
        assert "there is nothing to evaluate" in said and "ppr" not in experiment.ranks
        stages.evaluate_frozen(experiment)
        result = finish(experiment)
    assert result["not_run"] == {"rta": "rta.steps is 0", "ppr": "0 questions, a step takes 2"}
    assert not {"rta", "ppr"} & set(result["metrics"])
    pooled = pool([folder])
    assert pooled["not_run"]["ppr"] == "seed 0: 0 questions, a step takes 2"
    assert "| ppr | not run (seed 0: 0 questions, a step takes 2) |" in markdown(pooled)
    found = claims(pooled | {"profile": "smol"}).set_index("claim")["verdict"]
    assert set(found["PPR adds to RTA"]) == {"not run"} == set(found["training with tools beats the frozen agent"])
    assert not costs([folder]).empty and "not run" in full_report([folder], tmp_path / "report")


def test_a_verdict_on_what_has_no_figures_is_not_a_verdict():
    assert verdict(0.1, None) == "cannot be tested here"
    assert verdict(0.1, {"difference": 0.02, "ci95": [0.01, 0.03]}) == "reproduced"
    assert verdict(0.1, {"difference": 0.02, "ci95": [-0.01, 0.05]}) == "same direction"
    assert verdict(-0.1, {"difference": 0.02, "ci95": [-0.01, 0.05]}) == "not reproduced"


def test_the_method_of_a_run_that_left_a_stage_out_in_one_seed_only(tmp_path):
    """A row over seeds of which one has no such policy would be of other tasks than the rows beside it."""
    from agenticrec_lite.evaluation.metrics import summarize
    from agenticrec_lite.runs import open_run

    for seed in (0, 1):
        ranks = pd.DataFrame({"task_id": ["a", "b"], "user": [0, 1], "rta": [1.0, 2.0], "ppr": [1.0, np.inf]})
        ranks = ranks if seed == 0 else ranks.drop(columns="ppr")
        with open_run(tmp_path / str(seed), {"dataset": "toy", "profile": "nano", "seed": seed}) as run:
            run.write_ranks(ranks)
            names = ranks.columns[2:]
            run.write_result(dataset="toy", profile="nano", seed=seed, not_run={"ppr": "few"} if seed else {},
                             metrics={name: summarize(ranks[name], ranks["user"]) for name in names})  # fmt: skip
    pooled = pool([tmp_path / "0", tmp_path / "1"])
    assert list(pooled["metrics"]) == ["rta"] and pooled["not_run"] == {"ppr": "seed 1: few"}


@pytest.mark.parametrize("scale", ["none", "group"])
def test_advantages_are_scaled_as_the_stage_says(scale, tmp_path):
    with start(shop(), "nano", 0, tmp_path / "run", SHORT | {"rta.scale_rewards": scale}, reward=drawn).run as run:
        stages.train_rta(start(shop(), "nano", 0, tmp_path / "run", SHORT | {"rta.scale_rewards": scale}, reward=drawn))
    rows = pd.read_json(run.folder / "trajectories/rta.jsonl", lines=True)
    spreads = rows.groupby(["step", "task_id"])[["reward", "advantage"]].std()
    wanted = spreads.reward if scale == "none" else 1 + 0 * spreads.reward
    np.testing.assert_allclose(spreads.advantage, wanted, rtol=0.02)
