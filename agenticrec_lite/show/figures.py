"""The course's figures: reward, tool use and weights over training, the final comparison.

Each function returns a closed matplotlib Figure: a notebook shows it once, `figure.savefig` writes it.
Colours are Okabe and Ito's colour-blind-safe set (https://jfly.uni-koeln.de/color/); markers and line styles
differ as well, so that every figure survives black and white print.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agenticrec_lite.errors import UserError
from agenticrec_lite.methods import LABELS, is_part, ordered
from agenticrec_lite.tools.behavior import MOODS
from agenticrec_lite.tools.lists import HIGHEST

INK, SOFT, FAINT = "#1b1f26", "#5a6270", "#e6e8ec"
BLUE, VERMILLION = "#0072B2", "#D55E00"
STAGES = {  # stage in metrics.csv -> name, what its reward is, colour, line style
    "rta": ("RTA", "list-wise reward", BLUE, "-"),
    "ppr": ("PPR", "pair-wise reward", VERMILLION, (0, (4, 1.2))),
}
POLICIES = {  # name in result.json -> colour, marker; every other method is a soft dot
    "frozen": (INK, "D"), "warm_start": (INK, "D"), "sft": (INK, "D"), "frozen_r": (INK, "x"),
    "trained_r": (BLUE, "x"), "rta": (BLUE, "o"), "ppr": (VERMILLION, "s"),
}  # fmt: skip
SIGNALS = {"reward_mean": "mean reward", "valid": "valid answers", "entropy": "surprise, nats a token",
           "grad_norm": "gradient norm"}
DYNAMICS = {"positive_with_tool": "tool use where rewarded", "calls": "calls a trajectory", "right": "H@10 of rollouts",
            "zero_advantage": "groups with one reward only", "entropy": "surprise, nats a token",
            "completion_tokens": "tokens a trajectory"}
BOUNDS = {"random": ("random order", (0, (1, 1.6))), "ceiling": ("evidence ceiling", (0, (5, 2)))}
SERIES = ((INK, "o", True), (VERMILLION, "s", False), (BLUE, "x", True), (SOFT, "^", False))  # colour, marker, filled
DASHES = ((0, (5, 2)), (0, (1, 1.6)), (0, (6, 2, 1, 2)), (0, (2, 2)))
RUNS = ((BLUE, "-", "o"), (VERMILLION, (0, (4, 1.2)), "s"), (INK, (0, (1, 1.6)), "D"))  # runs beside each other
WINDOW = 10  # steps in the running mean, at most a quarter of the stage
STYLE = {
    "figure.dpi": 110, "savefig.dpi": 200, "figure.facecolor": "white", "axes.facecolor": "white",
    "font.family": ["DejaVu Sans"], "font.size": 10, "text.color": INK, "axes.labelcolor": INK,
    "axes.titlesize": 10.5, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlecolor": INK,
    "axes.edgecolor": SOFT, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "axes.grid": True, "axes.grid.axis": "y", "grid.color": FAINT, "grid.linewidth": 0.8,
    "xtick.color": SOFT, "ytick.color": SOFT, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "legend.frameon": False, "legend.fontsize": 9, "lines.solid_capstyle": "butt",
}


@contextmanager
def panels(*shape: int, **options) -> Iterator[tuple[Figure, np.ndarray]]:
    """A figure with rows and columns of axes in the house's style; closed, so that a notebook shows it once."""
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(*shape, squeeze=False, layout="constrained", **options)
        yield figure, grid
    plt.close(figure)


def reward_curve(metrics: pd.DataFrame, references: Mapping[str, float] | None = None) -> Figure:
    """Mean reward of a trajectory over training: each step faint, the running mean strong.

    The stages stand side by side on one scale, in panels of their own: they reward different things.

    Args:
        metrics: metrics.csv with columns stage, step, reward_mean, and reward_pairs where rankings are rehearsed.
        references: label -> reward, drawn as dashed lines in the first panel (the list-wise reward).

    Raises:
        UserError: no row holds a mean reward.
    """
    if "reward_pairs" in metrics:
        metrics = metrics.assign(reward_mean=metrics["reward_pairs"].fillna(metrics["reward_mean"]))
    stages = _stages(metrics, "reward_mean")
    longest = max(len(frame) for frame in stages.values())
    widths = [max(len(frame), 0.45 * longest) for frame in stages.values()]
    with panels(1, len(stages), figsize=(8.6, 3.8), sharey=True, width_ratios=widths) as (figure, grid):
        for axes, (stage, frame) in zip(grid[0], stages.items(), strict=True):
            name, reward, *look = STAGES.get(stage, (stage, "reward", INK, "-"))
            _trend(axes, frame["step"], frame["reward_mean"], *look)
            axes.set(title=f"{name}: {reward}", xlabel="training step")
            axes.legend(loc="lower right", handlelength=2.6)
        for place, (label, value) in enumerate((references or {}).items()):
            _reference(grid[0][0], label, value, DASHES[place % len(DASHES)])
        if "ppr" in stages:
            _reference(grid[0][list(stages).index("ppr")], "guessing A or B", 0.5, DASHES[1])
        grid[0][0].set_ylabel("mean reward of a trajectory")
    return figure


def tool_use(metrics: pd.DataFrame) -> Figure:
    """Mean calls in a trajectory over training: all calls first, then each tool, the most used first.

    Args:
        metrics: metrics.csv with columns stage, calls and tool_<name> (mean calls in a trajectory).

    Raises:
        UserError: no row holds calls.
    """
    used = metrics.filter(regex="^tool_").mean().sort_values(ascending=False)
    return _multiples(metrics, ["calls", *used.index], "mean calls in a trajectory", 4)


def weight_use(metrics: pd.DataFrame) -> Figure:
    """Mean weight of each list behind the valid answers, over training; a list that is not used counts 0.

    Args:
        metrics: metrics.csv with columns stage and weight_<list>.

    Raises:
        UserError: no row holds weights.
    """
    names = list(metrics.filter(regex="^weight_")) or ["weight_users"]
    return _multiples(metrics, names, "mean weight behind an answer", 3)


def weights_by_mood(metrics: pd.DataFrame) -> Figure:
    """Mean weight of each list over training, of the answers to pleased users and to users who are let down.

    Where the two lines part, the policy weighs by the mood that a tool has told it.

    Args:
        metrics: metrics.csv with columns stage, pleased_<list> and let_down_<list>.

    Raises:
        UserError: no row holds weights by mood.
    """
    lists = [name.removeprefix("pleased_") for name in metrics.filter(regex="^pleased_")] or ["users"]
    told = metrics[metrics["stage"].isin(_stages(metrics, f"pleased_{lists[0]}"))]
    rows, columns = -(-len(lists) // 3), 3
    steps = np.arange(1, len(told) + 1)
    with panels(rows, columns, figsize=(9.8, 2.15 * rows + 0.5), sharex=True, sharey=True) as (figure, grid):
        for place, axes in enumerate(grid.flat):
            axes.set_visible(place < len(lists))
        for axes, name in zip(grid.flat, lists, strict=False):
            for mood, (colour, line, _) in zip(MOODS, RUNS, strict=False):
                column = f"{mood.replace(' ', '_')}_{name}"
                mean = _trend(axes, steps, told.get(column, pd.Series(np.nan, told.index)), colour, line)
                axes.annotate(f"{mean.iloc[-1]:.2f}", (steps[-1], mean.iloc[-1]), (4, 0), textcoords="offset points",
                              va="center_baseline", fontsize=9, color=colour, annotation_clip=False)
            axes.set_title(name, fontsize=9.5, fontweight="normal")
            axes.set_ylim(0, HIGHEST + 0.1)
        handles = [
            plt.Line2D([], [], color=colour, linestyle=line, linewidth=2.2, label=f"told: {mood}")
            for mood, (colour, line, _) in zip(MOODS, RUNS, strict=False)
        ]
        figure.legend(handles=handles, loc="outside upper right", ncols=len(MOODS))
        figure.supxlabel("training step", fontsize=10)
        figure.supylabel("mean weight behind an answer", fontsize=10)
    return figure


def _multiples(metrics: pd.DataFrame, names: Sequence[str], label: str, columns: int) -> Figure:
    """A panel a column of the metrics, all on one scale but "calls", which is a sum of the others."""
    stages, rows = _stages(metrics, names[0]), -(-len(names) // columns)
    with panels(rows, columns, figsize=(9.8, 2.15 * rows + 0.3), sharex=True) as (figure, grid):
        for axes, name in zip(grid.flat, names, strict=False):
            _panel(axes, stages, name)
        first = int(names[0] == "calls")  # panels with a scale of their own
        highest = max([axes.get_ylim()[1] for axes in grid.flat[first : len(names)]], default=1)
        for place, axes in enumerate(grid.flat):
            axes.set_visible(place < len(names))
            axes.set_ylim(0, highest if place >= first else None)
            left, bottom = place % columns == 0 or place == first, place + columns >= len(names)
            axes.tick_params(labelleft=left, labelbottom=bottom)
        figure.supxlabel("training step", fontsize=10)
        figure.supylabel(label, fontsize=10)
    return figure


def training_signals(runs: Mapping[str, pd.DataFrame], signals: Mapping[str, str] = SIGNALS) -> Figure:
    """What to watch while a policy trains, a panel a signal and a line a run: markers tell the runs apart.

    Args:
        runs: label -> metrics with columns step and those of the signals.
        signals: Column -> title; four, or a multiple of three.
    """
    columns = 4 if len(signals) == 4 else 3
    rows = len(signals) // columns
    with panels(rows, columns, figsize=(10.4, 0.5 + 2.4 * rows)) as (figure, grid):
        for axes, (column, title) in zip(grid.flat, signals.items(), strict=True):
            for (label, metrics), (colour, line, marker) in zip(runs.items(), cycle(RUNS), strict=False):
                values = metrics[column].astype(float)
                axes.plot(metrics["step"], values, color=colour, linestyle=line, linewidth=1.8, marker=marker,
                          markersize=5, markerfacecolor="white", label=label)
            axes.set_title(title, fontsize=9.5)
            axes.set_visible(any(metrics[column].notna().any() for metrics in runs.values()))  # older runs log less
            if column == "valid":
                axes.set_ylim(-0.05, 1.05)
            axes.xaxis.get_major_locator().set_params(integer=True)
        figure.supxlabel("training step", fontsize=10)
        figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=len(RUNS))
    return figure


def final_bars(result: Mapping) -> Figure:
    """N@10 and H@1 of every method as dots with 95 % intervals; random order and ceiling as lines.

    Dots, not bars: the differences matter, and they lie far from zero. Policies are filled and bold.

    Args:
        result: result.json as a dict; a method or an interval that is missing is left out.
    """
    measured = result["metrics"]
    names = [name for name in ordered(measured) if not is_part(name) and name not in (*BOUNDS, "bayes", "oracle")]
    places = np.array([place + 0.45 * (name in POLICIES) for place, name in enumerate(names)])
    with panels(1, 2, figsize=(9.4, 0.4 * len(names) + 1.6), sharey=True) as (figure, grid):
        for axes, metric in zip(grid[0], ("N@10", "H@1"), strict=True):
            for place, name in zip(places, names, strict=True):
                _dot(axes, place, measured[name], metric, POLICIES.get(name, (SOFT, "o")), filled=name in POLICIES)
            for name in (name for name in BOUNDS if metric in measured.get(name, {})):
                _bound(axes, *BOUNDS[name], measured[name][metric])
            axes.set_xlabel(f"{metric}, {result['n_test']:,} test tasks (mean, 95 % interval)", fontsize=9.5)
            axes.margins(x=0.06)
        grid[0][0].set_yticks(places, [LABELS.get(name, name) for name in names])
        grid[0][0].set_ylim(places[-1] + 0.6, -0.6)
        for name, label in zip(names, grid[0][0].get_yticklabels(), strict=True):
            label.set_fontweight("bold" if name in POLICIES else "normal")
    return figure


def side_by_side(points: pd.DataFrame) -> Figure:
    """Several series beside each other, the paper's and ours for example, as dots with intervals.

    A panel whose values fall on both sides of zero, or whose name says "difference", gets a line at zero.

    Args:
        points: A row a dot, with columns panel, row, series, value, and low, high (NaN without an interval). Panels,
            rows (top to bottom) and series (at most four) come in the order in which they first appear.
    """
    shown, rows, names = (list(points[column].unique()) for column in ("panel", "row", "series"))
    with panels(1, len(shown), figsize=(9.4, 0.5 * len(rows) + 1.5), sharey=True) as (figure, grid):
        for axes, panel in zip(grid[0], shown, strict=True):
            here = points[points["panel"] == panel]
            for name, dots in here.groupby("series", sort=False):
                place = names.index(name)
                _series(axes, name, dots, rows, 0.24 * (place - (len(names) - 1) / 2), SERIES[place])
            if "difference" in panel or here["value"].min() < 0 < here["value"].max():
                axes.axvline(0, color=INK, linewidth=1.1, zorder=1)
            axes.set_xlabel(panel, fontsize=9.5)
            axes.locator_params(axis="x", nbins=6)
            axes.margins(x=0.06)
        grid[0][0].set_yticks(range(len(rows)), rows)
        grid[0][0].set_ylim(len(rows) - 0.5, -0.5)
        dots = {label: dot for axes in grid[0] for dot, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend([dots[name] for name in names], names, loc="outside upper left", ncols=len(names))
    return figure


def _series(axes: Axes, name: str, dots: pd.DataFrame, rows: list, shift: float, look: tuple) -> None:
    """One series of a panel of side_by_side: intervals as lines, values as markers."""
    colour, marker, filled = look
    places = np.array([rows.index(row) + shift for row in dots["row"]])
    for place, low, high in zip(places, dots["low"], dots["high"], strict=True):
        axes.plot((low, high), (place, place), color=colour, linewidth=2.0)
    axes.plot(dots["value"], places, linestyle="", marker=marker, markersize=7, markeredgewidth=1.5, color=colour,
              markerfacecolor=colour if filled else "white", label=name)


def _stages(metrics: pd.DataFrame, column: str) -> dict[str, pd.DataFrame]:
    """The rows of each stage that hold the column, in the order of training."""
    rows = metrics.dropna(subset=[column]) if column in metrics else metrics.head(0)
    if rows.empty:
        raise UserError(f"The metrics hold no row with {column}: train a stage first, then draw its figure.")
    return {str(stage): frame for stage, frame in rows.groupby("stage", sort=False)}


def _trend(axes: Axes, steps, values: pd.Series, colour: str, line) -> pd.Series:
    """Each step faint, the running mean over the last steps strong; returns that mean."""
    window = max(1, min(WINDOW, len(values) // 4))
    mean = values.rolling(window, min_periods=1).mean()
    axes.plot(steps, values, color=colour, alpha=0.4, linewidth=0.8, label="each step")
    axes.plot(steps, mean, color=colour, linestyle=line, linewidth=2.2, label=f"mean of the last {window}")
    return mean


def _reference(axes: Axes, label: str, value: float, dashes) -> None:
    """A horizontal line, named at its left end, where a rising curve leaves room."""
    axes.axhline(value, color=SOFT, linewidth=1.1, linestyle=dashes, zorder=1)
    axes.annotate(f"{label} {_short(value)}", (0.01, value), (0, 2), xycoords=("axes fraction", "data"),
                  textcoords="offset points", fontsize=9, color=SOFT)


def _panel(axes: Axes, stages: Mapping[str, pd.DataFrame], name: str) -> None:
    """One panel of _multiples: the stages one after another, a thin line where the next begins."""
    done = 0
    for stage, frame in stages.items():
        steps = done + np.arange(1, len(frame) + 1)
        mean = _trend(axes, steps, frame[name], *STAGES.get(stage, ("", "", INK, "-"))[2:])
        if done:
            axes.axvline(done + 0.5, color=SOFT, linewidth=0.8)
        if name == "calls":
            label = STAGES.get(stage, (stage,))[0]
            axes.annotate(label, (steps.mean(), 0.05), xycoords=("data", "axes fraction"), ha="center")
        done += len(frame)
    axes.annotate(f"{mean.iloc[-1]:.2f}", (done, mean.iloc[-1]), (4, 0), textcoords="offset points",
                  va="center_baseline", fontsize=9, annotation_clip=False)
    title = "all calls" if name == "calls" else name.removeprefix("tool_").removeprefix("weight_")
    axes.set_title(title, fontsize=9.5, fontweight="bold" if name == "calls" else "normal")


def _dot(axes: Axes, place: float, method: Mapping, metric: str, look: tuple, filled: bool) -> None:
    """One method: its interval as a line, its mean as a marker, the number in a column at the right."""
    colour, marker = look
    interval = method.get("ci95", {}).get(metric, (method[metric],) * 2)
    axes.plot(interval, [place] * 2, color=colour, linewidth=2.4 if filled else 1.3)
    axes.plot(method[metric], place, marker=marker, markersize=7.5 if filled else 6.5, markeredgewidth=1.5,
              color=colour, markerfacecolor=colour if filled else "white")
    axes.annotate(_short(method[metric]), (1.02, place), xycoords=("axes fraction", "data"), fontsize=9.5,
                  va="center_baseline", weight="bold" if filled else 400, color=colour if filled else INK)


def _bound(axes: Axes, label: str, dashes, value: float) -> None:
    """A vertical line: what chance gives, or what the evidence allows."""
    axes.axvline(value, color=SOFT, linewidth=1.1, linestyle=dashes, zorder=1)
    axes.annotate(f"{label}\n{_short(value)}", (value, 1), (0, 3), xycoords=("data", "axes fraction"),
                  textcoords="offset points", ha="center", va="bottom", fontsize=9, color=SOFT)


def _short(value: float) -> str:
    """Three decimals without the leading zero, as the course writes metrics."""
    return f"{value:.3f}".removeprefix("0")
