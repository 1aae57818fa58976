"""The variants: in what each differs from the paper's recipe, what it asks, and what it is compared with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from agenticrec_lite.experiment.stages import KINDS
from agenticrec_lite.tools import PAPER_TOOLS, TOOLS
from agenticrec_lite.training.mining import HardNegative
from studies import changes, evidence


@dataclass(frozen=True)
class Variant:
    """A run that differs in one thing.

    Attributes:
        question: What it asks, for the report.
        stage: What it does anew: "rta", "ppr" (on the base run's RTA policy), "all" (baselines and both stages), "sft",
            "test" (only evaluates the base run's RTA policy), or "untrained" (only the policy before RL).
        against: What it is compared with: a method of the base run ("untrained": the policy before RL), or a variant.
        settings: Of the profile, by dotted name.
        parts: What is handed to the experiment in place of the package's own: reward, advantages, evidence,
            candidates, tools (see `agenticrec_lite.experiment.Extensions`).
        negative: Draws the negative of a mined pair.
        kinds: Of stage-2 questions.
        trained_on: The dataset of the run whose policy is tested, if it is not the base run.
        policy_of: The variant whose stage-1 policy is tested, if it is not the base run's.
        sampled: Whether answers are sampled, as rollouts are, and not decoded greedily.
        width: Of the nano that is its policy, if not the shipped one's; it is pre-trained first, unless it is there.
        paired: Whether its test tasks are the base run's, so that differences can be taken task by task.
    """

    question: str
    stage: str = "rta"
    against: str = "rta"
    settings: dict = field(default_factory=dict)
    parts: dict = field(default_factory=dict)
    negative: Callable[[HardNegative, np.random.Generator], int] | None = None
    kinds: Sequence[str] = KINDS
    trained_on: str = ""
    policy_of: str = ""
    sampled: bool = False
    width: int = 0
    paired: bool = True


def any_negative(pair: HardNegative, rng: np.random.Generator) -> int:
    """Any candidate but the positive."""
    return int(rng.choice([n for n in range(1, 21) if n != pair.positive]))


def hardest_negative(pair: HardNegative, rng: np.random.Generator) -> int:
    """The first of the list."""
    return pair.pool[0]


HALF = {"rta.steps": 20}  # of the exploratory variants; their reference is "half"
WARM = {"warm_start.steps": 80, "warm_start.batch": 16, "warm_start.micro_batch": 4}


def _exploratory(question: str, **fields) -> Variant:
    return Variant(question, against="half", **{"settings": HALF} | fields)


def _width(width: int) -> Variant:
    settings = HALF | {"policy.id": f"runs/nano-{width}"}
    return _exploratory(f"nano {width} wide, not 128, pre-trained by the same recipe", settings=settings, width=width)


def _groups(size: int) -> dict:
    """Groups of so many rollouts, as many rollouts a step as ever."""
    return HALF | {"rta.group_size": size, "rta.tasks_per_step": 64 // size, "rta.micro_groups": 32 // size}


VARIANTS: dict[str, Variant] = {
    "sft": Variant("Supervised fine-tuning on the positive instead of RL: as many trajectories, of the frozen policy, "
                   "with the positive put first", stage="sft"),
    **{f"asks-{name}": Variant(f"The tools' sequential recommender is {what}", "all", "ppr",
                               parts={"evidence": evidence.asking(name)})
       for name, what in (("longer", "SASRec after 16 epochs"), ("gru4rec", "GRU4Rec"),
                          ("catalogue", "SASRec and GRU4Rec that read the catalogue, too"),
                          ("catalogue-only", "SASRec and GRU4Rec that know items by the catalogue alone"))},
    "asks-weighed": Variant("The tools' sequential recommender is a larger GRU4Rec that knows items by the catalogue "
                            "alone", "all", "ppr", parts={"evidence": evidence.asking("weighed")}),
    "leak": Variant("Tools that have seen the training targets", parts={"evidence": changes.leaked}),
    "std": Variant("Advantages divided by the group's standard deviation", settings={"rta.scale_rewards": "group"}),
    "undropped": Variant("Groups of negative rewards are kept", parts={"advantages": changes.undropped_advantages}),
    "no-bonus": Variant("No + 0.1 for a first place with a tool", parts={"reward": changes.without_bonus}),
    "random-reward": Variant("Rewards that know nothing of the positive", against="frozen_greedy",
                             parts={"reward": changes.at_random}),
    "random-reward-sampled": Variant("The policy of random-reward, sampled as in training", "test", "frozen_sampled",
                                     policy_of="random-reward", sampled=True),
    "reasoning": Variant("R, reasoning alone: every tool answers with an error, in training and at the test",
                         parts={"tools": changes.with_broken(TOOLS)}),
    "reasoning-untrained": Variant("R before RL: every tool answers with an error", "untrained", "untrained",
                                   parts={"tools": changes.with_broken(TOOLS)}),
    "any-negative": Variant("Pairs with any other candidate instead of mined ones", "ppr", "ppr",
                            negative=any_negative),
    "hardest": Variant("Pairs with the first of the list", "ppr", "ppr", negative=hardest_negative),
    "only-more": Variant("Only the question which is MORE likely (96 pairs, not 64)", "ppr", "ppr",
                         kinds=("more", "rank")),
    "only-less": Variant("Only the question which is LESS likely (96 pairs, not 64)", "ppr", "ppr",
                         kinds=("less", "rank")),
    "unrehearsed": Variant("No ranking among the questions of PPR, as in the paper (96 pairs, not 64)", "ppr", "ppr",
                           settings={"ppr.rehearse": False}),
    "shuffled-1": Variant("The same candidates in another order", "test", parts={"candidates": changes.shuffled(1)}),
    "shuffled-2": Variant("The same candidates in a third order", "test", parts={"candidates": changes.shuffled(2)}),
    "redrawn": Variant("The same positives beside other random candidates", "test",
                       parts={"candidates": changes.redrawn(1000)}),
    "transfer": Variant("Trained on the toystore, never on this dataset", "test", trained_on="toystore"),
    "half": _exploratory("Half of the steps: what the exploratory variants are compared with"),
    **{f"without-{name}": _exploratory(f"{name} answers with an error", parts={"tools": changes.with_broken([name])})
       for name in TOOLS},
    **{f"alone-{name}": _exploratory(f"All of the paper's tools but {name} answer with an error", parts={
           "tools": changes.with_broken([other for other in PAPER_TOOLS if other != name])})
       for name in PAPER_TOOLS},
    **{f"lies-{p}": _exploratory(f"get_similar_users lies in {p} % of the tasks",
                                 parts={"evidence": changes.lies(p / 100)})
       for p in (25, 50, 75)},
    "lies-25-full": Variant("get_similar_users lies in 25 % of the tasks, all steps",
                            parts={"evidence": changes.lies(0.25)}),
    **{f"candidates-{n}": _exploratory(f"{n} candidates", settings=HALF | {"tasks.n_candidates": n}, paired=False)
       for n in (50, 100)},
    "candidates-50-warm": _exploratory("50 candidates, after a warm start on 1,280 scripted trajectories",
                                       settings=HALF | WARM | {"tasks.n_candidates": 50}, paired=False),
    **{f"group-{size}": _exploratory(f"Groups of {size}, as many rollouts a step", settings=_groups(size))
       for size in (2, 4, 16)},
    **{f"width-{width}": _width(width) for width in (64, 256)},
}  # fmt: skip


def _tier(name: str) -> str:
    if name == "sft" or name.startswith("asks-"):
        return "first"
    return "third" if name in ("transfer", "lies-25-full") or VARIANTS[name].against == "half" else "second"


# In the order in which they are run.
TIERS = {tier: [name for name in VARIANTS if _tier(name) == tier] for tier in ("first", "second", "third")}
