"""The plan of a window: its examples, the rows they share, and the order of the rows.

A plan is made from lengths alone and is the same on every host.

Dims: n examples kept, in the order of their rows; r rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from mt0_tpu.data import mixing
from mt0_tpu.data.dataset_config import DatasetConfig
from mt0_tpu.data.packing import pack, pack_spans
from mt0_tpu.data.sources import CachedTask, TaskExamples


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a window's rows hold.

    Attributes:
        tasks_n, draws_n, indices_n: where each example comes from (see mixing.Draws).
        copied: tokens taken from the cache, (inputs int64 [n], targets int64 [n]).
        totals: the same with EOS.
        starts_r: int64 [r + 1], row i holds the examples starts_r[i]..starts_r[i + 1] - 1.
        trimmed, overlong, empty: how many examples were trimmed or left out.
    """

    tasks_n: np.ndarray
    draws_n: np.ndarray
    indices_n: np.ndarray
    copied: tuple[np.ndarray, np.ndarray]
    totals: tuple[np.ndarray, np.ndarray]
    starts_r: np.ndarray
    trimmed: int
    overlong: int
    empty: int

    @property
    def num_rows(self) -> int:
        return len(self.starts_r) - 1


class Planner:
    """Plans any window of a mixture's stream.

    Args:
        sources: the cached tasks.
        config: lengths, seed, packing.
        epochs: None for the endless stream by rates; 1 for every example once.
    """

    def __init__(
        self, sources: Sequence[CachedTask], config: DatasetConfig, epochs: int | None = None
    ):
        self.config = config
        self.tasks = [TaskExamples(source, config) for source in sources]
        # [tasks, 2]: the EOS of inputs and of targets.
        self.eos_ids = np.array([source.eos_ids for source in sources], np.int64)
        self._rates = [source.rate for source in sources]
        self._sizes = [task.size for task in self.tasks]
        self._keys = [source.key for source in sources]
        self.num_windows = (
            None if epochs is None else mixing.epoch_windows(self._sizes, config.window_examples)
        )

    def draws(self, window: int) -> mixing.Draws:
        """Returns the examples of a window in stream order, before any is left out."""
        config = self.config
        if self.num_windows is not None:
            return mixing.draw_epoch_window(
                self._sizes, config.window_examples, window,
                seed=config.seed, shuffle=config.shuffle,
            )  # fmt: skip
        return mixing.draw_window(
            self._rates, self._sizes, self._keys, config.window_examples, window,
            seed=config.seed, shuffle=config.shuffle,
        )  # fmt: skip

    def plan(self, window: int) -> Plan:
        """Returns the plan of one window."""
        draws = self.draws(window)
        num = len(draws.tasks_n)
        copied = (np.zeros(num, np.int64), np.zeros(num, np.int64))
        totals = (np.zeros(num, np.int64), np.zeros(num, np.int64))
        left_out_n = np.zeros(num, bool)
        counts = np.zeros(3, np.int64)
        for task, members in by_task(draws.tasks_n):
            measured = self.tasks[task].measure(draws.indices_n[members])
            for side in (0, 1):
                copied[side][members] = measured.copied[side]
                totals[side][members] = measured.totals[side]
            left_out_n[members] = measured.overlong_n | measured.empty_n
            counts += [
                measured.trimmed_n.sum(), measured.overlong_n.sum(),
                (measured.empty_n & ~measured.overlong_n).sum(),
            ]  # fmt: skip
        kept_n = np.flatnonzero(~left_out_n)
        order_n, starts_r = self._rows(window, totals[0][kept_n], totals[1][kept_n])
        kept_n = kept_n[order_n]
        return Plan(
            draws.tasks_n[kept_n],
            draws.draws_n[kept_n],
            draws.indices_n[kept_n],
            (copied[0][kept_n], copied[1][kept_n]),
            (totals[0][kept_n], totals[1][kept_n]),
            starts_r,
            *(int(count) for count in counts),
        )

    def _rows(
        self, window: int, inputs_n: np.ndarray, targets_n: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns (order of the examples, first example of each row and the end)."""
        num = len(inputs_n)
        if not self.config.pack:
            # The stream is in its seeded order already.
            return np.arange(num), np.arange(num + 1)
        if self.config.decoder_only:
            row_n = pack_spans(positions_of(inputs_n, targets_n), self.config.decoder_length)
        else:
            row_n = pack(inputs_n, targets_n, self.config.row_lengths)
        rows = int(row_n.max()) + 1 if num else 0
        if self.config.shuffle:
            # Packing fills rows with the largest examples first.
            place_r = mixing.shuffled(rows, self.config.seed, "rows", window)
        else:
            _, first_r = np.unique(row_n, return_index=True)
            place_r = np.empty(rows, np.int64)
            place_r[np.argsort(first_r)] = np.arange(rows)
        place_n = place_r[row_n]
        counts_r = np.bincount(place_n, minlength=rows)
        return np.argsort(place_n, kind="stable"), np.concatenate([[0], np.cumsum(counts_r)])


def positions_of(inputs_n: np.ndarray, targets_n: np.ndarray) -> np.ndarray:
    """Returns the positions that pairs take of decoder-only rows: the last token is never fed."""
    return inputs_n + targets_n - 1


def by_task(tasks_n: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Returns (task, positions of its examples) for each task that occurs."""
    if not len(tasks_n):
        return []
    order_n = np.argsort(tasks_n, kind="stable")
    edges = np.flatnonzero(np.diff(tasks_n[order_n])) + 1
    return [(int(tasks_n[part[0]]), part) for part in np.split(order_n, edges)]
