"""A notice that the job is to stop, and the point where all its processes do.

Any process may get it: a signal, or word from the platform. The processes are at slightly
different places of the same program, so each counts the points it passes, process 0 asks all
for their counts while none may pass a further one, and they stop at the point after the
furthest: all of them save the same step.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

from mt0_tpu import stop_signals
from mt0_tpu.exit_codes import REQUEUE
from mt0_tpu.peer_watch import PeerWatch

_POLL_S = 5.0


class PointReached(Exception):
    """Raised by StopNotice.check in every process at the same point."""


class StopNotice:
    """Takes notices while a training loop runs.

    Args:
      watch: of the other processes; None in a process alone.
      leads: whether this is process 0.
      grace_seconds: after a notice, the time until the process ends whatever it has saved; None
        leaves that to whoever gave the notice.
      last_saved: says what a run would go on from, for the message of an early end.
      news: returns the platform's notice once there is one, else None; asked every 5 s.
    """

    def __init__(
        self,
        watch: PeerWatch | None,
        leads: bool,
        grace_seconds: float | None = None,
        last_saved: Callable[[], str] = str,
        news: Callable[[], str | None] | None = None,
    ):
        self._watch, self._leads = watch, leads
        self._grace_s, self._last_saved, self._news = grace_seconds, last_saved, news
        self._change = threading.Condition(threading.RLock())
        self._passed = 0  # points
        self._asked_at: int | None = None  # of them when process 0 asked
        self._stop_at: int | None = None
        self._answers: dict[int, int] = {}
        self._why: str | None = None
        self._code = REQUEUE
        self._signalled = False
        self._closed = threading.Event()

    def open(self) -> StopNotice:
        """Begins to listen; until close()."""
        stop_signals.install()
        stop_signals.take(self)
        if self._watch is not None:
            self._watch.listen(self._told)
        if self._news is not None:
            threading.Thread(target=self._poll, name="stop news", daemon=True).start()
        return self

    def close(self) -> None:
        """Gives signals back."""
        self._closed.set()
        stop_signals.take(None)
        if self._watch is not None:
            self._watch.listen(None)

    @property
    def why(self) -> str:
        """What the notice was: 'SIGTERM', …"""
        return self._why or "a notice"

    @property
    def code(self) -> int:
        """What the process shall end with."""
        return self._code

    def reached(self) -> bool:
        """Passes a point, as every process does; True from the agreed one on."""
        with self._change:
            self._passed += 1
            while (
                self._asked_at is not None
                and self._stop_at is None
                and self._passed > self._asked_at
            ):
                self._change.wait()
            return self._stop_at is not None and self._passed >= self._stop_at

    def check(self) -> None:
        """As reached, by an exception: for a place deep inside an evaluation."""
        if self.reached():
            raise PointReached

    def heard(self, name: str) -> None:
        """Takes a signal. A second one, of this process, ends it at once."""
        with self._change:
            again, self._signalled = self._signalled, True
            if self._why is None:
                self._code = stop_signals.exit_code(name)
        if again:
            self._end(f"stopped at once by a second notice, {name}")
        self._notice(name)

    def _notice(self, why: str) -> None:
        if self._watch is None:
            with self._change:
                self._decided(self._passed + 1, why)
        elif self._leads:
            self._ask(why)
        else:
            with self._change:
                self._why = why
            self._watch.tell({"notice": why, "code": self._code})

    def _told(self, index: int, said: dict) -> None:
        """Runs in the watch's thread."""
        if "notice" in said:
            self._code = int(said.get("code", REQUEUE))
            self._ask(f"{said['notice']} of process {index}")
        elif "passed" in said:
            self._answered(index, int(said["passed"]))
        elif "how far" in said:
            with self._change:
                self._asked_at = self._passed
                self._watch.tell({"passed": self._passed})
        elif "stop at" in said:
            with self._change:
                self._code = int(said["code"])
                self._decided(int(said["stop at"]), str(said["why"]))

    def _ask(self, why: str) -> None:
        with self._change:
            if self._asked_at is not None:
                return
            self._why, self._asked_at = why, self._passed
            self._watch.tell({"how far": 1})
            self._answered(0, self._passed)

    def _answered(self, index: int, passed: int) -> None:
        with self._change:
            self._answers[index] = passed
            if len(self._answers) == self._watch.count:
                stop_at = max(self._answers.values()) + 1
                self._watch.tell({"stop at": stop_at, "why": self._why, "code": self._code})
                self._decided(stop_at, self._why)

    def _decided(self, stop_at: int, why: str) -> None:
        if self._stop_at is not None:
            return
        self._why, self._stop_at = why, stop_at
        self._change.notify_all()
        if self._grace_s is not None:
            threading.Thread(target=self._expire, name="grace", daemon=True).start()

    def _expire(self) -> None:
        if not self._closed.wait(self._grace_s):
            self._end(f"{self._grace_s:g} s after {self._why} the save is not finished")

    def _end(self, why: str) -> None:
        text = f"{why}; {self._last_saved()}"
        print(f"mt0: {text}", file=sys.stderr, flush=True)
        if self._watch is not None:
            self._watch.leave(self._code, text)
        stop_signals.end_now(self._code)

    def _poll(self) -> None:
        while not self._closed.wait(_POLL_S):
            notice = self._news()
            if notice is not None:
                self._notice(notice)
                return
