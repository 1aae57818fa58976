"""The figures build from tiny made-up frames, show what they are given, and save."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import pytest  # noqa: E402

from agenticrec_lite.errors import UserError  # noqa: E402
from agenticrec_lite.evaluation.figures import METHODS, final_bars, reward_curve, tool_use  # noqa: E402

TOOLS = ("tool_get_similar_users", "tool_get_similar_items", "tool_item_info_search")


def make_metrics(stages=(("rta", 12), ("ppr", 4))):
    rows = [{"stage": stage, "step": step, "reward_mean": 0.02 * step, "calls": 2.0,
             **{tool: 1 / (place + 1) for place, tool in enumerate(TOOLS)}}
            for stage, steps in stages for step in range(1, steps + 1)]
    return pd.DataFrame(rows)


def make_result(**changes):
    values = {name: 0.1 * (place + 2) for place, name in enumerate(["random", *METHODS, "ceiling"])}
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


def test_final_bars_shows_every_method_and_bound():
    figure = final_bars(make_result())
    shown = texts(figure)
    assert {label for label, *_ in METHODS.values()} <= set(shown)
    assert "random order\n.200" in shown and any("1,000 test tasks" in text for text in shown)
    assert [axes.get_xlabel()[:4] for axes in figure.axes] == ["N@10", "H@1,"]


def test_intervals_end_where_they_end():
    axes = final_bars(make_result()).axes[0]
    line = axes.lines[0]  # popularity's interval comes first
    np.testing.assert_allclose(line.get_xdata(), [0.28, 0.32])
    assert line.get_solid_capstyle() == "butt"


def test_final_bars_leaves_out_what_is_missing():
    result = make_result()
    for name in ("ppr", "ceiling"):
        del result["metrics"][name]
    del result["metrics"]["rta"]["ci95"]
    shown = texts(final_bars(result))
    assert "RTA" in shown and "RTA + PPR" not in shown and not any("ceiling" in text for text in shown)


@pytest.mark.parametrize("figure", [
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
