"""How far the writing of a checkpoint is: a line every few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable

_EVERY_S = 5.0


class ByteProgress:
    """Says `convert: 1.2 of 14.0 GiB, 90 s left`.

    Args:
      total: bytes of all that will be added, uncompressed.
      say: takes the lines.
    """

    def __init__(self, total: int, say: Callable[[str], None]):
        self._total, self._say = total, say
        self._done, self._began = 0, time.monotonic()
        self._said = self._began

    def add(self, num_bytes: int) -> None:
        """Tells that so many bytes more are written."""
        self._done += num_bytes
        now = time.monotonic()
        if now - self._said < _EVERY_S:
            return
        self._said = now
        left = (now - self._began) * (self._total - self._done) / max(1, self._done)
        done_gib, total_gib = self._done / 2**30, self._total / 2**30
        self._say(f"convert: {done_gib:.1f} of {total_gib:.1f} GiB, {left:,.0f} s left")
