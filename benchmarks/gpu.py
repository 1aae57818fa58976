"""The prepared check of a GPU: under eight minutes, unattended, nothing fetched but the model if it is not there.

`python -m benchmarks.gpu [FOLDER]`: correctness first, then milliseconds a token, memory and seconds a step against the
plan, then a real training, of SmolLM2-135M or of the model in FOLDER. Writes runs/gpu/gpu.json and gpu.md. Each part is
a process of its own with its own time; a part that fails or takes too long leaves what it has measured, and the others
go on. `--dry` goes the same way on any machine, with small random weights, in minutes.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

LIMITS = {"correctness": 80, "decoding": 70, "memory": 90, "training": 220}  # seconds
ROOT = Path(__file__).resolve().parents[1]


def run(part: str, model: str | None, out: Path, dry: bool) -> dict:
    """What one part has measured, how long it took, and why it ended if it did not end well."""
    written, started = out / f"{part}.json", time.monotonic()
    written.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu_parts", part, str(out), *(["--dry"] if dry else [])]
    command += ["--model", model] if model else []
    command += [] if dry else ["--limit", str(LIMITS[part] - 10)]
    how = {"cwd": ROOT, "env": os.environ | {"TRL_EXPERIMENTAL_SILENCE": "1"}, "capture_output": True, "text": True}
    try:
        done = subprocess.run(command, timeout=None if dry else LIMITS[part], check=False, **how)
        failed = (done.stderr[-2000:].strip() or f"exit code {done.returncode}") if done.returncode else None
    except subprocess.TimeoutExpired:  # it did not end by itself
        failed = f"ended after {LIMITS[part]} seconds"
    found = json.loads(written.read_text(encoding="utf-8")) if written.exists() else {}
    found["seconds"] = round(time.monotonic() - started, 1)
    return found | ({"failed": failed} if failed else {})


def table(found: dict) -> str:
    """All that was measured, in Markdown."""
    lines = ["# The prepared check of a GPU"]
    for part, result in found.items():
        lines += ["", f"## {part} ({result['seconds']:.0f} s)", ""]
        if "failed" in result:
            lines += ["**Failed:** " + result["failed"].splitlines()[-1], ""]
        lines += rows(part, result)
    return "\n".join(lines) + "\n"


def rows(part: str, result: dict) -> Iterator[str]:
    """The lines of one part."""
    if part == "correctness":
        yield from head(f"on {result.get('device', 'no device')}", "measured", "asked for", "right")
        for name, check in result.get("checks", {}).items():
            yield line(name, check["measured"], check["asked"], "yes" if check["right"] else "**no**")
    elif part == "decoding":
        yield from head("rows", "floor, ms a token", "without graphs", "with CUDA graphs")
        for row in result.get("rows", []):
            yield line(row["rows"], row["floor"], row["without graphs"], row["with graphs"])
    elif part == "memory":
        yield from head("profile, phase", "GB planned", "in tensors", "reserved", "tokens/s", "s a step", "s planned")
        for row in result.get("rows", []):
            gb = (f"{row[name] / 1e9:.2f}" for name in ("planned", "tensors", "reserved"))
            times = (row[name] for name in ("tokens/s", "seconds", "seconds planned"))
            yield line(f"{row['profile']}, {row['phase']}", *gb, *times)
    else:
        yield from head("step", "reward", "valid", "s rollouts", "s update")
        for row in result.get("steps", []):
            names = ("reward_mean", "valid", "seconds_rollout", "seconds_update")
            yield line(f"{row['stage']} {row['step']}", *(row.get(name) for name in names))
        yield ""
        yield from head("policy", "N@10", "valid")
        for name, metrics in result.get("metrics", {}).items():
            yield line(name, metrics["N@10"], metrics["valid"])


def head(*titles: str) -> list[str]:
    return [line(*titles), "|---" * len(titles) + "|"]


def line(*cells: object) -> str:
    """A row of a table; what was not measured is a dash."""
    shown = ("-" if cell is None else f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in cells)
    return f"| {' | '.join(shown)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="The prepared check of a GPU.")
    parser.add_argument("model", nargs="?", help="a folder with a model; by default SmolLM2-135M")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "gpu")
    parser.add_argument("--dry", action="store_true", help="the same way at toy size, on a CPU if there is no GPU")
    given = parser.parse_args()
    out, found = given.out.resolve(), {}
    out.mkdir(parents=True, exist_ok=True)
    for part in LIMITS:
        found[part] = run(part, given.model, out, given.dry)
        (out / "gpu.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
        (out / "gpu.md").write_text(table(found), encoding="utf-8")
        print(f"{part}: {found[part].get('failed', 'done')}", flush=True)
    print(table(found))
    wrong = [name for name, check in found["correctness"].get("checks", {}).items() if not check["right"]]
    failed = [part for part, result in found.items() if "failed" in result]
    if wrong or failed:
        sys.exit(f"Wrong: {', '.join(wrong) or 'nothing'}; failed: {', '.join(failed) or 'nothing'}.")


if __name__ == "__main__":
    main()
