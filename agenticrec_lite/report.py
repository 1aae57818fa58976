"""Tables from run folders: seeds pooled, intervals that resample users, the paper beside us, verdicts, cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from agenticrec_lite.errors import UserError
from agenticrec_lite.evaluation.metrics import ndcg, paired_difference, summarize
from agenticrec_lite.methods import compared, is_part, ordered
from agenticrec_lite.paper import claims
from agenticrec_lite.runs import read_config, read_metrics, read_ranks, read_result, replacing
from agenticrec_lite.runs.files import check_none, read_json

MARK = "<!-- Written by agenticrec report, which will write over it. -->"
SHOWN = ("H@1", "H@5", "H@10", "N@5", "N@10")

REASONING = {"frozen_r": "reasoning-untrained", "trained_r": "reasoning"}  # the paper's R -> the variant that is it
VARIANTS = (
    "Differences are paired, on the tasks that both have. Intervals are over users and take the trained policies as "
    "they are: another training may differ by more, so look at *each seed*, and take a single seed as an idea only."
)


def pool(folders: Sequence[str | Path]) -> dict:
    """The test tasks of several runs of one setting as one sample.

    Seeds draw their own tasks and candidates, and train their own recommenders and policies; the users are the same
    people, so the intervals resample users over all seeds together.

    Args:
        folders: Finished run folders of the same dataset and profile.

    Returns:
        {"dataset", "profile", "seeds", "n_test", "not_run": {stage: reason}, "metrics": {method: ...}, "differences":
        {"a - b": {metric: ...}}}, shaped as result.json.

    Raises:
        UserError: No folder, a folder without ranks, or runs of different settings.
    """
    if not folders:
        raise UserError("A report needs at least one run folder, for example runs/demo.")
    _check_same(folders)
    results, tables = [read_result(folder) for folder in folders], [read_ranks(folder) for folder in folders]
    table = pd.concat(tables, ignore_index=True, join="inner")  # an older run lacks the newer baselines
    methods = [name for name in ordered(table.columns.drop(["task_id", "user"])) if not is_part(name)]
    users = table["user"].to_numpy()
    return {
        "dataset": results[0]["dataset"],
        "profile": results[0]["profile"],
        "seeds": [result["seed"] for result in results],
        "n_test": len(table),
        "not_run": _not_run(results),
        "metrics": {
            name: summarize(table[name], users) | _shares(name, results, [len(t) for t in tables]) for name in methods
        },
        "differences": {
            f"{a} - {b}": {m: paired_difference(table[a], table[b], users, m) for m in SHOWN}
            for a, b in compared(methods)
        },
    }


def _not_run(results: Sequence[Mapping]) -> dict[str, str]:
    """The stages that at least one run has left out, each with a reason."""
    return {
        stage: f"seed {result['seed']}: {reason}"
        for result in results
        for stage, reason in result.get("not_run", {}).items()
    }


def _check_same(folders: Sequence[str | Path]) -> None:
    """Raises UserError if runs differ in more than their seed, or not even in that."""
    configs = [read_config(folder) for folder in folders]
    settings, seeds = [{**config, "seed": None} for config in configs], [config["seed"] for config in configs]
    for folder, setting in zip(folders, settings, strict=True):
        if different := [name for name in setting | settings[0] if setting.get(name) != settings[0].get(name)]:
            names = ", ".join(different)
            raise UserError(f"{folder} and {folders[0]} differ in {names}, not only in their seed; report them apart.")
    if twice := [str(folder) for folder, seed in zip(folders, seeds, strict=True) if seeds.count(seed) > 1]:
        raise UserError(f"{' and '.join(twice)} hold the same seed, whose tasks would count twice; report one of them.")


def with_reasoning(pooled: dict, runs: Mapping[str, Sequence[Path]]) -> dict:
    """Pooled runs with the paper's R, reasoning without tools, if such variants are there: figures, and tools minus R.

    Args:
        pooled: Of the recipe.
        runs: Of its dataset and profile, as `collect` gives them.
    """
    for name, variant in REASONING.items():
        if not (folders := runs.get(variant)):
            continue
        own, figures, method = _figures(folders)
        both = own.merge(_ranks(runs[""]), on=["seed", "task_id"], suffixes=("_r", ""))
        apart = {m: paired_difference(both[method], both[f"{method}_r"], both["user"], m) for m in SHOWN}
        pooled["metrics"][name], pooled["differences"][f"{method} - {name}"] = figures, apart
    return pooled


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
    """A row a variant: its figures, and on the same tasks its difference to what it is compared with.

    Args:
        runs: Of one dataset and profile, as `collect` gives them.

    Returns:
        Indexed by variant: question, against, seeds, n, H@1, N@10, low, high, valid, calls, minutes; and where test
        tasks are the same, their number ("paired"), "H@1 -" and "N@10 -" with their "low" and "high", and the latter
        of each seed.
    """
    rows = {}
    for name, folders in runs.items():
        if not name:
            continue
        results, about = [read_result(folder) for folder in folders], read_result(folders[0])["variant"]
        own, figures, method = _figures(folders)
        rows[name] = {
            "question": about["question"], "against": about["against"], "seeds": len(folders), "n": len(own),
            "H@1": figures["H@1"], "N@10": figures["N@10"], "low": figures["ci95"]["N@10"][0],
            "high": figures["ci95"]["N@10"][1], "valid": figures["valid"], "calls": figures["calls"],
            "minutes": np.mean([sum(result["seconds"].values()) for result in results]) / 60,
        } | (_apart(own, method, runs, about["against"]) if about["paired"] else {})  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index")


def _figures(folders: Sequence[Path]) -> tuple[pd.DataFrame, dict, str]:
    """Of a variant: its ranks, the figures of its method, and that method's name."""
    _check_same(folders)
    results, own = [read_result(folder) for folder in folders], _ranks(folders)
    method = results[0]["variant"]["method"]
    shares = _shares(method, results, own["seed"].value_counts(sort=False))
    return own, summarize(own[method], own["user"]) | shares, method


def _ranks(folders: Sequence[Path]) -> pd.DataFrame:
    """The ranks of several seeds, one below the other."""
    return pd.concat([read_ranks(folder).assign(seed=read_result(folder)["seed"]) for folder in folders])


def _apart(own: pd.DataFrame, method: str, runs: Mapping[str, Sequence[Path]], against: str) -> dict:
    """Paired differences to a variant of that name, or to that method of the recipe."""
    if not (others := runs.get(against, runs.get(""))):
        return {}
    both = own.merge(_ranks(others), on=["seed", "task_id"], suffixes=("", "_other"))
    column = method if against in runs else against
    column = f"{column}_other" if column in own else column
    if both.empty or column not in both:
        return {}
    found = {m: paired_difference(both[method], both[column], both["user"], m) for m in ("H@1", "N@10")}
    seeds = [ndcg(rows[method], 10) - ndcg(rows[column], 10) for _, rows in both.groupby("seed")]
    return {"paired": len(both)} | {
        f"{m} -{end}": value
        for m, d in found.items()
        for end, value in zip(("", " low", " high"), (d["difference"], *d["ci95"]), strict=True)
    } | {"each seed": " ".join(f"{value:+.3f}" for value in seeds)}  # fmt: skip


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
        rest = f"{low:.3f} .. {high:.3f} | {metrics['valid']:.3f} | {metrics['calls']:.1f} | {ways}"
        lines.append(f"| {name} | {shown} | {rest} |")
    lines += [f"| {stage} | not run ({reason}) |" + " |" * (len(SHOWN) + 2 + len(bounds))
              for stage, reason in pooled.get("not_run", {}).items()]  # fmt: skip
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
        out: Folder for report.md and the figures, which take the place of those of an earlier report; None writes
            nothing.

    Raises:
        UserError: There is no finished run, or the folder has files of such names that are not of a report.
    """
    parts, curves = [], {}
    for (dataset, profile), runs in collect(folders).items():
        parts.append(f"# {dataset}, {profile}")
        if plain := runs.get(""):
            pooled = with_reasoning(pool(plain), runs)
            parts += [markdown(pooled), "## The paper's claims", table_text(claims(pooled))]
            parts += ["## Seconds", table_text(costs(plain).reset_index(), 0)]
            metrics = {f"seed {read_result(run)['seed']}": _steps(run) for run in plain}
            if out is not None and any(len(rows) for rows in metrics.values()):
                name = f"dynamics-{profile}-{dataset}.png".replace("/", "-")  # of one's own data, a path
                parts.append(f"![How training went]({name})")
                curves[name] = metrics
        if set(runs) - {""}:
            parts += ["## Variants", VARIANTS, table_text(ablations(runs).rename_axis("variant").reset_index())]
        for name in (name for name in runs if name and "ceiling" in read_result(runs[name][0])["metrics"]):
            parts += [f"## The whole of {name}", "*sasrec* is the recommender that its tools ask.",
                      markdown(pool(runs[name]))]  # fmt: skip
    for table in tables(folders):
        parts += [f"# {table['title']}", table["text"], table_text(pd.DataFrame(table["rows"]))]
    text = "\n\n".join(parts) + "\n"
    if out is not None:
        path = Path(out, "report.md")
        if not path.is_file() or not path.read_bytes().startswith(MARK.encode()):
            check_none(path.parent, (name for name in ("report.md", *curves) if path.with_name(name).exists()))
        with replacing(path) as fresh:
            fresh.write_text(f"{MARK}\n\n{text}", encoding="utf-8")
        for name, metrics in curves.items():
            _draw(metrics, path.with_name(name))
    return text


def tables(folders: Sequence[str | Path]) -> list[dict]:
    """Studies that are no runs, at or below some folders in `tables/*.json`: each {"title", "text", "rows"}."""
    paths = [path for folder in folders for path in sorted(Path(folder).rglob("tables/*.json"))]
    return [table for path in paths for table in read_json(path)["tables"]]


def _steps(folder: str | Path) -> pd.DataFrame:
    """A run's metrics.csv; a table without rows if no stage has trained."""
    if not Path(folder, "metrics.csv").exists():
        return pd.DataFrame(columns=["stage", "step", "completion_tokens"])
    return read_metrics(folder)


def _draw(metrics: Mapping[str, pd.DataFrame], path: Path) -> None:
    """The figure of stage 1's dynamics."""
    from agenticrec_lite.show.figures import DYNAMICS, training_signals  # and matplotlib, where it is needed

    columns = ["step", *DYNAMICS]  # what an older run did not log stays empty
    shown = {label: rows[rows["stage"] == "rta"].reindex(columns=columns) for label, rows in metrics.items()}
    with replacing(path) as fresh:
        training_signals(shown, DYNAMICS).savefig(fresh, format="png")


def table_text(table: pd.DataFrame, digits: int = 3) -> str:
    """A DataFrame as a Markdown table; floats with so many digits, nothing where there is nothing."""

    def shown(value: object) -> str:
        if isinstance(value, float):
            return "" if np.isnan(value) else f"{value:.{digits}f}"
        return str(value)

    head = [list(map(str, table.columns)), ["---"] * table.shape[1]]
    rows = [[shown(value) for value in row] for row in table.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(row)} |" for row in head + rows)


def costs(folders: Sequence[str | Path]) -> pd.DataFrame:
    """A row a run: seconds of each stage, peak memory in MB, tokens of a trajectory in each stage's last step."""
    rows = []
    for folder in folders:
        result, steps = read_result(folder), _steps(folder)
        last = steps.groupby("stage", sort=False).last()
        tokens = {f"tokens, {stage}": n for stage, n in last["completion_tokens"].items()}
        taken = steps.filter(like="seconds_").groupby(steps["stage"]).sum().sum(axis=1)  # a killed run's timer has less
        seconds = {stage: max(s, taken.get(stage, 0.0)) for stage, s in result["seconds"].items()}
        rows.append({"seed": result["seed"], **seconds, "peak_rss_mb": result["peak_rss_mb"], **tokens})
    return pd.DataFrame(rows).set_index("seed")
