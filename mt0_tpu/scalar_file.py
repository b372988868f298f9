"""Scalars for TensorBoard, written by the thread that has them, so that its errors are seen.

tensorboardX's own SummaryWriter hands them to a thread, which a full disk ends; the next calls
then wait for it for ever.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class ScalarFile:
    """Event files of one folder.

    Args:
      folder: of TensorBoard.
      resume_step: what other files there say of later steps is forgotten.
    """

    def __init__(self, folder: str | Path, resume_step: int):
        self._folder, self._resume_step = Path(folder), resume_step
        self._writer: Any = None
        self._opened = 0
        self._waiting: list[Any] = []

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes the scalars of a step, and those that wait; OSError where they wait on."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        self._waiting += [
            Event(step=step, wall_time=time.time(), summary=scalar(name, value))
            for name, value in scalars.items()
        ]
        self.flush()

    def flush(self) -> None:
        """Writes what waits; OSError where it has to wait on."""
        if not self._waiting:
            return
        try:
            if self._writer is None:
                self._writer = self._open()
            for event in self._waiting:
                self._writer.write_event(event)
            self._writer.flush()
        except OSError:
            # A reader stops at half a record: what follows goes to a file of its own.
            self.close()
            raise
        self._waiting.clear()

    def _open(self):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._folder.mkdir(parents=True, exist_ok=True)
        # The name holds the second; a second file of it would replace the first.
        suffix = f".{self._opened}" if self._opened else ""
        writer = EventsWriter(str(self._folder / "events"), suffix)
        self._opened += 1
        if self._opened == 1:
            start = SessionLog(status=SessionLog.START)
            step = self._resume_step + 1
            writer.write_event(Event(step=step, wall_time=time.time(), session_log=start))
        return writer

    def close(self) -> None:
        """Lets go of the file; what waits stays with this object."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with contextlib.suppress(OSError):
                writer.close()
