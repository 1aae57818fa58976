"""The GPU profiles on a GPU, without a download: the planner's figures against measured ones.

`python -m benchmarks.gpu t4 consumer24 paper`: a model of the profile's true shape with random weights, rollouts and
updates with trajectories of the longest length that the profile admits, each profile in a process of its own. What a
model answers needs its true weights; memory and speed do not.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from agenticrec_lite.agent.environment import RankingEnvironment
from agenticrec_lite.agent.episodes import Group, Sampling
from agenticrec_lite.agent.prompts import ChatFormat
from agenticrec_lite.agent.rollout import rollout
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.nano.worlds import random_world
from agenticrec_lite.plan import KNOWN, PACES, plan, prompt_tokens
from agenticrec_lite.policy import NANO, load_policy
from agenticrec_lite.profiles import load_profile
from benchmarks import arms, workload

SCRATCH = Path("/dev/shm")
WRITTEN = 128  # tokens that each row decodes
STEPS = 3  # of training; the last one is timed


def write_model(folder: Path, model: str) -> None:
    """Random weights of a known model's shape, in bf16, with nano's tokenizer: only its ids are used."""
    with torch.device("cuda"):
        random = AutoModelForCausalLM.from_config(KNOWN[model], dtype=torch.bfloat16)
    random.bfloat16().save_pretrained(folder)
    AutoTokenizer.from_pretrained(NANO).save_pretrained(folder)


def taken() -> dict[str, float]:
    """Bytes of the GPU's memory: in tensors and reserved by torch, at their peak, and all that is not torch's."""
    free, total = torch.cuda.mem_get_info()
    other = total - free - torch.cuda.memory_reserved()
    return {"tensors": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved(), "other": other}


def decode(policy, profile: dict, draw: np.random.Generator) -> float:
    """Tokens a second of rollouts whose rows are at the end of the longest trajectory."""
    agent, copies = profile["agent"], profile["rta"]["group_size"]
    length = prompt_tokens(profile["policy"]) + agent["max_completion_tokens"] - WRITTEN
    rows = min(agent["batch_rows"], profile["rta"]["tasks_per_step"] * copies)
    world = random_world(draw)
    groups = [
        Group(str(g), draw.integers(300, 900, length).tolist(), [RankingEnvironment(world) for _ in range(copies)])
        for g in range(rows // copies)
    ]
    chat, generator = ChatFormat.of(policy.tokenizer), torch.Generator().manual_seed(0)
    seconds = []
    for turn in (WRITTEN // 4, WRITTEN):  # the shorter one is taken off: it holds the prompts, and merging
        torch.cuda.synchronize()
        started = time.perf_counter()
        rollout(policy.model, chat, groups, Sampling(1.0, turn, 10**6, rows, agent["merge"]), generator)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return rows * (WRITTEN - WRITTEN // 4) / (seconds[1] - seconds[0])


def update(policy, profile: dict, draw: np.random.Generator, out: str) -> float:
    """Tokens a second of an update with the longest trajectories, prompts counted once a group."""
    stage, length = profile["rta"], profile["agent"]["max_completion_tokens"]
    settings = {**stage, "steps": STEPS, "tasks_per_step": stage["micro_groups"], "learning_rate": 1e-6}
    asked = workload.questions([random_world(draw) for _ in range(STEPS * stage["micro_groups"])])
    prompt, share = prompt_tokens(profile["policy"]), 0.4

    def played(questions) -> list[Trajectory]:
        rows = []
        for g, question in enumerate(questions):
            ids = draw.integers(300, 900, prompt).tolist()
            for _ in range(stage["group_size"]):
                row = Trajectory(question.task_id, g, "rank", ids)
                row.completion_ids = draw.integers(300, 900, length).tolist()
                row.action_mask = (draw.random(length) < share).astype(int).tolist()
                row.logprobs = [0.0] * length
                rows.append(row)
        return rows

    trainer = arms.ours(policy, asked, settings, profile["agent"], Path(out), played)
    trainer.train()
    return stage["micro_groups"] * (prompt + stage["group_size"] * length) / trainer.clock.update[-1]


def measure(name: str) -> dict:
    """Estimated and measured bytes of rollouts and of an update, and tokens a second."""
    profile, draw = load_profile(name), np.random.default_rng(0)
    estimated = {phase: sum(parts.values()) for phase, parts in plan(profile).items()}
    with tempfile.TemporaryDirectory(dir=SCRATCH) as folder:
        write_model(Path(folder), profile["policy"]["id"])
        torch.cuda.empty_cache()
        policy = load_policy({**profile["policy"], "id": folder, "revision": "main"})
        found = {"profile": name, "gpu": torch.cuda.get_device_name(), "estimated": estimated, "measured": {}}
        for phase, work in (("rollouts", lambda: decode(policy, profile, draw)),
                            ("update", lambda: update(policy, profile, draw, f"{folder}/out"))):  # fmt: skip
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            found[f"{phase}_tokens_per_second"] = work()
            found["measured"][phase] = taken()
    return found


def main(names: list[str]) -> None:
    failed = []
    for name in names:
        done = subprocess.run([sys.executable, "-m", "benchmarks.gpu", "--one", name], capture_output=True, text=True)
        if done.returncode:
            failed.append(f"{name}: {done.stderr[-2000:]}")
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        for phase, measured in found["measured"].items():
            gb = [found["estimated"][phase], *(measured[kind] + measured["other"] for kind in ("tensors", "reserved"))]
            told = "{:6.2f} GB estimated, measured {:6.2f} in tensors, {:6.2f} reserved".format(*(b / 1e9 for b in gb))
            print(f"{name:12} {phase:9} {told}, {found[f'{phase}_tokens_per_second']:8.0f} tokens/s", flush=True)
        print(json.dumps(found), flush=True)
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2])))
    else:
        main(sys.argv[1:] or [name for name in PACES if name not in ("nano", "smol")])
