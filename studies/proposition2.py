"""Proposition 2 along stage 2: `python -m studies.proposition2 BASE OUT.json`.

PPR as in the base run, from its policy after stage 1; every EVERY steps the policy is asked about pairs that were kept
back, in both directions and both orders. Delta is the log-odds of the right answer, averaged over both orders. If one
score stood behind both questions, Delta would be the same in both directions.
"""

import tempfile
from pathlib import Path

import numpy as np

from agenticrec_lite.data.tasks import RankingTask
from agenticrec_lite.evaluation.pairs import ask, deltas, four_questions, letter_log_odds, mean_interval
from agenticrec_lite.experiment import stages, start
from agenticrec_lite.experiment.experiment import Experiment
from agenticrec_lite.runs import read_config, settings_of
from agenticrec_lite.training.mining import HardNegative, mine_hard_negatives
from studies import tables
from studies.run import mined_by, take_over

TASKS, PAIRS, EVERY = 320, 80, 4  # fresh training tasks that are mined, the most pairs kept, steps between two looks
TEXT = """PPR from the policy after stage 1. Pairs of fresh tasks, each asked in both directions and both orders by the
policy as it is. valid, right: of all answers. Delta, in nats: log-odds of the right letter, averaged over both orders;
of an answer that is no letter, of the letter that would stand in its place. Means are over the pairs whose four answers
were begun at every look, with 95 % intervals over users."""


class Looks:
    """What the policy says of the held-out pairs, look by look; called by the trainer after each step."""

    def __init__(self, experiment: Experiment, held_out: list[HardNegative]):
        self.experiment, self.steps, self.answers, self.deltas = experiment, [], [], []
        tasks = experiment.training.find([pair.task_id for pair in held_out])
        self.users = np.array([task.user for task in tasks])
        contexts = zip(held_out, experiment.early_toolbox.contexts(tasks), strict=True)
        self.questions = [question for pair, context in contexts for question in four_questions(pair, context)]

    def __call__(self, history: list[dict]) -> None:
        if len(history) % EVERY:
            return
        policy = self.experiment.policy
        answers = ask(policy, self.questions, self.experiment.profile["agent"])
        self.steps.append(len(history))
        self.answers.append([(answer.valid, answer.reward == 1) for answer in answers])
        self.deltas.append(deltas(letter_log_odds(policy, answers), self.questions))

    def rows(self) -> list[dict]:
        """A row a look."""
        known = np.isfinite(self.deltas).all((0, 1))
        rows = []
        for step, answers, (more, less, leaning) in zip(self.steps, self.answers, self.deltas, strict=True):
            valid, right = np.mean(answers, axis=0)
            row = {"step": step, "pairs": int(known.sum()), "valid": valid, "right": right}
            for name, values in {"Delta, more": more, "Delta, less": less, "log p(A)/p(B)": leaning}.items():
                found = mean_interval(values[known], self.users[known]) if known.any() else (np.nan,) * 3
                row[name] = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*found)
            row["same sign"] = np.mean(np.sign(more[known]) == np.sign(less[known])) if known.any() else np.nan
            rows.append(row)
        return rows


def fresh_tasks(experiment: Experiment) -> list[RankingTask]:
    """Training tasks that neither stage nor the mining uses."""
    rta, ppr = experiment.profile["rta"], experiment.profile["ppr"]
    used = rta["steps"] * rta["tasks_per_step"] + ppr["mining_tasks"]
    return experiment.training[used : used + TASKS]


def measure(base: Path) -> dict:
    config = read_config(base)
    with tempfile.TemporaryDirectory() as scratch:
        experiment = start(
            config["dataset"], config["profile"], config["seed"], Path(scratch, "run"), settings_of(config)
        )
        with experiment.run:
            take_over(experiment, base, "rta")
            fresh = fresh_tasks(experiment)
            played = experiment.play(fresh, experiment.early_toolbox.contexts(fresh), title="fresh tasks")
            looks = Looks(experiment, mine_hard_negatives(played, fresh, experiment.seed)[:PAIRS])
            looks([])
            stages.train_ppr(experiment, mined_by(experiment, base), watch=looks)
    title = f"Proposition 2 along stage 2: {config['profile']} on {config['dataset']}, seed {config['seed']}"
    return {"title": title, "text": " ".join(TEXT.split()), "rows": looks.rows()}


def main(run: str, out: str) -> None:
    tables.write(Path(out), measure(Path(run)))


if __name__ == "__main__":
    tables.command(main, "proposition2 RUN OUT.json")
