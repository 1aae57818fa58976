"""One measurement in a process of its own: `python -m benchmarks.arm ARM MODE MODEL FOLDER OUT`.

ARM is "stock" or "ours". MODE is
    rollout  greedy rollouts of training steps: seconds
    update   updates only, on the trajectories in FOLDER/replay.json: peak memory and the gradient
    narrow   (ours) the same in stock's micro-batches, so that the memory of both can be compared
    exact    (ours) the same gradient, and the log-probabilities taken down while sampling, in float64, each trajectory
             scored whole and alone
    greedy   64 greedy trajectories: their tokens
    flat     60 whole steps (ours): the peak memory after each
"""

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from agenticrec_lite.agent.episodes import Group, Sampling
from agenticrec_lite.agent.prompts import ChatFormat
from agenticrec_lite.agent.rollout import rollout
from agenticrec_lite.agent.scoring import shared_turns, split_turns
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.rewards import group_advantages
from benchmarks import arms
from benchmarks.workload import (
    GROUP,
    MAX_CALLS,
    MAX_COMPLETION,
    SIZES,
    agent,
    load,
    pin_threads,
    questions,
    read_replay,
    settings,
    worlds,
)

N_GREEDY = 64
FEW_CALLS = 1  # in every other part of the greedy check, so that some trajectories end by their budget


def main(arm: str, mode: str, model: str, folder: str, out: str) -> None:
    pin_threads()
    policy = load(model)
    with tempfile.TemporaryDirectory() as scratch:
        modes = {"rollout": rollouts} | {f.__name__: f for f in (update, narrow, exact, greedy, flat)}
        result = modes[mode](arm, model, policy, Path(folder), Path(scratch), Path(out))
    Path(out).write_text(json.dumps(result), encoding="utf-8")


def rollouts(arm, model, policy, folder, scratch, out) -> dict:
    """The rollouts of whole steps, as training does them."""
    size = SIZES[model]
    chat = ChatFormat.of(policy.tokenizer, brief=True)
    asked = questions(worlds(chat, size.steps * size.tasks, size.prompt, seed=1))
    trainer = getattr(arms, arm)(policy, asked, settings(size), agent(), scratch, rollouts_only=True)
    trainer.train()
    return {"rollout": trainer.clock.rollout}


def update(arm, model, policy, folder, scratch, out, small: bool = False) -> dict:
    """The update alone, on given trajectories."""
    size = SIZES[model]
    replay = read_replay(folder)
    chat = ChatFormat.of(policy.tokenizer, brief=True)
    asked = questions(worlds(chat, size.tasks, size.prompt, seed=1))
    rows = {"rows": size.stock_rows} if small else {}
    trainer = getattr(arms, arm)(policy, asked, settings(size, steps=1), agent(), scratch, lambda _: replay, **rows)
    loaded = arms.forget_peak()
    trainer.train()
    save_file(trainer.clock.grads, out.with_suffix(".safetensors"))
    return {"update": trainer.clock.update, "above_loaded_mb": arms.peak_mb() - loaded, "loaded_mb": loaded}


def narrow(arm, model, policy, folder, scratch, out) -> dict:
    """The update in micro-batches as small as stock's."""
    return update(arm, model, policy, folder, scratch, out, small=True)


def exact(arm, model, policy, folder, scratch, out) -> dict:
    """The update's gradient without batches, padding, shared prompts or single precision: what both arms aim at.

    And how far the log-probabilities that the engine took down while it sampled are from a fresh forward.
    """
    replay = read_replay(folder)
    draw = arms.rewards(0)
    advantages, _ = group_advantages([draw() for _ in replay], GROUP)
    policy.model.double().train()
    furthest = 0.0
    for trajectory, advantage in zip(replay, advantages, strict=True):
        ids = torch.tensor([trajectory.prompt_ids + trajectory.completion_ids])
        start = len(trajectory.prompt_ids)
        logits, written = policy.model(ids).logits[0, start - 1 : -1], ids[0, start:, None]
        actions = torch.tensor(trajectory.action_mask)
        chosen = logits.log_softmax(-1).gather(1, written)[:, 0] * actions
        drawn = (logits.detach() / SIZES[model].temperature).log_softmax(-1).gather(1, written)[:, 0]
        furthest = max(furthest, float((drawn - torch.tensor(trajectory.logprobs)).mul(actions).abs().max()))
        (-float(advantage) / (len(replay) * MAX_COMPLETION) * chosen.sum()).backward()
    grads = {n: p.grad for n, p in policy.model.named_parameters() if p.grad is not None}
    save_file(grads, out.with_suffix(".safetensors"))
    return {"logprob_err": furthest}


def greedy(arm, model, policy, folder, scratch, out) -> dict:
    """Tokens of 64 greedy trajectories; in every eighth task four of the tools fail."""
    size = SIZES[model]
    chat = ChatFormat.of(policy.tokenizer, brief=True)
    asked = questions(worlds(chat, N_GREEDY, size.prompt, seed=2, broken=8))
    parts = [(asked[i : i + 16], (MAX_CALLS, FEW_CALLS)[i // 16 % 2]) for i in range(0, N_GREEDY, 16)]
    if arm == "stock":
        trainer = arms.stock(policy, asked, settings(size), agent(), scratch)
        return {"rows": [row for part, budget in parts for row in arms.greedy(trainer, part, budget)]}
    groups = [
        Group(q.task_id, chat.prompt_ids(q.context), arms.environments([q], budget))
        for part, budget in parts
        for q in part
    ]
    played = rollout(policy.model, chat, groups, Sampling.of(agent(), 0.0), progress="greedy")
    return {
        "rows": [(t.prompt_ids, t.completion_ids) for t in played],
        "outcomes": [t.outcome for t in played],
        "errors": sum("Error:" in s.text for t in played for s in t.steps if s.kind == "observation"),
    }


def flat(arm, model, policy, folder, scratch, out, steps: int = 60) -> dict:
    """Peak memory after each of many steps, all on the same tasks: other ones could be longer, and need more."""
    size = SIZES[model]
    chat = ChatFormat.of(policy.tokenizer, brief=True)
    asked = questions(worlds(chat, size.tasks, size.prompt, seed=3) * steps)
    clock = arms.MemoryClock()
    arms.ours(policy, asked, settings(size, steps), agent(), scratch, clock=clock).train()
    return {"peaks_mb": clock.peaks_mb}


def record_replay(model: str, folder: Path) -> dict:
    """Sampled trajectories for the update measurement (the gradients of greedy copies would cancel)."""
    size = SIZES[model]
    policy = load(model)
    chat = ChatFormat.of(policy.tokenizer, brief=True)
    asked = questions(worlds(chat, size.tasks, size.prompt, seed=1))
    groups = [Group(q.task_id, chat.prompt_ids(q.context), arms.environments([q] * GROUP, MAX_CALLS)) for q in asked]
    generator = torch.Generator().manual_seed(0)
    played = rollout(policy.model, chat, groups, Sampling.of(agent(), size.temperature), generator, progress="replay")
    (folder / "replay.json").write_text(json.dumps([asdict(t) | {"steps": []} for t in played]))
    return {
        "calls": sum(t.n_calls for t in played) / len(played),
        "prompt_tokens": sum(len(t.prompt_ids) for t in played) / len(played),
        "completion_tokens": sum(len(t.completion_ids) for t in played) / len(played),
        "action_tokens": sum(sum(t.action_mask) for t in played) / len(played),
        "distinct": distinct_share(played),
    }


def distinct_share(played: list[Trajectory]) -> float:
    """Share of all completion tokens that are left when what trajectories of a group share is counted once."""
    left, groups = 0, {t.group for t in played}
    for group in groups:
        turns = {i: split_turns(t.completion_ids, t.action_mask) for i, t in enumerate(played) if t.group == group}
        waiting = shared_turns(turns)
        while waiting:
            stretch = waiting.pop()
            left += len(stretch.ids)
            waiting += stretch.next
    return left / sum(len(t.completion_ids) for t in played)


if __name__ == "__main__":
    main(*sys.argv[1:])
