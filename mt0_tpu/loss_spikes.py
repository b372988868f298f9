"""Spikes of the training loss: found by a rule that a few outliers do not move.

A step is a spike where its loss lies more than `threshold` deviations above the median of the
steps before it. The deviation is 1.4826 times the median distance from that median, which is
the standard deviation where the losses are normally distributed and, unlike it, is hardly
changed by a spike in the window.
"""

from __future__ import annotations

import collections
import dataclasses
import statistics
from collections.abc import Mapping
from typing import Any

from mt0_tpu.errors import UserError

WINDOW_STEPS = 128
# Before there are so many losses nothing is called a spike.
LEAST_STEPS = 32
_NORMAL = 1.4826
# Of the median: a loss that hardly varies must not make a spike of rounding.
_LEAST_DEVIATION = 0.01


@dataclasses.dataclass(frozen=True)
class Spike:
    """A step whose loss stands out: it, the median before it, and the bound it is above."""

    step: int
    loss: float
    median: float
    bound: float


class LossSpikes:
    """Watches the losses of a run; its state goes along with the checkpoint.

    Args:
      threshold: deviations above the median; None looks for no spike.
      state: what `state` gave when the checkpoint was saved.
    """

    def __init__(self, threshold: float | None, state: Mapping[str, Any] | None = None):
        if threshold is not None and not threshold > 0:
            raise UserError(
                f"train.spike_threshold is {threshold}; write a number of deviations > 0, such as "
                "8, or None to look for no spike"
            )
        state = state or {}
        self._threshold = threshold
        self._losses = collections.deque(state.get("losses", ()), maxlen=WINDOW_STEPS)
        self._inside = bool(state.get("inside", False))

    @property
    def state(self) -> dict[str, Any]:
        """What the next process needs to find the same spikes; JSON."""
        return {"losses": list(self._losses), "inside": self._inside}

    def add(self, step: int, loss: float) -> Spike | None:
        """Takes a finite loss; a Spike where one begins. A loss that stays high is one spike.

        High losses enter the window as well: where they are there to stay, half a window later
        they are what is usual.
        """
        if self._threshold is None:
            return None
        found = None
        if len(self._losses) >= LEAST_STEPS:
            median = statistics.median(self._losses)
            distance = statistics.median(abs(one - median) for one in self._losses)
            deviation = max(_NORMAL * distance, _LEAST_DEVIATION * abs(median))
            bound = median + self._threshold * deviation
            if loss > bound and not self._inside:
                found = Spike(step, loss, median, bound)
            self._inside = loss > bound
        self._losses.append(loss)
        return found
