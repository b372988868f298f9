"""Token ids of planned examples, copied from the caches to their places in rows.

Dims: n examples, B rows, T length of a row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np

from mt0_tpu.data import mixing
from mt0_tpu.data.denoising import corrupt
from mt0_tpu.data.windows import Plan, Planner, by_task


def places_of(
    plan: Plan, at: int, begin: int, end: int
) -> tuple[slice, np.ndarray, np.ndarray, np.ndarray]:
    """Returns where the examples of the plan's rows begin..end-1 go, rows being written from `at`.

    As (the examples' part of the plan, row [n], segment number in the row from 1 [n], number
    within the part of the row's first example [n]).
    """
    part = slice(int(plan.starts_r[begin]), int(plan.starts_r[end]))
    counts_r = np.diff(plan.starts_r[begin : end + 1])
    rows_n = np.repeat(np.arange(at, at + end - begin), counts_r)
    starts_n = np.repeat(np.cumsum(counts_r) - counts_r, counts_r)
    return part, rows_n, np.arange(len(rows_n)) - starts_n + 1, starts_n


def copy_tokens(
    sides_BT: Sequence[np.ndarray],
    planner: Planner,
    plan: Plan,
    part: slice,
    rows_n: np.ndarray,
    columns: Sequence[np.ndarray],
) -> None:
    """Copies inputs and targets into sides_BT, running draw-time steps on the way."""
    for number, members in by_task(plan.tasks_n[part]):
        task = planner.tasks[number]
        indices_n = plan.indices_n[part][members]
        rows_m = rows_n[members]
        columns_m = [columns_n[members] for columns_n in columns]
        copied_m = [plan.copied[side][part][members] for side in (0, 1)]
        if task.task.step:
            draws_m = plan.draws_n[part][members]
            _denoise(sides_BT, planner, task, draws_m, indices_n, rows_m, columns_m, copied_m)
            continue
        for side in (0, 1):
            starts_m, _ = task.spans(side, indices_n)
            _copy(
                task.task.datasets[side].tokens_N, starts_m, copied_m[side], rows_m,
                columns_m[side], sides_BT[side],
            )  # fmt: skip


def _denoise(sides_BT, planner, task, draws_m, indices_m, rows_m, columns, copied) -> None:
    source = task.task
    starts_m, lengths_m = task.spans(1, indices_m)
    noise_m, spans_m = source.step.noise(lengths_m)
    key = np.uint64(mixing.stable_key(planner.config.seed, "draw", source.key))
    keys_m = mixing.draw_keys(np.full(len(draws_m), key), draws_m)
    _corrupt_spans(
        source.datasets[1].tokens_N, starts_m, lengths_m, noise_m, spans_m,
        source.step.first_sentinel, keys_m, rows_m, columns[0], copied[0], columns[1], copied[1],
        *sides_BT,
    )  # fmt: skip


@numba.njit(cache=True, nogil=True)
def _copy(tokens_N, starts_n, lengths_n, rows_n, columns_n, out_BT):
    for i in range(len(rows_n)):
        row, column, start = rows_n[i], columns_n[i], starts_n[i]
        for j in range(lengths_n[i]):
            out_BT[row, column + j] = tokens_N[start + j]


@numba.njit(cache=True, nogil=True)
def _corrupt_spans(
    tokens_N, starts_n, lengths_n, noise_n, spans_n, first_sentinel, keys_n, rows_n,
    input_columns_n, input_lengths_n, target_columns_n, target_lengths_n, inputs_BT, targets_BS,
):  # fmt: skip
    for i in range(len(rows_n)):
        tokens = tokens_N[starts_n[i] : starts_n[i] + lengths_n[i]]
        inputs = inputs_BT[rows_n[i], input_columns_n[i] :][: input_lengths_n[i]]
        targets = targets_BS[rows_n[i], target_columns_n[i] :][: target_lengths_n[i]]
        corrupt(tokens, noise_n[i], spans_n[i], first_sentinel, keys_n[i], inputs, targets)


@numba.njit(cache=True, nogil=True)
def append_eos(tokens_BT, rows_n, columns_n, copied_n, totals_n, eos_n):
    """Fills each example's columns from copied to total with its EOS."""
    for i in range(len(rows_n)):
        for j in range(copied_n[i], totals_n[i]):
            tokens_BT[rows_n[i], columns_n[i] + j] = eos_n[i]
