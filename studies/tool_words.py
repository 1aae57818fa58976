"""How is a model best told of its tools? `python -m studies.tool_words OUT.json POLICY N`.

Once in the words of the system prompt, once as JSON schemas that its chat template puts into the prompt: an untrained
policy plays the same tasks both ways, sampled and greedily. What counts is the share of valid turns and of valid
trajectories: with neither, rewards have nothing to begin with. POLICY is a profile, or a folder with a model; a folder
is played with nano's limits or, `POLICY@PROFILE`, with a profile's. N is the number of ml-100k's validation tasks.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from agenticrec_lite.agent.environment import RankingEnvironment
from agenticrec_lite.agent.episodes import Group, Sampling
from agenticrec_lite.agent.prompts import ChatFormat
from agenticrec_lite.agent.rollout import rollout
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.plan import check_hardware
from agenticrec_lite.policy import Policy, load_policy
from agenticrec_lite.profiles import load_profile, profile_names
from agenticrec_lite.tools import TaskContext
from studies import tables
from studies.gate import real_tasks

SEED = 0
WAYS = ("words", "schemas")
TEXT = (
    "The untrained policy on ml-100k's validation tasks, one trajectory a task. A turn is valid if it is one call of a "
    "known tool or one answer, in the protocol's form; a trajectory, if it ends with a valid answer. Thinking is off "
    "where the chat template knows the switch; thoughts that a policy writes all the same count among its tokens."
)


def profile_of(policy: str) -> dict:
    """The settings that a policy is played with.

    Args:
        policy: A profile; or a folder with a model, perhaps with the profile after it that gives all else.
    """
    if policy in profile_names():
        return load_profile(policy)
    folder, _, profile = policy.partition("@")
    return load_profile(profile or "nano", **{"policy.id": folder, "policy.brief": False})


def turns_of(played: Sequence[Trajectory]) -> tuple[int, int]:
    """Turns that the policy wrote, and how many of them were valid; a call beyond the budget is well-formed."""
    steps = [step for trajectory in played for step in trajectory.steps]
    valid = sum(step.kind in ("call", "answer") for step in steps)
    return valid + sum(step.kind == "invalid" and bool(step.text) for step in steps), valid


def marks(policy: Policy, profile: dict, contexts: Sequence[TaskContext], temperature: float) -> dict:
    """Play a trajectory a context, and count."""
    agent, chat = profile["agent"], ChatFormat.of_policy(policy)
    groups = [
        Group(str(i), chat.prompt_ids(context), [RankingEnvironment(context, max_calls=agent["max_calls"])])
        for i, context in enumerate(contexts)
    ]
    generator = torch.Generator().manual_seed(SEED)
    played = rollout(policy.model, chat, groups, Sampling.of(agent, temperature), generator, policy.tools)
    turns, valid = turns_of(played)
    written = [sum(trajectory.action_mask) for trajectory in played]
    return {
        "prompt tokens": float(np.mean([len(group.prompt_ids) for group in groups])),
        "valid turns": valid / turns, "turns": turns,
        "valid trajectories": float(np.mean([trajectory.valid for trajectory in played])),
        "cut": float(np.mean([trajectory.outcome == "length" for trajectory in played])),
        "calls": float(np.mean([trajectory.n_calls for trajectory in played])),
        "tokens a turn": sum(written) / turns,
    }  # fmt: skip


def compare(profile: dict, contexts: Sequence[TaskContext]) -> list[dict]:
    """A row for each way and temperature. "told" is what the template took: words, where it takes no schemas."""
    loaded, rows = load_policy(profile["policy"], trainable=False), []
    for way in WAYS:
        policy = replace(loaded, tools=way)
        told = WAYS[ChatFormat.of_policy(policy).schemas]
        for temperature in (profile["rta"]["temperature"], 0.0):
            about = {"asked": way, "told": told, "temperature": temperature, "tasks": len(contexts)}
            rows.append(about | marks(policy, profile, contexts, temperature))
            print(rows[-1], flush=True)
    return rows


def main(out: str, policy: str, n: str) -> None:
    """Write the table of one policy."""
    profile = profile_of(policy)
    check_hardware(policy, profile)
    rows = compare(profile, real_tasks(int(n)))
    tables.write(Path(out), {"title": f"Tools in words or as schemas: {policy}", "text": TEXT, "rows": rows})


if __name__ == "__main__":
    tables.command(main, "tool_words OUT.json POLICY N")
