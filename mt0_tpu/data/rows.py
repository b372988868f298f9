"""Planned rows turned into T5X's features.

Dims: n examples, B rows, T input length, S target length.
"""

from __future__ import annotations

import numba
import numpy as np

from mt0_tpu.data import mixing
from mt0_tpu.data.dataset_config import DatasetConfig
from mt0_tpu.data.denoising import corrupt
from mt0_tpu.data.windows import Plan, Planner, by_task

Batch = dict[str, np.ndarray]


def feature_shapes(config: DatasetConfig, rows: int) -> dict[str, tuple[int, int]]:
    """Returns the name and shape of every feature of `rows` rows; all are int32."""
    inputs, targets = (rows, config.inputs_length), (rows, config.targets_length)
    shapes = {
        "encoder_input_tokens": inputs,
        "decoder_target_tokens": targets,
        "decoder_input_tokens": targets,
        "decoder_loss_weights": targets,
    }
    if config.pack:
        shapes |= {
            "encoder_segment_ids": inputs,
            "encoder_positions": inputs,
            "decoder_segment_ids": targets,
            "decoder_positions": targets,
        }
    return shapes


def empty_rows(config: DatasetConfig, rows: int) -> Batch:
    """Returns rows of padding."""
    return {name: np.zeros(s, np.int32) for name, s in feature_shapes(config, rows).items()}


def fill_rows(batch: Batch, at: int, planner: Planner, plan: Plan, begin: int, end: int) -> None:
    """Writes the plan's rows begin..end-1 into the batch's rows from `at` on."""
    first, last = int(plan.starts_r[begin]), int(plan.starts_r[end])
    if first == last:
        return
    counts_r = np.diff(plan.starts_r[begin : end + 1])
    rows_n = np.repeat(np.arange(at, at + end - begin), counts_r)
    starts_n = np.repeat(np.cumsum(counts_r) - counts_r, counts_r)
    segments_n = np.arange(last - first) - starts_n + 1
    sides = []
    for side in (0, 1):
        totals_n = plan.totals[side][first:last]
        ends_n = np.cumsum(totals_n)
        columns_n = ends_n - totals_n
        sides.append((totals_n, columns_n - columns_n[starts_n]))
    _copy_tokens(batch, planner, plan, first, last, rows_n, sides)
    eos = np.array([task.task.eos_ids for task in planner.tasks], np.int64)
    eos = eos[plan.tasks_n[first:last]]
    unused = np.zeros((0, 0), np.int32)
    for side, tower in enumerate(("encoder", "decoder")):
        totals_n, columns_n = sides[side]
        tokens = batch["encoder_input_tokens" if side == 0 else "decoder_target_tokens"]
        _end_and_mark(
            tokens, rows_n, columns_n, plan.copied[side][first:last], totals_n, segments_n,
            np.ascontiguousarray(eos[:, side]),
            batch.get(f"{tower}_segment_ids", unused), batch.get(f"{tower}_positions", unused),
        )  # fmt: skip
    _shift(
        batch["decoder_target_tokens"], rows_n, sides[1][1], sides[1][0],
        batch["decoder_input_tokens"], batch["decoder_loss_weights"],
        "decoder_segment_ids" in batch,
    )  # fmt: skip


def _copy_tokens(batch, planner, plan, first, last, rows_n, sides) -> None:
    """Copies token ids from the caches, running draw-time steps on the way."""
    names = ("encoder_input_tokens", "decoder_target_tokens")
    for number, members in by_task(plan.tasks_n[first:last]):
        task = planner.tasks[number]
        indices_n = plan.indices_n[first:last][members]
        rows_m = rows_n[members]
        if task.task.step:
            _denoise(batch, planner, task, plan.draws_n[first:last][members], indices_n, rows_m,
                     [columns_n[members] for _, columns_n in sides],
                     [plan.copied[side][first:last][members] for side in (0, 1)])  # fmt: skip
            continue
        for side in (0, 1):
            starts_m, _ = task.spans(side, indices_n)
            _copy(
                task.task.datasets[side].tokens_N, starts_m,
                plan.copied[side][first:last][members], rows_m, sides[side][1][members],
                batch[names[side]],
            )  # fmt: skip


def _denoise(batch, planner, task, draws_m, indices_m, rows_m, columns, copied) -> None:
    source = task.task
    starts_m, lengths_m = task.spans(1, indices_m)
    noise_m, spans_m = source.step.noise(lengths_m)
    key = np.uint64(mixing.stable_key(planner.config.seed, "draw", source.key))
    keys_m = mixing.draw_keys(np.full(len(draws_m), key), draws_m)
    _corrupt_spans(
        source.datasets[1].tokens_N, starts_m, lengths_m, noise_m, spans_m,
        source.step.first_sentinel, keys_m, rows_m, columns[0], copied[0], columns[1], copied[1],
        batch["encoder_input_tokens"], batch["decoder_target_tokens"],
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
def _end_and_mark(
    tokens_BT, rows_n, columns_n, copied_n, totals_n, segments_n, eos_n, segments_BT, positions_BT
):
    """Appends EOS; writes segment ids and positions where the batch is packed."""
    packed = len(segments_BT) > 0
    for i in range(len(rows_n)):
        row, column = rows_n[i], columns_n[i]
        for j in range(copied_n[i], totals_n[i]):
            tokens_BT[row, column + j] = eos_n[i]
        if packed:
            for j in range(totals_n[i]):
                segments_BT[row, column + j] = segments_n[i]
                positions_BT[row, column + j] = j


@numba.njit(cache=True, nogil=True)
def _shift(targets_BS, rows_n, columns_n, totals_n, inputs_BS, weights_BS, packed):
    """Decoder inputs are targets one later, 0 at each segment's start; padding ids weigh 0."""
    for i in range(len(rows_n)):
        row, column = rows_n[i], columns_n[i]
        previous = np.int32(0)
        for j in range(column, column + totals_n[i]):
            token = targets_BS[row, j]
            inputs_BS[row, j] = previous
            weights_BS[row, j] = token != 0
            previous = token
        # SeqIO shifts the padded row where it does not pack: the last target stays visible.
        if not packed and column + totals_n[i] < inputs_BS.shape[1]:
            inputs_BS[row, column + totals_n[i]] = previous
