"""What caching says while it runs, and the table at its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

_EVERY_S = 5.0
_MOST_LINES = 12


class CacheProgress:
    """Lines of throughput and time left, at most one every few seconds.

    Args:
        say: receives the lines.
        jobs: splits to cache.
        examples: examples to cache, None if not known.
    """

    def __init__(self, say: Callable[[str], None], jobs: int, examples: int | None):
        self._say, self._jobs, self._expected = say, jobs, examples
        self._begin = self._said = time.monotonic()
        self._examples = self._tokens = self._done = 0

    def add(self, examples: int, tokens: int) -> None:
        """Counts what was written."""
        self.set(self._examples + examples, self._tokens + tokens)

    def set(self, examples: int, tokens: int) -> None:
        """Says how far it is, if the last line is old enough."""
        self._examples, self._tokens = examples, tokens
        if time.monotonic() - self._said >= _EVERY_S:
            self._said = time.monotonic()
            self._say(self.line())

    def finished(self, job: tuple[str, str]) -> None:
        """Counts a finished split."""
        self._done += 1
        self.set(self._examples, self._tokens)

    def line(self) -> str:
        """Returns how far it is, how fast, and how long it will take."""
        seconds = max(time.monotonic() - self._begin, 1e-3)
        speed = self._examples / seconds
        of = f" of {self._expected:,}" if self._expected else ""
        left = ""
        if self._expected and speed:
            left = f", {max(self._expected - self._examples, 0) / speed:,.0f} s left"
        return (
            f"cache: {self._done}/{self._jobs} splits, {self._examples:,}{of} examples, "
            f"{speed:,.0f} examples/s, {self._tokens / seconds / 1e6:.2f}M tokens/s{left}"
        )


def table(infos: Iterable[dict[str, Any]], fresh: set[tuple[str, str]]) -> list[str]:
    """Returns lines of task, split, examples, tokens and dropped; the largest tasks first."""
    rows = []
    for info in infos:
        tokens = sum(feature["tokens"] for feature in info["features"].values())
        state = "cached" if (info["task"], info["split"]) in fresh else "was there"
        rows.append((info["task"], info["split"], info["num_examples"], tokens, info["dropped"],
                     state))  # fmt: skip
    rows.sort(key=lambda row: -row[3])
    width = max([len(row[0]) for row in rows[:_MOST_LINES]] + [5])
    shape = f"{{:{width}}}  {{:<12}} {{:>12}} {{:>15}} {{:>8}}  {{}}"
    lines = [shape.format("task", "split", "examples", "tokens", "dropped", "")]
    lines += [
        shape.format(task, split, f"{examples:,}", f"{tokens:,}", f"{dropped:,}", state)
        for task, split, examples, tokens, dropped, state in rows[:_MOST_LINES]
    ]
    if len(rows) > _MOST_LINES:
        lines.append(f"… and {len(rows) - _MOST_LINES} more")
    sums = [sum(row[i] for row in rows) for i in (2, 3, 4)]
    return [line.rstrip() for line in [*lines, shape.format("total", "", *map("{:,}".format, sums),
                                                            "")]]  # fmt: skip
