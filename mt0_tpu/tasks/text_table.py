"""Plain text in columns, for a terminal: aligned by what it shows, wide letters as two cells."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

_EIGHTHS = " ▏▎▍▌▋▊▉"


def cells(text: str) -> int:
    """Returns how many cells a terminal gives the text: two for wide letters, none for marks."""
    return sum(
        0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )


def padded(text: str, width: int, right: bool = False) -> str:
    """Returns the text filled with blanks to `width` cells, at its right end or its left."""
    blanks = " " * max(width - cells(text), 0)
    return blanks + text if right else text + blanks


def table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], texts: Sequence[int] = (0,)
) -> list[str]:
    """Returns lines of aligned columns under their heads, two blanks between them.

    Args:
        heads: a title a column.
        rows: the cells.
        texts: numbers of the columns that hold text, set to the left; numbers stand to the right.
    """
    lines = [list(heads), *map(list, rows)]
    widths = [max(cells(line[i]) for line in lines) for i in range(len(heads))]
    return [
        "  ".join(
            padded(cell, width, right=i not in texts)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def bar(share: float, width: int) -> str:
    """Returns a bar of share × width cells, drawn to an eighth of a cell."""
    eighths = round(max(share, 0.0) * width * 8)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def counted(number: float) -> str:
    """Returns a number of things to three or four digits: 9,999 then 12.3k, 4.5M, 6.7B."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if number >= size:
            scaled = number / (1e3 if letter == "k" else size)
            return f"{scaled:.1f}{letter}" if scaled < 99.95 else f"{scaled:.0f}{letter}"
    return f"{number:,.0f}"


def percent(share: float) -> str:
    """Returns a share as a percentage whose smallest values keep a digit."""
    value = 100 * share
    if value in (0, 100):
        return f"{value:.0f}%"
    if value >= 9.995:
        return f"{value:.1f}%"
    return f"{value:.2f}%" if value >= 0.005 else "<0.01%"


def listed(names: Sequence[str], most: int) -> str:
    """Returns the first names and how many more there are."""
    more = f" +{len(names) - most}" if len(names) > most else ""
    return " ".join(names[:most]) + more


def plural(number: int, noun: str) -> str:
    """Returns a number and its noun."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
