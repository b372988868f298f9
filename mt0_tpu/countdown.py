"""How far a long job is, how fast it goes and when it will be done."""

from __future__ import annotations

import time

from mt0_tpu.progress import ProgressLine, duration


class Countdown:
    """Shows `name 120/400 examples (30 %), 12.5/s, 22s left` on a progress line."""

    def __init__(self, name: str, total: int, unit: str, done: int = 0, line=None):
        """`done` is what was finished before the clock started; it does not enter the speed."""
        self._name, self._total, self._unit = name, total, unit
        self._before = done
        self._line = line or ProgressLine()
        self._started = time.monotonic()

    def update(self, done: int) -> None:
        """Tells that `done` of the total are finished."""
        self._line.show(self.text(done, time.monotonic() - self._started))

    def finish(self, done: int) -> None:
        """Leaves a last line."""
        self._line.say(self.text(done, time.monotonic() - self._started))

    def text(self, done: int, seconds: float) -> str:
        """Returns the line for `done` after `seconds`."""
        share = 100 * done // max(self._total, 1)
        text = f"{self._name} {done}/{self._total} {self._unit} ({share} %)"
        fresh = done - self._before
        if fresh <= 0 or seconds <= 0:
            return text
        rate = fresh / seconds
        if done >= self._total:
            return f"{text}, {rate:.3g}/s, took {duration(seconds)}"
        return f"{text}, {rate:.3g}/s, {duration((self._total - done) / rate)} left"
