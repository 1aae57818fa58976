"""The one way through: data, tools, frozen policy, RTA, mining, PPR, evaluation; each stage once a run folder."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from agenticrec_lite.agent.question import Question
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.errors import UserError
from agenticrec_lite.evaluation import evaluate
from agenticrec_lite.experiment.baselines import evaluate_baselines
from agenticrec_lite.experiment.experiment import FROZEN, Experiment, start
from agenticrec_lite.experiment.results import figures_again, finish, record, result_metrics
from agenticrec_lite.experiment.warm_start import wanted, warm_start
from agenticrec_lite.policy import Policy
from agenticrec_lite.rewards import ADVANTAGES
from agenticrec_lite.runs import processes
from agenticrec_lite.training.checkpoint import Checkpoints
from agenticrec_lite.training.grpo import ListwiseGRPOTrainer
from agenticrec_lite.training.metrics import trajectory_rows
from agenticrec_lite.training.mining import HardNegative, mine_hard_negatives, pair_questions

KINDS = ("more", "less", "rank")
EPOCHS = 3  # that stage 1 takes at most, as the paper's does
DECODINGS = ("greedy", "sampled")


def play_logged(
    experiment: Experiment, stage: str, tasks, contexts, temperature: float = 0.0, policy: Policy | None = None
) -> list[Trajectory]:
    """One trajectory a task by a policy (the one as it is now by default): rewarded, and logged under `stage`."""
    run, title = experiment.run, stage.replace("_", " ")
    with run.timer(stage):
        trajectories = experiment.play(tasks, contexts, temperature, title, policy)
    run.rewind(stage)
    log_played(experiment, stage, trajectories, tasks)
    return trajectories


def log_played(experiment: Experiment, stage: str, trajectories: Sequence[Trajectory], tasks, step: int = 0) -> None:
    """Reward one trajectory a task, and log them under `stage`."""
    for trajectory, task in zip(trajectories, tasks, strict=True):
        trajectory.reward = experiment.extensions.rewarded(trajectory, task.positive)
    questions = {
        task.task_id: Question(task.task_id, None, "rank", task.positive, task.candidates) for task in tasks
    }
    experiment.run.log_trajectories(trajectory_rows(trajectories, questions, stage, step, experiment.seed))


def evaluate_stage(experiment: Experiment, name: str, temperature: float = 0.0) -> None:
    """Play the test tasks with the policy as a stage left it and record it as `name`, unless that has been done.

    Greedy unless a temperature is given. The trajectories are logged as "evaluate_<name>". A stage that was left out
    because there were too few questions has no row.

    Args:
        experiment: Whose test tasks are played.
        name: The stage: "frozen", "warm_start", "sft", "rta" or "ppr"; perhaps with "_greedy" or "_sampled" after it.
        temperature: Of the decoding.

    Raises:
        UserError: The stage has not been trained in this run.
    """
    run, test, logged = experiment.run, experiment.test, f"evaluate_{name}"
    stage = name.removesuffix("_greedy").removesuffix("_sampled")
    if reason := not_run(experiment).get(stage):
        processes.say(f"{stage} is not run ({reason}), so there is nothing to evaluate.")
        return
    if not run.done(logged):
        policy = experiment.policy_after(stage)
        trajectories = play_logged(experiment, logged, test, experiment.test_contexts, temperature, policy)
        ranks = evaluate.trajectory_ranks(trajectories, test)
        record(experiment, name, ranks, evaluate.summarize_trajectories(trajectories, test))
        run.mark(logged, ranks.tolist())
    # The folder keeps the rank of an absent positive as null.
    experiment.ranks[name] = np.nan_to_num(np.array(run.payload(logged), dtype=float), nan=np.inf)
    if name not in result_metrics(run):  # result.json was lost
        record(experiment, name, experiment.ranks[name], figures_again(experiment, logged, experiment.ranks[name]))


def evaluate_untrained(experiment: Experiment, name: str) -> None:
    """A policy before RL, greedy and sampled at the rollout temperature; the better of the two counts as `name`."""
    evaluate_stage(experiment, f"{name}_greedy")
    evaluate_stage(experiment, f"{name}_sampled", experiment.profile["rta"]["temperature"])
    figures = result_metrics(experiment.run)
    better = max((f"{name}_{decoding}" for decoding in DECODINGS), key=lambda each: figures[each]["N@10"])
    record(experiment, name, experiment.ranks[better], figures[better])


def untrained(experiment: Experiment) -> str:
    """The method that stands for the policy before RL."""
    return "warm_start" if experiment.run.done("warm_start") or wanted(experiment) else FROZEN


def evaluate_frozen(experiment: Experiment) -> None:
    """The untrained policy; and, if the run has a warm start, the policy after it."""
    evaluate_untrained(experiment, FROZEN)
    if untrained(experiment) == "warm_start":
        warm_start(experiment)
        evaluate_untrained(experiment, "warm_start")


def train_rta(experiment: Experiment, watch: Callable[[list[dict]], None] | None = None) -> None:
    """Stage 1: list-wise GRPO on tasks of the later train split, again where they are few; the adapter is saved.

    Args:
        experiment: With its reward and advantages.
        watch: Called after each step with the metrics of all steps so far, a dict a step: for live curves.
    """
    if experiment.run.done("rta"):
        return
    warm_start(experiment)
    settings = experiment.profile["rta"]
    wanted = settings["steps"] * settings["tasks_per_step"]
    tasks = experiment.training[:wanted]
    questions = [
        Question(task.task_id, context, "rank", task.positive, task.candidates)
        for task, context in zip(tasks, experiment.early_toolbox.contexts(tasks), strict=True)
    ]
    train(experiment, "rta", (questions * EPOCHS)[:wanted], watch)


def train(
    experiment: Experiment,
    stage: str,
    questions: Sequence[Question],
    watch: Callable[[list[dict]], None] | None = None,
) -> None:
    """Run one training stage on the policy that the stage before it left, and save its adapter.

    Fewer questions than the profile's steps take make fewer steps. Too few for one step, and the stage is left out:
    result.json then says so under "not_run", and no table has a row of it.
    """
    run, settings = experiment.run, experiment.profile[stage]
    steps = min(settings["steps"], len(questions) // settings["tasks_per_step"])
    if 0 < steps < settings["steps"]:
        processes.say(f"{stage}: {len(questions)} questions are enough for {steps} of {settings['steps']} steps.")
    if not steps:
        reason = f"{len(questions)} questions, a step takes {settings['tasks_per_step']}"
        reason = reason if settings["steps"] else f"{stage}.steps is 0"
        run.write_result(not_run=not_run(experiment) | {stage: reason})
        processes.say(f"{stage} is not run: {reason}. The policy stays as it is.")
        return
    if processes.count() == 1:  # several cannot share one task
        watch = follow_one_task(experiment, stage, watch)
    checkpoints = processes.main_first(lambda: Checkpoints(run, stage, settings["save_every"]))
    first, end = (n * settings["tasks_per_step"] for n in (checkpoints.step, steps))
    trainer = ListwiseGRPOTrainer(
        experiment.begin_training(stage), questions[first:end], experiment.extensions.rewarded,
        {**settings, "steps": steps}, experiment.profile["agent"], run, stage, experiment.seed,
        experiment.scratch(stage, checkpoints.folder.name), watch, checkpoints,
        experiment.profile["tracking"]["report_to"],
        experiment.extensions.advantages or ADVANTAGES[settings["scale_rewards"]],
    )  # fmt: skip
    with run.timer(stage), trainer.bar:
        trainer.train()
    experiment.end_training(stage)
    checkpoints.clear()


def follow_one_task(experiment: Experiment, stage: str, watch: Callable[[list[dict]], None] | None):
    """A watcher that also has the policy play the first test task, greedily, whenever a checkpoint is due.

    The trajectories are logged as "along_<stage>", for the reader's eye (`play.along`); nothing is chosen by them.
    """
    tasks, contexts, every = experiment.test[:1], experiment.test_contexts[:1], experiment.profile[stage]["save_every"]

    def seen(history: list[dict]) -> None:
        if watch:
            watch(history)
        if (step := history[-1]["step"]) % every == 0:
            log_played(experiment, f"along_{stage}", experiment.play(tasks, contexts), tasks, step)

    return seen


def not_run(experiment: Experiment) -> Mapping[str, str]:
    """The training stages that were left out, each with its reason."""
    return experiment.run.result.get("not_run", {})


def need_stage_1(experiment: Experiment) -> None:
    """Raises UserError unless stage 1 has been trained, or left out."""
    if not experiment.run.done("rta") and "rta" not in not_run(experiment):
        raise UserError(f"Stage 2 goes on from stage 1; train that first in {experiment.run.folder}.")


def mine(experiment: Experiment) -> list[HardNegative]:
    """Play training tasks with the stage-1 policy, those that it has not trained on first; keep its violations.

    Raises:
        UserError: Stage 1 has not been trained.
    """
    run, settings = experiment.run, experiment.profile
    if not run.done("mining"):
        need_stage_1(experiment)
        used, wanted = settings["rta"]["steps"] * settings["rta"]["tasks_per_step"], settings["ppr"]["mining_tasks"]
        tasks = experiment.training[used : used + wanted]
        tasks += experiment.training[: min(used, wanted - len(tasks))]
        policy = experiment.policy_after(experiment.stage_before("ppr"))
        played = play_logged(experiment, "mining", tasks, experiment.early_toolbox.contexts(tasks), policy=policy)
        run.mark("mining", [pair.row() for pair in mine_hard_negatives(played, tasks, experiment.seed)])
    return [HardNegative(**{**row, "pool": tuple(row["pool"])}) for row in run.payload("mining")]


def train_ppr(
    experiment: Experiment,
    mined: Sequence[HardNegative],
    kinds: Sequence[str] = KINDS,
    watch: Callable[[list[dict]], None] | None = None,
) -> None:
    """Stage 2: pair-wise questions in both directions (or of some `kinds`), continuing the adapter of stage 1.

    `watch` is called as in stage 1.

    Raises:
        UserError: Stage 1 has not been trained.
    """
    if experiment.run.done("ppr"):
        return
    need_stage_1(experiment)
    tasks = experiment.training.find([pair.task_id for pair in mined])
    contexts = dict(zip([t.task_id for t in tasks], experiment.early_toolbox.contexts(tasks), strict=True))
    candidates, rehearse = {t.task_id: t.candidates for t in tasks}, experiment.profile["ppr"]["rehearse"]
    questions = pair_questions(mined, contexts, candidates, experiment.seed, rehearse)
    train(experiment, "ppr", [question for question in questions if question.kind in kinds], watch)


def run_experiment(
    dataset: str, profile: str, seed: int, out: str | Path, overrides: dict | None = None, **extensions
) -> dict:
    """Everything, from data to result.json; a stage that has finished in this folder is not run again.

    Args:
        As of `start`.
    """
    experiment = start(dataset, profile, seed, out, overrides, **extensions)
    with experiment.run:
        evaluate_baselines(experiment)
        evaluate_frozen(experiment)
        train_rta(experiment)
        evaluate_stage(experiment, "rta")
        train_ppr(experiment, mine(experiment))
        evaluate_stage(experiment, "ppr")
        return finish(experiment)
