"""The engine against that of another checkout: `python -m benchmarks.turns OTHER [OUT.json]`, with nano on one thread.

OTHER is the folder of the other checkout. Each engine runs in a process of its own; they take turns (other, this,
other, this, ...). What counts is the processor's time, and its median. Greedy tokens must be the same; sampled
ones depend on how an engine draws its random numbers.
"""

import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
REPEATS = 5
WORKS = {  # tasks, rollouts a task, temperature, rows together
    "a training step's 64 sampled rollouts": (8, 8, 1.0, 64),
    "64 greedy rollouts": (64, 1, 0.0, 64),
    "64 greedy rollouts, 16 rows together": (64, 1, 0.0, 16),
    "a greedy rollout": (1, 1, 0.0, 1),
}


def work() -> None:
    """One engine's process: plays the work that each line of its input names; seconds, tokens and a hash of them."""
    from agenticrec_lite.agent.environment import RankingEnvironment
    from agenticrec_lite.agent.episodes import Group, Sampling
    from agenticrec_lite.agent.prompts import ChatFormat
    from agenticrec_lite.agent.rollout import rollout
    from benchmarks.workload import load, worlds

    torch.set_num_threads(1)
    policy = load("nano")
    chat = ChatFormat.of(policy.tokenizer, brief=True)
    contexts = worlds(chat, 64, (400, 600), seed=1)
    print("ready", flush=True)
    for line in sys.stdin:
        tasks, copies, temperature, rows = WORKS[line.strip()]
        groups = [
            Group(str(i), chat.prompt_ids(context), [RankingEnvironment(context) for _ in range(copies)])
            for i, context in enumerate(contexts[:tasks])
        ]
        sampling = Sampling(temperature, 160, 1400, rows, merge=True)
        started = time.process_time()
        played = rollout(policy.model, chat, groups, sampling, torch.Generator().manual_seed(0))
        seconds = time.process_time() - started
        tokens = [t.completion_ids for t in played]
        written = sum(sum(t.action_mask) for t in played)
        digest = hashlib.sha256(json.dumps(tokens).encode()).hexdigest()[:16]
        print(json.dumps({"seconds": seconds, "written": written, "digest": digest}), flush=True)


def asked(engine: subprocess.Popen, what: str) -> dict:
    engine.stdin.write(f"{what}\n")
    engine.stdin.flush()
    return json.loads(engine.stdout.readline())


def main(other: str, out: str | None = None) -> None:
    engines = {}
    for name, folder in {"other": Path(other).resolve(), "this": ROOT}.items():
        environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        command = [sys.executable, str(Path(__file__).resolve()), "--work"]
        engines[name] = subprocess.Popen(command, env=environment, cwd=folder, **pipes)
        engines[name].stdout.readline()
    found = {}
    print("| work | other, tokens/s | this, tokens/s | this / other | tokens |\n|---|---:|---:|---:|---|")
    for what in WORKS:
        runs = {name: [] for name in engines}
        for _ in range(REPEATS + 1):  # the first warms up
            for name, engine in engines.items():
                runs[name].append(asked(engine, what))
        rates = {name: statistics.median(r["written"] / r["seconds"] for r in of[1:]) for name, of in runs.items()}
        same = "same" if runs["other"][0]["digest"] == runs["this"][0]["digest"] else "not the same"
        same = "sampled" if WORKS[what][2] else same
        found[what] = {"runs": runs, "rates": rates, "same": same}
        ratio = rates["this"] / rates["other"]
        print(f"| {what} | {rates['other']:.0f} | {rates['this']:.0f} | {ratio:.2f} | {same} |")
    for engine in engines.values():
        engine.stdin.close()
        engine.wait()
    if out:
        Path(out).write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    work() if sys.argv[1:] == ["--work"] else main(*sys.argv[1:])
