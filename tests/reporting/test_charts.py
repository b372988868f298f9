"""mt0_tpu/reporting/charts.py: places of bars, dots and ticks, worked out by hand."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from mt0_tpu.reporting import charts
from mt0_tpu.reporting.charts import (
    Bar,
    BarGroup,
    Line,
    Pair,
    Strip,
    bars,
    lines,
    number,
    pairs,
    shortened,
    strips,
    thinned,
    ticks,
)


def drawn(svg: str, tag: str, css: str) -> list[ElementTree.Element]:
    """Elements of a chart by tag and class."""
    root = ElementTree.fromstring(svg)
    return [e for e in root.iter(tag) if css in e.get("class", "").split()]


def test_a_bar_is_as_long_as_its_percent():
    rows = (Bar("a", 100.0, "a0"), Bar("b", 25.0, "ref"), Bar("c", 0.0, "a1"))
    svg = bars([BarGroup("5 languages", rows, 50.0, 60.0)], "x")
    # The plot is 184 wide.
    assert [float(bar.get("width")) for bar in drawn(svg, "rect", "bar")] == [184, 46, 0]
    assert [e.text for e in drawn(svg, "text", "head")] == ["5 languages"]
    assert len(drawn(svg, "path", "chance")) == len(drawn(svg, "path", "majority")) == 1
    assert drawn(svg, "path", "chance")[0].get("d").startswith("M210.0 ")


def test_seeds_are_dots_on_a_bar():
    svg = bars([BarGroup("", (Bar("a", 50.0, "a0", 10.0, (40.0, 60.0)),), 50.0, 50.0)], "x")
    assert [float(dot.get("cx")) for dot in drawn(svg, "circle", "seed")] == [191.6, 228.4]
    assert drawn(svg, "path", "error")[0].get("d") == "M191.6 13H228.4"


def test_pairs_with_one_half_missing():
    svg = pairs([Pair("a", 40.0, 60.0, "a0"), Pair("b", None, 50.0, "a1")], 50.0, "x")
    # From 40 to 60 over 184.
    assert [float(dot.get("cx")) for dot in drawn(svg, "circle", "dot")] == [118]
    assert [float(dot.get("cx")) for dot in drawn(svg, "circle", "ring")] == [302, 210]
    assert len(drawn(svg, "path", "join")) == 1
    assert [t.text for t in drawn(svg, "text", "end")][1::2] == ["+20.0", None]


def test_strips_mark_the_score():
    svg = strips([Strip("a", (("p & q", 41.0), ("r", 59.0)), 50.0, "a0")], 45.0, "x")
    assert drawn(svg, "path", "median")[0].get("d").startswith("M210.0 ")
    titles = [e.text for e in ElementTree.fromstring(svg).iter("title")]
    assert titles == ["p & q: 41.0", "r: 59.0"]


def test_curves_span_their_plot():
    svg = lines([Line("a", ((0, 1.0), (10, 3.0)), "a0"), Line("b", ((5, 2.0),), "a1")], "x")
    first, second = drawn(svg, "path", "curve")
    assert first.get("d") == "M44.0 158.0L336.0 8.0"
    # A single point would not be seen as a line.
    assert len(drawn(svg, "circle", "dot")) == 1 and second.get("d") == "M190.0 83.0"


def test_a_small_move_looks_small():
    svg = lines([Line("a", ((0, 52.0), (10, 53.0)), "a0")], "x", least_span=10.0)
    # From 45 to 60: a point is a fifteenth of the height of 150.
    assert drawn(svg, "path", "curve")[0].get("d") == "M44.0 88.0L336.0 78.0"


def test_of_two_curves_alike_the_second_is_dashed():
    points = ((0, 1.0), (10, 3.0))
    series = [Line("a", points, "a0"), Line("b", points, "a1"), Line("c", points[:1], "a2")]
    assert len(drawn(lines(series, "x"), "path", "again")) == 1


@pytest.mark.parametrize("value", [0.0, 1e-9, 3.0, 1e7])
def test_flat_curves_and_single_steps_are_drawn(value):
    svg = lines([Line("a", ((7, value),), "a0")], "x", from_zero=True)
    assert "nan" not in svg and "inf" not in svg


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0, 0.5, 1]),
        (0.0, 100.0, [0, 50, 100]),
        (2.0, 5.5, [2, 3, 4, 5, 6]),
        (0.0002, 0.001, [0.0002, 0.0004, 0.0006, 0.0008, 0.001]),
        (5.0, 5.0, [2, 4, 6, 8]),
        (0.0, 0.0, [0, 0.5, 1]),
    ],
)
def test_ticks_are_round_and_hold_the_range(low, high, expected):
    found = ticks(low, high)
    assert found == pytest.approx(expected)


def test_ticks_of_steps_are_whole():
    assert ticks(1, 3, whole=True) == [1, 2, 3]


def test_numbers_of_an_axis():
    values = (0, 0.5, 1e-5, 1500, 25000, 1.2e6)
    assert [number(value) for value in values] == ["0", "0.5", "1e-05", "1500", "25k", "1.2M"]


def test_long_curves_are_averaged():
    points = [(step, float(step)) for step in range(2 * charts._MOST_POINTS)]
    assert thinned(points)[:2] == [(0.5, 0.5), (2.5, 2.5)]
    assert len(thinned(points)) == charts._MOST_POINTS
    assert thinned(points[:3]) == points[:3]


def test_long_names_lose_their_middle():
    assert shortened("short", 16) == "short"
    assert shortened("mt0_large_with_a_long_name", 16) == "mt0_larg…ng_name"
    assert shortened("语言模型的名称很长很长", 16) == "语言模型…长很长"
