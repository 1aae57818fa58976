"""The figures about pairs show what they are given, and stay closed."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from agenticrec_lite.show.pair_figures import positive_places, surrogates, two_directions  # noqa: E402

RANKS = {"frozen": [1, 3, np.inf, 20], "RTA": [1, 1, 2, 3]}
ODDS = {"RTA": ([1.0, -2.0, np.nan, 3.0], [2.0, -1.0, 1.0, -1.0])}


def test_places_are_shares_and_what_is_not_in_the_top_ten_is_one_bar():
    bars = positive_places(RANKS).axes[0].containers
    np.testing.assert_allclose([bar.get_height() for bar in bars[0]], [0.25, 0, 0.25, *[0] * 7, 0.5])
    np.testing.assert_allclose([bar.get_height() for bar in bars[1]][:3], [0.5, 0.25, 0.25])
    assert bars[0][0].get_facecolor() != bars[1][0].get_facecolor()


def test_both_surrogates_lie_above_the_error():
    left, right = surrogates().axes
    delta = left.lines[1].get_xdata()
    for curve in left.lines[1:3]:
        assert (curve.get_ydata() >= (delta <= 0) - 1e-12).all()
    log_loss, reward = (line.get_ydata() for line in right.lines[:2])
    assert log_loss[0] > 1.9 and reward[0] < 0.01  # a pair that is surely wrong: one still pushes, the other does not


def test_shares_of_the_four_corners():
    texts = [text.get_text() for text in two_directions(ODDS).axes[0].texts]
    assert texts == ["only less: 0%", "both right: 25%", "both wrong: 25%", "only more: 25%"]


def test_tiny_preferences_are_seen_beside_large_ones():
    small, large = two_directions({"frozen": ([0.001, -0.002], [-0.001, 0.002])} | ODDS).axes
    assert small.get_xlim()[1] < 0.01 and large.get_xlim()[1] > 3


@pytest.mark.parametrize(
    "figure", [lambda: positive_places(RANKS), surrogates, lambda: two_directions(ODDS | {"PPR": ODDS["RTA"]})]
)
def test_figures_save_and_stay_closed(figure, tmp_path):
    drawn = figure()
    assert plt.get_fignums() == []
    drawn.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
