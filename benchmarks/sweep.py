"""What a training step costs as its parts grow: `python -m benchmarks.sweep FOLDER`, with nano.

Every rollout writes the same scripted turns, so that one number changes at a time. Writes sweep.json and cost.png.
"""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib
import numpy as np
import torch

from agenticrec_lite.agent.environment import RankingEnvironment
from agenticrec_lite.agent.episodes import Group, Sampling
from agenticrec_lite.agent.prompts import ChatFormat
from agenticrec_lite.agent.protocol import write_answer, write_call
from agenticrec_lite.agent.rollout import rollout
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.nano.worlds import random_world
from benchmarks.workload import load, pin_threads, played_logprobs

BASE = {"group size": 8, "tool calls": 2, "history, items": 10, "candidates": 20}
VARIED = {
    "group size": (1, 2, 4, 8, 16),
    "tool calls": (0, 1, 2, 4, 7),
    "history, items": (10, 20, 40, 80),
    "candidates": (20, 50, 100, 200),
}
TASKS = 4


@dataclass(frozen=True)
class Scripted(Sampling):
    """Decoding in which every row writes the tokens of `script`, one after the other."""

    script: Iterator[int] = iter(())

    def choose(self, logits, drawn=None):
        tokens = torch.full((len(logits),), next(self.script))
        return tokens, torch.log_softmax(logits, -1).gather(1, tokens[:, None])[:, 0]


def time_rollouts(policy, chat: ChatFormat, setting: dict) -> tuple[float, list[Trajectory]]:
    """Seconds of the rollouts, and the trajectories."""
    rng = np.random.default_rng(0)
    world = random_world(rng, longest=3, candidates=setting["candidates"])
    history = [world.history[i % len(world.history)] for i in range(setting["history, items"])]
    world = replace(world, history=history, ratings=[float("nan")] * len(history))
    call = write_call("get_similar_items", {"item_title": "1"}, "I ask get_similar_items.")
    turns = [call] * setting["tool calls"] + [write_answer(list(range(1, 11)), "I follow similarity to 1.")]
    script = iter([token for turn in turns for token in chat.turn_ids(turn)])
    prompt = chat.prompt_ids(world)
    groups = [
        Group(str(i), prompt, [RankingEnvironment(world) for _ in range(setting["group size"])])
        for i in range(TASKS)
    ]
    sampling = Scripted(1.0, 160, 4000, batch_rows=TASKS * setting["group size"], merge=True, script=script)
    start = time.perf_counter()
    played = rollout(policy.model, chat, groups, sampling, torch.Generator().manual_seed(0))
    return time.perf_counter() - start, played


def update(policy, played: list[Trajectory]) -> float:
    """Seconds of one forward and backward over all of them."""
    start = time.perf_counter()
    played_logprobs(policy.model, played).sum().backward()
    return time.perf_counter() - start


def measure(policy, chat: ChatFormat, setting: dict, repeats: int = 3) -> dict:
    """Medians of both, and how long prompt and completion are."""
    rollouts, updates = [], []
    for _ in range(repeats):
        taken, played = time_rollouts(policy, chat, setting)
        assert all(t.outcome == "answered" for t in played)
        rollouts.append(taken)
        updates.append(update(policy, played))
    return {
        "rollout": float(np.median(rollouts)), "update": float(np.median(updates)), "trajectories": len(played),
        "prompt_tokens": len(played[0].prompt_ids), "completion_tokens": len(played[0].completion_ids),
    }  # fmt: skip


def draw(found: dict, path: Path) -> None:
    """A panel for each thing that was varied."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(found), figsize=(12, 3.2), layout="constrained", sharey=True)
    for panel, (name, rows) in zip(panels, found.items(), strict=True):
        for part, style in (("rollout", "o-"), ("update", "s--")):
            cost = [1000 * row[part] / row["trajectories"] for row in rows.values()]
            where = [row["prompt_tokens"] for row in rows.values()] if name.startswith("history") else list(rows)
            panel.plot(where, cost, style, color="black", label=part, markerfacecolor="white")
        panel.set_xlabel("prompt, tokens" if name.startswith("history") else name)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set(ylabel="ms a trajectory", yscale="log")
    panels[0].legend(frameon=False)
    figure.savefig(path, dpi=150)


def main(folder: str) -> None:
    pin_threads()
    policy = load("nano")
    chat = ChatFormat.of(policy.tokenizer, brief=True)
    base = measure(policy, chat, BASE)
    found = {
        name: {v: base if v == BASE[name] else measure(policy, chat, BASE | {name: v}) for v in values}
        for name, values in VARIED.items()
    }
    Path(folder, "sweep.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    draw(found, Path(folder, "cost.png"))


if __name__ == "__main__":
    main(sys.argv[1])
