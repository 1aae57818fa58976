"""The figures build from tiny made-up frames, show what they are given, and save."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import pytest  # noqa: E402

from agenticrec_lite.errors import UserError  # noqa: E402
from agenticrec_lite.methods import LABELS, METHODS
from agenticrec_lite.show.figures import (
    final_bars,
    reward_curve,
    side_by_side,
    tool_use,
    training_signals,
    weight_use,
    weights_by_mood,
)  # fmt: skip

TOOLS = ("tool_get_similar_users", "tool_get_similar_items", "tool_item_info_search")


def make_metrics(stages=(("rta", 12), ("ppr", 4))):
    rows = [{"stage": stage, "step": step, "reward_mean": 0.02 * step, "calls": 2.0,
             **{tool: 1 / (place + 1) for place, tool in enumerate(TOOLS)}}
            for stage, steps in stages for step in range(1, steps + 1)]
    return pd.DataFrame(rows)


def make_result(**changes):
    values = {name: 0.1 * (place + 2) for place, name in enumerate([*METHODS, "mine"])}
    metrics = {
        name: {"N@10": value, "H@1": value / 2,
               "ci95": {"N@10": [value - 0.02, value + 0.02], "H@1": [value / 2 - 0.03, value / 2 + 0.03]}}
        for name, value in values.items()
    }
    return {"n_test": 1000, "metrics": metrics} | changes


def texts(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text)]


def lines(axes, label):
    return [line for line in axes.lines if str(line.get_label()).startswith(label)]


def test_reward_curve_has_a_panel_a_stage_with_raw_and_running_mean():
    figure = reward_curve(make_metrics(), {"SASRec": 0.3})
    first, second = figure.axes
    np.testing.assert_allclose(lines(first, "each step")[0].get_ydata(), 0.02 * np.arange(1, 13))
    np.testing.assert_allclose(lines(first, "mean of the last 3")[0].get_ydata()[[0, -1]], [0.02, 0.22])
    assert "SASRec .300" in texts(figure) and "RTA: list-wise reward" in texts(figure)
    assert second.get_title(loc="left") == "PPR: pair-wise reward"
    styles = {lines(axes, "mean")[0].get_linestyle() for axes in figure.axes}
    assert len(styles) == 2  # told apart without colour


def test_tool_use_has_a_panel_a_tool_and_one_for_all_calls():
    figure = tool_use(make_metrics())
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()]
    assert titles == ["all calls", *(tool.removeprefix("tool_") for tool in TOOLS)]
    tools = [axes.get_ylim() for axes in figure.axes[1:4]]
    assert len(set(tools)) == 1 and tools[0][0] == 0
    assert {"2.00", "1.00", "0.50", "0.33"} <= set(texts(figure))


def test_weights_have_a_panel_a_list_on_one_scale():
    weights = {f"weight_{name}": level for name, level in (("users", 1.0), ("items", 0.5), ("ratings", 2.5))}
    figure = weight_use(make_metrics().assign(**weights))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["users", "items", "ratings"]
    assert len({axes.get_ylim() for axes in figure.axes}) == 1 and {"1.00", "0.50", "2.50"} <= set(texts(figure))
    with pytest.raises(UserError, match="no row with weight_users"):
        weight_use(make_metrics())


def test_weights_by_mood_have_two_lines_a_list_on_one_scale(tmp_path):
    levels = {"pleased_users": 1.0, "pleased_profile": 2.75, "let_down_users": 1.5, "let_down_profile": 0.25}
    metrics = make_metrics().assign(**levels)
    metrics.loc[3, list(levels)] = np.nan  # a step in which no tool told the mood
    figure = weights_by_mood(metrics)
    assert [axes.get_title(loc="left") for axes in figure.axes[:2]] == ["users", "profile"]
    assert {axes.get_ylim() for axes in figure.axes[:2]} == {(0, 3.1)}  # weights go up to 3
    assert {"1.00", "2.75", "1.50", "0.25"} <= set(texts(figure))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["told: pleased", "told: let down"]
    with pytest.raises(UserError, match="no row with pleased_users"):
        weights_by_mood(make_metrics())


def test_final_bars_shows_every_method_and_bound():
    figure = final_bars(make_result())
    shown = texts(figure)
    assert {LABELS[name] for name in METHODS} - {"random order", "evidence ceiling", "Bayes", "oracle"} <= set(shown)
    assert shown.index("SASRec") < shown.index("mine") < shown.index("frozen policy")  # a recommender of one's own
    assert "random order\n.200" in shown and any("1,000 test tasks" in text for text in shown)
    assert [axes.get_xlabel()[:4] for axes in figure.axes] == ["N@10", "H@1,"]


def test_intervals_end_where_they_end():
    axes = final_bars(make_result()).axes[0]
    line = axes.lines[0]  # popularity's interval comes first
    np.testing.assert_allclose(line.get_xdata(), [0.28, 0.32])
    assert line.get_solid_capstyle() == "butt"


def test_the_reward_of_pairs_is_drawn_without_the_rehearsed_rankings():
    metrics = make_metrics([("rta", 3), ("ppr", 3)])
    metrics["reward_pairs"] = np.where(metrics["stage"] == "ppr", 0.25, np.nan)
    rta, ppr = reward_curve(metrics).axes
    faint = [axes.lines[0].get_ydata() for axes in (rta, ppr)]
    assert set(faint[1]) == {0.25} and list(faint[0]) == list(metrics["reward_mean"][:3])


def test_final_bars_leaves_out_what_is_missing():
    result = make_result()
    for name in ("ppr", "ceiling"):
        del result["metrics"][name]
    del result["metrics"]["rta"]["ci95"]
    shown = texts(final_bars(result))
    assert "RTA" in shown and "RTA + PPR" not in shown and not any("ceiling" in text for text in shown)


def make_points():
    columns = ["panel", "row", "series", "value", "low", "high"]
    return pd.DataFrame([
        ("H@1", "frozen", "paper", 0.2, np.nan, np.nan), ("H@1", "frozen", "ours", 0.3, 0.25, 0.35),
        ("H@1", "RTA", "ours", 0.5, 0.45, 0.55), ("difference", "RTA", "ours", 0.2, 0.15, 0.25),
    ], columns=columns)


def test_side_by_side_places_rows_and_series():
    figure = side_by_side(make_points())
    levels, difference = figure.axes
    assert [label.get_text() for label in levels.get_yticklabels()] == ["frozen", "RTA"]
    paper, ours = lines(levels, "paper")[0], lines(levels, "ours")[0]
    assert (paper.get_xdata()[0], ours.get_xdata().tolist()) == (0.2, [0.3, 0.5])
    assert paper.get_marker() != ours.get_marker()  # told apart without colour
    assert paper.get_ydata()[0] < ours.get_ydata()[0] < 0.5 < ours.get_ydata()[1]
    assert [0.25, 0.35] in [list(line.get_xdata()) for line in levels.lines]
    at_zero = [[set(line.get_xdata()) == {0} for line in axes.lines] for axes in (levels, difference)]
    assert not any(at_zero[0]) and any(at_zero[1])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["paper", "ours"]


def make_signals(steps):
    signals = {"reward_mean": 0.1, "valid": 1.0, "entropy": 0.2, "grad_norm": 3.0}
    return pd.DataFrame({"step": range(1, steps + 1), **signals})


def test_training_signals_tell_runs_apart_without_colour():
    figure = training_signals({"steady": make_signals(4), "too fast": make_signals(2)})
    assert len(figure.axes) == 4
    for axes in figure.axes:
        steady, fast = axes.lines
        assert (len(steady.get_xdata()), len(fast.get_xdata())) == (4, 2)
        assert steady.get_marker() != fast.get_marker() and steady.get_linestyle() != fast.get_linestyle()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["steady", "too fast"]


def test_training_signals_draw_every_run():
    figure = training_signals({f"seed {i}": make_signals(3) for i in range(5)})
    assert [len(axes.lines) for axes in figure.axes] == [5] * 4


@pytest.mark.parametrize("figure", [
    lambda: training_signals({"one step": make_signals(1)}),
    lambda: side_by_side(make_points()),
    lambda: reward_curve(make_metrics()), lambda: reward_curve(make_metrics([("sft", 1)])),
    lambda: tool_use(make_metrics([("rta", 2)])), lambda: final_bars(make_result()),
])
def test_figures_save_and_stay_closed(figure, tmp_path):
    drawn = figure()
    assert plt.get_fignums() == []  # a notebook would otherwise show it twice
    drawn.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_empty_metrics_say_so():
    with pytest.raises(UserError, match="reward_mean"):
        reward_curve(pd.DataFrame({"stage": [], "step": []}))
    with pytest.raises(UserError, match="calls"):
        tool_use(make_metrics().assign(calls=np.nan))
