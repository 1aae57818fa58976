"""The warm start: what it is taught from, that only the policy's own tokens are learnt, and what it leaves."""

from collections import Counter

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from test_extensions import SHORT, shop

from agenticrec_lite.agent.prompts import ChatFormat
from agenticrec_lite.agent.record import weights_of
from agenticrec_lite.agent.scoring import action_logprobs
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.experiment.experiment import Experiment
from agenticrec_lite.experiment.results import results_table
from agenticrec_lite.experiment.stages import run_experiment, untrained
from agenticrec_lite.experiment.warm_start import demonstrations, warm_start
from agenticrec_lite.nano.worlds import random_world
from agenticrec_lite.policy import load_policy
from agenticrec_lite.profiles import load_profile
from agenticrec_lite.runs import open_run, read_config, read_metrics
from agenticrec_lite.training import sft
from agenticrec_lite.training.sft import as_row


class WorldsForTasks:
    """A toolbox whose tasks are seeds of generated worlds: there is no positive that a teacher could look at."""

    def contexts(self, tasks):
        return [random_world(np.random.default_rng(task), 3, 3) for task in tasks]


class Stub:
    """What the stage needs of an experiment, on nano."""

    seed, training, early_toolbox = 0, list(range(40)), WorldsForTasks()

    _loaded = None
    stage, policy, adapter = Experiment.stage, Experiment.policy, Experiment.adapter
    policy_after, stage_before, scratch = Experiment.policy_after, Experiment.stage_before, Experiment.scratch
    begin_training, end_training = Experiment.begin_training, Experiment.end_training

    def __init__(self, profile, run):
        self.profile, self.run = profile, run


@pytest.fixture
def experiment(tmp_path):
    profile = load_profile("nano", warm_start={"steps": 2, "batch": 4, "micro_batch": 2})
    with open_run(tmp_path / "run", profile) as run:
        yield Stub(profile, run)


@pytest.fixture
def chat(experiment):
    return ChatFormat.of(experiment.policy.tokenizer, True)


def test_demonstrations_call_a_mix_of_tools_and_answer_by_what_they_saw(experiment, chat):
    experiment.profile["warm_start"] |= {"steps": 10, "batch": 4}
    played = demonstrations(experiment, chat)
    assert len(played) == 40 and all(t.outcome == "answered" and 1 <= t.n_calls <= 4 for t in played)
    assert len(Counter(step.tool for t in played for step in t.steps if step.kind == "call")) == 8
    following = [t for t in played if any("I follow" in step.text for step in t.steps if step.kind == "think")]
    assert len(following) > 20 and any(weights_of(t) for t in played) and not all(weights_of(t) for t in played)
    assert [t.completion_ids for t in demonstrations(experiment, chat)] == [t.completion_ids for t in played]


def test_those_that_go_through_the_model_together_share_their_prompt(experiment, chat):
    played = demonstrations(experiment, chat)
    together = [tuple(t.prompt_ids for t in played[i : i + 2]) for i in range(0, 8, 2)]
    assert all(first == second for first, second in together) and len({str(first) for first, _ in together}) == 4
    assert any(played[i].completion_ids != played[i + 1].completion_ids for i in range(0, 8, 2))


def test_only_what_the_policy_wrote_is_learnt(experiment, chat):
    for trajectory in demonstrations(experiment, chat):
        row = as_row(trajectory)
        learnt = [label for label in row["labels"] if label != -100]
        ends = chat.tokenizer.decode(learnt).split(chat.tokenizer.eos_token)
        assert len(ends) == trajectory.n_calls + 2 and not ends[-1]  # every turn with its end, and nothing else
        assert all(turn.startswith(("<think>", "<tool_call>")) and "observation" not in turn for turn in ends[:-1])
        assert all(label in (-100, token) for token, label in zip(row["input_ids"], row["labels"], strict=True))


def test_the_stage_moves_the_adapter_saves_it_and_is_not_run_again(experiment, chat):
    rows = demonstrations(experiment, chat)
    warm_start(experiment)
    assert experiment._loaded is None  # the next stage loads what was saved
    policy = load_policy(experiment.profile["policy"], experiment.adapter("warm_start"))
    after = {n: p for n, p in policy.model.named_parameters() if p.requires_grad}
    assert all(p.abs().sum() > 0 for n, p in after.items() if "lora_B" in n)
    exact = [p for n, p in after.items() if "lora_B" in n and not torch.equal(p, p.bfloat16().float())]
    assert exact  # trained in fp32, not in the bf16 that trl makes of it
    table = read_metrics(experiment.run.folder)
    assert table["step"].tolist() == [1, 2] and (table["stage"] == "warm_start").all()
    assert experiment.run.done("warm_start") and len(rows) == 8
    warm_start(experiment)
    assert experiment._loaded is None  # it was not even loaded


def test_loss_and_gradient_are_those_of_each_demonstration_by_itself(experiment, chat):
    """Prompts are shared and passes accumulated; transformers' own loss, one row at a time, is the reference."""
    experiment.profile["warm_start"] |= {"steps": 1, "batch": 4, "micro_batch": 2}
    rows, model = [as_row(t) for t in demonstrations(experiment, chat)], experiment.policy.model
    learnt = [sum(label != -100 for label in row["labels"]) for row in rows]
    losses = [model(**{name: torch.tensor([ids]) for name, ids in row.items()}).loss for row in rows]
    expected = sum(loss * n for loss, n in zip(losses, learnt, strict=True)) / sum(learnt)
    expected.backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    warm_start(experiment)
    logged = read_metrics(experiment.run.folder).iloc[0]
    assert logged["action_ce"] == pytest.approx(float(expected.detach()), rel=1e-3)
    assert logged["grad_norm"] == pytest.approx(float(torch.cat([g.flatten() for g in gradients]).norm()), rel=1e-3)


def test_the_loss_is_computed_in_the_precision_of_the_updates(experiment, chat, monkeypatch):
    """As in both stages: on a GPU, a policy in half precision trains under autocast."""
    experiment.profile["warm_start"] |= {"steps": 1, "batch": 2, "micro_batch": 2}
    seen = []

    def autocast(accelerator):
        return torch.autocast("cpu", torch.bfloat16)

    def scored(model, *parts):
        seen.append(torch.is_autocast_enabled("cpu") and model.model.lm_head(torch.ones(1, 128)).dtype)
        return action_logprobs(model, *parts)

    monkeypatch.setattr(Accelerator, "autocast", autocast)
    monkeypatch.setattr(sft, "action_logprobs", scored)
    warm_start(experiment)
    assert seen == [torch.bfloat16]


@pytest.mark.parametrize(("valid", "taken"), [(0, True), (7, True), (8, False), (16, False)])
def test_needed_is_where_fewer_than_half_of_sixteen_sampled_trajectories_are_valid(valid, taken, experiment, capsys):
    """Told in one sentence, played once a run, the share before and after in result.json."""
    experiment.profile["warm_start"]["when"] = "needed"
    asked = []

    def play(tasks, contexts, temperature, policy):
        asked.append((len(tasks), temperature, policy is experiment.policy))
        outcomes = ["answered"] * (16 if len(asked) > 1 else valid) + ["bad_turn"] * 16
        return [Trajectory(str(task), 0, "rank", [], outcome=outcome) for task, outcome in zip(tasks, outcomes)]

    experiment.play = play
    warm_start(experiment)
    warm_start(experiment)
    before, after = {"frozen": valid / 16}, {"warm_start": 1.0} if taken else {}
    assert experiment.run.result["valid_sampled"] == before | after
    assert asked == [(16, experiment.profile["rta"]["temperature"], True)] * (1 + taken)
    assert experiment.run.done("warm_start") == taken == experiment.adapter("warm_start").exists()
    said = f"untrained policy {valid / 16:.0%} are valid, so the warm start comes first: 2 supervised steps."
    assert capsys.readouterr().out.count(said) == taken
    assert (untrained(experiment) == "warm_start") == taken


def test_a_run_says_that_it_needs_a_warm_start_and_shows_what_it_did(tiny, tmp_path, capsys):
    """A policy that has learnt nothing: its row and the row after the warm start are in the table."""
    tiny[0].save_pretrained(tmp_path / "model")
    tiny[1].tokenizer.save_pretrained(tmp_path / "model")
    changes = SHORT | {
        "policy.id": str(tmp_path / "model"), "agent.max_turn_tokens": 12, "warm_start.steps": 1,
        "warm_start.when": "needed", "warm_start.batch": 2, "warm_start.micro_batch": 2,
    }  # fmt: skip
    result = run_experiment(shop(), "nano", 0, tmp_path / "run", changes)
    assert "of the untrained policy 0% are valid, so the warm start comes first" in capsys.readouterr().out
    assert result["valid_sampled"] == {"frozen": 0.0, "warm_start": 0.0}
    with open_run(tmp_path / "run", read_config(tmp_path / "run")) as run:
        table = results_table(run)
    assert list(table.loc[["frozen", "warm_start"], "valid"]) == ["0.0%", "0.0%"]


def test_a_profile_without_a_warm_start_leaves_nothing(experiment):
    experiment.profile["warm_start"]["steps"] = 0
    warm_start(experiment)
    assert not experiment.run.done("warm_start") and not experiment.adapter("warm_start").exists()
