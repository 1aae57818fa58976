"""`make audit`: known weaknesses of everything that requirements.txt brought into .venv, by the index's advisories.

pip-audit lives in an environment of its own (.venv-audit), so that what it needs is not installed beside ours.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
AUDITOR = ROOT / ".venv-audit" / "bin" / "python"
# Advisories that do not concern this project: id -> why.
IGNORED: dict[str, str] = {}


def installed() -> list[str]:
    """Pins of all packages beside us; a build's local version ("+cpu") is no version that advisories know."""
    command = [sys.executable, "-m", "pip", "list", "--format=freeze", "--exclude-editable"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [re.sub(r"\+[^+=]*$", "", line) for line in done.stdout.splitlines()]


def audit(pins: list[str]) -> int:
    """Print what pip-audit found. Returns 0: nothing, 1: findings, 2: it could not look everything up."""
    with tempfile.TemporaryDirectory() as scratch:
        listed = Path(scratch, "pins.txt")
        listed.write_text("\n".join(pins) + "\n", encoding="utf-8")
        ignored = [word for advisory in IGNORED for word in ("--ignore-vuln", advisory)]
        command = [AUDITOR, "-m", "pip_audit", "--strict", "--no-deps", "--disable-pip", "--progress-spinner", "off"]
        done = subprocess.run([*command, *ignored, "-r", listed], capture_output=True, text=True, check=False)
    if done.returncode and "known vulnerabilit" not in done.stderr:
        last = (done.stderr.strip() or "without a word").splitlines()[-1]
        print(f"Nothing is known of {len(pins)} packages: the advisories could not be asked ({last}).", file=sys.stderr)
        return 2
    print(done.stdout + done.stderr.strip().splitlines()[-1])
    return min(done.returncode, 1)


if __name__ == "__main__":
    sys.exit(audit(installed()))
