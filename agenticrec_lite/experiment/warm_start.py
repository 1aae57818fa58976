"""Warm start: supervised steps that teach a language model the protocol, before reinforcement learning.

A model of 135 million parameters calls no tools when it is only told how; the paper's, of four billion, needs none of
this. The demonstrations are scripted: a teacher calls tools at random, gives their lists random weights, and answers in
the order that comes of it. It does not know the positive. Which tool is worth asking, and what its list is worth, is
left for reinforcement learning to find.
"""

from collections.abc import Callable

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from agenticrec_lite.agent.prompts import ChatFormat
from agenticrec_lite.agent.teacher import demonstration, run_script
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.experiment.experiment import Experiment
from agenticrec_lite.runs import processes
from agenticrec_lite.training.arguments import sft_config
from agenticrec_lite.training.sft import DemonstrationTrainer, StepLog, as_row

CALLS = (0.2, 0.4, 0.4)  # probability of 1, 2, 3 calls before the calculator's


def warm_start(experiment: Experiment) -> None:
    """Train the adapter on demonstrations and save it; stage 1 goes on with it. Nothing to do with 0 steps.

    The demonstrations come from the end of the training tasks, stage 1 takes its tasks from the beginning.
    """
    if not experiment.run.done("warm_start") and experiment.profile["warm_start"]["steps"]:
        fine_tune(experiment, "warm_start", demonstrations)


def fine_tune(
    experiment: Experiment, stage: str, demonstrate: Callable[[Experiment, ChatFormat], list[Trajectory]]
) -> None:
    """Supervised steps on what `demonstrate` makes, by the settings of the warm start; the adapter is saved."""
    run, settings = experiment.run, experiment.profile["warm_start"]
    run.rewind(stage)
    policy = experiment.begin_training(stage)
    rows = demonstrate(experiment, ChatFormat.of(policy.tokenizer, policy.brief))
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
