"""What was not run, and what it would cost: `python -m studies.remaining RESULTS OUT.json`."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from agenticrec_lite.report import collect
from agenticrec_lite.report import tables as report_tables
from agenticrec_lite.runs import read_result
from studies import tables
from studies.variants import TIERS, VARIANTS, Variant
from studies.zero_shot import TASKS, TITLE

PLANNED = {"first": ("ml-100k", "toystore"), "second": ("ml-100k",), "third": ("ml-100k",)}
SEEDS = {"first": 3, "second": 3, "third": 1}
STAGES = {  # of the base run, whose seconds are those of the variant; "sft" takes about what stage 1 takes
    "rta": ("recommenders", "rta", "evaluate_rta"), "sft": ("recommenders", "rta", "evaluate_rta"),
    "ppr": ("ppr", "evaluate_ppr"),
    "test": ("evaluate_rta",), "untrained": ("evaluate_frozen_greedy", "evaluate_frozen_sampled"),
    "all": ("recommenders", "baselines", "rta", "evaluate_rta", "mining", "ppr", "evaluate_ppr"),
}  # fmt: skip
ELSEWHERE = {  # is played on one dataset, or on the other only
    "asks-longer": "ml-100k", "asks-gru4rec": "ml-100k", "asks-catalogue": "ml-100k",
    "asks-catalogue-only": "toystore", "asks-weighed": "toystore",
}  # fmt: skip
WIDTHS = {64: 0.6, 256: 3.0}  # of nano, which has 128, and how many times as long their pre-training takes
ZERO_SHOT = 8.0  # seconds a task of studies.zero_shot, on one core beside another
PRETRAINED = 60.0  # minutes that nano's pre-training took, on two cores
TEXT = (
    "Estimated from the median seconds of the same stages of the base runs, each on one core beside another; a variant "
    "that calls more tools or ranks more candidates takes accordingly more. Other widths of nano are for the most part "
    "pre-training (an hour on two cores for nano's own 128)."
)


def missing(found: Mapping[tuple[str, str], dict], profile: str = "nano") -> Iterator[tuple[str, str, int]]:
    """(dataset, variant, seeds that are missing)."""
    for tier, names in TIERS.items():
        for dataset in PLANNED[tier]:
            for name in (name for name in names if ELSEWHERE.get(name, dataset) == dataset):
                if (left := SEEDS[tier] - len(found.get((dataset, profile), {}).get(name, ()))) > 0:
                    yield dataset, name, left


def minutes(variant: Variant, plain: Sequence[Path]) -> float:
    """Of one seed, by the base runs; exploratory variants take half of the steps, other nanos their pre-training."""
    seconds = [read_result(run)["seconds"] for run in plain]
    share = {"rta": 0.5} if variant.against == "half" else {}
    stages = sum(share.get(stage, 1) * np.median([run[stage] for run in seconds]) for stage in STAGES[variant.stage])
    return float(stages / 60 + WIDTHS.get(variant.width, 0) * PRETRAINED)


def zero_shot(folder: str) -> Iterator[dict]:
    """The row of the language model that ranks without tools, if its table is not there."""
    if not any(table["title"].startswith(TITLE) for table in report_tables([folder])):
        yield {"dataset": "ml-100k", "variant": "zero_shot", "question": TITLE, "seeds not run": 1,
               "estimated minutes": TASKS * ZERO_SHOT / 60}  # fmt: skip


def main(folder: str, out: str) -> None:
    results = collect([folder])
    rows = [
        {"dataset": dataset, "variant": name, "question": VARIANTS[name].question, "seeds not run": left,
         "estimated minutes": left * minutes(VARIANTS[name], results[dataset, "nano"][""])}
        for dataset, name, left in missing(results)
    ] + list(zero_shot(folder))  # fmt: skip
    tables.write(Path(out), {"title": "Not run", "text": TEXT, "rows": rows})


if __name__ == "__main__":
    tables.command(main, "remaining RESULTS OUT.json")
