"""The prepared check of a GPU: its whole way at toy size, and what it leaves of a part that fails."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.all
def test_the_whole_check_goes_its_way_at_toy_size_and_fetches_nothing(tmp_path):
    offline = {"PYTHONPATH": os.pathsep.join([str(ROOT / "tests" / "offline"), str(ROOT)]), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "benchmarks.gpu", "--dry", "--out", str(tmp_path)]
    environment = os.environ | offline | {"CUDA_VISIBLE_DEVICES": "", "AGENTICREC_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert list(found) == list(gpu.LIMITS) and not any("failed" in part for part in found.values())
    assert len(found["correctness"]["checks"]) == 5 and all(c["right"] for c in found["correctness"]["checks"].values())
    assert [row["rows"] for row in found["decoding"]["rows"]] == [1, 2]
    assert all(row["without graphs"] > 0 and row["with graphs"] == "not there" for row in found["decoding"]["rows"])
    assert [row["phase"] for row in found["memory"]["rows"]] == ["rollouts", "update"]
    assert {row["stage"] for row in found["training"]["steps"]} >= {"warm_start", "rta"}
    assert {"frozen", "warm_start", "rta"} <= set(found["training"]["metrics"])
    assert (tmp_path / "gpu.md").read_text().count("## ") == 4


def test_all_parts_together_end_within_eight_minutes():
    assert sum(gpu.LIMITS.values()) <= 8 * 60 - 15


def part(monkeypatch, code: str) -> None:
    """Every part is this program, whose first argument is where it writes."""
    real = subprocess.run

    def run(command, **how):
        return real([sys.executable, "-c", code, f"{command[4]}/{command[3]}.json"], **how)

    monkeypatch.setattr(gpu.subprocess, "run", run)


def test_a_part_that_fails_leaves_what_it_has_measured(tmp_path, monkeypatch):
    row = {"rows": 4, "floor": 0.5, "without graphs": 40.0, "with graphs": "not there"}
    written = json.dumps({"rows": [row]})
    part(monkeypatch, f"import sys; open(sys.argv[1], 'w').write({written!r}); sys.exit('out of memory')")
    found = gpu.run("decoding", None, tmp_path, dry=True)
    assert found["rows"] == [row] and found["failed"] == "out of memory"
    told = gpu.table({"decoding": found})
    assert "**Failed:** out of memory" in told and "| 4 | 0.5 | 40 | not there |" in told


def test_a_part_that_does_not_end_is_ended(tmp_path, monkeypatch):
    part(monkeypatch, "import time; time.sleep(60)")
    monkeypatch.setitem(gpu.LIMITS, "memory", 1)
    (tmp_path / "memory.json").write_text('{"rows": [1]}')  # of an earlier check
    found = gpu.run("memory", None, tmp_path, dry=False)
    assert found["failed"] == "ended after 1 seconds" and "rows" not in found


def test_without_a_gpu_it_says_so(monkeypatch, tmp_path):
    from benchmarks import gpu_parts

    monkeypatch.setattr(gpu_parts.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_parts", "correctness", str(tmp_path)])
    with pytest.raises(SystemExit, match="There is no GPU here; --dry goes the same way"):
        gpu_parts.main()
