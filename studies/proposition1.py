"""Proposition 1 on the real trainer: `python -m studies.proposition1 BASE OUT.json`.

The group's mean includes the trajectory itself, so the expected gradient should be (G - 1) / G of the true one. Here
the trainer of stage 1 computes gradients (at learning rate 0) from rollouts of the untrained policy, COPIES for each of
TASKS training tasks, taken as groups of 2, 4, 8 or 16. The derivative of the expected reward along one direction comes
by another way: central differences of the rollouts' log-probabilities, and their covariance with the rewards. Three
sets of rollouts: one gives the direction, the second is measured, and the third gives a derivative that is independent
of it. On the same rollouts the ratio tests the trainer's arithmetic (as one group it is (G - 1) / G for any numbers);
only on the others it tests the expectation.

And what other estimators do to the direction: the cosine of their mean gradient with Proposition 1's, from the same
rollouts; how far two sets of rollouts agree at all stands beside it.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from transformers import TrainerCallback

from agenticrec_lite.agent.episodes import Sampling
from agenticrec_lite.agent.prompts import ChatFormat
from agenticrec_lite.agent.question import Question
from agenticrec_lite.agent.rollout import rollout
from agenticrec_lite.agent.scoring import action_logprobs, pad
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.experiment.experiment import Experiment
from agenticrec_lite.experiment.shipped import borrow
from agenticrec_lite.policy import Policy, load_policy
from agenticrec_lite.rewards import group_advantages, listwise_reward, standardised_advantages
from agenticrec_lite.training.grpo import ListwiseGRPOTrainer
from studies import tables
from studies.changes import undropped_advantages

TASKS, COPIES, STEP = 64, 16, 0.02  # STEP: of the central difference, along a direction of unit length
GROUPS = (2, 4, 8, 16)
ESTIMATORS = {  # advantages, trl's normaliser
    "no dropping, dr_grpo (Proposition 1)": (undropped_advantages, "dr_grpo"),
    "dropping, dr_grpo (the paper)": (group_advantages, "dr_grpo"),
    "dropping, grpo: each trajectory over its own length": (group_advantages, "grpo"),
    "dropping, over the standard deviation, dr_grpo": (standardised_advantages, "dr_grpo"),
}


class Gradients(TrainerCallback):
    """The gradient of each step, as one vector."""

    def __init__(self):
        self.rows: list[torch.Tensor] = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **_) -> None:
        # a step whose groups were all dropped has none
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained(model)]
        self.rows.append(torch.cat([gradient.flatten() for gradient in found]))


def trained(model) -> list[torch.nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def questions(experiment: Experiment) -> list[Question]:
    tasks = experiment.training[:TASKS]
    contexts = experiment.early_toolbox.contexts(tasks)
    return [Question(t.task_id, c, "rank", t.positive) for t, c in zip(tasks, contexts, strict=True)]


def sampled(experiment: Experiment, policy: Policy, asked: list[Question], seed: int) -> list[list[Trajectory]]:
    """COPIES rewarded rollouts for each question."""
    chat, agent = ChatFormat.of_policy(policy), experiment.profile["agent"]
    groups = [question.group(chat, COPIES, agent["max_calls"]) for question in asked]
    sampling, generator = Sampling.of(agent, 1.0), torch.Generator().manual_seed(seed)
    played = rollout(policy.model, chat, groups, sampling, generator, progress="rollouts")
    for trajectory in played:
        trajectory.reward = listwise_reward(trajectory, asked[trajectory.group].right)
    return [played[i : i + COPIES] for i in range(0, len(played), COPIES)]


def gradients(
    experiment: Experiment, policy: Policy, asked: list[Question], given: list[list[Trajectory]], size: int,
    advantages=undropped_advantages, normaliser: str = "dr_grpo",
) -> torch.Tensor:
    """Of each question's rollouts, taken as groups of `size`: minus the trainer's gradient [TASKS, parameters].

    Times the longest completion admitted, so that with dr_grpo it is the mean of advantage times score function.
    """  # fmt: skip
    n, agent = len(given[0]), experiment.profile["agent"]
    settings = experiment.profile["rta"] | {
        "steps": len(asked), "tasks_per_step": n // size, "micro_groups": n // size, "group_size": size,
        "learning_rate": 0.0,
    }  # fmt: skip
    repeated = [question for question in asked for _ in range(n // size)]
    with tempfile.TemporaryDirectory() as scratch:
        by_step, seen = iter(given), Gradients()
        trainer = ListwiseGRPOTrainer(
            policy, repeated, lambda t, right: t.reward, settings, agent, None, "rta", 0, scratch, None,
            advantages=advantages, rollouts=lambda asked: next(by_step), trl={"loss_type": normaliser},
        )  # fmt: skip
        trainer.add_callback(seen)
        with trainer.bar:
            trainer.train()
    return -torch.stack(seen.rows) * agent["max_completion_tokens"]


@contextmanager
def moved(model, direction: torch.Tensor, by: float) -> Iterator[None]:
    """Within the block the trained parameters are moved along a direction."""
    before = [p.detach().clone() for p in trained(model)]
    parts = direction.split([p.numel() for p in before])
    with torch.no_grad():
        for parameter, part in zip(trained(model), parts, strict=True):
            parameter += by * part.view_as(parameter)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, old in zip(trained(model), before, strict=True):
                parameter.copy_(old)


@torch.no_grad()
def log_probabilities(model, rows: list[Trajectory]) -> np.ndarray:
    """Of the actions of each rollout of one question, summed, in nats [n]."""
    prompt, prompt_mask = pad([rows[0].prompt_ids], 0, left=True)
    ids, mask = pad([t.completion_ids for t in rows], 0)
    actions = pad([t.action_mask for t in rows], 0)[0].bool()
    group_of = torch.zeros(len(rows), dtype=torch.long)
    values = action_logprobs(model, prompt, prompt_mask, ids, mask, actions, group_of)[0]
    return torch.zeros(len(rows)).index_add(0, torch.nonzero(actions)[:, 0], values).double().numpy()


def derivatives(model, given: list[list[Trajectory]], direction: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Of each question's expected reward along the direction [TASKS]: the covariance of reward and score function.

    And the mean score function [TASKS], whose expectation is 0 if the rollouts are the policy's own.
    """
    there, back = ([], [])
    for found, by in ((there, STEP), (back, -STEP)):
        with moved(model, direction, by):
            found += [log_probabilities(model, rows) for rows in given]
    score = [(a - b) / (2 * STEP) for a, b in zip(there, back, strict=True)]
    slopes = [np.cov([t.reward for t in rows], s)[0, 1] for rows, s in zip(given, score, strict=True)]
    return np.array(slopes), np.mean(score, axis=1)


def interval(statistic, n: int, draws: int = 2000) -> list[float]:
    """95 %, over tasks drawn anew; `statistic` takes the places of those drawn."""
    rng = np.random.default_rng(0)
    return np.percentile([statistic(rng.integers(n, size=n)) for _ in range(draws)], [2.5, 97.5]).tolist()


def measure(base: Path) -> list[dict]:
    """Two tables: the factor of Proposition 1, and where other estimators point."""
    experiment = borrow(base)
    torch.manual_seed(experiment.seed)
    policy, asked = load_policy(experiment.profile["policy"]), questions(experiment)
    first, second, third = (sampled(experiment, policy, asked, 3 * experiment.seed + place) for place in range(3))
    reference = gradients(experiment, policy, asked, first, COPIES)
    direction = reference.mean(0) / reference.mean(0).norm()
    (same, _), (other, score) = (derivatives(policy.model, given, direction) for given in (second, third))
    of = f"{experiment.profile['policy']['id']} on {experiment.log.name}, untrained"
    told = f"{TASKS} training tasks, {COPIES} rollouts of each; 95 % intervals over tasks."
    return [
        {"title": f"Proposition 1 on the real trainer: {of}",
         "rows": [factor(experiment, policy, asked, second, size, direction, same, other) for size in GROUPS],
         "text": "The trainer's gradient without dropping, along one direction, over the derivative of the expected "
         f"reward, {other.mean():.3g}, measured in another way: on the same rollouts, which tests the arithmetic, and "
         "on others, which tests the expectation. Mean score function of the others (0 is expected): "
         f"{score.mean():.2g}, standard error {score.std(ddof=1) / len(score) ** 0.5:.2g}. {told}"},
        {"title": f"What dropping and other normalisers do to the direction: {of}, G {COPIES // 2}",
         "rows": cosines(experiment, policy, asked, second, reference),
         "text": "Cosine of each mean gradient with Proposition 1's from the same rollouts; the first row is "
         f"Proposition 1's from two sets of rollouts, so it says how much of a direction is noise. {told}"},
    ]  # fmt: skip


def factor(experiment, policy, asked, given, size, direction, same, other) -> dict:
    """The ratio for one group size, to both derivatives."""
    own, row = (gradients(experiment, policy, asked, given, size) @ direction).numpy(), {"G": size}
    row["(G - 1) / G"] = 1 - 1 / size
    for name, true in {"same rollouts": same, "other rollouts": other}.items():
        ratio = lambda at, true=true: own[at].mean() / true[at].mean()  # noqa: E731
        low, high = interval(ratio, TASKS)
        row |= {name: float(ratio(slice(None))), f"{name}, low": low, f"{name}, high": high}
    print(row, flush=True)
    return row


def cosines(experiment, policy, asked, given, reference) -> list[dict]:
    """Of each estimator's mean gradient with the first one's, and of that with `reference`, from other rollouts."""
    vectors = {name: gradients(experiment, policy, asked, given, COPIES // 2, *how) for name, how in ESTIMATORS.items()}
    own, rows = next(iter(vectors.values())).numpy(), []
    pairs = [("Proposition 1's, from two sets of rollouts", reference.numpy())]
    for name, other in pairs + [(name, vectors[name].numpy()) for name in list(vectors)[1:]]:
        cosine = lambda at, other=other: _cosine(other[at].mean(0), own[at].mean(0))  # noqa: E731
        low, high = interval(cosine, TASKS, 200)
        rows.append({"estimator": name, "cosine": float(cosine(slice(None))), "low": low, "high": high})
    return rows


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def main(run: str, out: str) -> None:
    tables.write(Path(out), *measure(Path(run)))


if __name__ == "__main__":
    tables.command(main, "proposition1 RUN OUT.json")
