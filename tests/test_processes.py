"""Several processes: one gradient, one record, one writer, the same results as one process.

The file is also what the processes run: `accelerate launch tests/test_processes.py FOLDER WHAT`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from agenticrec_lite.agent.protocol import write_answer, write_call
from agenticrec_lite.agent.question import Question
from agenticrec_lite.agent.teacher import run_script
from agenticrec_lite.errors import UserError
from agenticrec_lite.experiment.experiment import Experiment
from agenticrec_lite.nano.pretrain import Recipe, new_policy, new_tokenizer
from agenticrec_lite.nano.worlds import random_world
from agenticrec_lite.policy import Policy, add_adapter, load_policy
from agenticrec_lite.profiles import load_profile
from agenticrec_lite.rewards import listwise_reward
from agenticrec_lite.runs import open_run, processes, read_metrics, read_ranks, read_result, read_trajectories
from agenticrec_lite.training import arguments, grpo
from agenticrec_lite.training.arguments import check_settings, grpo_config, sft_config
from agenticrec_lite.training.checkpoint import Checkpoints, check_resumed
from agenticrec_lite.training.grpo import ListwiseGRPOTrainer

AGENT = {"max_calls": 3, "max_turn_tokens": 60, "max_completion_tokens": 700, "batch_rows": 64, "merge": True}
SETTINGS = {
    "steps": 3, "tasks_per_step": 4, "group_size": 4, "micro_groups": 1, "learning_rate": 1e-2, "warmup_steps": 0,
    "temperature": 1.0,
}  # fmt: skip
POSITIVE = 7


def ranked(first):
    return write_answer([first, *(n for n in range(1, 21) if n != first)][:10])


CALL = write_call("get_similar_users", {}, "I ask.")
MIXED = [[CALL, ranked(POSITIVE)], [ranked(3)], ["nonsense"], [CALL, CALL, ranked(12)]]
HOPELESS = [["nonsense"], [CALL, "more nonsense"], [ranked(3)[:-20]], ["x"]]
# By task. Step 2 has nothing to learn from for the first of two processes, and step 3 for both.
SCRIPTS = [MIXED, MIXED[::-1], HOPELESS, MIXED] + [HOPELESS, HOPELESS, MIXED, MIXED] + [HOPELESS] * 4


def scripted(model, chat, groups, sampling, generator=None):
    """In place of the engine: each task's rollouts are given."""
    played = []
    for g, group in enumerate(groups):
        for turns in SCRIPTS[int(group.task_id)]:
            trajectory = run_script(turns, group.environments[0].context, chat, "rank", group.prompt_ids)
            trajectory.task_id, trajectory.group = group.task_id, g
            played.append(trajectory)
    return played


def policy_of(what: str) -> Policy:
    if what != "scripted":
        return load_policy(load_profile("nano")["policy"])
    torch.manual_seed(0)
    tokenizer = new_tokenizer(np.random.default_rng(0), worlds=60)
    model = new_policy(Recipe(hidden=32, layers=2), len(tokenizer)).eval()
    return Policy(add_adapter(model, {"r": 4, "alpha": 8, "targets": "all-linear"}), tokenizer, True)


def train(folder: Path, what: str) -> None:
    """Three steps: "scripted" ones, or of nano: "whole", or "cut" after the second and gone on with the next time."""
    torch.manual_seed(0)
    policy = policy_of(what)
    questions = [
        Question(str(i), random_world(np.random.default_rng(i), 3, 3), "rank", POSITIVE)
        for i in range(SETTINGS["steps"] * SETTINGS["tasks_per_step"])
    ]
    run = processes.main_first(lambda: open_run(folder, {"seed": 0}))
    check_resumed(run, ("rta",))
    checkpoints = processes.main_first(lambda: Checkpoints(run, "rta"))

    def watch(history):
        if processes.is_main():
            named = policy.model.named_parameters()
            weights = {name: p.detach().clone() for name, p in named if p.requires_grad}
            save_file(weights, folder / f"{len(history)}.safetensors")
        if what == "cut" and len(history) == 3 and not checkpoints.step:
            raise KeyboardInterrupt

    left = questions[checkpoints.step * SETTINGS["tasks_per_step"] :]
    with run:
        trainer = ListwiseGRPOTrainer(
            policy, left, listwise_reward, SETTINGS, AGENT, run, "rta", 0, str(folder / "checkpoints" / "rta_steps"),
            watch, checkpoints,
        )  # fmt: skip
        trainer.train()


def launch(*arguments: object, **environment: str) -> str:
    """Two processes of one thread each; what they printed."""
    launcher = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    how = ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    one = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-m", *launcher, *how, *map(str, arguments)], env=os.environ | one | environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900, check=False,
    )  # fmt: skip
    return done.stdout


def record(folder: Path):
    """What a run has measured and logged, without clock times."""
    metrics = read_metrics(folder)
    return metrics[[name for name in metrics if "seconds" not in name]], list(read_trajectories(folder))


def test_two_processes_take_the_same_steps_as_one(tmp_path, monkeypatch):
    """Given the same trajectories: statistics, groups dropped, gradient, record; and with nothing to learn, no step."""
    printed = launch(Path(__file__), tmp_path / "two", "scripted")
    monkeypatch.setattr(grpo, "rollout", scripted)
    train(tmp_path / "one", "scripted")
    (one, played), (two, played_by_two) = record(tmp_path / "one"), record(tmp_path / "two")
    assert one["dropped_groups"].tolist() == [0.25, 0.5, 1.0], printed
    exact = [name for name in one if name not in ("grad_norm", "entropy")]
    assert one[exact].equals(two[exact])
    assert two["grad_norm"].to_numpy() == pytest.approx(one["grad_norm"].to_numpy(), rel=1e-5)
    assert played == played_by_two
    steps = [[load_file(tmp_path / name / f"{i}.safetensors") for i in (1, 2, 3)] for name in ("one", "two")]
    for mine, theirs in zip(*steps, strict=True):
        error = sum((mine[name] - theirs[name]).norm() ** 2 for name in mine) ** 0.5
        assert error / sum(weight.norm() ** 2 for weight in mine.values()) ** 0.5 < 1e-5
    for first, second, third in steps:
        assert any(not torch.equal(first[name], second[name]) for name in first)
        assert all(torch.equal(second[name], third[name]) for name in second)


@pytest.mark.all
@pytest.mark.fault("Ctrl-C", "in two processes that train together")
def test_a_cut_off_stage_goes_on_in_two_processes_bit_for_bit_and_in_one(tmp_path, capsys):
    """Each process draws rollouts of its own; after the cut both draw on."""
    launch(Path(__file__), tmp_path / "whole", "whole")
    for _ in range(2):
        printed = launch(Path(__file__), tmp_path / "cut", "cut")
    (whole, played), (cut, played_again) = record(tmp_path / "whole"), record(tmp_path / "cut")
    assert printed.count("going on after step 2") == 1
    assert whole.equals(cut) and played == played_again and len(played) == 3 * 4 * 4
    assert len({json.dumps(row["steps"]) for row in played if row["step"] == 1}) > 4  # not twice the same stream
    for name, weights in load_file(tmp_path / "whole" / "3.safetensors").items():
        assert torch.equal(weights, load_file(tmp_path / "cut" / "3.safetensors")[name])
    train(tmp_path / "cut", "cut")  # as one process, from the checkpoint of two
    assert "going on after step 2" in (said := capsys.readouterr().out) and "'processes': 2" in said
    assert record(tmp_path / "cut")[0]["step"].tolist() == [1, 2, 3]


@pytest.fixture
def shop(tmp_path) -> Path:
    """A small dataset of one's own: 90 users, 60 items, 20 interactions each."""
    rng, folder = np.random.default_rng(0), tmp_path / "shop"
    folder.mkdir()
    items = pd.DataFrame({"item": np.arange(60), "title": [f"Thing {i}" for i in range(60)]})
    items.assign(categories=[f"kind {i % 5}" for i in range(60)]).to_csv(folder / "items.csv", index=False)
    rows = [(user, item) for user in range(90) for item in rng.permutation(60)[:20]]
    table = pd.DataFrame(rows, columns=["user", "item"]).assign(timestamp=rng.permutation(len(rows)) * 1000 + 10**9)
    table.to_csv(folder / "interactions.csv", index=False)
    return folder


@pytest.mark.all
def test_the_whole_way_in_two_processes(tmp_path, shop):
    """One table, one record; what does not depend on drawn rollouts is as in one process."""
    settings = ["evaluation.n_test=25", "warm_start.steps=2", "warm_start.warmup_steps=0", "warm_start.micro_batch=4"]
    run = ["--dataset", shop, *(word for each in settings for word in ("--set", each)), "--out"]
    printed = launch("-m", "agenticrec_lite.cli", "run", *run, tmp_path / "two", AGENTICREC_BUDGET="short")
    assert printed.count("test tasks, 95% intervals below") == 1, printed
    command = [sys.executable, "-m", "agenticrec_lite.cli", "run", *run, tmp_path / "one"]
    subprocess.run(command, env=os.environ | {"AGENTICREC_BUDGET": "short"}, check=True, capture_output=True)
    result = {name: read_result(tmp_path / name)["metrics"] for name in ("one", "two")}
    assert list(result["one"]) == list(result["two"]) and {"warm_start", "rta", "ppr"} <= set(result["one"])
    ranks = [read_ranks(tmp_path / name) for name in ("one", "two")]
    same = ["task_id", "user", "random", "popularity", "itemknn", "sasrec", "ceiling"]
    assert ranks[0][same].equals(ranks[1][same])
    (one, played), (two, played_by_two) = record(tmp_path / "one"), record(tmp_path / "two")
    assert one[["stage", "step"]].equals(two[["stage", "step"]])
    for name in ("action_ce", "grad_norm"):  # of the warm start; the second step stands on the first one's gradient
        assert two[name][:2].tolist() == pytest.approx(one[name][:2].tolist(), rel=1e-3)
    frozen = [[row for row in rows if row["stage"] == "evaluate_frozen_greedy"] for rows in (played, played_by_two)]
    assert frozen[0] == frozen[1] and len(frozen[0]) == 25
    trained = [
        [(row["step"], row["task_id"]) for row in rows if row["stage"] == "rta"] for rows in (played, played_by_two)
    ]
    assert trained[0] == trained[1] and len(trained[0]) == 2 * 2 * 4
    assert {path.name for path in (tmp_path / "two").iterdir()} == {path.name for path in (tmp_path / "one").iterdir()}


@pytest.mark.all
def test_a_mistake_is_told_once_and_ends_all_processes(tmp_path):
    printed = launch("-m", "agenticrec_lite.cli", "run", "--set", "rta.tasks_per_step=7", "--out", tmp_path / "run")
    assert printed.count("Error: rta.tasks_per_step is 7, but must be a multiple of 8: 4 at once") == 1


def test_a_step_is_shared_evenly_or_not_at_all(monkeypatch):
    settings = load_profile("nano")
    check_settings(settings)
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_settings(settings)
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match="must be a multiple of 12"):
        check_settings(settings)


def test_shares_are_all_there_is(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    shared = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        shared += range(10)[processes.share(10)]
    assert shared == list(range(10))


def test_only_the_first_process_writes(monkeypatch, tmp_path):
    with open_run(tmp_path, {"seed": 0}) as run:
        run.log_metrics({"stage": "rta", "step": 1})
        before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
        monkeypatch.setenv("RANK", "1")
        with open_run(tmp_path, {"seed": 0}) as other:
            other.mark("rta", 1)
            other.write_result(n_test=1)
            other.log_metrics({"stage": "rta", "step": 2})
            other.log_trajectories([{"stage": "rta", "step": 2}])
            other.rewind("rta")
            assert other.done("rta") and other.payload("rta") == 1 and other.result["n_test"] == 1
        assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_tracking_is_off_until_it_is_asked_for(monkeypatch, tmp_path):
    profile = load_profile("nano", **{"tracking.report_to": "tensorboard"})
    with open_run(tmp_path, {"seed": 0}) as run:
        quiet, loud = (Experiment(None, each, 0, run) for each in (load_profile("nano"), profile))
        assert quiet.scratch("rta", "rta_steps") == str(tmp_path / "checkpoints" / "rta_steps")
        assert loud.scratch("rta", "rta_steps") == str(tmp_path / "tracking" / "rta")  # outlives the stage
    for given in ({}, {"report_to": "tensorboard"}):
        trained = grpo_config(profile["rta"], profile["agent"], str(tmp_path), 0, **given)
        warm = sft_config(profile["warm_start"], "float32", 0, str(tmp_path), **given)
        assert trained.report_to == warm.report_to == list(given.values())
    monkeypatch.setattr(arguments, "get_available_reporting_integrations", lambda: ["trackio"])
    with pytest.raises(UserError, match="pip install tensorboard, or set it to none or trackio"):
        check_settings(profile)
    monkeypatch.setattr(arguments, "get_available_reporting_integrations", lambda: ["tensorboard"])
    check_settings(profile)


if __name__ == "__main__":
    if sys.argv[2] == "scripted":
        grpo.rollout = scripted
    train(Path(sys.argv[1]), sys.argv[2])
