"""What caching says while it runs, and the table at its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mt0_tpu.data.cache_folder import LOSSES
from mt0_tpu.data.length_counts import overlong
from mt0_tpu.data.sources import task_folder

_EVERY_S = 5.0
_MOST_LINES = 12
_MOST_BAD_SHOWN = 5


class CacheProgress:
    """Lines of throughput and time left, at most one every few seconds.

    Args:
        say: receives the lines.
        jobs: splits to cache.
        work: what is left to do, in bytes of the sources (estimated where they only count).
        all_bytes: whether none of that is an estimate.
    """

    def __init__(self, say: Callable[[str], None], jobs: int, work: int, all_bytes: bool = False):
        self._say, self._jobs, self._expected, self._all_bytes = say, jobs, work, all_bytes
        self._begin = self._said = time.monotonic()
        self._examples = self._tokens = self._work = self._done = 0

    def add(self, examples: int, tokens: int, work: int) -> None:
        """Counts what was written."""
        self.set(self._examples + examples, self._tokens + tokens, self._work + work)

    def set(self, examples: int, tokens: int, work: int) -> None:
        """Says how far it is, if the last line is old enough."""
        self._examples, self._tokens, self._work = examples, tokens, work
        if time.monotonic() - self._said >= _EVERY_S:
            self._said = time.monotonic()
            self._say(self.line())

    def finished(self, job: tuple[str, str]) -> None:
        """Counts a finished split."""
        self._done += 1
        self.set(self._examples, self._tokens, self._work)

    def line(self) -> str:
        """Returns how far it is, how fast, and how long it will take."""
        seconds = max(time.monotonic() - self._begin, 1e-3)
        share = min(self._work / self._expected, 1.0) if self._expected else 1.0
        of = f" of {self._expected / 1e6:,.0f} MB" if self._all_bytes else ""
        left = f", {_duration(seconds * (1 - share) / share)} left" if share else ""
        return (
            f"cache: {self._done}/{self._jobs} splits, {share:.0%}{of}, "
            f"{self._examples:,} examples, {self._examples / seconds:,.0f} examples/s, "
            f"{self._tokens / seconds / 1e6:.2f}M tokens/s{left}"
        )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def table(
    root: Path,
    infos: Sequence[dict[str, Any]],
    fresh: set[tuple[str, str]],
    lengths: dict[str, int] | None = None,
) -> list[str]:
    """Returns lines of task, split, examples, tokens and what was left out; largest tasks first.

    Args:
        root: the cache folder.
        infos: what info.json says of each split.
        fresh: the splits cached now.
        lengths: the job's row lengths, with which examples that are longer are counted too.
    """
    heads = ["examples", "tokens", "dropped", "bad", "empty", *(["overlong"] if lengths else [])]
    rows = []
    for info in infos:
        tokens = sum(feature["tokens"] for feature in info["features"].values())
        numbers = [info["num_examples"], tokens, *(info.get(loss, 0) for loss in LOSSES)]
        if lengths:
            folder = task_folder(root, info["task"], info["split"])
            numbers.append(overlong(folder, info, lengths))
        state = "cached" if (info["task"], info["split"]) in fresh else "was there"
        rows.append((info["task"], info["split"], numbers, state))
    rows.sort(key=lambda row: -row[2][1])
    width = max([len(row[0]) for row in rows[:_MOST_LINES]] + [5])
    shape = f"{{:{width}}}  {{:<12}} {{:>12}} {{:>15}}{' {:>8}' * (len(heads) - 2)}  {{}}"
    lines = [shape.format("task", "split", *heads, "")]
    for task, split, numbers, state in rows[:_MOST_LINES]:
        lines.append(shape.format(task, split, *map("{:,}".format, numbers), state))
    if len(rows) > _MOST_LINES:
        lines.append(f"… and {len(rows) - _MOST_LINES} more")
    sums = [sum(row[2][i] for row in rows) for i in range(len(heads))]
    lines.append(shape.format("total", "", *map("{:,}".format, sums), ""))
    return [line.rstrip() for line in lines] + _bad_lines(infos)


def _bad_lines(infos: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the first skipped lines, so that someone can look at them."""
    found = [line for info in infos for line in info.get("first_bad", ())]
    shown = [f"skipped: {line}" for line in found[:_MOST_BAD_SHOWN]]
    count = sum(info.get("bad_lines", 0) for info in infos)
    if count > len(shown) and shown:
        shown.append(f"skipped: … {count:,} bad lines in all; info.json of each task has its first")
    return shown
