"""`make bench`: this package against stock trl on the same work, and against what the machine could do.

Every measurement runs in a process of its own; the arms take turns (stock, ours, stock, ours, ...); ratios are of
medians. Writes runs/bench/bench.json and prints it as a table.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from agenticrec_lite.plan import cpu_has_bf16
from benchmarks.arm import record_replay
from benchmarks.warm import make_adapter
from benchmarks.workload import SIZES, load, pin_threads

ROOT = Path(__file__).resolve().parents[1]


def run(module: str, *arguments: str | Path) -> None:
    """Run one measurement in a process of its own."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    environment = os.environ | {"TRL_EXPERIMENTAL_SILENCE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    print(" ".join(command[2:6]), flush=True)
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command[1:])} failed:\n{done.stderr[-3000:]}")


def measure(arm: str, mode: str, model: str, folder: Path, out: Path) -> dict:
    """One measurement of an arm."""
    run("arm", arm, mode, model, folder, out)
    return json.loads(out.read_text(encoding="utf-8"))


def compare(model: str, folder: Path, repeats: int) -> dict:
    """All figures of one model."""
    work = record_replay(model, folder)
    if model != "nano":
        assert work["calls"] >= 2, f"the warm-started policy makes only {work['calls']:.1f} calls"
    runs = {mode: {"stock": [], "ours": []} for mode in ("rollout", "update")}
    for mode, of_arm in runs.items():
        for _ in range(repeats):
            for arm in of_arm:
                of_arm[arm].append(measure(arm, mode, model, folder, folder / f"{mode}-{arm}.json"))
    stock, ours = (
        {mode: [s for run in runs[mode][arm] for s in run[mode]] for mode in runs} for arm in ("stock", "ours")
    )
    for side in (stock, ours):
        side["step"] = [statistics.median(side["rollout"]) + s for s in side["update"]]
    memory = {
        arm: statistics.median(run["above_loaded_mb"] for run in runs["update"][arm]) for arm in ("stock", "ours")
    }
    memory["ours in stock's micro-batches"] = measure("ours", "narrow", model, folder, folder / "narrow.json")[
        "above_loaded_mb"
    ]
    return {
        "work": work,
        **{f"{part}_speedup": ratio(stock[part], ours[part]) for part in ("rollout", "update", "step")},
        "update_rss_ratio": memory["ours in stock's micro-batches"] / memory["stock"],
        "update_above_loaded_mb": memory,
        "seconds": {"stock": spread(stock), "ours": spread(ours)},
        **same_tokens(model, folder),
        **gradient_errors(model, folder),
    }


def ratio(stock: list[float], ours: list[float]) -> float:
    return statistics.median(stock) / statistics.median(ours)


def spread(seconds: dict[str, list[float]]) -> dict:
    """Median, least and most of each part."""
    return {part: [statistics.median(values), min(values), max(values)] for part, values in seconds.items()}


def gradient_errors(model: str, folder: Path) -> dict:
    """Relative differences of gradients over all parameters, ours to stock's and both to the exact one; and the largest
    difference between log-probabilities taken down while sampling and exact ones."""
    exact = measure("ours", "exact", model, folder, folder / "exact.json")
    names = {"stock": "update-stock", "ours": "update-ours", "exact": "exact"}
    grads = {arm: load_file(folder / f"{name}.safetensors") for arm, name in names.items()}
    return {
        "grad_rel_err": relative(grads["ours"], grads["stock"]),
        "grad_rel_err_to_float64": {arm: relative(grads[arm], grads["exact"]) for arm in ("stock", "ours")},
        "logprob_err": exact["logprob_err"],
    }


def relative(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """|a - b| / |b|."""
    assert a.keys() == b.keys()
    difference = sum((a[n].double() - b[n].double()).pow(2).sum() for n in b)
    return float(difference / sum(g.double().pow(2).sum() for g in b.values())) ** 0.5


def same_tokens(model: str, folder: Path) -> dict:
    """Whether both arms' greedy trajectories are the same, token for token, but for ties of the two best logits."""
    stock, ours = (
        measure(arm, "greedy", model, folder, folder / f"greedy-{arm}.json") for arm in ("stock", "ours")
    )
    policy, ties, different = None, 0, 0
    for (prompt, theirs), (own_prompt, own) in zip(stock["rows"], ours["rows"], strict=True):
        assert prompt == own_prompt
        if theirs == own:
            continue
        policy = policy or load(model)
        place = next((i for i, (a, b) in enumerate(zip(theirs, own)) if a != b), min(len(theirs), len(own)))
        tie = is_tie(policy.model, prompt + own[:place])
        ties, different = ties + tie, different + (not tie)
    return {
        "greedy_identical": different == 0,
        "ties": ties,
        "different": different,
        "trajectories": len(ours["rows"]),
        "outcomes": {o: ours["outcomes"].count(o) for o in sorted(set(ours["outcomes"]))},
        "tool_errors": ours["errors"],
    }


@torch.no_grad()
def is_tie(model, ids: list[int], within: float = 1e-4) -> bool:
    """Whether the two best next tokens are as good as equal."""
    best = model(torch.tensor([ids])).logits[0, -1].topk(2).values
    return bool(best[0] - best[1] < within)


def limits(model: str, folder: Path) -> dict:
    """Shares of the machine's limits, in fp32, and in bf16 where the CPU has it."""
    found = {}
    for dtype in ("float32", "bfloat16")[: 1 + cpu_has_bf16()]:
        out = folder / f"limit-{dtype}.json"
        run("limit", model, folder, out, dtype)
        found[dtype] = json.loads(out.read_text())
    return found


def flatness(model: str, folder: Path) -> dict:
    """Peak memory at steps 10 and 60 of one training."""
    peaks = measure("ours", "flat", model, folder, folder / "flat.json")["peaks_mb"]
    return {"step10_mb": peaks[9], "step60_mb": peaks[59], "growth": peaks[59] / peaks[9] - 1}


def machine() -> dict:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), "?")
    return {
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default=",".join(SIZES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "runs/bench")
    arguments = parser.parse_args()
    pin_threads()
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "bench.json"
    result = json.loads(path.read_text()) if path.exists() else {"models": {}}
    result["machine"] = machine()
    for model in arguments.models.split(","):
        folder = arguments.out / model
        folder.mkdir(exist_ok=True)
        if model != "nano":
            make_adapter()
        result["models"][model] = compare(model, folder, arguments.repeats)
        result["models"][model]["limits"] = limits(model, folder)
        if model == "nano":
            result["models"][model]["memory"] = flatness(model, folder)
            run("sweep", folder)
        path.write_text(json.dumps(result, indent=1))
        print(json.dumps(result["models"][model], indent=1))


if __name__ == "__main__":
    main()
