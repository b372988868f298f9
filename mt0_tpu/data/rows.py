"""Planned rows turned into T5X's features: those of an encoder and a decoder here.

Dims: n examples, B rows, T input length, S target length.
"""

from __future__ import annotations

import numba
import numpy as np

from mt0_tpu.data import decoder_rows
from mt0_tpu.data.dataset_config import DatasetConfig
from mt0_tpu.data.row_tokens import append_eos, copy_tokens, places_of
from mt0_tpu.data.windows import Plan, Planner

Batch = dict[str, np.ndarray]


def feature_shapes(config: DatasetConfig, rows: int) -> dict[str, tuple[int, int]]:
    """Returns the name and shape of every feature of `rows` rows; all are int32."""
    if config.decoder_only:
        return decoder_rows.feature_shapes(config, rows)
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
    if planner.config.decoder_only:
        decoder_rows.fill_rows(batch, at, planner, plan, begin, end)
        return
    part, rows_n, segments_n, starts_n = places_of(plan, at, begin, end)
    if not len(rows_n):
        return
    sides = []
    for side in (0, 1):
        totals_n = plan.totals[side][part]
        columns_n = np.cumsum(totals_n) - totals_n
        sides.append((totals_n, columns_n - columns_n[starts_n]))
    tokens = (batch["encoder_input_tokens"], batch["decoder_target_tokens"])
    copy_tokens(tokens, planner, plan, part, rows_n, [columns_n for _, columns_n in sides])
    eos_n = planner.eos_ids[plan.tasks_n[part]]
    for side, tower in enumerate(("encoder", "decoder")):
        totals_n, columns_n = sides[side]
        append_eos(
            tokens[side], rows_n, columns_n, plan.copied[side][part], totals_n,
            np.ascontiguousarray(eos_n[:, side]),
        )  # fmt: skip
        if planner.config.pack:
            _mark(
                rows_n, columns_n, totals_n, segments_n,
                batch[f"{tower}_segment_ids"], batch[f"{tower}_positions"],
            )  # fmt: skip
    _shift(
        batch["decoder_target_tokens"], rows_n, sides[1][1], sides[1][0],
        batch["decoder_input_tokens"], batch["decoder_loss_weights"],
        "decoder_segment_ids" in batch,
    )  # fmt: skip


@numba.njit(cache=True, nogil=True)
def _mark(rows_n, columns_n, totals_n, segments_n, segments_BT, positions_BT):
    """Writes segment ids and positions."""
    for i in range(len(rows_n)):
        for j in range(totals_n[i]):
            segments_BT[rows_n[i], columns_n[i] + j] = segments_n[i]
            positions_BT[rows_n[i], columns_n[i] + j] = j


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
