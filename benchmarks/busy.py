"""Beside a busy process: `python -m benchmarks.busy [OUT.json] [--tasks N]`: SASRec's fit and two RTA steps of nano.

Three processes do the same work in turn: with a thread for each core (as before the number was chosen), with one
thread, and with the chosen number. They do it on the quiet machine, beside a loop in plain Python, and beside another
torch job at the lowest priority. Prints a table in Markdown: seconds, and how many times the seconds of one thread. It
takes five minutes on two cores that do nothing else; only there the rows "quiet" mean anything.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path

from agenticrec_lite.experiment import Experiment, stages, start
from agenticrec_lite.recommenders import SASRec
from agenticrec_lite.runs import read_metrics, threads
from agenticrec_lite.tools.toolbox import Toolbox

ROOT = Path(__file__).resolve().parent.parent
CORES = len(os.sched_getaffinity(0))
EPOCHS, STEPS = 2, 2
ARMS = {
    "all cores": {"OMP_NUM_THREADS": str(CORES)},
    "one thread": {"OMP_NUM_THREADS": "1"},
    "chosen": {},
}
LOOP = [sys.executable, "-c", "while True: pass"]
TORCH = ["nice", "-n", "19", sys.executable, "-c", "import torch\nx = torch.randn(512, 512)\nwhile True: x @ x"]
NEIGHBOURS = {"quiet": None, "beside a Python loop": LOOP, "beside a torch job": TORCH}
WORKS = {"fit": f"SASRec, {EPOCHS} epochs of ml-100k", "rta": f"nano, {STEPS} steps of RTA"}


def environment(arm: dict[str, str]) -> dict[str, str]:
    """This process's environment with the threads of an arm."""
    return {name: value for name, value in os.environ.items() if name not in threads.SET_BY} | arm


def little_evidence(log, rows, seed, neighbours) -> Toolbox:
    """The tools' evidence with a SASRec of one epoch, so that the work can begin soon."""
    return Toolbox.fit(log, rows, seed, neighbours, SASRec(epochs=1))


def begun(folder: Path, tasks: int) -> Experiment:
    """A run in a new folder below `folder`, of as few tasks as there need to be."""
    settings = {
        "rta.steps": STEPS, "rta.tasks_per_step": tasks, "rta.micro_groups": min(tasks, 4), "evaluation.n_test": 10,
    }  # fmt: skip
    return start("ml-100k", "nano", 0, tempfile.mkdtemp(dir=folder), settings, evidence=little_evidence)


def work(tasks: int) -> None:
    """One arm's process: answers each line of its input, "fit" or "rta", with the seconds that this work took."""
    answers = sys.stdout
    with tempfile.TemporaryDirectory() as scratch, redirect_stdout(sys.stderr):
        experiment = begun(Path(scratch), tasks)
        past = experiment.log.interactions.iloc[experiment.split.rows("train")]
        experiment.early_toolbox.contexts(experiment.training[:1])
        experiment.run.close()
        print(0, file=answers, flush=True)  # ready
        for line in sys.stdin:
            if line.strip() == "fit":
                started = time.perf_counter()
                SASRec(epochs=EPOCHS).fit(past, experiment.log.n_items)
                seconds = time.perf_counter() - started
            else:
                experiment = begun(Path(scratch), tasks)
                with experiment.run as run:
                    stages.train_rta(experiment)
                seconds = float(read_metrics(run.folder)[["seconds_rollout", "seconds_update"]].to_numpy().sum())
            print(seconds, file=answers, flush=True)


@contextmanager
def neighbour(command: list[str] | None) -> Iterator[None]:
    """Another busy process for the time of a block; nothing if there is no command."""
    if command is None:
        yield
        return
    with subprocess.Popen(command, env=environment({})) as process:
        time.sleep(5)  # until torch has been imported
        try:
            yield
        finally:
            process.kill()


def measured(tasks: int) -> list[dict]:
    """A row for each neighbour and work: the seconds of each arm. The arms take turns."""
    rows = []
    with ExitStack() as stack, tempfile.TemporaryFile() as noise:
        arms = {}
        for name, arm in ARMS.items():
            command = [sys.executable, "-m", "benchmarks.busy", "--work", "--tasks", str(tasks)]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": noise, "text": True}
            arms[name] = stack.enter_context(subprocess.Popen(command, env=environment(arm), cwd=ROOT, **pipes))
            stack.callback(arms[name].kill)
            answer(arms[name])  # ready
        for beside, command in NEIGHBOURS.items():
            with neighbour(command):
                for what, title in WORKS.items():
                    seconds = {name: asked(process, what) for name, process in arms.items()}
                    rows.append({"work": title, "beside": beside, **seconds})
                    print(rows[-1], file=sys.stderr, flush=True)
    return rows


def asked(process: subprocess.Popen, what: str) -> float:
    """The seconds that an arm's process takes for a work."""
    process.stdin.write(f"{what}\n")
    process.stdin.flush()
    return answer(process)


def answer(process: subprocess.Popen) -> float:
    line = process.stdout.readline()
    if not line:
        raise SystemExit("A process with an arm's work has ended; run it by itself with --work to see why.")
    return float(line)


def table(rows: list[dict]) -> str:
    """Rows as a table in Markdown."""
    lines = ["| work | beside | " + " | ".join(ARMS) + " |", "|---|---|" + "---:|" * len(ARMS)]
    for row in rows:
        one = row["one thread"]
        cells = [f"{row[name]:.1f} s ({row[name] / one:.2f})" for name in ARMS]
        lines.append(f"| {row['work']} | {row['beside']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", nargs="?", type=Path, default=ROOT / "runs/busy.json")
    parser.add_argument("--tasks", type=int, default=2, help="of an RTA step, each played 8 times; nano has 8")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.tasks)
        return
    rows = measured(arguments.tasks)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"cores": CORES, "tasks": arguments.tasks, "rows": rows}, indent=1))
    print(table(rows))


if __name__ == "__main__":
    main()
