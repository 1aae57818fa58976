"""Figures about hard negatives and pairs, in the style of the others: places, surrogate losses, two directions."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from agenticrec_lite.show.figures import BLUE, FAINT, INK, SOFT, VERMILLION, panels

LISTED = 10
REACH = 6  # how far from zero the surrogate losses are drawn
FILLS = ((FAINT, ""), (BLUE, ""), (VERMILLION, "///"))  # face, hatch


def positive_places(ranks: Mapping[str, ArrayLike]) -> Figure:
    """Where the positive stands in each policy's lists: first place is a hit, every other bar feeds the pool.

    Args:
        ranks: label -> ranks [n], inf where the list does not hold the positive; at most three labels.
    """
    names = [*map(str, range(1, LISTED + 1)), "not\nlisted"]
    with panels(figsize=(8.6, 3.6)) as (figure, ((axes,),)):
        width = 0.84 / len(ranks)
        for number, ((label, values), (face, hatch)) in enumerate(zip(ranks.items(), FILLS, strict=False)):
            values = np.asarray(values, dtype=float)
            counts = [*(np.mean(values == place) for place in range(1, LISTED + 1)), np.mean(values > LISTED)]
            at = np.arange(LISTED + 1) + (number - (len(ranks) - 1) / 2) * width
            axes.bar(at, counts, width, label=label, facecolor=face, edgecolor=INK, hatch=hatch, linewidth=0.9)
        axes.axvline(0.5, color=SOFT, linewidth=1.1, linestyle=(0, (5, 2)))
        axes.annotate("ranking violations \N{RIGHTWARDS ARROW}", (0.55, 0.94), xycoords=("data", "axes fraction"),
                      fontsize=9, color=SOFT)
        axes.set_xticks(range(LISTED + 1), names)
        axes.set(xlabel="place of the positive", ylabel="share of the tasks")
        axes.legend(loc="upper right")
    return figure


def surrogates(group_size: int = 8) -> Figure:
    """Both losses of a pair over its score difference, and how strongly each pushes there.

    Left the 0-1 error with its two upper bounds; right the size of their slopes, and beside them the chance that a
    group of sampled answers holds a right and a wrong one at all.

    Args:
        group_size: Answers sampled for a question.
    """
    delta = np.linspace(-REACH, REACH, 241)
    right = 1 / (1 + np.exp(-delta))
    dashed = (0, (4, 1.2))
    curves = [  # name, loss, slope, colour, line
        ("log-loss", 2 * np.logaddexp(0, -delta), 2 * (1 - right), BLUE, "-"),
        ("expected missed reward", 2 * (1 - right), 2 * right * (1 - right), VERMILLION, dashed),
    ]
    with panels(1, 2, figsize=(9.4, 3.7)) as (figure, ((left, other),)):
        left.step([-REACH, 0, REACH], [1, 1, 0], where="pre", color=INK, linewidth=1.2, label="0-1 error")
        for name, loss, slope, colour, line in curves:
            left.plot(delta, loss, color=colour, linestyle=line, linewidth=2.2, label=name)
            other.plot(delta, slope, color=colour, linestyle=line, linewidth=2.2, label=f"slope of the {name}")
        mixed = 1 - right**group_size - (1 - right) ** group_size
        label = f"chance that {group_size} tries differ"
        other.plot(delta, mixed, color=SOFT, linestyle=(0, (1, 1.6)), linewidth=1.6, label=label)
        left.set(title="What is minimised", ylabel="loss, both directions", ylim=(-0.2, 5.4))
        other.set(title="How hard it pushes", ylabel="size of the slope; chance", ylim=(-0.08, 2.75))
        for axes in (left, other):
            axes.axvline(0, color=SOFT, linewidth=0.8)
            axes.set_xlabel("score of the positive minus score of the negative")
            axes.legend(loc="upper right", handlelength=2.6)
    return figure


def two_directions(log_odds: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> Figure:
    """For every pair the log-odds of the right answer to "more" (across) and to "less" (up), a panel a policy.

    On the rising line both directions share one score; on the falling one the same item is named whatever is asked.
    Panels have scales of their own: a frozen policy's preferences may be tiny.

    Args:
        log_odds: label -> (of "more" [n], of "less" [n]); nan where there is none.
    """
    corners = {("left", "top"): "only less", ("right", "top"): "both right",
               ("left", "bottom"): "both wrong", ("right", "bottom"): "only more"}
    with panels(1, len(log_odds), figsize=(4.0 * len(log_odds), 4.2)) as (figure, grid):
        for axes, (label, (more, less)) in zip(grid[0], log_odds.items(), strict=True):
            more, less = np.asarray(more, dtype=float), np.asarray(less, dtype=float)
            reach = 1.3 * float(np.nanmax(np.abs([more, less]), initial=1e-6))
            axes.plot(more, less, linestyle="", marker="o", markersize=5, markerfacecolor="none", color=INK, alpha=0.7)
            axes.plot([-reach, reach], [-reach, reach], color=SOFT, linewidth=0.8, linestyle=(0, (5, 2)))
            axes.plot([-reach, reach], [reach, -reach], color=SOFT, linewidth=0.8, linestyle=(0, (1, 1.6)))
            for (x, y), name in corners.items():
                share = np.mean(((more > 0) == (x == "right")) & ((less > 0) == (y == "top"))
                                & np.isfinite(more) & np.isfinite(less))
                axes.text(0.03 if x == "left" else 0.97, 0.97 if y == "top" else 0.03, f"{name}: {share:.0%}", ha=x,
                          va=y, fontsize=9, transform=axes.transAxes, bbox={"facecolor": "white", "lw": 0, "pad": 1})
            axes.axhline(0, color=SOFT, linewidth=1.1)
            axes.axvline(0, color=SOFT, linewidth=1.1)
            axes.set(title=label, xlim=(-reach, reach), ylim=(-reach, reach))
            axes.locator_params(nbins=5)
            axes.grid(axis="both")
            axes.set_xlabel("more: log-odds of the right answer")
        grid[0][0].set_ylabel("less: log-odds of the right answer")
    return figure
