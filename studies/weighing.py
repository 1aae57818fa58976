"""What an agent that weighs has learnt: `python -m studies.weighing RUN [RUN ...] --out OUT.json`.

Of finished runs (one a seed): each stage against every list, equal and fixed weights, with intervals that resample
users; which lists the answers rest on and how they are weighed, along training and at the end; and, in the moodstore,
how calls and weights differ by the sentence about the last rating.
"""

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from agenticrec_lite.agent.record import evidence_of, mood_told, rule_of, steps_of
from agenticrec_lite.evaluation.metrics import gains, user_bootstrap
from agenticrec_lite.runs import read_config, read_trajectories
from agenticrec_lite.tools import LISTS
from agenticrec_lite.tools.behavior import MOODS

GOOD = ("users", "items", "session")


def rests_on(rows: Sequence[Mapping]) -> dict:
    """Of logged trajectories: valid, calls, and which lists the valid answers rest on.

    Returns:
        valid, calls; weights: mean weight of each list; called: share that calls each tool; commonest: the six most
        frequent combinations of weights; rules: the six most frequent rules on the user's mood, of the answers that
        state one; good: share that rests on two or three of GOOD and on nothing else.
    """
    answered = [row for row in rows if row["outcome"] == "answered"]
    used = [evidence_of(row) for row in answered]
    tools = [{step.tool for step in steps_of(row) if step.kind == "call"} for row in answered]
    combinations = Counter(", ".join(f"{k} {v}" for k, v in sorted(row.items())) or "nothing" for row in used)
    stated = [found[0] for row in answered if (found := rule_of(row)) is not None]
    rules = Counter(", ".join(f"{name} if {mood}" for mood, name in rule.items()) for rule in stated)
    lists = sorted({*LISTS.values(), *(name for row in used for name in row)})
    return {
        "n": len(rows),
        "valid": len(answered) / len(rows),
        "calls": float(np.mean([row["n_calls"] for row in rows])),
        "weights": {name: float(np.mean([row.get(name, 0) for row in used])) for name in lists},
        "called": {tool: float(np.mean([tool in each for each in tools])) for tool in sorted(set().union(*tools))},
        "commonest": [[text, n / len(used)] for text, n in combinations.most_common(6)],
        "rules": [[text, n / len(stated)] for text, n in rules.most_common(6)],
        "good": float(np.mean([len(set(row) & set(GOOD)) >= 2 and set(row) <= set(GOOD) for row in used])),
    }


def by_sentence(rows: Sequence[Mapping]) -> dict:
    """`rests_on` of the trajectories that were told each mood, and of those that were told none."""
    parts = {mood: [row for row in rows if mood_told(row) == mood] for mood in (*MOODS, None)}
    return {str(mood): rests_on(part) for mood, part in parts.items() if any(r["outcome"] == "answered" for r in part)}


def differences(ranks: pd.DataFrame, stage: str) -> dict:
    """N@10 of a stage minus that of every other method on the same tasks: difference and 95 % interval over users."""
    found = {}
    for other in ranks.columns.drop(["task_id", "user", stage]):
        gain = gains(ranks[stage].fillna(np.inf), "N@10") - gains(ranks[other].fillna(np.inf), "N@10")
        found[other] = [float(gain.mean()), *user_bootstrap(gain[:, None], ranks["user"])[0].tolist()]
    return found


def of_run(folder: Path) -> dict:
    """Everything of one finished run."""
    ranks = pd.read_csv(folder / "ranks.csv")
    stages = [name for name in ("frozen", "rta", "ppr") if name in ranks]
    methods = ranks.columns.drop(["task_id", "user"])
    found = {
        "seed": read_config(folder)["seed"],
        "dataset": read_config(folder)["dataset"],
        "N@10": {name: float(gains(ranks[name].fillna(np.inf), "N@10").mean()) for name in methods},
        "differences": {stage: differences(ranks, stage) for stage in stages},
    }
    for stage in stages:
        logged = "evaluate_frozen_greedy" if stage == "frozen" else f"evaluate_{stage}"
        rows = list(read_trajectories(folder, logged))
        found[f"answers_{stage}"] = rests_on(rows)
        found[f"by_sentence_{stage}"] = by_sentence(rows)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.write_text(json.dumps([of_run(folder) for folder in given.runs], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
