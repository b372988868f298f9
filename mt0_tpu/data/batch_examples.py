"""Which examples a batch of training holds: told from its position alone, after the fact."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from mt0_tpu.data.batches import LoaderState, Stream
from mt0_tpu.data.dataset_config import DatasetConfig
from mt0_tpu.data.rows import Batch
from mt0_tpu.data.sources import CachedTask
from mt0_tpu.data.windows import Planner


@dataclasses.dataclass(frozen=True)
class BatchExample:
    """One example in a batch.

    Attributes:
      row: of the whole batch, all hosts together.
      segment: which of its row, from 1; as the batch's segment ids where rows are packed.
      task, index: its place in the cache.
      inputs, targets: columns of the row that it takes, (from, to), EOS included; of a
        decoder-only batch, of its input tokens and of its target tokens.
    """

    row: int
    segment: int
    task: str
    index: int
    inputs: tuple[int, int]
    targets: tuple[int, int]


def batch_at(
    sources: Sequence[CachedTask], config: DatasetConfig, state: LoaderState
) -> tuple[Batch, list[BatchExample]]:
    """Returns the whole batch that comes at a position, and its examples row by row.

    Nothing need have been kept: the order is a function of the seed and the position.
    """
    stream = Stream(Planner(sources, config), (0, config.batch_size))
    runs, _, _ = next(stream.runs(state))
    examples = []
    for at, plan, begin, end in runs:
        for row in range(begin, end):
            part = slice(int(plan.starts_r[row]), int(plan.starts_r[row + 1]))
            inputs, targets = _columns(*(side[part] for side in plan.totals), config.decoder_only)
            examples += [
                BatchExample(
                    at + row - begin,
                    place + 1,
                    stream.task_name(int(plan.tasks_n[part][place])),
                    int(plan.indices_n[part][place]),
                    inputs[place],
                    targets[place],
                )
                for place in range(part.stop - part.start)
            ]
    return stream.fill(runs), examples


def _columns(inputs_n: np.ndarray, targets_n: np.ndarray, decoder_only: bool):
    """Returns (from, to) of each example's inputs and targets in a row that they share in order."""
    if decoder_only:
        # One span; what is predicted lies a column before where it is read.
        starts_n = np.cumsum(inputs_n + targets_n - 1) - (inputs_n + targets_n - 1)
        firsts_n = starts_n + np.maximum(inputs_n - 1, 0)
        lengths_n = targets_n - (inputs_n == 0)
    else:
        starts_n = np.cumsum(inputs_n) - inputs_n
        firsts_n, lengths_n = np.cumsum(targets_n) - targets_n, targets_n
    pairs = ((starts_n, inputs_n), (firsts_n, lengths_n))
    return [list(zip(b.tolist(), (b + n).tolist(), strict=True)) for b, n in pairs]
