"""One run in hand: its data, tools, tasks and policies, made when first asked for; and how a run is begun."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from agenticrec_lite.agent.episodes import Sampling
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.data import is_own, load_dataset
from agenticrec_lite.data.log import InteractionLog
from agenticrec_lite.data.split import Split, temporal_split
from agenticrec_lite.data.tasks import RankingTask, build_tasks
from agenticrec_lite.errors import UserError
from agenticrec_lite.evaluation import evaluate
from agenticrec_lite.experiment.extensions import EvidenceSource, Extensions, named
from agenticrec_lite.parameters import name_or_path, whole_number
from agenticrec_lite.plan import check_hardware
from agenticrec_lite.policy import Policy, load_policy, save_adapter, smollm2_folder
from agenticrec_lite.profiles import load_profile
from agenticrec_lite.recommenders import Recommender
from agenticrec_lite.runs import Run, open_run, processes, read_trajectories
from agenticrec_lite.tools import TOOLS, TaskContext
from agenticrec_lite.tools.lists import weigh_evidence
from agenticrec_lite.training.arguments import check_settings
from agenticrec_lite.training.checkpoint import check_adapter, check_resumed

FROZEN = "frozen"
REMEMBERED = 6  # fits of this process that another experiment on the same data and seed takes over
LARGE = 1_000_000  # interactions from which on only those of one experiment are remembered
_FITTED: dict[tuple, EvidenceSource] = {}
STAGES = ("warm_start", "sft", "rta", "ppr")  # that train, in this order; each goes on from the last finished before it


@dataclass
class Experiment:
    """One run: its settings, its folder, and what every stage needs, made when first asked for.

    Attributes:
        log: The dataset.
        profile: Resolved settings.
        seed: Of everything random.
        run: The open run folder.
        extensions: The parts that a user may have exchanged.
        ranks: Ranks of the test positives, by method; filled as stages finish.
    """

    log: InteractionLog
    profile: dict
    seed: int
    run: Run
    extensions: Extensions = field(default_factory=Extensions)
    ranks: dict[str, np.ndarray] = field(default_factory=dict)
    _loaded: tuple[str, Policy] | None = field(default=None, repr=False)  # a stage, and the policy after it

    @cached_property
    def split(self) -> Split:
        return temporal_split(self.log)

    @cached_property
    def toolbox(self) -> EvidenceSource:
        """Serves validation and test: fitted on the whole train split."""
        return self._fit("train")

    @cached_property
    def early_toolbox(self) -> EvidenceSource:
        """Serves the tasks that RL trains on: fitted on interactions before all of them (out-of-time evidence)."""
        return self._fit("train_early")

    def _fit(self, part: str) -> EvidenceSource:
        neighbours, rows = self.profile["agent"]["neighbours"], self.split.rows(part)
        key = self.log.fingerprint(), rows.start, rows.stop, self.seed, neighbours, named(self.extensions.evidence)
        with self.run.timer("recommenders"):
            source = _FITTED.pop(key, None)
            source = source or self.extensions.evidence(self.log, rows, self.seed, neighbours=neighbours)
        _FITTED[key] = source
        while len(_FITTED) > (REMEMBERED if len(self.log.interactions) < LARGE else 2):
            _FITTED.pop(next(iter(_FITTED)))
        tools = {tool.__name__: tool for tool in self.extensions.tools}
        if not self.profile["agent"]["weigh_evidence"]:
            tools = {name: tool for name, tool in tools.items() if tool is not weigh_evidence}
        return source if tools == TOOLS else WithTools(source, tools)

    def tasks(self, part: str, n: int | None) -> Sequence[RankingTask]:
        """The first n tasks of a part ("train_late", "validation", "test"), or all of them, in random order."""
        draw = self.extensions.candidates
        return build_tasks(self.log, self.split, part, n, self.seed, draw=draw, **self.profile["tasks"])

    @cached_property
    def test(self) -> Sequence[RankingTask]:
        return self.tasks("test", self.profile["evaluation"]["n_test"])

    @cached_property
    def test_contexts(self) -> list[TaskContext]:
        return self.toolbox.contexts(self.test)

    @cached_property
    def training(self) -> Sequence[RankingTask]:
        """All tasks of the later part of the train split, in random order."""
        return self.tasks("train_late", None)

    @property
    def stage(self) -> str:
        """The last training stage that has finished; "frozen" if none has."""
        return next(filter(self.run.done, reversed(STAGES)), FROZEN)

    def stage_before(self, stage: str) -> str:
        """The finished stage that `stage` goes on from."""
        return next(filter(self.run.done, reversed(STAGES[: STAGES.index(stage)])), FROZEN)

    @property
    def policy(self) -> Policy:
        """The policy as it is now: while a stage trains, that one; else as the last finished stage left it."""
        return self._loaded[1] if self._loaded else self.policy_after(self.stage)

    def policy_after(self, stage: str) -> Policy:
        """The policy as a stage left it, whatever has been trained since; "frozen" is the untrained one.

        One policy is kept in memory: the one that was asked for last.

        Raises:
            UserError: The stage has not finished in this run, or its adapter is missing or damaged.
        """
        if self._loaded is None or self._loaded[0] != stage:
            if stage != FROZEN and not self.run.done(stage):
                raise UserError(f"{stage} has not been trained in {self.run.folder}; train that stage first.")
            self._loaded = None
            if stage != FROZEN:
                check_adapter(self.run, stage)
            torch.manual_seed(self.seed)  # of a fresh adapter
            self._loaded = stage, load_policy(self.profile["policy"], None if stage == FROZEN else self.adapter(stage))
        return self._loaded[1]

    def begin_training(self, stage: str) -> Policy:
        """The policy that `stage` trains in place: a fresh copy of what the stage before it left."""
        self._loaded = None  # an attempt that was interrupted in this process has moved its weights
        self._loaded = f"{stage}, unfinished", self.policy_after(self.stage_before(stage))
        return self._loaded[1]

    def end_training(self, stage: str) -> None:
        """Save the adapter of a stage that has just ended, and mark the stage as finished."""
        if processes.is_main():
            save_adapter(self.policy.model, self.adapter(stage))
        self.run.mark(stage)
        # trl's SFTTrainer changes how its model computes a loss; such a policy is loaded anew
        self._loaded = None if stage in ("warm_start", "sft") else (stage, self.policy)
        processes.gather([])  # before anyone reads it

    def adapter(self, stage: str) -> Path:
        """The folder of a stage's adapter."""
        return self.run.checkpoints / stage

    def scratch(self, stage: str, name: str) -> str:
        """The folder that a stage's trainer writes to: below checkpoints/, or what it tracks into tracking/."""
        tracked = self.profile["tracking"]["report_to"] != "none"
        return str(self.run.folder / "tracking" / stage if tracked else self.run.checkpoints / name)

    def play(
        self, tasks, contexts, temperature: float = 0.0, title: str | None = None, policy: Policy | None = None
    ) -> list[Trajectory]:
        """One trajectory a task, by a policy (the one as it is now by default)."""
        agent = self.profile["agent"]
        return evaluate.play_tasks(
            policy or self.policy, contexts, tasks, Sampling.of(agent, temperature), agent,
            torch.Generator().manual_seed(processes.own_seed(self.seed)), title,
        )  # fmt: skip

    def logged(self, stage: str, **wanted) -> list[dict]:
        """Logged trajectories of a stage ("rta", "mining", "evaluate_rta", ...), narrowed by any other fields."""
        rows = read_trajectories(self.run.folder, stage)
        return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


@dataclass
class WithTools:
    """Evidence whose contexts come with other tools than the package's; all else is the evidence's own."""

    source: EvidenceSource
    tools: Mapping[str, Callable[..., str]]

    def contexts(self, tasks: Sequence[RankingTask]) -> list[TaskContext]:
        return [replace(context, tools=self.tools) for context in self.source.contexts(tasks)]

    def __getattr__(self, name: str):
        return getattr(self.source, name)


def start(
    dataset: str | InteractionLog,
    profile: str | Path = "nano",
    seed: int = 0,
    out: str | Path = "runs/demo",
    overrides: Mapping | None = None,
    *,
    tools: Sequence[Callable[..., str]] | None = None,
    reward: Callable | None = None,
    pair_reward: Callable | None = None,
    advantages: Callable | None = None,
    evidence: Callable | None = None,
    candidates: Callable | None = None,
    recommenders: Mapping[str, Callable[[], Recommender]] | None = None,
    **about: str,
) -> Experiment:
    """Open a run, or go on with it.

    Args:
        dataset: A known dataset's name, a folder of one's own files, or an InteractionLog (see `data.from_frames`).
        profile: A shipped profile's name, or the path of a YAML file of one's own.
        seed: Of everything random.
        out: The run folder.
        overrides: Settings of the profile by dotted name, such as {"rta.steps": 10}.
        tools, reward, pair_reward, advantages, evidence, candidates, recommenders: Parts to use in place of the
            package's own; see `Extensions`. They are named in config.yaml, and going on needs the same ones.
        about: Further words for config.yaml, such as which variant it is.

    Raises:
        UserError: A parameter of a wrong type; unknown dataset, profile or setting; a part that cannot be used; the
            folder holds another run.
    """
    dataset = dataset if isinstance(dataset, InteractionLog) else name_or_path("dataset", dataset)
    profile, out, seed = name_or_path("profile", profile), name_or_path("out", out), whole_number("seed", seed)
    brought = {
        "tools": tools, "reward": reward, "pair_reward": pair_reward, "advantages": advantages, "evidence": evidence,
        "candidates": candidates, "recommenders": recommenders,
    }  # fmt: skip
    extensions = Extensions(**{name: part for name, part in brought.items() if part is not None})
    return processes.main_first(lambda: _start(dataset, profile, seed, out, overrides, extensions, about))


def _start(dataset, profile, seed, out, overrides, extensions: Extensions, about: dict) -> Experiment:
    settings = load_profile(profile, **(overrides or {}))
    check_hardware(str(profile), settings)
    check_settings(settings)
    if settings["policy"]["id"] == "smollm2-135m":
        smollm2_folder()  # here, where one process goes first
    log = dataset if isinstance(dataset, InteractionLog) else load_dataset(dataset)
    own = isinstance(dataset, InteractionLog) or is_own(dataset)
    data = {"data": log.fingerprint()} if own else {}  # files of one's own may change under their name
    names = {"extensions": extensions.names()} if extensions.names() else {}
    config = {"dataset": log.name, "profile": str(profile), "seed": seed, **about, **data, **names, **settings}
    experiment = Experiment(log, settings, seed, open_run(out, config), extensions)
    check_resumed(experiment.run, ("rta", "ppr"))
    experiment.run.write_result(dataset=log.name, profile=str(profile), seed=seed, n_test=len(experiment.test))
    return experiment
