"""Tables from run folders: seeds pooled, intervals that resample users, the paper beside us, verdicts, cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from agenticrec_lite.errors import UserError
from agenticrec_lite.evaluation.metrics import paired_difference, summarize
from agenticrec_lite.runs import read_config, read_metrics, read_ranks, read_result
from agenticrec_lite.runs.files import read_json
from agenticrec_lite.training.log import COMPARED

SHOWN = ("H@1", "H@5", "H@10", "N@5", "N@10")

# What the paper reports (arXiv 2603.21613, by two public digests); R: reasoning only. None: not in our sources.
_COLUMNS = ("H@1", "H@5", "N@5", "N@10")
_REPORTED = {
    "CDs": {
        "sasrec": (0.0536, None, 0.1413, 0.2145), "frozen_r": (0.1907, 0.4696, 0.3303, None),
        "trained_r": (0.2324, 0.5399, 0.3865, None), "frozen": (0.2331, 0.5476, 0.3955, None),
        "rta": (0.2837, 0.6162, 0.4606, None), "ppr": (0.2992, 0.6472, 0.4795, 0.5324),
    },
    "Instruments": {
        "frozen_r": (0.1973, 0.5613, 0.3818, None), "frozen": (0.1948, 0.5277, 0.3673, None),
        "ppr": (0.2586, 0.6115, 0.4393, None),
    },
    "Games": {"sasrec": (0.1535, None, 0.2762, 0.3234), "ppr": (0.3282, None, 0.4887, 0.5445)},
}  # fmt: skip
PAPER = {data: {method: dict(zip(_COLUMNS, figures, strict=True)) for method, figures in methods.items()}
         for data, methods in _REPORTED.items()}  # fmt: skip

CLAIMS = (  # what the paper says of two methods: claim, a, b; what it says of a - b is in its figures
    ("training with tools beats the frozen agent", "rta", "frozen"),
    ("PPR adds to RTA", "ppr", "rta"),
    ("the trained agent beats SASRec", "ppr", "sasrec"),
    ("tools help an untrained agent (CDs) or hurt it (Instruments)", "frozen", "frozen_r"),
    ("trained with tools beats trained without", "rta", "trained_r"),
)


def pool(folders: Sequence[str | Path]) -> dict:
    """The test tasks of several runs of one setting as one sample.

    Seeds draw their own tasks and candidates, and train their own recommenders and policies; the users are the same
    people, so the intervals resample users over all seeds together.

    Args:
        folders: Finished run folders of the same dataset and profile.

    Returns:
        {"dataset", "profile", "seeds", "n_test", "metrics": {method: ...}, "differences": {"a - b": {metric: ...}}},
        shaped as result.json.

    Raises:
        UserError: No folder, a folder without ranks, or runs of different settings.
    """
    if not folders:
        raise UserError("A report needs at least one run folder, for example runs/demo.")
    results, tables = [read_result(folder) for folder in folders], [read_ranks(folder) for folder in folders]
    settings = [{**read_config(folder), "seed": None} for folder in folders]
    for folder, setting in zip(folders, settings, strict=True):
        if different := [name for name in setting | settings[0] if setting.get(name) != settings[0].get(name)]:
            told = ", ".join(different)
            raise UserError(f"{folder} and {folders[0]} differ in {told}, not only in their seed; report them apart.")
    table = pd.concat(tables, ignore_index=True, join="inner")  # an older run lacks the newer baselines
    methods = [name for name in table.columns if name not in ("task_id", "user")]
    users = table["user"].to_numpy()
    return {
        "dataset": results[0]["dataset"],
        "profile": results[0]["profile"],
        "seeds": [result["seed"] for result in results],
        "n_test": len(table),
        "metrics": {
            name: summarize(table[name], users) | _shares(name, results, [len(t) for t in tables]) for name in methods
        },
        "differences": {
            f"{a} - {b}": {m: paired_difference(table[a], table[b], users, m) for m in SHOWN}
            for a, b in COMPARED
            if {a, b} <= set(methods)
        },
    }


def collect(folders: Sequence[str | Path]) -> dict[tuple[str, str], dict[str, list[Path]]]:
    """Finished runs at or below some folders: by dataset and profile, then by variant; "" is the recipe itself.

    Raises:
        UserError: There are none.
    """
    found: dict[tuple[str, str], dict[str, list[Path]]] = {}
    for run in (path.parent for folder in folders for path in sorted(Path(folder).rglob("ranks.csv"))):
        result = read_result(run)
        variants = found.setdefault((result["dataset"], result["profile"]), {})
        variants.setdefault(result.get("variant", {}).get("name", ""), []).append(run)
    if not found:
        raise UserError(f"There is no finished run at or below {', '.join(map(str, folders))}, such as runs/demo.")
    return found


def ablations(runs: Mapping[str, Sequence[Path]]) -> pd.DataFrame:
    """A row a variant: its figures, and on the same tasks its difference to what it is held against.

    Args:
        runs: Of one dataset and profile, as `collect` gives them.

    Returns:
        Indexed by variant: question, against, seeds, n, H@1, N@10, low, high, valid, calls, minutes; and where test
        tasks are the same, "H@1 -" and "N@10 -" with their "low" and "high".
    """
    rows = {}
    for name, folders in runs.items():
        if not name:
            continue
        results, about = [read_result(folder) for folder in folders], read_result(folders[0])["variant"]
        own, method = _ranks(folders), about["method"]
        figures = summarize(own[method], own["user"]) | _shares(method, results, own["seed"].value_counts(sort=False))
        rows[name] = {
            "question": about["question"], "against": about["against"], "seeds": len(folders), "n": len(own),
            "H@1": figures["H@1"], "N@10": figures["N@10"], "low": figures["ci95"]["N@10"][0],
            "high": figures["ci95"]["N@10"][1], "valid": figures["valid"], "calls": figures["calls"],
            "minutes": np.mean([sum(result["seconds"].values()) for result in results]) / 60,
        } | (_apart(own, method, runs, about["against"]) if about["paired"] else {})  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index")


def _ranks(folders: Sequence[Path]) -> pd.DataFrame:
    """The ranks of several seeds, one below the other."""
    return pd.concat([read_ranks(folder).assign(seed=read_result(folder)["seed"]) for folder in folders])


def _apart(own: pd.DataFrame, method: str, runs: Mapping[str, Sequence[Path]], against: str) -> dict:
    """Paired differences to another method of its own, to a variant of that name, or to that method of the recipe."""
    both, column = own, against
    if against not in own or against == method:
        if not (others := runs.get(against, runs.get(""))):
            return {}
        both = own.merge(_ranks(others), on=["seed", "task_id"], suffixes=("", "_other"))
        column = method if against in runs else against
        column = f"{column}_other" if column in own else column
    if both.empty or column not in both:
        return {}
    found = {m: paired_difference(both[method], both[column], both["user"], m) for m in ("H@1", "N@10")}
    return {
        f"{m} -{end}": value
        for m, d in found.items()
        for end, value in zip(("", " low", " high"), (d["difference"], *d["ci95"]), strict=True)
    }


def _shares(name: str, results: Sequence[Mapping], weights: Sequence[int]) -> dict:
    """Valid answers and calls of a method, over all tasks of all runs."""
    return {
        key: float(np.average([result["metrics"][name][key] for result in results], weights=weights))
        for key in ("valid", "calls")
    }


def way(metrics: Mapping[str, Mapping], name: str, to: str = "ceiling") -> float:
    """How much of the way from the random order to a bound a method goes, by N@10."""
    start = metrics["random"]["N@10"]
    return (metrics[name]["N@10"] - start) / (metrics[to]["N@10"] - start)


def markdown(pooled: Mapping) -> str:
    """The pooled table, and the paired differences under it, as Markdown."""
    seeds = ", ".join(map(str, pooled["seeds"]))
    bounds = {f"way to {to}": to for to in ("ceiling", "bayes") if {to, "random"} <= set(pooled["metrics"])}
    lines = [
        f"{pooled['dataset']}, profile {pooled['profile']}, seeds {seeds}, {pooled['n_test']} test tasks.",
        "",
        "| | " + " | ".join(SHOWN) + " | N@10, 95 % interval | valid | calls | " + " | ".join(bounds) + " |",
        "|---" * (len(SHOWN) + 4 + len(bounds)) + "|",
    ]
    for name, metrics in pooled["metrics"].items():
        low, high = metrics["ci95"]["N@10"]
        shown = " | ".join(f"{metrics[m]:.3f}" for m in SHOWN)
        ways = " | ".join(f"{way(pooled['metrics'], name, to):.0%}" for to in bounds.values())
        told = f"{low:.3f} .. {high:.3f} | {metrics['valid']:.3f} | {metrics['calls']:.1f} | {ways}"
        lines.append(f"| {name} | {shown} | {told} |")
    lines += ["", "| paired difference | H@1 | N@10 |", "|---|---|---|"]
    for pair, by_metric in pooled["differences"].items():
        shown = [by_metric[m] for m in ("H@1", "N@10")]
        cells = [f"{d['difference']:+.3f} ({d['ci95'][0]:+.3f} .. {d['ci95'][1]:+.3f})" for d in shown]
        lines.append(f"| {pair} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def full_report(folders: Sequence[str | Path], out: str | Path | None = None) -> str:
    """Everything that finished runs can say, as Markdown: main tables, the paper's claims, variants, costs.

    Args:
        folders: Runs, or folders that hold runs at any depth, such as data/results.
        out: Folder for report.md and the figures; None writes nothing.
    """
    parts = []
    for (dataset, profile), runs in collect(folders).items():
        parts.append(f"# {dataset}, {profile}")
        if plain := runs.get(""):
            pooled = pool(plain)
            parts += [markdown(pooled), "## The paper's claims", table_text(claims(pooled))]
            parts += ["## Seconds", table_text(costs(plain).reset_index(), 0)]
            metrics = {f"seed {read_result(run)['seed']}": read_metrics(run) for run in plain}
            if out is not None:
                parts.append(f"![How training went]({_draw(metrics, Path(out), f'dynamics-{profile}-{dataset}.png')})")
        if set(runs) - {""}:
            parts += ["## Variants", table_text(ablations(runs).rename_axis("variant").reset_index())]
        for name in (name for name in runs if name and "ceiling" in read_result(runs[name][0])["metrics"]):
            parts += [f"## The whole of {name}", "*sasrec* is the recommender that its tool asks.",
                      markdown(pool(runs[name]))]  # fmt: skip
    for table in tables(folders):
        parts += [f"# {table['title']}", table["text"], table_text(pd.DataFrame(table["rows"]))]
    text = "\n\n".join(parts) + "\n"
    if out is not None:
        Path(out, "report.md").write_text(text, encoding="utf-8")
    return text


def tables(folders: Sequence[str | Path]) -> list[dict]:
    """Studies that are no runs, at or below some folders in tables/*.json: each {"title", "text", "rows"}."""
    paths = [path for folder in folders for path in sorted(Path(folder).rglob("tables/*.json"))]
    return [table for path in paths for table in read_json(path)["tables"]]


def _draw(metrics: Mapping[str, pd.DataFrame], out: Path, name: str) -> str:
    """The figure of stage 1's dynamics; its file's name."""
    from agenticrec_lite.evaluation.figures import DYNAMICS, training_signals  # and matplotlib, where it is needed

    out.mkdir(parents=True, exist_ok=True)
    columns = ["step", *DYNAMICS]  # what an older run did not log stays empty
    shown = {label: rows[rows["stage"] == "rta"].reindex(columns=columns) for label, rows in metrics.items()}
    training_signals(shown, DYNAMICS).savefig(out / name)
    return name


def table_text(table: pd.DataFrame, digits: int = 3) -> str:
    """A DataFrame as a Markdown table; floats with so many digits, nothing where there is nothing."""

    def shown(value: object) -> str:
        if isinstance(value, float):
            return "" if np.isnan(value) else f"{value:.{digits}f}"
        return str(value)

    head = [list(map(str, table.columns)), ["---"] * table.shape[1]]
    rows = [[shown(value) for value in row] for row in table.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(row)} |" for row in head + rows)


def verdict(paper: float, ours: Mapping | None) -> str:
    """Whether our runs bear out a difference that the paper reports; of its direction, not of its size.

    Args:
        paper: The paper's difference.
        ours: {"difference", "ci95"}, or None if our runs cannot say.

    Returns:
        "reproduced" if our interval lies on the paper's side of zero, "same direction" if only our estimate does,
        "not reproduced" if that does not, or "cannot be tested here".
    """
    if ours is None:
        return "cannot be tested here"
    side = 1 if paper > 0 else -1
    if min(side * end for end in ours["ci95"]) > 0:
        return "reproduced"
    return "same direction" if side * ours["difference"] > 0 else "not reproduced"


def beside_paper(pooled: Mapping) -> pd.DataFrame:
    """Every figure of the paper's that we know, ours beside it, and by how much ours deviates; NaN where we have none.

    Returns:
        Columns method, metric, data (the paper's), paper, ours, low, high (95 % interval), deviation.
    """
    rows = []
    for data, methods in PAPER.items():
        for method, figures in methods.items():
            ours = pooled["metrics"].get(method)
            for metric in (name for name in _COLUMNS if figures[name] is not None):
                known = (ours[metric], *ours["ci95"][metric]) if ours else (np.nan,) * 3
                rows.append((method, metric, data, figures[metric], *known, known[0] - figures[metric]))
    return pd.DataFrame(rows, columns=["method", "metric", "data", "paper", "ours", "low", "high", "deviation"])


def claims(pooled: Mapping) -> pd.DataFrame:
    """The paper's differences between methods, ours beside them, and a verdict on each.

    Returns:
        Columns claim, data, metric, paper, ours, low, high, verdict.
    """
    rows = []
    for claim, a, b in CLAIMS:
        for data, figures in ((data, figures) for data, figures in PAPER.items() if {a, b} <= set(figures)):
            for metric in (m for m in _COLUMNS if None not in (figures[a][m], figures[b][m])):
                paper, ours = figures[a][metric] - figures[b][metric], pooled["differences"].get(f"{a} - {b}", {})
                known = ours.get(metric, {"difference": np.nan, "ci95": [np.nan] * 2})
                shown = (paper, known["difference"], *known["ci95"], verdict(paper, ours.get(metric)))
                rows.append((claim, data, metric, *shown))
    return pd.DataFrame(rows, columns=["claim", "data", "metric", "paper", "ours", "low", "high", "verdict"])


def costs(folders: Sequence[str | Path]) -> pd.DataFrame:
    """A row a run: seconds of each stage, peak memory in MB, tokens of a trajectory in each stage's last step."""
    rows = []
    for folder in folders:
        result, last = read_result(folder), read_metrics(folder).groupby("stage", sort=False).last()
        tokens = {f"tokens, {stage}": n for stage, n in last["completion_tokens"].items()}
        rows.append({"seed": result["seed"], **result["seconds"], "peak_rss_mb": result["peak_rss_mb"], **tokens})
    return pd.DataFrame(rows).set_index("seed")
