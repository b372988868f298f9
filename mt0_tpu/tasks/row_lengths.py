"""Which row lengths waste least: candidates packed by the trainer's own packer on a drawn window.

Dims: n examples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from mt0_tpu.data.dataset_config import DatasetConfig
from mt0_tpu.data.packing import pack
from mt0_tpu.data.sources import CachedTask
from mt0_tpu.data.windows import Planner
from mt0_tpu.tasks.network_cost import NetworkSize

# Multiples of what a TPU's matrix unit takes at a time where rows are long, finer where short.
INPUTS_LENGTHS = (32, 64, 128, 192, 256, 384, 512, 640, 768, 1024, 1280, 1536, 2048)
TARGETS_LENGTHS = (16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
REFERENCES = ((1024, 1024), (1024, 256))
MOST_TRIMMED = 0.005
# mT0's batch, in examples.
BATCH_EXAMPLES = 512
_LONGEST = 1 << 20  # trims nothing worth counting
_WINDOWS = 4  # measured for what is trimmed; one of them is packed


@dataclasses.dataclass(frozen=True)
class RowChoice:
    """What rows of certain lengths make of a mixture.

    Attributes:
        lengths: (input, target) tokens of a row.
        packed: several examples a row, or one.
        rows_per_1000: rows that a thousand examples take.
        filled: real tokens over places, (inputs, targets).
        trimmed: share of examples that lose tokens.
        cost: operations an example (a real token, where texts are cut to the row).
        cost_t5x: the same with the head over padding too, as stock T5X computes it.
        useful: share of `cost` that examples of their own lengths would take.
    """

    lengths: tuple[int, int]
    packed: bool
    rows_per_1000: float
    filled: tuple[float, float]
    trimmed: float
    cost: float
    cost_t5x: float
    useful: float


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """Row lengths for one mixture and one network size.

    Attributes:
        size: the network.
        most_trimmed: the share of examples that may be trimmed.
        examples: how many were drawn to find out.
        cuts_texts: some task cuts its texts to the row, so that costs are those of a token.
        packed, unpacked: choices within most_trimmed, cheapest first; the least trimmed ones
            where none is within it.
        references: packed and unpacked choices at REFERENCES, in their order.
    """

    size: NetworkSize
    most_trimmed: float
    examples: int
    cuts_texts: bool
    packed: tuple[RowChoice, ...]
    unpacked: tuple[RowChoice, ...]
    references: dict[bool, tuple[RowChoice, ...]]


class Drawn:
    """Examples drawn by rate as the trainer draws them, to be cut to any row lengths."""

    def __init__(self, sources: Sequence[CachedTask], config: DatasetConfig):
        """Draws from `sources`; the config's seed and window count, its lengths do not."""
        self._sources, self._config = sources, config
        self.cuts_texts = any(source.step for source in sources)
        self._totals = None
        if not self.cuts_texts:
            planner = Planner(sources, self._at((_LONGEST, _LONGEST), packed=False))
            plans = [planner.plan(window) for window in range(_WINDOWS)]
            self._first = len(plans[0].totals[0])
            self._totals = [np.concatenate([p.totals[side] for p in plans]) for side in (0, 1)]

    @property
    def examples(self) -> int:
        return self._config.window_examples if self.cuts_texts else len(self._totals[0])

    def trimmed(self, lengths: tuple[int, int]) -> float:
        """Returns the share of examples that rows of these lengths would trim."""
        if self.cuts_texts:
            plan = Planner(self._sources, self._at(lengths, packed=False)).plan(0)
            return plan.trimmed / max(plan.num_rows, 1)
        inputs_n, targets_n = self._totals
        return float(np.mean((inputs_n > lengths[0]) | (targets_n > lengths[1])))

    def rows(self, lengths: tuple[int, int], packed: bool) -> tuple[np.ndarray, np.ndarray, int]:
        """Returns (input tokens, target tokens, rows) of one window, EOS counted."""
        if self.cuts_texts:
            plan = Planner(self._sources, self._at(lengths, packed)).plan(0)
            return *plan.totals, plan.num_rows
        end = self._first if packed else None
        cut = [np.minimum(t[:end], limit) for t, limit in zip(self._totals, lengths, strict=True)]
        if not packed:
            return *cut, len(cut[0])
        return *cut, int(pack(*cut, lengths).max(initial=-1)) + 1

    def _at(self, lengths: tuple[int, int], packed: bool) -> DatasetConfig:
        named = dict(zip(("inputs", "targets"), lengths, strict=True))
        return dataclasses.replace(self._config, task_feature_lengths=named, pack=packed)


def recommend(
    sources: Sequence[CachedTask],
    config: DatasetConfig,
    size: NetworkSize,
    most_trimmed: float = MOST_TRIMMED,
    say: Callable[[str], None] = lambda line: None,
) -> Recommendation:
    """Returns row lengths in the order of what they cost, packed and unpacked.

    Args:
        sources: the cached tasks, with their rates.
        config: seed and window of the draw.
        size: the network whose operations are counted.
        most_trimmed: the greatest acceptable share of trimmed examples.
        say: receives a line of progress now and then.
    """
    drawn = Drawn(sources, config)
    every = [(i, t) for i in INPUTS_LENGTHS for t in TARGETS_LENGTHS if t <= i]
    if drawn.cuts_texts:
        every = [lengths for lengths in every if lengths[0] >= 64]  # room for a sentinel and EOS
    trimmed = {lengths: drawn.trimmed(lengths) for lengths in every}
    fitting = [lengths for lengths in every if trimmed[lengths] <= most_trimmed]
    fitting = fitting or [min(every, key=lambda lengths: (trimmed[lengths], lengths))]
    say(f"stats: packing a window at {len(fitting)} row lengths")
    found = {}
    for packed in (True, False):
        choices = [weigh(drawn, lengths, packed, trimmed[lengths], size) for lengths in fitting]
        found[packed] = tuple(sorted(choices, key=lambda choice: (choice.cost, choice.lengths)))
    references = {
        packed: tuple(
            weigh(drawn, lengths, packed, drawn.trimmed(lengths), size) for lengths in REFERENCES
        )
        for packed in (True, False)
    }
    return Recommendation(
        size, most_trimmed, drawn.examples, drawn.cuts_texts, found[True], found[False], references
    )


def weigh(
    drawn: Drawn, lengths: tuple[int, int], packed: bool, trimmed: float, size: NetworkSize
) -> RowChoice:
    """Returns what rows of these lengths cost."""
    inputs_n, targets_n, rows = drawn.rows(lengths, packed)
    rows = max(rows, 1)
    real = (float(inputs_n.sum()), float(targets_n.sum()))
    body = rows * float(size.encoder(lengths[0]) + size.decoder(*lengths))
    head, whole_head = float(size.head(real[1])), rows * float(size.head(lengths[1]))
    unit = max(sum(real) if drawn.cuts_texts else len(inputs_n), 1)
    return RowChoice(
        lengths=lengths,
        packed=packed,
        rows_per_1000=1000 * rows / max(len(inputs_n), 1),
        filled=tuple(tokens / (rows * limit) for tokens, limit in zip(real, lengths, strict=True)),
        trimmed=trimmed,
        cost=(body + head) / unit,
        cost_t5x=(body + whole_head) / unit,
        useful=size.examples(inputs_n, targets_n) / (body + head),
    )


def batch_rows(choice: RowChoice) -> int:
    """Returns the rows that hold about mT0's 512 examples, a multiple of 8."""
    return max(round(BATCH_EXAMPLES * choice.rows_per_1000 / 8000) * 8, 8)
