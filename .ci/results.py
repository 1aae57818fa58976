"""Writes the README's results from the runs that ship: `python .ci/results.py`."""

from pathlib import Path

from agenticrec_lite.experiment.shipped import RESULTS
from agenticrec_lite.methods import LISTS
from agenticrec_lite.report import pool

README = Path(__file__).parents[1] / "README.md"
MARKS = ("<!-- results -->\n", "<!-- /results -->")
DATASETS = ("ml-100k", "moodstore")
LABELS = {
    "frozen": "before training", "equal_weights": "all six lists, equal weights",
    "fixed_weights": "all six lists, best fixed weights", "rta": "**after stage 1 (RTA)**",
    "ppr": "**after stage 2 (RTA + PPR)**",
}  # fmt: skip


def section(results: Path = RESULTS) -> str:
    """Six rows of N@10 for each dataset, and the paired differences to the best single list."""
    pooled = {name: pool(runs) for name in DATASETS if (runs := sorted((results / f"nano-{name}").glob("seed-*")))}
    heads = [f"{name}, {len(p['seeds'])} x {p['n_test'] // len(p['seeds']):,} tasks" for name, p in pooled.items()]
    best = {name: max(LISTS, key=lambda each: p["metrics"][each]["N@10"]) for name, p in pooled.items()}
    rows = [["", *heads], ["---"] * (len(heads) + 1)]
    for method in ("frozen", "best", *list(LABELS)[1:]):
        cells = []
        for name, p in pooled.items():
            own = best[name] if method == "best" else method
            note = f" ({own.removeprefix('list_')})" if method == "best" else ""
            cells.append(_with_interval(p["metrics"][own]) + note if own in p["metrics"] else "")
        rows.append([LABELS.get(method, "the best single list"), *cells])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    apart = "; ".join(
        f"{name} {_difference(p['differences'][f'rta - {best[name]}'])} above its best list, "
        f"{_difference(p['differences']['rta - fixed_weights'])} above the best fixed weights"
        for name, p in pooled.items()
    )
    return (
        "N@10 of `nano` on test tasks, 95 % intervals over users; fixed weights were chosen on validation tasks.\n\n"
        f"{table}\n\n"
        f"Paired, RTA: {apart}.\n"
    )


def _with_interval(metric: dict) -> str:
    low, high = metric["ci95"]["N@10"]
    return f"{metric['N@10']:.3f} [{low:.3f}, {high:.3f}]"


def _difference(found: dict) -> str:
    low, high = found["N@10"]["ci95"]
    return f"{found['N@10']['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"


def main() -> None:
    before, rest = README.read_text(encoding="utf-8").split(MARKS[0])
    README.write_text(before + MARKS[0] + section() + MARKS[1] + rest.split(MARKS[1])[1], encoding="utf-8")


if __name__ == "__main__":
    main()
