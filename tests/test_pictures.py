"""The drawings: well-formed, without a request or a script, inside of their frame, and those that are committed."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from agenticrec_lite.rewards import group_advantages
from agenticrec_lite.show import pictures
from agenticrec_lite.training.mining import violation_pool

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("draw", pictures.PICTURES, ids=lambda draw: draw.__name__)
def test_a_drawing_is_whole_and_stays_in_its_frame(draw):
    picture = draw()
    root = ElementTree.fromstring(picture.svg)
    _, _, width, height = map(float, root.get("viewBox").split())
    assert root.find(f"{SVG}title").text and "prefers-color-scheme:dark" in root.find(f"{SVG}style").text
    assert not re.search(r"<script|href|url\(|@import", picture.svg)
    for text in root.iter(f"{SVG}text"):
        size, x = (7.5 if text.get("class") in ("", "bold") else 6.6) * len(text.text), float(text.get("x"))
        left = {"start": x, "middle": x - size / 2, "end": x - size}[text.get("text-anchor")]
        assert left >= 0 and left + size <= width and 10 < float(text.get("y")) <= height - 2, text.text
    for box in root.iter(f"{SVG}rect"):
        x, y, w, h = (float(box.get(name)) for name in ("x", "y", "width", "height"))
        assert 0 <= x <= x + w <= width and 0 <= y <= y + h <= height


@pytest.mark.parametrize("draw", pictures.PICTURES, ids=lambda draw: draw.__name__)
def test_the_committed_drawing_is_that_of_the_code(draw, tmp_path):
    assert draw().save(tmp_path / "x.svg").read_text() == (FOLDER / f"{draw.__name__}.svg").read_text()


def test_the_numbers_in_the_drawings_are_those_of_the_package():
    advantages, _ = group_advantages([1.1, 0.5, -0.5, -1.0], 4)
    svg = pictures.group().svg
    assert all(f"{value:+.3f}" in svg for value in advantages)
    assert violation_pool([3, 9, 7, 1, 12, 5, 18, 20, 2, 4], 7) == (3, 9)
    assert "above it: the pool" in pictures.mining().svg
