"""The trainer: what moves the weights and what does not."""

import numpy as np
import pytest
import torch

from agenticrec_lite.agent.protocol import write_answer, write_call
from agenticrec_lite.agent.question import Question
from agenticrec_lite.agent.teacher import run_script
from agenticrec_lite.nano.worlds import random_world
from agenticrec_lite.policy import Policy, add_adapter
from agenticrec_lite.rewards import group_advantages, listwise_reward
from agenticrec_lite.training import grpo
from agenticrec_lite.training.grpo import ListwiseGRPOTrainer

AGENT = {"max_calls": 10, "max_turn_tokens": 40, "max_completion_tokens": 900, "batch_rows": 64, "merge": True}
SETTINGS = {
    "steps": 1, "tasks_per_step": 2, "group_size": 4, "micro_groups": 1, "learning_rate": 1e-2, "warmup_steps": 0,
    "temperature": 0.8,
}  # fmt: skip
LORA = {"r": 4, "alpha": 8, "targets": "all-linear"}
POSITIVE = 7


@pytest.fixture
def trainer_of(monkeypatch, tiny, tmp_path):
    """A trainer whose rollouts are scripted: one list of turns a rollout."""
    import copy

    def make(scripts, advantages=group_advantages, **changes):
        torch.manual_seed(0)
        policy = Policy(add_adapter(copy.deepcopy(tiny[0]), LORA), tiny[1].tokenizer, True)
        settings = SETTINGS | changes
        worlds = [
            random_world(np.random.default_rng(i), 3, 3) for i in range(settings["steps"] * settings["tasks_per_step"])
        ]
        questions = [Question(f"q{i}", world, "rank", POSITIVE) for i, world in enumerate(worlds)]

        def scripted(model, chat, groups, sampling, generator=None):
            trajectories = []
            for g, group in enumerate(groups):
                for k, environment in enumerate(group.environments):
                    turns = scripts[(g * len(group.environments) + k) % len(scripts)]
                    trajectory = run_script(turns, environment.context, chat, "rank", group.prompt_ids)
                    trajectory.task_id, trajectory.group = group.task_id, g
                    trajectories.append(trajectory)
            return trajectories

        monkeypatch.setattr(grpo, "rollout", scripted)
        return ListwiseGRPOTrainer(
            policy, questions, listwise_reward, settings, AGENT, None, "rta", 0, str(tmp_path), advantages=advantages
        )

    return make


def ranked(first):
    return write_answer([first, *(n for n in range(1, 21) if n != first)][:10])


CALL = write_call("get_similar_users", {}, "I ask.")
MIXED = [[CALL, ranked(POSITIVE)], [ranked(3)], ["nonsense"], [CALL, CALL, ranked(12)]]
HOPELESS = [["nonsense"], [CALL, "more nonsense"], [ranked(3)[:-20]], ["x"]]


def weights(trainer):
    return {n: p.detach().clone() for n, p in trainer.model.named_parameters()}


def test_every_adapter_weight_moves_and_no_other(trainer_of):
    trainer = trainer_of(MIXED, steps=3)
    before = weights(trainer)
    trainer.train()
    moved = {n for n, p in weights(trainer).items() if not torch.equal(p, before[n])}
    assert moved == {n for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert trainer.history[0]["tool_get_similar_users"] == pytest.approx(3 / 4)
    assert trainer.history[0]["reward_mean"] == pytest.approx(np.mean([t.reward for t in trainer.trajectories]))


def test_a_watcher_sees_each_step_as_it_ends(trainer_of):
    trainer, seen = trainer_of(MIXED, steps=2), []
    trainer.watch = lambda history: seen.append([row["step"] for row in history])
    trainer.train()
    assert seen == [[1], [1, 2]]


def leave_one_out(rewards, group_size):
    """RLOO: the baseline of a rollout is the mean of the others."""
    advantages, dropped = group_advantages(rewards, group_size)
    return advantages * group_size / (group_size - 1), dropped


@pytest.mark.parametrize(
    ("second_group", "micro_groups", "advantages"),
    [([], 1, group_advantages), (HOPELESS, 1, group_advantages), ([], 2, leave_one_out)],
    ids=["two passes", "a dropped group", "one pass, other advantages"],
)
def test_the_step_is_the_papers_gradient_computed_by_hand(trainer_of, second_group, micro_groups, advantages):
    """Gradient of -sum_i A_i sum_t log pi(a_t) over action tokens, over rows times length, nothing else.

    A dropped group takes nothing away from the gradient of the other one; two prompts in one pass stay apart.
    """
    trainer = trainer_of(MIXED + second_group, advantages, learning_rate=0.0, micro_groups=micro_groups)
    trainer.args.max_grad_norm = 0.0
    seen = {}
    step = trainer.training_step

    def keep(model, inputs, n=None):
        loss = step(model, inputs, n)
        seen.update({name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad})
        return loss

    trainer.training_step = keep
    trainer.train()
    trainer.model.zero_grad()
    rows = trainer.trajectories
    assert [t.advantage for t in rows] == pytest.approx(advantages([t.reward for t in rows], 4)[0])
    for t in rows:
        ids = torch.tensor([t.prompt_ids + t.completion_ids])
        log_p = torch.log_softmax(
            trainer.model(ids).logits[0, len(t.prompt_ids) - 1 : -1] / SETTINGS["temperature"], -1
        )
        actions = torch.tensor(t.action_mask) == 1
        chosen = log_p[range(len(t.completion_ids)), t.completion_ids][actions]
        (-t.advantage * chosen.sum() / (len(rows) * AGENT["max_completion_tokens"])).backward()
    expected = {n: p.grad for n, p in trainer.model.named_parameters() if p.requires_grad}
    error = sum((seen[n] - expected[n]).norm() ** 2 for n in seen) ** 0.5
    assert error / sum(g.norm() ** 2 for g in expected.values()) ** 0.5 < 1e-4


def test_no_observation_or_prompt_token_contributes(trainer_of):
    """The loss is a function of action tokens only: its gradient on every other log-probability is zero."""
    trainer = trainer_of(MIXED)
    touched = {}
    score = trainer._get_per_token_logps_and_entropies

    def spy(*args, **kwargs):
        logprobs, entropies, aux = score(*args, **kwargs)
        logprobs = logprobs.detach().requires_grad_()
        logprobs.register_hook(lambda gradient: touched.setdefault("gradient", gradient))
        touched.setdefault("actions", trainer._actions)
        return logprobs, entropies, aux

    trainer._get_per_token_logps_and_entropies = spy
    inputs = trainer._prepare_inputs([{"prompt": [{"role": "user", "content": f"q{i // 4}"}]} for i in range(8)])
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    trainer._compute_loss(trainer.model, inputs).backward()
    nonzero = touched["gradient"] != 0
    assert nonzero.any() and not (nonzero & ~touched["actions"]).any()


def test_rows_without_advantage_and_observations_are_not_scored(trainer_of, monkeypatch):
    """They have no gradient; to run them costs a third of a step."""
    trainer, scored = trainer_of(MIXED + HOPELESS), []
    score = grpo.action_logprobs

    def spy(model, prompts, prompt_mask, completions, mask, actions, *rest):
        scored.append((len(completions), int(actions.sum())))
        return score(model, prompts, prompt_mask, completions, mask, actions, *rest)

    monkeypatch.setattr(grpo, "action_logprobs", spy)
    trainer.train()
    rows = [t for t in trainer.trajectories if t.advantage]
    assert len(rows) == 4
    assert sum(n for n, _ in scored if n > 1) == 4  # a batch of dropped rows alone scores one, for a graph
    assert sum(n for _, n in scored) == sum(sum(t.action_mask) for t in rows)


def test_every_step_has_random_numbers_of_its_own(trainer_of, monkeypatch):
    """By seed and step: a step that is done again after an interruption draws the same."""
    trainer, seeds = trainer_of(MIXED), []
    monkeypatch.setattr(grpo, "rollout", lambda *given: seeds.append(given[-1].initial_seed()) or [])
    for trainer.seed in (0, 1, 2):
        for trainer.state.global_step in (0, 1, 2, 1000):
            trainer.sampled_rollouts([])
    assert len(set(seeds)) == 12
    trainer.seed, trainer.state.global_step = 1, 2
    trainer.sampled_rollouts([])
    assert seeds[-1] == seeds[6]


def test_groups_that_are_all_negative_are_masked_and_the_others_still_count(trainer_of):
    trainer = trainer_of(MIXED + HOPELESS)
    before = weights(trainer)
    trainer.train()
    assert any(not torch.equal(p, before[n]) for n, p in weights(trainer).items())
    assert [t.dropped for t in trainer.trajectories] == [False] * 4 + [True] * 4
    assert all(t.advantage == 0 for t in trainer.trajectories[4:])
    assert trainer.history[0]["dropped_groups"] == 0.5


def test_when_every_group_is_dropped_no_weight_moves_even_with_momentum(trainer_of):
    trainer = trainer_of(MIXED, steps=2)
    at_step = []
    rollouts = grpo.rollout

    def then_hopeless(*args, **kwargs):
        at_step.append(weights(trainer))
        trajectories = rollouts(*args, **kwargs)
        if len(at_step) == 2:
            for t in trajectories:
                t.outcome, t.answer = "bad_turn", None
        return trajectories

    grpo.rollout = then_hopeless
    trainer.train()
    after = weights(trainer)
    assert len(at_step) == 2
    assert any(not torch.equal(at_step[0][n], at_step[1][n]) for n in after)
    assert all(torch.equal(at_step[1][n], after[n]) for n in after)


def test_the_next_stage_goes_on_with_the_same_adapter(trainer_of, tiny, tmp_path):
    """RTA -> PPR: a saved adapter loads with its weights, trains on, and neither starts fresh nor freezes."""
    import copy

    trainer = trainer_of(MIXED, steps=2)
    trainer.train()
    trainer.model.save_pretrained(tmp_path / "rta")
    again = add_adapter(copy.deepcopy(tiny[0]), LORA, tmp_path / "rta")
    ours, saved = dict(again.named_parameters()), dict(trainer.model.named_parameters())
    assert ours.keys() == saved.keys() and all(torch.equal(ours[n], saved[n]) for n in ours)
    assert {n for n, p in ours.items() if p.requires_grad} == {n for n in ours if "lora_" in n}
    assert any(ours[n].abs().sum() > 0 for n in ours if "lora_B" in n)
