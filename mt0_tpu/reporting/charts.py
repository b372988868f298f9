"""The report's charts as SVG text: bars, pairs, strips of dots, lines. No library, no scripts.

Each chart is a panel of the same width, so that a page lays as many side by side as fit and a
phone shows one below the other at the same size of type. Colours come from CSS (--c of the class
of an arm), so one drawing serves light and dark. Percent throughout, except in `lines`.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import unicodedata
from collections.abc import Sequence

from mt0_tpu.reporting.document import escaped

_WIDTH = 344
_LEFT, _RIGHT = 118, 302  # of the plot, between labels and values
_ROW = 18
_MOST_POINTS = 150
_LABEL_WIDTH = 16  # in characters


@dataclasses.dataclass(frozen=True)
class Bar:
    """A bar: its class colours it ('ref' is a published model); dots are single seeds."""

    label: str
    value: float
    css: str
    deviation: float = 0.0
    dots: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two values of one row, seen and unseen languages; None where there is none."""

    label: str
    seen: float | None
    unseen: float | None
    css: str


@dataclasses.dataclass(frozen=True)
class Strip:
    """Dots of one row, each with its name, and their median."""

    label: str
    dots: tuple[tuple[str, float], ...]
    median: float
    css: str


@dataclasses.dataclass(frozen=True)
class Line:
    """A curve; `marked` draws its points and dashes the line between."""

    label: str
    points: tuple[tuple[float, float], ...]
    css: str
    marked: bool = False


@dataclasses.dataclass(frozen=True)
class BarGroup:
    """Bars under a title of their own ('' for none), with their levels of chance."""

    title: str
    rows: tuple[Bar, ...]
    chance: float
    majority: float


def bars(groups: Sequence[BarGroup], label: str) -> str:
    """Draws horizontal bars from 0 to 100, with chance dashed and the majority answer dotted."""
    count = sum(len(group.rows) + bool(group.title) for group in groups)
    frame = _Frame(count, 0, 100)
    parts, first = frame.grid(), 0
    for group in groups:
        if group.title:
            y = frame.y(first) + 4
            parts.append(f'<text class="head" x="{_LEFT}" y="{y}">{escaped(group.title)}</text>')
            first += 1
        parts += frame.levels(group.chance, group.majority, first, len(group.rows))
        parts += _bars(frame, group, first)
        first += len(group.rows)
    return frame.svg(label, parts)


def _bars(frame: _Frame, group: BarGroup, first: int) -> list[str]:
    parts = []
    for index, row in enumerate(group.rows, first):
        y = frame.y(index)
        end = frame.x(row.value)
        weight = "" if row.css == "ref" else ' class="own"'
        drawn = [
            f"<title>{escaped(row.label)}: {row.value:.1f}</title>",
            _label(row.label, y, weight),
            f'<rect class="bar" x="{_LEFT}" y="{y - 6}" width="{end - _LEFT:.1f}" height="12" '
            'rx="1.5"/>',
        ]
        far = row.value
        if len(row.dots) > 1:
            low, high = row.value - row.deviation, row.value + row.deviation
            far = max(high, *row.dots)
            drawn.append(
                f'<path class="error" d="M{frame.x(low):.1f} {y}H{frame.x(high):.1f}"/>'
                + "".join(
                    f'<circle class="seed" cx="{frame.x(dot):.1f}" cy="{y}" r="1.8"/>'
                    for dot in row.dots
                )
            )
        # The figure stands clear of the lines of chance and majority.
        near = [level for level in (group.chance, group.majority) if 0 <= level - far < 14]
        at = frame.x(max([far, *near]))
        drawn.append(f'<text{weight} x="{at + 5:.1f}" y="{y + 4}">{row.value:.1f}</text>')
        parts.append(f'<g class="{row.css}">{"".join(drawn)}</g>')
    return parts


def pairs(rows: Sequence[Pair], chance: float, label: str) -> str:
    """Draws seen languages as a full dot, unseen ones as a ring, joined by a line."""
    values = [v for row in rows for v in (row.seen, row.unseen) if v is not None]
    frame = _Frame(len(rows), *_domain([*values, chance]))
    parts = [*frame.grid(), *frame.levels(chance)]
    for index, row in enumerate(rows):
        y = frame.y(index)
        weight = "" if row.css == "ref" else ' class="own"'
        drawn = [_label(row.label, y, weight)]
        ends = [frame.x(v) for v in (row.seen, row.unseen) if v is not None]
        if len(ends) == 2:
            drawn.append(f'<path class="join" d="M{ends[0]:.1f} {y}H{ends[1]:.1f}"/>')
        for css, value in (("dot", row.seen), ("ring", row.unseen)):
            if value is not None:
                drawn.append(f'<circle class="{css}" cx="{frame.x(value):.1f}" cy="{y}" r="4.5"/>')
        said = [f"{v:.1f}" if v is not None else "–" for v in (row.seen, row.unseen)]
        drawn.insert(0, f"<title>{escaped(row.label)}: {said[0]} seen, {said[1]} unseen</title>")
        gap = f"{row.unseen - row.seen:+.1f}" if len(ends) == 2 else ""
        drawn.append(f'<text class="end" x="{_WIDTH}" y="{y + 4}">{gap.replace("-", "−")}</text>')
        parts.append(f'<g class="{row.css}">{"".join(drawn)}</g>')
    return frame.svg(label, parts)


def strips(rows: Sequence[Strip], chance: float, label: str) -> str:
    """Draws each row's values as dots on a line and their median as a bar across it."""
    values = [value for row in rows for _, value in row.dots]
    frame = _Frame(len(rows), *_domain([*values, chance]))
    parts = [*frame.grid(), *frame.levels(chance)]
    for index, row in enumerate(rows):
        y, at = frame.y(index), frame.x(row.median)
        ends = [frame.x(pick(v for _, v in row.dots)) for pick in (min, max)]
        drawn = [_label(row.label, y, ' class="own"')]
        drawn.append(f'<path class="join" d="M{ends[0]:.1f} {y}H{ends[1]:.1f}"/>')
        drawn += [
            f'<circle class="dot" cx="{frame.x(value):.1f}" cy="{y}" r="3.5">'
            f"<title>{escaped(name)}: {value:.1f}</title></circle>"
            for name, value in row.dots
        ]
        drawn.append(f'<path class="median" d="M{at:.1f} {y - 8}V{y + 8}"/>')
        drawn.append(f'<text class="own end" x="{_WIDTH}" y="{y + 4}">{row.median:.1f}</text>')
        parts.append(f'<g class="{row.css}">{"".join(drawn)}</g>')
    return frame.svg(label, parts)


class _Frame:
    """A plot with rows down and percent across."""

    def __init__(self, rows: int, low: float, high: float):
        self._low, self._high = low, high
        self._bottom = 4 + _ROW * rows

    def x(self, value: float) -> float:
        share = (value - self._low) / (self._high - self._low)
        return _LEFT + (_RIGHT - _LEFT) * min(max(share, 0.0), 1.0)

    def y(self, index: int) -> int:
        return 4 + _ROW * index + _ROW // 2

    def grid(self) -> list[str]:
        step = 25 if self._high - self._low > 60 else 10
        ticks = range(int(self._low), int(self._high) + 1, step)
        lines = "".join(f"M{self.x(tick):.1f} 2V{self._bottom}" for tick in ticks)
        words = "".join(
            f'<text class="tick mid" x="{self.x(tick):.1f}" y="{self._bottom + 13}">{tick}</text>'
            for tick in ticks
        )
        return [f'<path class="grid" d="{lines}"/>{words}']

    def levels(
        self, chance: float, majority: float | None = None, first: int = 0, rows: int | None = None
    ) -> list[str]:
        known = [("chance", chance), ("majority", majority)]
        top = 4 + _ROW * first - 2
        bottom = self._bottom if rows is None else top + _ROW * rows + 4
        return [
            f'<path class="{css}" d="M{self.x(value):.1f} {top}V{bottom}"/>'
            for css, value in known
            if value is not None
        ]

    def svg(self, label: str, parts: Sequence[str]) -> str:
        return _svg(label, self._bottom + 18, parts)


def _svg(label: str, height: int, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escaped(label)}">'
        f"{''.join(parts)}</svg>"
    )


def _label(text: str, y: int, weight: str) -> str:
    """A row's name; direction is the text's own, so the anchor follows a group's end."""
    shown = escaped(shortened(text, _LABEL_WIDTH))
    css = weight.replace('class="own"', 'class="own end"') or ' class="end"'
    return f'<text{css} x="{_LEFT - 7}" y="{y + 4}">{shown}</text>'


def shortened(text: str, width: int) -> str:
    """Cuts the middle out of a text wider than `width`; wide (East Asian) letters count two."""
    if _width(text) <= width:
        return text
    head = tail = ""
    for ahead, behind in zip(text, reversed(text), strict=True):
        if _width(head + ahead + tail) >= width:
            break
        head += ahead
        if _width(head + behind + tail) >= width:
            break
        tail = behind + tail
    return f"{head}…{tail}"


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _domain(values: Sequence[float]) -> tuple[float, float]:
    """Tens around the values, twenty points at least, within 0 to 100."""
    low, high = 10 * math.floor(min(values) / 10), 10 * math.ceil(max(values) / 10)
    while high - low < 20:
        low, high = (low, high + 10) if high < 100 else (low - 10, high)
    return max(low, 0), min(high, 100)


# ---- curves

_PLOT = (44, 8, 336, 158)  # left, top, right, bottom


def lines(
    series: Sequence[Line], label: str, from_zero: bool = False, least_span: float = 0.0
) -> str:
    """Draws curves over steps.

    Args:
      from_zero: starts the axis of values there.
      least_span: of the axis, so that a small move does not look like a great one.
    """
    left, top, right, bottom = _PLOT
    shown = [dataclasses.replace(line, points=tuple(thinned(line.points))) for line in series]
    steps = [step for line in shown for step, _ in line.points]
    values = [value for line in shown for _, value in line.points]
    low, high = 0.0 if from_zero else min(values), max(values)
    short = max(least_span - (high - low), 0.0) / 2
    y_ticks = ticks(low - short, high + short)
    x_low, x_high = min(steps), max(steps)
    x_ticks = [t for t in ticks(x_low, x_high, whole=True) if x_low <= t <= x_high]

    def place(step: float, value: float) -> tuple[float, float]:
        across = (step - x_low) / (x_high - x_low) if x_high > x_low else 0.5
        up = (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return left + (right - left) * across, bottom - (bottom - top) * up

    parts = []
    for tick in y_ticks:
        y = place(x_low, tick)[1]
        parts.append(
            f'<path class="grid" d="M{left} {y:.1f}H{right}"/>'
            f'<text class="tick end" x="{left - 6}" y="{y + 4:.1f}">{number(tick)}</text>'
        )
    for tick in x_ticks:
        x = min(max(place(tick, y_ticks[0])[0], left + 6), right - 10)
        parts.append(f'<text class="tick mid" x="{x:.1f}" y="{bottom + 15}">{number(tick)}</text>')
    for index, line in enumerate(shown):
        points = [place(*point) for point in line.points]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        css = "curve marked" if line.marked else "curve"
        # Of two curves that are the same both shall be seen.
        if any(line.points == earlier.points for earlier in shown[:index]):
            css += " again"
        dots = "".join(
            f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>'
            for x, y in (points if line.marked or len(points) == 1 else [])
        )
        parts.append(
            f'<g class="{line.css}"><title>{escaped(line.label)}</title>'
            f'<path class="{css}" d="{path}"/>{dots}</g>'
        )
    return _svg(label, bottom + 20, parts)


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Averages neighbouring points of a long curve until few enough are left to draw."""
    size = -(-len(points) // _MOST_POINTS)
    chunks = [points[start : start + size] for start in range(0, len(points), size)]
    return [tuple(statistics.fmean(values) for values in zip(*c, strict=True)) for c in chunks]


def ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Returns three to six round numbers, 1, 2 or 5 times a power of ten apart, around a range."""
    if high <= low:
        low, high = (low - abs(low) / 2, high + abs(high) / 2) if low else (0.0, 1.0)
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999999)
    step = max(step, 1.0) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 12) for n in range(first, max(last, first + 1) + 1)]


def number(value: float) -> str:
    """Writes a number of an axis briefly: 12k, 0.0005, 1e-05."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:g}k"
    return f"{value:.6g}"
