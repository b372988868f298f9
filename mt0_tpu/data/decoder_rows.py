"""Planned rows turned into T5X's decoder-only features: inputs and targets in one span.

An example's ids are x1 .. xn y1 .. ym, the targets' EOS included, and nothing before them: BLOOM
has no token to begin with. The decoder reads all but the last and predicts all but the first, so
a pair takes n + m - 1 positions; weight lies on those that predict a target, the first of them
being where the last input is read. SeqIO's PrefixLMFeatureConverter feeds a 0 first, for one
position more; all else is its.

Dims: n examples, B rows, S row length.
"""

from __future__ import annotations

import numba
import numpy as np

from mt0_tpu.data.dataset_config import DatasetConfig
from mt0_tpu.data.row_tokens import append_eos, copy_tokens, places_of
from mt0_tpu.data.windows import Plan, Planner, positions_of

FEATURES = (
    "decoder_target_tokens",
    "decoder_input_tokens",
    "decoder_loss_weights",
    # 1 where an input is read: a prefix LM lets those see each other both ways.
    "decoder_causal_attention",
    # Unpacked too: BLOOM's token 0 is no padding.
    "decoder_segment_ids",
    "decoder_positions",
)


def feature_shapes(config: DatasetConfig, rows: int) -> dict[str, tuple[int, int]]:
    """Returns the name and shape of every feature of `rows` rows; all are int32."""
    return dict.fromkeys(FEATURES, (rows, config.decoder_length))


def fill_rows(
    batch: dict[str, np.ndarray], at: int, planner: Planner, plan: Plan, begin: int, end: int
) -> None:
    """Writes the plan's rows begin..end-1 into the batch's rows from `at` on."""
    part, rows_n, segments_n, starts_n = places_of(plan, at, begin, end)
    if not len(rows_n):
        return
    inputs_n, targets_n = (side[part] for side in plan.totals)
    spans_n = positions_of(inputs_n, targets_n)
    columns_n = np.cumsum(spans_n) - spans_n
    columns_n -= columns_n[starts_n]
    # Whole examples first, each one token longer than its span.
    ids_columns_n = columns_n + segments_n - 1
    width = planner.config.decoder_length + int(segments_n.max())
    ids_BS = np.zeros((len(batch[FEATURES[0]]), width), np.int32)
    side_columns = (ids_columns_n, ids_columns_n + inputs_n)
    copy_tokens((ids_BS, ids_BS), planner, plan, part, rows_n, side_columns)
    eos_n = planner.eos_ids[plan.tasks_n[part]]
    for side, totals_n in enumerate((inputs_n, targets_n)):
        append_eos(
            ids_BS, rows_n, side_columns[side], plan.copied[side][part], totals_n,
            np.ascontiguousarray(eos_n[:, side]),
        )  # fmt: skip
    _write_spans(
        ids_BS, rows_n, ids_columns_n, columns_n, spans_n, inputs_n, segments_n,
        *(batch[name] for name in FEATURES),
    )  # fmt: skip


@numba.njit(cache=True, nogil=True)
def _write_spans(
    ids_BS, rows_n, ids_columns_n, columns_n, spans_n, inputs_n, segments_n,
    targets_BS, read_BS, weights_BS, is_input_BS, segments_BS, positions_BS,
):  # fmt: skip
    for i in range(len(rows_n)):
        row, ids = rows_n[i], ids_columns_n[i]
        for j in range(spans_n[i]):
            column = columns_n[i] + j
            read_BS[row, column] = ids_BS[row, ids + j]
            targets_BS[row, column] = ids_BS[row, ids + j + 1]
            weights_BS[row, column] = j + 1 >= inputs_n[i]
            is_input_BS[row, column] = j < inputs_n[i]
            segments_BS[row, column] = segments_n[i]
            positions_BS[row, column] = j
