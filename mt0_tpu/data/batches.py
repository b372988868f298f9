"""Batches of packed rows for this host, prefetched by a thread, resumable from two integers.

Nothing here imports SeqIO or TensorFlow.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
import weakref
from collections.abc import Iterator, Sequence

import numpy as np

from mt0_tpu.data.dataset_config import DatasetConfig
from mt0_tpu.data.rows import Batch, empty_rows, feature_shapes, fill_rows
from mt0_tpu.data.sources import CachedTask, check_vocabulary, open_sources
from mt0_tpu.data.windows import Plan, Planner
from mt0_tpu.errors import UserError

__all__ = [
    "Loader", "LoaderState", "LoaderStats", "abstract_batch", "check_vocabulary", "open_sources",
]  # fmt: skip

_MOST_EMPTY_WINDOWS = 100
# First row in the batch; the rows from and to of a window's plan.
Run = tuple[int, Plan, int, int]


@dataclasses.dataclass(frozen=True)
class LoaderState:
    """A position in the stream: the next row to hand out."""

    window: int = 0
    row: int = 0


@dataclasses.dataclass(frozen=True)
class LoaderStats:
    """What the batches handed out so far held, over all hosts, since this loader began.

    Attributes:
        batches, rows, examples: how many; rows of padding are not counted.
        inputs_tokens, targets_tokens: real tokens, EOS included; of a decoder-only row the
            positions that predict an input and those that predict a target.
        inputs_capacity, targets_capacity: tokens the rows could hold; a decoder-only row's are
            under targets_capacity.
        trimmed: examples cut to the row.
        dropped_overlong, dropped_empty: examples left out.
    """

    batches: int = 0
    rows: int = 0
    examples: int = 0
    inputs_tokens: int = 0
    targets_tokens: int = 0
    inputs_capacity: int = 0
    targets_capacity: int = 0
    trimmed: int = 0
    dropped_overlong: int = 0
    dropped_empty: int = 0

    @property
    def real_tokens(self) -> int:
        return self.inputs_tokens + self.targets_tokens

    @property
    def packing_efficiency(self) -> float:
        """Real tokens over the tokens the rows could hold, both sides together."""
        return self.real_tokens / max(self.inputs_capacity + self.targets_capacity, 1)


def abstract_batch(config: DatasetConfig) -> dict:
    """Returns jax.ShapeDtypeStruct by feature name for the batch of all hosts together."""
    import jax

    return {
        name: jax.ShapeDtypeStruct(shape, np.int32)
        for name, shape in feature_shapes(config, config.batch_size).items()
    }


class Loader:
    """An iterator of this host's rows: dicts of int32 arrays under T5X's feature names.

    The rows of a batch over all hosts do not depend on process_count: host h of P takes the h-th
    of P equal runs of it, the layout of jax.make_array_from_process_local_data.

    Args:
        sources: what open_sources gave for this config.
        config: the data.
        process_index, process_count: this host and how many there are.
        state: where to go on; the beginning by default.
        prefetch: batches made ahead by a thread; 0 makes them on demand.
        epochs: None for the endless mixture by rates; 1 for every example once, the last batch
            filled with rows of padding.
    """

    def __init__(
        self,
        sources: Sequence[CachedTask],
        config: DatasetConfig,
        process_index: int = 0,
        process_count: int = 1,
        state: LoaderState | None = None,
        prefetch: int = 2,
        *,
        epochs: int | None = None,
    ):
        if config.batch_size % process_count:
            raise UserError(
                f"batch_size is {config.batch_size}, not divisible by the {process_count} "
                "processes of this run; write a multiple"
            )
        if not 0 <= process_index < process_count:
            raise UserError(f"process_index is {process_index} of {process_count} processes")
        if epochs not in (None, 1):
            raise UserError(f"epochs is {epochs!r}; write None (endless) or 1 (every example once)")
        share = config.batch_size // process_count
        own = (process_index * share, (process_index + 1) * share)
        self._state = state or LoaderState()
        self._stats = LoaderStats()
        self._made = Stream(Planner(sources, config, epochs), own).produce(self._state)
        self._queue: queue.Queue = queue.Queue(maxsize=max(prefetch, 1))
        self._stop = threading.Event()
        self._thread = None
        self._threaded = prefetch > 0
        self._finished = False
        # The thread does not know the loader, so one that is dropped unclosed ends its thread.
        weakref.finalize(self, self._stop.set)

    @property
    def state(self) -> LoaderState:
        """The position after the last batch handed out, whatever is prefetched."""
        return self._state

    @property
    def stats(self) -> LoaderStats:
        """What was handed out so far."""
        return self._stats

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._finished:
            raise StopIteration
        item = self._take() if self._threaded else next(self._made, None)
        if item is None or isinstance(item, BaseException):
            self._finished = True
            if item is None:
                raise StopIteration
            raise item
        batch, self._state, self._stats = item
        return batch

    def close(self) -> None:
        """Stops the prefetching thread."""
        self._finished = True
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *unused) -> None:
        self.close()

    def _take(self):
        if self._thread is None:
            arguments = (self._made, self._queue, self._stop)
            self._thread = threading.Thread(
                target=_prefetch, args=arguments, name="loader", daemon=True
            )
            self._thread.start()
        return self._queue.get()


def _prefetch(items: Iterator, into: queue.Queue, stop: threading.Event) -> None:
    """Puts items, then None, into the queue; an error is put where the next item would be."""

    def put(item) -> bool:
        while not stop.is_set():
            try:
                into.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    try:
        for item in items:
            if not put(item):
                return
        put(None)
    except BaseException as error:  # raised again where the batch is asked for
        put(error)


class Stream:
    """Batches from a position on, with the position and counts after each.

    Args:
        planner: the windows.
        own: this host's rows of a batch, from and to.
    """

    def __init__(self, planner: Planner, own: tuple[int, int]):
        self._config, self._planner, self._own = planner.config, planner, own

    def produce(self, state: LoaderState) -> Iterator[tuple[Batch, LoaderState, LoaderStats]]:
        """Makes batches from a position on."""
        for runs, after, stats in self.runs(state):
            yield self.fill(runs), after, stats

    def runs(self, state: LoaderState) -> Iterator[tuple[list[Run], LoaderState, LoaderStats]]:
        """Plans batches: runs of rows that may reach over the end of a window."""
        size, stats = self._config.batch_size, LoaderStats()
        runs, taken = [], 0
        for window, row, plan in self._windows(state):
            stats = _count_window(stats, plan)
            while row < plan.num_rows:
                end = min(row + size - taken, plan.num_rows)
                runs.append((taken, plan, row, end))
                taken += end - row
                row = end
                if taken == size:
                    stats = _count_batch(stats, runs, self._config)
                    yield runs, LoaderState(window, row), stats
                    runs, taken = [], 0
        if runs:
            stats = _count_batch(stats, runs, self._config)
            yield runs, LoaderState(window, row), stats

    def task_name(self, number: int) -> str:
        """Returns the name of the number-th task of the plans."""
        return self._planner.tasks[number].task.name

    def _windows(self, state: LoaderState) -> Iterator[tuple[int, int, Plan]]:
        """Gives (window, first row, plan) from the state on."""
        window, row, empty = state.window, state.row, 0
        while self._planner.num_windows is None or window < self._planner.num_windows:
            plan = self._planner.plan(window)
            if row > plan.num_rows:
                raise UserError(
                    f"the saved position is row {row} of window {window}, which has "
                    f"{plan.num_rows}: the data, lengths or seed changed since it was saved"
                )
            empty = 0 if plan.num_rows else empty + 1
            if empty == _MOST_EMPTY_WINDOWS:
                raise UserError(
                    f"{empty} windows in a row hold no usable example (in the last one "
                    f"{plan.overlong} were longer than a row and {plan.empty} empty); raise "
                    "TASK_FEATURE_LENGTHS or write overlong = 'trim'"
                )
            yield window, row, plan
            window, row = window + 1, 0

    def fill(self, runs: list[Run]) -> Batch:
        """Reads and writes this host's part of a batch."""
        own_begin, own_end = self._own
        batch = empty_rows(self._config, own_end - own_begin)
        for at, plan, begin, end in runs:
            skip = max(own_begin - at, 0)
            stop = min(end, begin + own_end - at)
            if begin + skip < stop:
                fill_rows(batch, at + skip - own_begin, self._planner, plan, begin + skip, stop)
        return batch


def _count_window(stats: LoaderStats, plan: Plan) -> LoaderStats:
    return dataclasses.replace(
        stats,
        trimmed=stats.trimmed + plan.trimmed,
        dropped_overlong=stats.dropped_overlong + plan.overlong,
        dropped_empty=stats.dropped_empty + plan.empty,
    )


def _count_batch(stats: LoaderStats, runs, config: DatasetConfig) -> LoaderStats:
    rows = examples = inputs = targets = 0
    for _, plan, begin, end in runs:
        part = slice(plan.starts_r[begin], plan.starts_r[end])
        rows += end - begin
        examples += int(part.stop - part.start)
        inputs_n, targets_n = (side[part] for side in plan.totals)
        if config.decoder_only:
            # Its first token is not predicted.
            inputs_n, targets_n = np.maximum(inputs_n - 1, 0), targets_n - (inputs_n == 0)
        inputs += int(inputs_n.sum())
        targets += int(targets_n.sum())
    inputs_length, targets_length = config.row_lengths
    return dataclasses.replace(
        stats,
        batches=stats.batches + 1,
        rows=stats.rows + rows,
        examples=stats.examples + examples,
        inputs_tokens=stats.inputs_tokens + inputs,
        targets_tokens=stats.targets_tokens + targets,
        inputs_capacity=stats.inputs_capacity + rows * inputs_length,
        targets_capacity=stats.targets_capacity + rows * targets_length,
    )
