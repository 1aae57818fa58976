"""Is everything as it was? `python -m benchmarks.same OUT.json`: hashes of tasks, tool texts, rollouts, two RTA steps.

Run it before and after a change that must not change results, on the same machine, and compare the files. One thread,
about two minutes. A hash that differs is a change of behaviour: wanted, and then said in the commit, or a fault.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from agenticrec_lite.agent.episodes import Sampling
from agenticrec_lite.agent.prompts import ChatFormat
from agenticrec_lite.agent.question import Question
from agenticrec_lite.agent.rollout import rollout
from agenticrec_lite.experiment import Experiment, stages, start
from agenticrec_lite.runs import read_metrics
from agenticrec_lite.tools import TOOLS, call_tool

SETTINGS = {"rta.steps": 2, "evaluation.n_test": 200}
ARGUMENTS = {
    "item_info_search": [{"item_name": "3"}, {"item_name": "h1"}],
    "get_similar_items": [{}, {"item_title": "h1"}, {"item_title": "4"}],
}


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()[:16]


def tasks_and_tools(experiment: Experiment) -> dict:
    """Hashes of 300 tasks a part, and of each tool's texts in 100 tasks."""
    rows = {}
    for part in ("train_late", "validation", "test"):
        tasks = experiment.tasks(part, 300)
        rows[f"tasks {part}"] = digest(
            [(t.task_id, t.user, t.history, t.candidates, t.positive, t.cutoff) for t in tasks]
        )
    for name in TOOLS:
        calls = [(arguments, context) for context in experiment.test_contexts[:100]
                 for arguments in ARGUMENTS.get(name, [{}])]  # fmt: skip
        rows[f"tool {name}"] = digest([call_tool(name, arguments, context) for arguments, context in calls])
    return rows


def rollouts_and_steps(experiment: Experiment) -> dict:
    """Hashes of 64 greedy and 64 sampled rollouts of the frozen policy; rewards, gradients and adapter of two steps."""
    rows, policy, agent = {}, experiment.policy, experiment.profile["agent"]
    chat = ChatFormat.of_policy(policy)
    asked = list(zip(experiment.test[:16], experiment.test_contexts[:16], strict=True))
    for temperature in (0.0, 1.0):
        groups = [Question(t.task_id, c, "rank", t.positive).group(chat, 4, agent["max_calls"]) for t, c in asked]
        sampling, generator = Sampling.of(agent, temperature), torch.Generator().manual_seed(0)
        played = rollout(policy.model, chat, groups, sampling, generator)
        rows[f"rollouts at {temperature:g}"] = digest([(t.completion_ids, t.outcome) for t in played])
    stages.train_rta(experiment)
    logged = read_metrics(experiment.run.folder)
    for name, column in {"reward": "reward_mean", "gradient norm": "grad_norm"}.items():
        rows[f"two steps, {name}"] = logged[column].tolist()
    weights = load_file(experiment.adapter("rta") / "adapter_model.safetensors")
    written = b"".join(weights[name].numpy().tobytes() for name in sorted(weights))
    return rows | {"two steps, adapter": hashlib.sha256(written).hexdigest()[:16]}


def main(out: str) -> None:
    torch.set_num_threads(1)
    found = {}
    for dataset in ("ml-100k", "toystore"):
        with tempfile.TemporaryDirectory() as scratch:
            experiment = start(dataset, "nano", 0, Path(scratch, "run"), SETTINGS)
            with experiment.run:
                found[dataset] = tasks_and_tools(experiment) | rollouts_and_steps(experiment)
    Path(out).write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
