"""Is nano fit to be trained? `python -m studies.gate OUT.json NANO N`.

Before anything is learnt from rewards the form must be safe: valid at temperature 1 and greedily, on generated worlds,
on real films, and on titles as long as a shop's; answers exactly by the list that the thought names; pairs as well.
NANO is a folder (data/nano, data/nano/plain), N the tasks of each kind.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

from agenticrec_lite.agent.prompts import ChatFormat
from agenticrec_lite.data import build_tasks, load_dataset, temporal_split
from agenticrec_lite.nano.exam import exam, marks
from agenticrec_lite.nano.pretrain import load
from agenticrec_lite.nano.worlds import N_CANDIDATES, long_title
from agenticrec_lite.tools import TaskContext
from agenticrec_lite.tools.toolbox import Toolbox
from studies import tables

BARS = {"valid": 0.99, "exact": 0.98}
SEED = 20_011
TEXT = (
    "One trajectory a task. The bars: valid at least .99, and at least .98 of the answers exactly by the list that the "
    "thought names. Generated worlds and ml-100k's validation tasks, none of which was trained on."
)


def real_tasks(n: int) -> list[TaskContext]:
    """ml-100k's validation tasks, as the tools show them."""
    log = load_dataset("ml-100k")
    split = temporal_split(log)
    toolbox = Toolbox.fit(log, split.rows("train"), 0)
    return toolbox.contexts(build_tasks(log, split, "validation", n, 0))


def as_a_shop(context: TaskContext, rng: np.random.Generator) -> TaskContext:
    """The same task with titles of about 80 characters."""

    def longer(cards):
        return [replace(card, title=long_title(rng)) for card in cards]

    return replace(context, history=longer(context.history), candidates=longer(context.candidates))


def as_pair(context: TaskContext, rng: np.random.Generator) -> TaskContext:
    a, b = (rng.choice(N_CANDIDATES, 2, replace=False) + 1).tolist()
    return replace(context, pair=(a, b))


def gate(folder: Path, n: int, films: Sequence[TaskContext]) -> list[dict]:
    """Marks of a checkpoint, as of `exam.marks`, and whether they pass: a row for each temperature and kind of task."""
    model, chat = load(folder), ChatFormat.of(AutoTokenizer.from_pretrained(folder), brief=True)
    rng = np.random.default_rng(SEED)
    real = {
        "ml-100k": (films, ["rank"] * len(films)),
        "ml-100k, long titles": ([as_a_shop(film, rng) for film in films], ["rank"] * len(films)),
        "ml-100k, pairs": ([as_pair(film, rng) for film in films], ["more", "less"] * (len(films) // 2)),
    }
    rows = []
    for temperature in (1.0, 0.0):
        found = exam(model, chat, n, SEED, temperature)
        found |= {kind: marks(model, chat, *asked, temperature, SEED) for kind, asked in real.items()}
        for kind, mark in found.items():
            passes = all((mark[name] or 0) >= bar for name, bar in BARS.items())
            rows.append({"temperature": temperature, "tasks": kind, "n": n} | mark | {"passes": passes})
            print(rows[-1], flush=True)
    return rows


def main(out: str, nano: str, n: str) -> None:
    """Write the table of one checkpoint."""
    many = 2 * (int(n) // 2)
    rows = gate(Path(nano), many, real_tasks(many))
    tables.write(Path(out), {"title": f"The gate: {nano}", "text": TEXT, "rows": rows})


if __name__ == "__main__":
    tables.command(main, "gate OUT.json NANO N")
