"""Signals that ask a job to stop: SIGTERM, SIGUSR1 (SLURM's --signal) and Ctrl-C.

A Python signal handler waits for the main thread, which may be inside a step or a compilation
for minutes. So each signal is also read at once by a thread. While a training loop takes them
(take), it decides what happens; otherwise SIGTERM and SIGUSR1 end the command by Stopped, as
Ctrl-C does by KeyboardInterrupt.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import NoReturn, Protocol

from mt0_tpu.exit_codes import INTERRUPTED, REQUEUE

_NUMBERS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
# What a main thread has to clear up its half-written files.
_UNWIND_S = 10.0


class Stopped(SystemExit):
    """The job was asked to stop. `why` is a sentence, `code` the exit code."""

    def __init__(self, why: str, code: int = REQUEUE):
        super().__init__(code)
        self.why = why


class Taker(Protocol):
    """Who decides what a signal does."""

    def heard(self, name: str) -> None:
        """Is called in the thread of the signals, with 'SIGTERM' and so on."""


_installed: tuple[socket.socket, dict, int, threading.Event] | None = None
_taker: weakref.ref[Taker] | None = None


def exit_code(name: str) -> int:
    """Returns what a job ends with that a signal stopped."""
    return INTERRUPTED if name == "SIGINT" else REQUEUE


def install() -> None:
    """Listens from now on; a second call does nothing, nor does one outside the main thread."""
    global _installed
    if _installed is not None or threading.current_thread() is not threading.main_thread():
        return
    # Of this time alone: what came late belongs to a command that is over.
    unwound = threading.Event()
    receiving, sending = socket.socketpair()
    sending.setblocking(False)
    before = {number: signal.signal(number, _handle) for number in _NUMBERS}
    wakeup = signal.set_wakeup_fd(sending.fileno(), warn_on_full_buffer=False)
    _installed = (sending, before, wakeup, unwound)
    threading.Thread(
        target=_read, args=(receiving, unwound), name="stop signals", daemon=True
    ).start()


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """Listens inside the with block, and puts back what was there before."""
    global _installed
    outermost = _installed is None
    install()
    try:
        yield
    finally:
        if outermost and _installed is not None:
            sending, before, wakeup, unwound = _installed
            for number, handler in before.items():
                # None: it was not Python's.
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            signal.set_wakeup_fd(wakeup)
            sending.close()
            _installed = None
            unwound.set()


def take(taker: Taker | None) -> None:
    """Gives signals to a taker, as long as it lives; None gives them back."""
    global _taker
    _taker = None if taker is None else weakref.ref(taker)


def end_now(code: int) -> NoReturn:
    """Ends the process, whatever its main thread does."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _taking() -> Taker | None:
    return None if _taker is None else _taker()


def _handle(number: int, frame) -> None:
    """Runs in the main thread, as soon as that can."""
    if _taking() is not None:
        return
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    name = signal.Signals(number).name
    raise Stopped(f"stopped by {name}; the same command goes on from what is on disk")


def _read(receiving: socket.socket, unwound: threading.Event) -> None:
    while received := receiving.recv(64):
        for number in received:
            if number in _NUMBERS:
                _came(number, unwound)


def _came(number: int, unwound: threading.Event) -> None:
    # A function of its own, so that nothing here keeps a taker alive.
    name, taker = signal.Signals(number).name, _taking()
    if taker is not None:
        taker.heard(name)
    elif number != signal.SIGINT:
        threading.Thread(target=_end_late, args=(name, unwound), daemon=True).start()


def _end_late(name: str, unwound: threading.Event) -> None:
    if unwound.wait(_UNWIND_S):
        return
    print(f"mt0: stopped by {name}", file=sys.stderr, flush=True)
    end_now(exit_code(name))
