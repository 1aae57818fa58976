"""Warm start: supervised steps that teach a language model the protocol, before reinforcement learning.

A model of 135 million parameters calls no tools when it is only told how; the paper's, of four billion, needs none of
this. Of others a few trajectories tell (`warm_start.when: needed`). The demonstrations are scripted: a teacher calls
tools at random, gives their lists random weights, and answers in the order that comes of it. It does not know the
positive. Which tool is worth asking, and what its list is worth, is left for reinforcement learning to find.
"""

from collections.abc import Callable

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from agenticrec_lite.agent.prompts import ChatFormat
from agenticrec_lite.agent.teacher import demonstration, run_script
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.experiment.experiment import FROZEN, Experiment
from agenticrec_lite.runs import processes
from agenticrec_lite.training.arguments import sft_config
from agenticrec_lite.training.sft import DemonstrationTrainer, StepLog, as_row

CALLS = (0.2, 0.4, 0.4)  # probability of 1, 2, 3 calls before the calculator's
PLAYED, ENOUGH = 16, 0.5  # trajectories that tell whether a warm start is needed, and the share of valid ones that do


def warm_start(experiment: Experiment) -> None:
    """Train the adapter on demonstrations and save it; stage 1 goes on with it. Nothing to do where none is wanted.

    The demonstrations come from the end of the training tasks, stage 1 takes its tasks from the beginning.
    """
    if not wanted(experiment):
        return
    if not experiment.run.done("warm_start"):
        fine_tune(experiment, "warm_start", demonstrations)
    if experiment.profile["warm_start"]["when"] == "needed":
        valid_share(experiment, "warm_start")


def wanted(experiment: Experiment) -> bool:
    """Whether a run has a warm start: by its profile, or where it says "needed", by how the untrained policy plays."""
    settings = experiment.profile["warm_start"]
    if not settings["steps"] or settings["when"] == "always":
        return settings["steps"] > 0
    known = experiment.run.done(f"valid_{FROZEN}")
    share = valid_share(experiment, FROZEN)
    if share < ENOUGH and not known:
        processes.say(
            f"Of {PLAYED} sampled trajectories of the untrained policy {share:.0%} are valid, so the warm start comes "
            f"first: {settings['steps']} supervised steps."
        )
    return share < ENOUGH


def valid_share(experiment: Experiment, stage: str) -> float:
    """Share of valid ones among a few sampled trajectories of the policy after `stage`, on the first training tasks.

    Played once a run; result.json has it under "valid_sampled".
    """
    run, name = experiment.run, f"valid_{stage}"
    if not run.done(name):
        tasks = experiment.training[:PLAYED]
        played = experiment.play(
            tasks, experiment.early_toolbox.contexts(tasks), experiment.profile["rta"]["temperature"],
            policy=experiment.policy_after(stage),
        )  # fmt: skip
        share = float(np.mean([trajectory.valid for trajectory in played]))
        run.write_result(valid_sampled=run.result.get("valid_sampled", {}) | {stage: share})
        run.mark(name, share)
    return run.payload(name)


def fine_tune(
    experiment: Experiment, stage: str, demonstrate: Callable[[Experiment, ChatFormat], list[Trajectory]]
) -> None:
    """Supervised steps on what `demonstrate` makes, by the settings of the warm start; the adapter is saved."""
    run, settings = experiment.run, experiment.profile["warm_start"]
    run.rewind(stage)
    policy = experiment.begin_training(stage)
    rows = demonstrate(experiment, ChatFormat.of_policy(policy))
    dtype, scratch = experiment.profile["policy"]["dtype"], experiment.scratch(stage, f"{stage}_trainer")
    report_to = experiment.profile["tracking"]["report_to"]
    trainer = DemonstrationTrainer(
        policy.model,
        args=sft_config(settings, dtype, experiment.seed, scratch, report_to),
        train_dataset=Dataset.from_list([as_row(row) for row in rows]),
        processing_class=policy.tokenizer,
    )
    about = {"desc": stage.replace("_", " "), "unit": "step", "disable": not processes.is_main()}
    with run.timer(stage), tqdm(total=settings["steps"], **about) as bar:
        trainer.add_callback(StepLog(run, stage, bar))
        trainer.train()
    experiment.end_training(stage)


def demonstrations(experiment: Experiment, chat: ChatFormat, steps: int | None = None) -> list[Trajectory]:
    """Scripted trajectories, steps x batch of them, played in the environment that rollouts play in.

    Those that go through the model together (`micro_batch`) are of one task, for then they share their prompt.
    More `steps` than the profile's add demonstrations on earlier tasks, at the beginning.
    """
    settings, rng = experiment.profile["warm_start"], np.random.default_rng((experiment.seed, 8))
    copies = settings["micro_batch"]
    tasks = experiment.training[-((steps or settings["steps"]) * settings["batch"] // copies) :]
    played = []
    for task, context in zip(tasks, experiment.early_toolbox.contexts(tasks), strict=True):
        prompt = chat.prompt_ids(context)
        for _ in range(copies):
            script = demonstration(rng, 1 + int(rng.choice(len(CALLS), p=CALLS)))
            played.append(run_script(script, context, chat, "rank", prompt))
    return played
