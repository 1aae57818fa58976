"""Writes what the playground of the site plays with: `python .ci/playground.py RUN [N]` -> docs/site/playground.json.

From a finished run on a generated store (real data may not be published): N test tasks with what each tool says, and
what the frozen and the trained policy do with them.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

from agenticrec_lite.agent.record import evidence_of, steps_of
from agenticrec_lite.data.toystore_world import DESIGNS
from agenticrec_lite.experiment.experiment import FROZEN
from agenticrec_lite.experiment.shipped import borrow
from agenticrec_lite.play import pages
from agenticrec_lite.rewards import INVALID, MISSED, TOP_BONUS, ndcg_at_10
from agenticrec_lite.tools import LISTS, TOOLS

OUT = Path(__file__).resolve().parents[1] / "docs" / "site" / "playground.json"
WORDS = {  # what a tool goes by, on its button
    "users": "similar users", "items": "similar items", "session": "what comes next", "profile": "the user's taste",
    "ratings": "ratings", "popularity": "popularity",
}  # fmt: skip
PLAYERS = {FROZEN: "before training", "trained": "after training"}


def seen(row) -> dict:
    """What a trajectory, or its row, asked, weighed and answered."""
    steps = steps_of(row)
    return {
        "asked": [LISTS.get(step.tool, step.tool) for step in steps if step.kind == "call" and step.tool in LISTS],
        "weights": evidence_of(row),
    }


def playground(run: Path, n: int) -> dict:
    """The data of the page.

    Raises:
        SystemExit: The run's data is not generated.
    """
    experiment = borrow(run)
    if experiment.log.name not in DESIGNS:
        sys.exit(f"{run} is of {experiment.log.name}, which may not be published; take a run on a generated store.")
    tasks, contexts = experiment.test[:n], experiment.test_contexts[:n]
    played = {
        name: experiment.play(tasks, contexts, policy=experiment.policy_after(stage))
        for name, stage in zip(PLAYERS, (FROZEN, "rta"), strict=True)
    }
    found = []
    for i, (task, context) in enumerate(zip(tasks, contexts, strict=True)):
        context = replace(context, shown={}, pair=None)
        said = {name: TOOLS[tool](context) for tool, name in LISTS.items()}
        players = {}
        for name, trajectories in played.items():
            answered = trajectories[i]
            reward = experiment.extensions.rewarded(answered, task.positive)
            players[name] = seen(answered) | {"answer": answered.answer or [], "reward": round(reward, 4)}
        found.append({
            "history": [card.title for card in context.history],
            "candidates": [card.title for card in context.candidates],
            "counts": [int(card.count) for card in context.candidates],
            "positive": int(task.positive),
            "said": said,
            "lists": {name: [int(score) for score in context.shown[name].scores] for name in LISTS.values()},
            "players": players,
        })  # fmt: skip
    first = range(1, 11)
    return {
        "source": f"The tasks are test tasks of {experiment.log.name}, a generated store; the policies are those of "
        f"the shipped run with seed {experiment.seed}.",
        "lists": WORDS, "players": PLAYERS, "missed": MISSED, "bonus": TOP_BONUS, "invalid": INVALID,
        "rewards": [round(ndcg_at_10(list(first), n) + TOP_BONUS * (n == 1), 4) for n in first],
        "tasks": found, "along": training(run),
    }  # fmt: skip


def training(run: Path) -> list[dict]:
    """What the run's policy did with one task while it trained, a page a checkpoint."""
    rows = []
    for step, row in pages(run).items():
        answer = row["answer"] or []
        place = answer.index(row["positive"]) + 1 if row["positive"] in answer else 0
        rows.append({"step": step, **seen(row), "place": place, "reward": round(row["reward"], 4)})
    return rows


if __name__ == "__main__":
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 24
    text = json.dumps(playground(Path(sys.argv[1]), count), separators=(",", ":"), ensure_ascii=False)
    OUT.write_text(text + "\n", encoding="utf-8")
