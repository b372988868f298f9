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
      inputs, targets: columns of the row that it takes, (from, to), EOS included.
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
            ends = [np.cumsum(plan.totals[side][part]).tolist() for side in (0, 1)]
            names = [stream.task_name(int(task)) for task in plan.tasks_n[part]]
            starts = ([0, *ends[0]], [0, *ends[1]])
            examples += [
                BatchExample(
                    at + row - begin, segment, name, int(index),
                    (starts[0][segment - 1], ends[0][segment - 1]),
                    (starts[1][segment - 1], ends[1][segment - 1]),
                )
                for segment, (name, index) in enumerate(
                    zip(names, plan.indices_n[part], strict=True), 1
                )
            ]  # fmt: skip
    return stream.fill(runs), examples
