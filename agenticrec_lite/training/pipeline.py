"""The one way through: data, tools, frozen policy, RTA, mining, PPR, evaluation; each stage once a run folder."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from agenticrec_lite.agent.rollout import Sampling
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.data import is_own, load_dataset
from agenticrec_lite.data.log import InteractionLog
from agenticrec_lite.data.split import Split, temporal_split
from agenticrec_lite.data.tasks import RankingTask, build_tasks
from agenticrec_lite.evaluation import evaluate
from agenticrec_lite.plan import check_hardware
from agenticrec_lite.policy import Policy, load_policy, save_adapter, smollm2_folder
from agenticrec_lite.profiles import load_profile
from agenticrec_lite.rewards import listwise_reward, refinement_reward
from agenticrec_lite.runs import Run, open_run, processes, read_trajectories
from agenticrec_lite.tools import TaskContext
from agenticrec_lite.tools.toolbox import Toolbox
from agenticrec_lite.training.arguments import check_settings
from agenticrec_lite.training.baselines import evaluate_baselines as evaluate_baselines  # the notebooks find it here
from agenticrec_lite.training.checkpoint import Checkpoints, check_adapter, check_resumed
from agenticrec_lite.training.grpo import ListwiseGRPOTrainer, Question
from agenticrec_lite.training.log import figures_again, record, result_metrics, trajectory_rows
from agenticrec_lite.training.log import finish as finish  # the notebooks find both here
from agenticrec_lite.training.log import results_table as results_table
from agenticrec_lite.training.mining import HardNegative, mine_hard_negatives, pair_questions
from agenticrec_lite.training.warm_start import warm_start

TRAINED = ("rta", "ppr")
KINDS = ("more", "less", "rank")
EPOCHS = 3  # that stage 1 takes at most, as the paper's does


@dataclass
class Experiment:
    """One run: its settings, its folder, and what every stage needs, made when first asked for.

    Attributes:
        log: The dataset.
        profile: Resolved settings.
        seed: Of everything random.
        run: The open run folder.
        ranks: Ranks of the test positives, by method; filled as stages finish.
    """

    log: InteractionLog
    profile: dict
    seed: int
    run: Run
    ranks: dict[str, np.ndarray] = field(default_factory=dict)

    @cached_property
    def split(self) -> Split:
        return temporal_split(self.log)

    @cached_property
    def toolbox(self) -> Toolbox:
        """Serves validation and test: fitted on the whole train split."""
        return self._fit("train")

    @cached_property
    def early_toolbox(self) -> Toolbox:
        """Serves the tasks that RL trains on: fitted on interactions before all of them (out-of-time evidence)."""
        return self._fit("train_early")

    def _fit(self, part: str) -> Toolbox:
        with self.run.timer("recommenders"):
            return Toolbox.fit(self.log, self.split.rows(part), self.seed, self.profile["agent"]["neighbours"])

    def tasks(self, part: str, n: int | None) -> list[RankingTask]:
        return build_tasks(self.log, self.split, part, n, self.seed)

    @cached_property
    def test(self) -> list[RankingTask]:
        return self.tasks("test", self.profile["evaluation"]["n_test"])

    @cached_property
    def test_contexts(self) -> list[TaskContext]:
        return self.toolbox.contexts(self.test)

    @cached_property
    def training(self) -> list[RankingTask]:
        """All tasks of the later part of the train split, in random order."""
        return self.tasks("train_late", None)

    @cached_property
    def policy(self) -> Policy:
        """The policy as far as it has been trained in this run."""
        torch.manual_seed(self.seed)
        stage = next((stage for stage in ("ppr", "rta", "sft", "warm_start") if self.run.done(stage)), None)
        if stage is None:
            return load_policy(self.profile["policy"])
        check_adapter(self.run, stage)
        return load_policy(self.profile["policy"], self.adapter(stage))

    def adapter(self, stage: str) -> Path:
        return self.run.checkpoints / stage

    def keep(self, stage: str) -> None:
        """Save the adapter of a stage that has just ended, and mark the stage as finished."""
        if processes.is_main():
            save_adapter(self.policy.model, self.adapter(stage))
        self.run.mark(stage)
        processes.gather([])  # before anyone reads it

    def scratch(self, stage: str, name: str) -> str:
        """The folder that a stage's trainer writes to: below checkpoints/, or what it tracks into tracking/."""
        tracked = self.profile["tracking"]["report_to"] != "none"
        return str(self.run.folder / "tracking" / stage if tracked else self.run.checkpoints / name)

    def play(self, tasks, contexts, temperature: float = 0.0, title: str | None = None) -> list[Trajectory]:
        """One trajectory a task, by the policy as it is now."""
        agent = self.profile["agent"]
        return evaluate.play_tasks(
            self.policy, contexts, tasks, Sampling.of(agent, temperature), agent["max_calls"],
            torch.Generator().manual_seed(processes.own_seed(self.seed)), title,
        )  # fmt: skip

    def logged(self, stage: str, **wanted) -> list[dict]:
        """Rows of trajectories.jsonl: a stage ("rta", "mining", "evaluate_rta", ...), narrowed by any other fields."""
        wanted = {"stage": stage, **wanted}
        rows = read_trajectories(self.run.folder)
        return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def start(
    dataset: str, profile: str, seed: int, out: str | Path, overrides: dict | None = None, **about: str
) -> Experiment:
    """Open (or go on with) a run; `about` is said of it in its config.yaml, such as which variant it is.

    Raises:
        UserError: Unknown dataset, profile or setting; the folder holds another run.
    """
    return processes.main_first(lambda: _start(dataset, profile, seed, out, overrides, about))


def _start(dataset: str, profile: str, seed: int, out: str | Path, overrides: dict | None, about: dict) -> Experiment:
    settings = load_profile(profile, **(overrides or {}))
    check_hardware(profile, settings)
    check_settings(settings)
    if settings["policy"]["id"] == "smollm2-135m":
        smollm2_folder()  # here, where one process goes first
    log = load_dataset(dataset)
    data = {"data": log.fingerprint()} if is_own(dataset) else {}  # files of one's own may change under their name
    run = open_run(out, {"dataset": dataset, "profile": profile, "seed": seed, **about, **data, **settings})
    experiment = Experiment(log, settings, seed, run)
    check_resumed(run, TRAINED)
    run.write_result(dataset=dataset, profile=profile, seed=seed, n_test=len(experiment.test))
    return experiment


def play_logged(experiment: Experiment, stage: str, tasks, contexts, temperature: float = 0.0) -> list[Trajectory]:
    """One trajectory a task by the policy as it is now: rewarded, and logged under `stage`."""
    run, title = experiment.run, stage.replace("_", " ")
    with run.timer(stage):
        trajectories = experiment.play(tasks, contexts, temperature, title)
    for trajectory, task in zip(trajectories, tasks, strict=True):
        trajectory.reward = listwise_reward(trajectory, task.positive)
    questions = {
        task.task_id: Question(task.task_id, None, "rank", task.positive, None, task.candidates) for task in tasks
    }
    run.rewind(stage)
    run.log_trajectories(trajectory_rows(trajectories, questions, stage, 0, experiment.seed))
    return trajectories


def evaluate_stage(experiment: Experiment, name: str, temperature: float = 0.0) -> None:
    """Play the test tasks with the policy as it is and record it as `name`, unless that has been done.

    Greedy unless a temperature is given. The trajectories are logged as "evaluate_<name>".
    """
    run, test, stage = experiment.run, experiment.test, f"evaluate_{name}"
    if not run.done(stage):
        trajectories = play_logged(experiment, stage, test, experiment.test_contexts, temperature)
        ranks = evaluate.trajectory_ranks(trajectories, test)
        record(experiment, name, ranks, evaluate.summarize_trajectories(trajectories, test))
        run.mark(stage, ranks.tolist())
    # The folder keeps the rank of an absent positive as null.
    experiment.ranks[name] = np.nan_to_num(np.array(run.payload(stage), dtype=float), nan=np.inf)
    if name not in result_metrics(run):  # result.json was lost
        record(experiment, name, experiment.ranks[name], figures_again(experiment, stage, experiment.ranks[name]))


def evaluate_untrained(experiment: Experiment, name: str) -> None:
    """The policy before RL, greedy and sampled at the rollout temperature; the better of the two counts as `name`."""
    evaluate_stage(experiment, f"{name}_greedy")
    evaluate_stage(experiment, f"{name}_sampled", experiment.profile["rta"]["temperature"])
    figures = result_metrics(experiment.run)
    better = max((f"{name}_greedy", f"{name}_sampled"), key=lambda each: figures[each]["N@10"])
    record(experiment, name, experiment.ranks[better], figures[better])


def untrained(experiment: Experiment) -> str:
    """The method that stands for the policy before RL."""
    return "warm_start" if experiment.profile["warm_start"]["steps"] else "frozen"


def evaluate_frozen(experiment: Experiment) -> None:
    """The untrained policy; and where the profile has a warm start, for want of the protocol, that."""
    evaluate_untrained(experiment, "frozen")
    if untrained(experiment) == "warm_start":
        warm_start(experiment)
        evaluate_untrained(experiment, "warm_start")


def train_rta(experiment: Experiment, watch=None, reward=listwise_reward, **changes) -> None:
    """Stage 1: list-wise GRPO on tasks of the later train split, again where they are few; the adapter is saved.

    Args:
        experiment: With a fresh policy.
        watch: Called after each step with the metrics of all steps so far, a dict a step: for live curves.
        reward: The paper's, unless a study asks what another would bring; so are the trainer's `changes`.
    """
    if experiment.run.done("rta"):
        return
    settings = experiment.profile["rta"]
    wanted = settings["steps"] * settings["tasks_per_step"]
    tasks = experiment.training[:wanted]
    questions = [
        Question(task.task_id, context, "rank", task.positive, None, task.candidates)
        for task, context in zip(tasks, experiment.early_toolbox.contexts(tasks), strict=True)
    ]
    train(experiment, "rta", (questions * EPOCHS)[:wanted], reward, watch, **changes)


def train(experiment: Experiment, stage: str, questions: list[Question], reward, watch=None, **changes) -> None:
    """Run one training stage on the policy that the folder holds and save its adapter; `changes` go to the trainer.

    Fewer questions than the profile's steps take make fewer steps; too few for one step, and the stage is left out.
    """
    run, settings = experiment.run, experiment.profile[stage]
    steps = min(settings["steps"], len(questions) // settings["tasks_per_step"])
    if steps < settings["steps"]:
        left = "go on with these" if steps else "the stage is left out, the policy stays as it is"
        processes.say(f"{stage}: {len(questions)} questions give {steps} of {settings['steps']} steps; {left}.")
    if not steps:
        return
    vars(experiment).pop("policy", None)  # an attempt that was interrupted in this process has moved its weights
    checkpoints = processes.main_first(lambda: Checkpoints(run, stage))
    first, end = (n * settings["tasks_per_step"] for n in (checkpoints.step, steps))
    trainer = ListwiseGRPOTrainer(
        experiment.policy, questions[first:end], reward, {**settings, "steps": steps}, experiment.profile["agent"],
        run, stage, experiment.seed, experiment.scratch(stage, checkpoints.folder.name), watch, checkpoints,
        experiment.profile["tracking"]["report_to"], **changes,
    )  # fmt: skip
    with run.timer(stage), trainer.bar:
        trainer.train()
    experiment.keep(stage)
    checkpoints.clear()


def mine(experiment: Experiment) -> list[HardNegative]:
    """Play training tasks with the stage-1 policy, those that it has not trained on first; keep its violations."""
    run, settings = experiment.run, experiment.profile
    if not run.done("mining"):
        used = settings["rta"]["steps"] * settings["rta"]["tasks_per_step"]
        fresh_first = experiment.training[used:] + experiment.training[:used]
        tasks = fresh_first[: settings["ppr"]["mining_tasks"]]
        played = play_logged(experiment, "mining", tasks, experiment.early_toolbox.contexts(tasks))
        run.mark("mining", [pair.row() for pair in mine_hard_negatives(played, tasks, experiment.seed)])
    return [HardNegative(**{**row, "pool": tuple(row["pool"])}) for row in run.payload("mining")]


def train_ppr(experiment: Experiment, mined: list[HardNegative], kinds: Sequence[str] = KINDS, watch=None) -> None:
    """Stage 2: pair-wise questions in both directions (or of some `kinds`), continuing the same adapter.

    `watch` is called as in stage 1.
    """
    if experiment.run.done("ppr"):
        return
    by_id = {task.task_id: task for task in experiment.training}
    tasks = [by_id[pair.task_id] for pair in mined]
    contexts = dict(zip([t.task_id for t in tasks], experiment.early_toolbox.contexts(tasks), strict=True))
    candidates, rehearse = {t.task_id: t.candidates for t in tasks}, experiment.profile["ppr"]["rehearse"]
    questions = pair_questions(mined, contexts, candidates, experiment.seed, rehearse)
    train(experiment, "ppr", [question for question in questions if question.kind in kinds], refinement_reward, watch)


def run_experiment(dataset: str, profile: str, seed: int, out: str | Path, overrides: dict | None = None) -> dict:
    """Everything, from data to result.json; a stage that has finished in this folder is not run again."""
    experiment = start(dataset, profile, seed, out, overrides)
    with experiment.run:
        evaluate_baselines(experiment)
        evaluate_frozen(experiment)
        train_rta(experiment)
        evaluate_stage(experiment, "rta")
        train_ppr(experiment, mine(experiment))
        evaluate_stage(experiment, "ppr")
        return finish(experiment)
