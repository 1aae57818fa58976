"""What a frozen base in fp32, bf16 or NF4 costs and is worth: SmolLM2's warm start on ml-100k, once with each.

    python -m benchmarks.qlora [--set KEY=VALUE ...]

Each in a process of its own, one after the other, with all threads. Memory: of the weights, and the process's peak
during the steps above what it held after loading. Speed: tokens a second of the steps, a shared prompt counted once.
Quality: cross-entropy (nats an action token) of demonstrations that no step saw, before and after. Writes the table
runs/bench/qlora.json; wants the machine for itself. A CPU without bf16 leaves the bases out that compute in it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm.auto import tqdm

from agenticrec_lite.agent.prompts import ChatFormat
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.cli import setting
from agenticrec_lite.experiment import Experiment, start
from agenticrec_lite.experiment.warm_start import demonstrations, warm_start
from agenticrec_lite.plan import cpu_has_bf16
from agenticrec_lite.policy import Policy
from agenticrec_lite.profiles import load_profile
from agenticrec_lite.training.sft import as_row
from benchmarks.arms import forget_peak, peak_mb
from benchmarks.workload import pin_threads
from studies import tables

OUT = Path(__file__).resolve().parents[1] / "runs/bench/qlora.json"
BASES = {  # policy.quantize, policy.dtype
    "fp32": ("none", "float32"), "bf16": ("none", "bfloat16"),
    "NF4, computing in fp32": ("nf4", "float32"), "NF4, computing in bf16": ("nf4", "bfloat16"),
}  # fmt: skip
HELD_OUT = 16  # demonstrations
TITLE = "QLoRA: what a frozen base costs and is worth"
TEXT = (
    "SmolLM2-135M on ml-100k, one run each: {steps} steps of {batch} scripted trajectories, learning rate "
    "{learning_rate:g}, an adapter of rank 2 that is float32 whatever the base, {threads} CPU threads. Memory: the "
    "weights, and the peak of the steps above what was held after loading. Speed: tokens of the steps, a shared prompt "
    "counted once. Before and after: cross-entropy, nats an action token, of {held_out} trajectories that no step saw."
)


def held_out(experiment: Experiment, chat: ChatFormat) -> list[Trajectory]:
    """Demonstrations on the tasks just before those of the warm start."""
    settings = experiment.profile["warm_start"]
    more = -(-HELD_OUT // settings["batch"])
    return demonstrations(experiment, chat, settings["steps"] + more)[:HELD_OUT]


@torch.no_grad()
def cross_entropy(policy: Policy, rows: Sequence[Trajectory]) -> float:
    """Nats an action token."""
    policy.model.eval()
    total, count = 0.0, 0
    for row in tqdm([as_row(row) for row in rows], desc="held out", unit="trajectory"):
        ids, labels = (torch.tensor([row[name]]) for name in ("input_ids", "labels"))
        logits = policy.model(ids).logits[0, :-1].float()
        n = int((labels[0, 1:] >= 0).sum())
        total += float(torch.nn.functional.cross_entropy(logits, labels[0, 1:])) * n
        count += n
    return total / count


def weights_mb(policy: Policy) -> float:
    """The frozen weights and, of NF4, their scales, in MB."""
    frozen = [p for p in policy.model.parameters() if not p.requires_grad]
    scales = [p.quant_state for p in frozen if hasattr(p, "quant_state")]
    parts = [part for s in scales for part in (s.absmax, *((s.state2.absmax,) if s.nested else ()))]
    return sum(t.numel() * t.element_size() for t in [*frozen, *parts]) / 2**20


def measure(quantize: str, dtype: str, overrides: dict) -> dict:
    pin_threads()
    with tempfile.TemporaryDirectory() as scratch:
        settings = {"policy.quantize": quantize, "policy.dtype": dtype} | overrides
        experiment = start("ml-100k", "smol", 0, Path(scratch, "run"), settings)
        with experiment.run:
            policy = experiment.policy
            chat = ChatFormat.of_policy(policy)
            kept, learnt = held_out(experiment, chat), demonstrations(experiment, chat)
            found = {"weights, MB": weights_mb(policy), "before": cross_entropy(policy, kept)}
            loaded = forget_peak()
            warm_start(experiment)
            seconds = experiment.run.result["seconds"]["warm_start"]
            prompts = learnt[:: experiment.profile["warm_start"]["micro_batch"]]  # the others share theirs
            tokens = sum(len(row.prompt_ids) for row in prompts) + sum(len(row.completion_ids) for row in learnt)
            found |= {"above loaded, MB": peak_mb() - loaded, "tokens/s": tokens / seconds, "minutes": seconds / 60}
            return found | {"after": cross_entropy(experiment.policy, kept)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="settings of the profile")
    parser.add_argument("--base", choices=BASES, help="only this one, printed as JSON")
    asked = parser.parse_args()
    if asked.base:
        print(json.dumps(measure(*BASES[asked.base], dict(map(setting, asked.set)))))
        return
    rows = []
    for name in (name for name, (_, dtype) in BASES.items() if dtype == "float32" or cpu_has_bf16()):
        command = [sys.executable, "-m", "benchmarks.qlora", "--base", name]
        command += [part for text in asked.set for part in ("--set", text)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows.append({"frozen base": name} | json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
    settings = load_profile("smol", **dict(map(setting, asked.set)))["warm_start"]
    text = TEXT.format(**settings, held_out=HELD_OUT, threads=torch.get_num_threads())
    tables.write(OUT, {"title": TITLE, "text": text, "rows": rows})


if __name__ == "__main__":
    main()
