"""Break the formulas of `mutants.py` one at a time, and see whether their tests notice: `make mutate`.

    python tests/mutations [ONLY ...]      ONLY: parts of module names, such as rewards or data/

Nothing is broken in place: the package and its tests are copied, and the copy is what changes. The slow libraries are
imported once; each mutant is a fork of that process, which saves the ten seconds that an import of torch and trl takes.
A mutant counts as killed if a test fails or the tests take longer than LONGEST seconds of wall time.

Exit status 1: a mutant survived without a justification, a justified one was killed, a text does not stand in its
module exactly once, or the tests fail without any mutant.
"""

import os
import sys
import time

SETTINGS = {
    "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "TQDM_DISABLE": "1",
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # the plugin for notebooks takes two seconds to import
}  # fmt: skip
if __name__ == "__main__" and any(os.environ.get(name) != value for name, value in SETTINGS.items()):
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | SETTINGS)  # before any library reads them

import json  # noqa: E402
import shutil  # noqa: E402
import signal  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402

from mutants import GROUPS, Mutant  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 300


class Notes:
    """A pytest plugin that notes the first test to fail."""

    def __init__(self):
        self.failed, self.broken = "", False

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed = self.failed or report.nodeid

    def pytest_collectreport(self, report):
        if report.failed:  # a mutant must be found by a test, not by the interpreter
            self.failed, self.broken = self.failed or report.nodeid, True


def preload() -> None:
    """Import what the tests import and takes long, but nothing of the package."""
    import datasets  # noqa: F401
    import hypothesis
    import ir_measures  # noqa: F401
    import pandas  # noqa: F401
    import peft  # noqa: F401
    import pytest  # noqa: F401
    import scipy.optimize  # noqa: F401
    import scipy.stats  # noqa: F401
    import torch  # noqa: F401
    from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer  # noqa: F401

    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]  # one failure is enough, however large
    hypothesis.settings.register_profile("mutate", database=None, derandomize=True, phases=phases)
    hypothesis.settings.load_profile("mutate")


def run_tests(copy: Path, tests: tuple[str, ...]) -> dict:
    """Run tests of the copy in a fork.

    Returns:
        {"failed": name of the first test that failed or "", "broken": whether a file could not be imported,
        "seconds": of CPU time, "output": of pytest}
    """
    answer, output = copy / "answer.json", copy / "output.txt"
    answer.unlink(missing_ok=True)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _run_in_fork(copy, tests, answer, output)
    deadline, over = time.monotonic() + LONGEST, False
    while not (ended := os.wait4(child, os.WNOHANG))[0]:
        if time.monotonic() > deadline and not over:
            over = True
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.02)
    usage = ended[2]
    found = json.loads(answer.read_text()) if answer.exists() else {"failed": "", "broken": not over, "status": -1}
    if over:
        found = {"failed": f"more than {LONGEST} s", "broken": False, "status": 1}
    return found | {"seconds": usage.ru_utime + usage.ru_stime, "output": output.read_text(errors="replace")}


def _run_in_fork(copy: Path, tests: tuple[str, ...], answer: Path, output: Path) -> None:
    import pytest

    try:
        os.setsid()
        os.chdir(copy)
        sys.path.insert(0, str(copy))
        sys.dont_write_bytecode = True  # a stale .pyc would hide a mutant of the same length
        out = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        notes = Notes()
        status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", f"--rootdir={copy}", *tests], plugins=[notes])
        package = sys.modules.get("agenticrec_lite")
        ours = package is not None and Path(package.__file__).is_relative_to(copy)
        broken = notes.broken or not ours or status not in (0, 1)
        told = {"failed": notes.failed, "broken": broken, "status": int(status)}
        answer.write_text(json.dumps(told), encoding="utf-8")
    finally:
        sys.stdout.flush()
        os._exit(0)


def line_of(source: str, mutant: Mutant) -> int:
    """The line of a mutant. Raises ValueError unless its old text stands in the source exactly once."""
    if (n := source.count(mutant.old)) != 1:
        raise ValueError(f"its text stands there {n} times, not once; adapt tests/mutations/mutants.py")
    return source[: source.index(mutant.old)].count("\n") + 1


def main(only: list[str]) -> int:
    groups = [g for g in GROUPS if not only or any(part in g.module for part in only)]
    if not groups:
        print(f"No module of {', '.join(only)}; there are {', '.join(g.module for g in GROUPS)}.")
        return 1
    start = time.monotonic()
    preload()
    counts = dict.fromkeys(("killed", "justified", "SURVIVED", "ERROR"), 0)
    seconds = 0.0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder).resolve()
        for name in ("agenticrec_lite", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "mutations"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        for group in groups:
            path = copy / "agenticrec_lite" / group.module
            source = path.read_text(encoding="utf-8")
            base = run_tests(copy, group.tests)
            seconds += base["seconds"]
            print(f"\n{group.module}: its tests take {base['seconds']:.1f} s", flush=True)
            if base["failed"] or base["broken"]:
                counts["ERROR"] += 1
                print(f"  ERROR    they fail without a mutant\n{base['output'][-3000:]}", flush=True)
                continue
            for mutant in group.mutants:
                what = f"{' '.join(mutant.old.split())} -> {' '.join(mutant.new.split()) or '(nothing)'}"
                try:
                    line = line_of(source, mutant)
                except ValueError as error:
                    counts["ERROR"] += 1
                    print(f"  ERROR    {group.module}  {what}\n           {error}", flush=True)
                    continue
                path.write_text(source.replace(mutant.old, mutant.new), encoding="utf-8")
                found = run_tests(copy, group.tests)
                path.write_text(source, encoding="utf-8")
                seconds += found["seconds"]
                verdict, by = judge(found, mutant)
                counts[verdict] += 1
                print(f"  {verdict:<10}{group.module}:{line}  {what}", flush=True)
                print(f"           {mutant.means}; {by} ({found['seconds']:.1f} s)", flush=True)
    told = ", ".join(f"{n} {verdict}" for verdict, n in counts.items() if n)
    print(f"\n{sum(counts.values())} mutants: {told}; {seconds:.0f} s of CPU, {time.monotonic() - start:.0f} s in all.")
    return int(counts["SURVIVED"] + counts["ERROR"] > 0)


def judge(found: dict, mutant: Mutant) -> tuple[str, str]:
    """The verdict about a mutant, and its reason."""
    if found["broken"]:
        return "ERROR", f"the tests could not run: {found['output'][-600:]}"
    if found["failed"] and mutant.justified:
        return "ERROR", f"justified as one that no test notices, but {found['failed']} did; remove the justification"
    if found["failed"]:
        return "killed", f"killed by {found['failed'].removeprefix('tests/')}"
    return ("justified", mutant.justified) if mutant.justified else ("SURVIVED", "no test noticed")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
