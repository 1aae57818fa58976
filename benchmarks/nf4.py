"""Does NF4 cost anything? RTA on the same tasks with an NF4 base and with an fp32 one: seconds, and N@10 on validation.

    python -m benchmarks.nf4 [--seeds 0 1 2]

The two runs of a seed go side by side, a thread each, so that whatever else the machine does slows both. Writes
runs/bench/nf4.json.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from agenticrec_lite.evaluation import evaluate
from agenticrec_lite.evaluation.metrics import paired_difference
from agenticrec_lite.experiment import stages, start

OUT = Path(__file__).resolve().parents[1] / "runs/bench"
KINDS = ("nf4", "none")
N_TASKS = 800  # validation tasks


def train(kind: str, seed: int) -> None:
    """One run: RTA, then greedy lists for validation tasks; leaves its figures in its folder."""
    torch.set_num_threads(1)
    folder = OUT / f"nf4-{kind}-{seed}"
    experiment = start("ml-100k", "nano", seed, folder, {"policy.quantize": kind})
    with experiment.run:
        stages.train_rta(experiment)
        tasks = experiment.tasks("validation", N_TASKS)
        played = experiment.play(tasks, experiment.toolbox.contexts(tasks))
        ranks = evaluate.trajectory_ranks(played, tasks)
        measured = {"ranks": ranks, "users": evaluate.users_of(tasks), "valid": np.mean([t.valid for t in played])}
        experiment.run.write_result(validation=measured)


def compare(seeds: list[int]) -> dict:
    """Pooled over seeds: N@10 of both with the paired difference, and the ratio of training times."""
    results = {kind: [json.loads((OUT / f"nf4-{kind}-{s}/result.json").read_text()) for s in seeds] for kind in KINDS}
    ranks = {
        kind: np.array([np.inf if rank is None else rank for run in runs for rank in run["validation"]["ranks"]])
        for kind, runs in results.items()
    }
    users = [user for run in results["nf4"] for user in run["validation"]["users"]]
    return {
        "seeds": seeds,
        "n": len(users),
        "N@10": {kind: evaluate.summarize(values, users)["N@10"] for kind, values in ranks.items()},
        "nf4 - none": paired_difference(ranks["nf4"], ranks["none"], users, "N@10"),
        "valid": {kind: float(np.mean([run["validation"]["valid"] for run in runs])) for kind, runs in results.items()},
        "seconds of RTA": {kind: [run["seconds"]["rta"] for run in runs] for kind, runs in results.items()},
        "time ratio": sum(r["seconds"]["rta"] for r in results["nf4"])
        / sum(r["seconds"]["rta"] for r in results["none"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--one", choices=KINDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        train(arguments.one, arguments.seeds[0])
        return
    for seed in arguments.seeds:
        command = [sys.executable, "-m", "benchmarks.nf4", "--seeds", str(seed), "--one"]
        running = [subprocess.Popen([*command, kind], cwd=OUT.parents[1]) for kind in KINDS]
        if any([process.wait() for process in running]):
            sys.exit(f"seed {seed} failed")
    found = compare(arguments.seeds)
    (OUT / "nf4.json").write_text(json.dumps(found, indent=1))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
