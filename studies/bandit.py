"""What does a bandit learn from the same rewards? `python -m studies.bandit OUT.json RUN [RUN ...]`.

A policy without words, beside the RTA of each finished run: for each list one distribution over the weights 0 to 3, the
same for every task. It begins with the weights that the frozen policy's sampled answers rest on. It learns from as many
rollouts of RTA's tasks, by RTA's reward, groups, advantages and Adam, at a rate that falls to 0. How fast is chosen on
validation tasks; then its likeliest weights rank the test tasks. A minute of one thread a run.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from agenticrec_lite.agent.record import evidence_of
from agenticrec_lite.evaluation.lists import shown_lists, stacked, weighed_ranks
from agenticrec_lite.evaluation.metrics import gains, user_bootstrap
from agenticrec_lite.experiment.experiment import Experiment
from agenticrec_lite.experiment.shipped import borrow
from agenticrec_lite.rewards import ADVANTAGES, MISSED, TOP_BONUS
from agenticrec_lite.runs import read_ranks, read_trajectories
from agenticrec_lite.tools import LISTS
from agenticrec_lite.tools.lists import HIGHEST
from studies import tables

RATES = (0.05, 0.1, 0.2, 0.4)
SEEDS = 10
TEXT = (
    f"Means over {SEEDS} seeds of the bandit. Advantages: of a group, divided by its standard deviation (group) or not "
    "(none, the paper's). Rate: the one of "
    f"{', '.join(map(str, RATES))} with the highest N@10 on validation tasks. Commonest: the weights that most seeds "
    "end with. RTA - bandit: on the run's test tasks, 95 % interval over users."
)


@dataclass(frozen=True)
class Tasks:
    """What the lists say of n tasks.

    Attributes:
        scores, places: As `evaluation.lists.stacked` returns them.
        positives: Candidate numbers [n].
    """

    scores: np.ndarray
    places: np.ndarray
    positives: np.ndarray

    @classmethod
    def of(cls, contexts: Sequence, tasks: Sequence) -> "Tasks":
        lists = [shown_lists(context) for context in contexts]
        return cls(*stacked(lists), np.array([task.positive for task in tasks]))

    def ranks(self, weights: Sequence[int]) -> np.ndarray:
        return weighed_ranks(self.scores, self.places, self.positives, weights)

    def rewards(self, row: int, weights: np.ndarray) -> np.ndarray:
        """RTA's reward of task `row` for each row of weights [G, 6]."""
        total, place, right = weights @ self.scores[row], self.places[row], self.positives[row] - 1
        own = total[:, [right]]
        rank = 1 + ((total > own) | ((total == own) & (place < place[right]))).sum(1)
        return np.where(rank <= 10, 1 / np.log2(rank + 1) + TOP_BONUS * (rank == 1), MISSED)


def beginning(rows: Sequence[Mapping]) -> torch.Tensor:
    """Logits [6, 4] of the weights that sampled answers rest on, each counted once more than it occurs."""
    counts = torch.ones(len(LISTS), HIGHEST + 1)
    for row in rows:
        if row["outcome"] == "answered":
            evidence = evidence_of(row)
            for place, name in enumerate(LISTS.values()):
                counts[place, evidence.get(name, 0)] += 1
    return counts.log()


def learn(tasks: Tasks, start: torch.Tensor, settings: Mapping, advantages: Callable, rate: float, seed: int) -> tuple:
    """The likeliest weights after RTA's steps on `tasks`.

    Args:
        tasks: In the order in which RTA takes them.
        start: Logits [6, 4].
        settings: Of RTA: steps, tasks_per_step, group_size.
        advantages: One of ADVANTAGES.
        rate: Of Adam, at first.
        seed: Of the samples.
    """
    generator, logits = torch.Generator().manual_seed(seed), start.clone().requires_grad_()
    steps, a_step, size = settings["steps"], settings["tasks_per_step"], settings["group_size"]
    adam = torch.optim.Adam([logits], lr=rate)
    for step in range(steps):
        adam.param_groups[0]["lr"] = rate * (1 - step / steps)
        rows = (step * a_step + np.arange(a_step)) % len(tasks.positives)
        drawn = torch.multinomial(logits.detach().softmax(-1), a_step * size, replacement=True, generator=generator)
        weights = drawn.T.reshape(a_step, size, -1)  # [tasks, G, 6]
        rewards = np.concatenate([tasks.rewards(row, each.numpy()) for row, each in zip(rows, weights, strict=True)])
        scaled = torch.tensor(advantages(rewards, size)[0])
        log_p = logits.log_softmax(-1).gather(1, drawn).sum(0)  # of all six weights
        adam.zero_grad()
        (-(scaled * log_p).mean()).backward()
        adam.step()
    return tuple(logits.argmax(-1).tolist())


def n10(ranks: np.ndarray) -> float:
    return float(gains(ranks, "N@10").mean())


def of_run(folder: Path) -> list[dict]:
    """A row for each kind of advantages."""
    experiment: Experiment = borrow(folder)
    settings = experiment.profile["rta"]
    seen = experiment.training[: settings["steps"] * settings["tasks_per_step"]]
    training = Tasks.of(experiment.early_toolbox.contexts(seen), seen)
    known = experiment.tasks("validation", experiment.profile["evaluation"]["n_validation"])
    validation = Tasks.of(experiment.toolbox.contexts(known), known)
    test = Tasks.of(experiment.test_contexts, experiment.test)
    start = beginning(list(read_trajectories(folder, "evaluate_frozen_sampled")))
    ranks = read_ranks(folder)
    rta = gains(ranks["rta"].fillna(np.inf), "N@10")
    found = []
    for name, advantages in ADVANTAGES.items():
        ends = {rate: [learn(training, start, settings, advantages, rate, seed) for seed in range(SEEDS)]
                for rate in RATES}  # fmt: skip
        judged = {rate: [n10(validation.ranks(w)) for w in weights] for rate, weights in ends.items()}
        rate = max(RATES, key=lambda each: np.mean(judged[each]))
        own = np.array([gains(test.ranks(weights), "N@10") for weights in ends[rate]])  # [seeds, tasks]
        low, high = user_bootstrap((rta - own.mean(0))[:, None], ranks["user"])[0]
        commonest = max(ends[rate], key=ends[rate].count)
        found.append({
            "dataset": experiment.log.name, "seed": experiment.seed, "advantages": name, "rate": rate,
            "validation": float(np.mean(judged[rate])), "deviation": float(np.std(judged[rate], ddof=1)),
            "commonest": ", ".join(f"{n} {w}" for n, w in zip(LISTS.values(), commonest, strict=True) if w),
            "N@10": float(own.mean()), "RTA - bandit": float((rta - own.mean(0)).mean()), "low": low, "high": high,
        })  # fmt: skip
    return found


def main(out: str, *runs: str) -> None:
    """Write the table of these runs."""
    rows = [row for run in runs for row in of_run(Path(run))]
    tables.write(Path(out), {"title": "A bandit beside RTA", "text": TEXT, "rows": rows})


if __name__ == "__main__":
    tables.command(main, "bandit OUT.json RUN [RUN ...]")
