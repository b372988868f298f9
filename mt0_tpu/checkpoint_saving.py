"""Saves that may fail: the disk is full, the storage slow, the folder gone. The run goes on.

A save that fails is said aloud and tried again at the next time to save. Only the save after it,
once whole, takes the place of an older checkpoint: what was good stays. When too many have failed
in a row, or the last of the run, the job ends with an error.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from mt0_tpu import distributed
from mt0_tpu.errors import UserError
from mt0_tpu.place import is_bucket

# Beside the checkpoints: those that retention gives up lie here, under their step, until deleted.
# Deleted where it is, one would keep its name while it loses its files; a kill then leaves half.
DELETING = "deleting"
# The last save of a run is tried again after so many seconds each.
FINAL_WAITS_S = (1.0, 5.0, 25.0)
# A save that is waited for longer is spoken of.
PATIENCE_S = 5.0
# Names of what storage reports through tensorstore, in errors of several types.
_STATUSES = (
    "RESOURCE_EXHAUSTED", "PERMISSION_DENIED", "NOT_FOUND", "UNAVAILABLE", "DEADLINE_EXCEEDED",
    "DATA_LOSS", "FAILED_PRECONDITION", "No space left", "Read-only file system",
)  # fmt: skip
# Of what speaks to buckets: their errors have no base of their own.
_LIBRARIES = ("gcsfs", "google", "aiohttp", "requests")
_SPOKEN = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


def storage_fault(error: BaseException) -> str | None:
    """Returns what storage says is wrong, in a line; None for an error of another kind."""
    if isinstance(error, OSError):
        return error.strerror or str(error).strip().partition("\n")[0][:200]
    text = str(error)
    if type(error).__module__.partition(".")[0] in _LIBRARIES:
        return f"{type(error).__name__}: {text.strip().partition(chr(10))[0][:200]}"
    if isinstance(error, ValueError | RuntimeError) and any(name in text for name in _STATUSES):
        # The system's own words stand at the end of several nested ones.
        spoken = (os.strerror(number) for number in _SPOKEN if os.strerror(number) in text)
        return next(spoken, text.strip().partition("\n")[0].partition(" [")[0][:200])
    return None


def delete_given_up(folder: Path) -> None:
    """Deletes the checkpoints that retention has given up; what cannot be, waits for the next time.

    Args:
      folder: of the checkpoints.
    """
    if is_bucket(folder):  # bucket_checkpoints deletes there
        return
    # Made before it is needed: on a full disk, there might be no room for it.
    (folder / DELETING).mkdir(parents=True, exist_ok=True)
    for path in (folder / DELETING).iterdir():
        shutil.rmtree(path, ignore_errors=True)


class Saver:
    """Saves the checkpoints of one run through Orbax, one at a time, in the background.

    Args:
      open_manager: opens the manager of the folder anew; what a failed save left is cleaned up.
      folder: of the checkpoints.
      max_failed_saves: so many in a row may fail; one more is an error.
      last_step: returns the latest whole checkpoint on disk, or None.
      say: takes lines, from the first process.

    Attributes:
      manager: the manager in use.
    """

    def __init__(
        self,
        open_manager: Callable[[], ocp.CheckpointManager],
        folder: Path,
        max_failed_saves: int,
        last_step: Callable[[], int | None],
        say: Callable[[str], None],
    ):
        self._open, self._folder, self._say = open_manager, folder, say
        self._max_failed, self._last_step = max_failed_saves, last_step
        self.manager = open_manager()
        self._running: _Running | None = None
        self._failed = 0  # in a row
        self._fault: str | None = None  # of the last save, until one succeeds

    def save(self, step: int, items: ocp.args.Composite, metrics: dict | None) -> None:
        """Starts a save, after the one under way. A fault of storage is said, not raised.

        Raises UserError, in every process at the same save, where too many have failed in a row.
        """
        self._settle(step)
        if self._anyone_failed():
            if self._fault is None:
                self._failed, self._fault = self._failed + 1, "in another process"
            if self._failed > self._max_failed:
                raise self._error(f"{self._failed} saves in a row failed, the last: ")
            self._renew(step)
        # A manager that cannot be opened is a save that has failed.
        if self.manager is not None:
            self._attempt(
                step, lambda: self.manager.save(step, args=items, metrics=metrics, force=True)
            )

    def save_last(self, step: int, items: ocp.args.Composite, metrics: dict | None) -> None:
        """Saves and waits, several times if need be; UserError where it could not be."""
        self._settle(step)
        self._failed = 0
        for wait_s in (0.0, *FINAL_WAITS_S):
            time.sleep(wait_s)
            self.save(step, items, metrics)
            self._settle(None)
            self._failed = 0
            if not self._anyone_failed():
                return
        raise self._error("")

    def poll(self) -> None:
        """Says how a save went that has come to its end; costs nothing before."""
        if self._running is not None and self._running.is_over:
            self._judge()

    def wait(self) -> None:
        """Returns when the last save is whole on disk; UserError where it failed."""
        self._settle(None)
        if self._fault is not None:
            raise self._error("")

    def close(self) -> None:
        """As wait, and lets go of the folder."""
        try:
            self.wait()
        finally:
            self._let_go()

    def _anyone_failed(self) -> bool:
        """Whether the last save failed in any process: all do the same then."""
        return "failed" in distributed.everyone_says("well" if self._fault is None else "failed")

    def _attempt(self, step: int, start: Callable[[], Any]) -> None:
        try:
            start()
        except Exception as error:
            self._note(step, error)
        else:
            self._running = _Running(self.manager, step, self._folder)

    def _settle(self, step: int | None) -> None:
        """Waits for the save under way, saying so where training waits for storage."""
        if self._running is None:
            return
        if step is not None and not self._running.join(PATIENCE_S):
            self._tell(
                f"step {step}: training waits for the save of step {self._running.step}, under way "
                f"for {self._running.seconds:.0f} s: storage is slower than save_every_steps asks"
            )
        self._running.join()
        self._judge()

    def _judge(self) -> None:
        over, self._running = self._running, None
        if over.error is not None:
            self._note(over.step, over.error)
            return
        if self._fault is not None:
            self._tell(f"step {over.step} is saved: {self._folder} can be written again")
        self._failed, self._fault = 0, None

    def _note(self, step: int, error: BaseException) -> None:
        """Says that a save failed; raises what is no fault of storage."""
        fault = storage_fault(error)
        if fault is None:
            raise error
        self._failed, self._fault = self._failed + 1, fault
        self._tell(
            f"step {step} could not be saved to {self._folder} ({fault}); {self._good()}; training "
            f"goes on, the next save is tried (failed in a row: {self._failed}, allowed "
            f"{self._max_failed})"
        )

    def _renew(self, step: int) -> None:
        """Opens the folder anew: Orbax forgets what a failed save has broken, on disk as well."""
        self._let_go()
        self.manager = None
        try:
            self.manager = self._open()
        except Exception as error:
            self._note(step, error)

    def _let_go(self) -> None:
        # What failed is raised once in each thread; the second call closes.
        for _ in range(2):
            try:
                if self.manager is not None:
                    self.manager.close()
                return
            except Exception:
                continue

    def _good(self) -> str:
        try:
            step = self._last_step()
        except Exception:  # each kind of storage has its own
            return "which checkpoints are there cannot be seen"
        return "there is none yet" if step is None else f"the last good one is step {step}"

    def _error(self, before: str) -> UserError:
        return UserError(
            f"a checkpoint could not be written to {self._folder} ({before}{self._fault}); "
            f"{self._good()}; make it writable, free some space and run the same command again"
        )

    def _tell(self, text: str) -> None:
        if jax.process_index() == 0:
            self._say(text)
        else:
            print(f"mt0: process {jax.process_index()}: {text}", file=sys.stderr, flush=True)


class _Running:
    """A save under way: a thread waits for it, and keeps the error it ends with."""

    def __init__(self, manager: ocp.CheckpointManager, step: int, folder: Path):
        self.step, self.error, self._folder = step, None, folder
        self._manager, self._began = manager, time.monotonic()
        self._thread = threading.Thread(target=self._wait, name=f"save {step}", daemon=True)
        self._thread.start()

    def _wait(self) -> None:
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            self.error = error
            return
        if jax.process_index() == 0:
            # The save is whole; what cannot be deleted now is when the next one is.
            with contextlib.suppress(OSError):
                delete_given_up(self._folder)

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def join(self, timeout_s: float | None = None) -> bool:
        """Waits, and returns whether the save is over."""
        self._thread.join(timeout_s)
        return self.is_over
