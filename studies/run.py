"""Play one variant: a run folder of its own, whose result.json says what it asks and what it is compared with."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from agenticrec_lite.errors import UserError
from agenticrec_lite.experiment import Experiment, stages, start
from agenticrec_lite.experiment.baselines import evaluate_baselines
from agenticrec_lite.experiment.results import finish
from agenticrec_lite.experiment.warm_start import fine_tune, warm_start
from agenticrec_lite.nano.pretrain import Recipe, pretrain
from agenticrec_lite.runs import read_config, settings_of
from agenticrec_lite.runs.files import read_json
from agenticrec_lite.training.checkpoint import check_adapter
from agenticrec_lite.training.mining import HardNegative
from studies.sft import corrected
from studies.variants import VARIANTS, Variant

SUPERVISED = {"warm_start.micro_batch": 16, "warm_start.learning_rate": 1e-3}


def run_variant(name: str, base: Path, out: Path, settings: dict | None = None) -> dict:
    """Run a variant of a finished run; what has finished in `out` is not run again.

    Args:
        name: A key of VARIANTS.
        base: The run that it differs from, with its adapters: the dataset, seed and settings are its.
        out: The variant's run folder.
        settings: Further settings of the profile, by dotted name.

    Raises:
        UserError: No such variant or run.
    """
    if name not in VARIANTS:
        raise UserError(f"There is no variant {name!r}; the known ones are: {', '.join(VARIANTS)}.")
    variant, config = VARIANTS[name], read_config(base)
    sections = settings_of(config)
    supervised, rta = {}, sections["rta"]
    if variant.stage == "sft":  # as many trajectories as stage 1 has
        batch = rta["tasks_per_step"] * rta["group_size"]
        supervised = SUPERVISED | {"warm_start.steps": rta["steps"], "warm_start.batch": batch}
    overrides = sections | supervised | variant.settings | (settings or {})
    if variant.width:
        nano_of_width(variant.width, Path(overrides["policy.id"]))
    about = (config["dataset"], config["profile"], config["seed"], out, overrides)
    experiment = start(*about, variant=name, **variant.parts)
    with experiment.run:
        if "differences" in experiment.run.result:
            return experiment.run.result
        _train(experiment, variant, base)
        before = stages.untrained(experiment)
        method = {"test": "rta", "all": "ppr", "untrained": before}.get(variant.stage, variant.stage)
        if variant.stage == "untrained":
            stages.evaluate_untrained(experiment, method)
        else:
            temperature = experiment.profile["rta"]["temperature"] if variant.sampled else 0.0
            stages.evaluate_stage(experiment, method, temperature)
        against = before if variant.against == "untrained" else variant.against
        about = {"name": name, "question": variant.question, "method": method, "against": against}
        experiment.run.write_result(variant=about | {"paired": variant.paired})
        return finish(experiment)


def nano_of_width(width: int, folder: Path) -> None:
    """Pre-train a nano of another width by the shipped one's recipe; the card, written last, says that it is there."""
    if not (folder / "README.md").exists():
        pretrain(folder, Recipe(hidden=width))


def _train(experiment: Experiment, variant: Variant, base: Path) -> None:
    """The stage that the variant does anew, after those that it takes over."""
    if variant.stage in ("ppr", "test"):
        take_over(experiment, _source(variant, base, experiment.run.folder), "rta")
    elif "warm_start" in read_json(base / "state.json"):
        take_over(experiment, base, "warm_start")
    elif variant.stage == "rta":
        warm_start(experiment)  # of the variants that have one
    if variant.stage == "sft" and not experiment.run.done("sft"):
        fine_tune(experiment, "sft", corrected)
    if variant.stage == "all":
        evaluate_baselines(experiment)
    if variant.stage in ("rta", "all"):
        stages.train_rta(experiment)
    if variant.stage == "all":
        stages.evaluate_stage(experiment, "rta")
    if variant.stage in ("ppr", "all"):
        stages.train_ppr(experiment, _pairs(experiment, variant, base), variant.kinds)


def _source(variant: Variant, base: Path, out: Path) -> Path:
    """The run whose policy is taken: the base, the same seed's of another variant, or the same seed's on other data.

    The last's folder differs in the dataset's name alone: runs/nano-ml-100k/seed-0, runs/nano-toystore/seed-0.
    """
    if variant.policy_of:
        return out.parent.with_name(variant.policy_of) / out.name
    config = read_config(base)
    if not variant.trained_on:
        return base
    if config["dataset"] == variant.trained_on:
        raise UserError(f"{base} is itself on {variant.trained_on}; transfer needs a base run on another dataset.")
    there = base.resolve().parent
    if config["dataset"] not in there.name:
        raise UserError(
            f"{base} does not say in its folder's name that it is on {config['dataset']}, so that the run on "
            f"{variant.trained_on} cannot be found beside it."
        )
    return there.with_name(there.name.replace(config["dataset"], variant.trained_on)) / base.name


def take_over(experiment: Experiment, base: Path, stage: str) -> None:
    """The base run's policy after a stage.

    Raises:
        UserError: The base run has none.
    """
    adapter = base / "checkpoints" / stage
    if experiment.run.done(stage):
        return
    if not adapter.exists():
        raise UserError(
            f"{base} holds no adapter (checkpoints/{stage}); make it with `agenticrec run`, or a variant's with "
            "`python -m studies`."
        )
    shutil.copytree(adapter, experiment.adapter(stage), dirs_exist_ok=True)
    check_adapter(experiment.run, stage)
    experiment.run.mark(stage)


def mined_by(experiment: Experiment, base: Path) -> list[HardNegative]:
    """What the base run has mined."""
    if not experiment.run.done("mining"):
        experiment.run.mark("mining", read_json(base / "state.json")["mining"])
    return stages.mine(experiment)


def _pairs(experiment: Experiment, variant: Variant, base: Path) -> list[HardNegative]:
    """Pairs mined with the policy of stage 1 (the base run's, if that is its), with the variant's negatives."""
    mined = mined_by(experiment, base) if variant.stage == "ppr" else stages.mine(experiment)
    rng = np.random.default_rng((experiment.seed, 9))
    if variant.negative is None:
        return mined
    return [replace(pair, negative=variant.negative(pair, rng)) for pair in mined]
