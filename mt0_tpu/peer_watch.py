"""The watch: once all processes are here, each knows within seconds that another has died.

The connections of the roll call stay open, each process's to process 0. The kernel closes them
when a process is killed; a machine that is gone falls silent. Whoever is left says who died and
ends, with a code that launchers start again: in a collective it would wait for ever. Processes
that end by themselves say goodbye first, with their code and why. Lines of JSON over TCP, and
nothing of JAX.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import NoReturn

from mt0_tpu.exit_codes import REQUEUE
from mt0_tpu.process_settings import ProcessSettings

BEAT_S = 5.0
# Twelve beats. JAX's own limit is 100 s, and its end is an abort.
SILENCE_S = 60.0
# For the main thread of a process that is told of another's error: it may have met the same.
_PATIENCE_S = 3.0
# From the first process that is gone until one that is done leaves JAX's shutdown.
_EXIT_S = 10.0
# Process 0 ends last, so that all have read what it said.
_LINGER_S = 5.0
_RECEIVE_BYTES = 1 << 16

Heard = Callable[[int, dict], None]
"""Takes (number of the process that says it, what it says), in the watch's thread."""


class PeerWatch:
    """A thread of each process that watches over the others.

    Args:
      settings: count above 1.
      connections: of process 0 one to each other process, of these the one to process 0.
    """

    def __init__(self, settings: ProcessSettings, connections: Mapping[int, socket.socket]):
        self._settings = settings
        self._leads = settings.index == 0
        self._open = dict(connections)
        self._texts = dict.fromkeys(connections, b"")
        self._heard_at = dict.fromkeys(connections, time.monotonic())
        self._gone: set[int] = set()  # said goodbye
        self._sending = threading.Lock()
        self._listener: Heard | None = None
        self._unheard: list[tuple[int, dict]] = []
        self._listening = threading.Lock()
        self._left: int | None = None  # the code this process says it ends with
        self._ending = threading.Event()
        self._closed = threading.Event()
        self._selector = selectors.DefaultSelector()
        for index, connection in self._open.items():
            connection.settimeout(_LINGER_S)
            self._selector.register(connection, selectors.EVENT_READ, index)
        self._thread = threading.Thread(target=self._watch, name="peer watch", daemon=True)

    @property
    def count(self) -> int:
        """How many processes the job has."""
        return self._settings.count

    def start(self) -> None:
        """Begins to watch."""
        self._thread.start()

    def close(self) -> None:
        """Watches no more, without a word to the others."""
        self._closed.set()

    def listen(self, heard: Heard | None) -> None:
        """Hands over what others say besides the watch's own words, what came before included."""
        with self._listening:
            self._listener = heard
            waiting, self._unheard = self._unheard, []
            if heard is None:
                return
        for index, said in waiting:
            heard(index, said)

    def tell(self, said: dict) -> None:
        """Process 0 tells all others, these tell process 0."""
        for index in list(self._open):
            self._send(index, said)

    def leave(self, code: int, why: str = "") -> None:
        """Says that this process ends; with a code other than 0 the others end as well.

        Returns when they can have read it.
        """
        if self._left is not None:
            return
        self._left = code
        if code and self._leads:
            self._end_others(code, f"process {self._name(0)} ended: {why}", _PATIENCE_S)
        else:
            self.tell({"bye": code, "why": why})
        if code:
            self._hang_up()
            self._linger()
        else:
            threading.Thread(target=self._end_bounded, name="peer watch end", daemon=True).start()

    def wait_for_verdict(self, timeout_s: float = _PATIENCE_S) -> None:
        """Returns when nobody is known to have died within the time; else this process ends."""
        self._ending.wait(timeout_s)
        if self._ending.is_set():
            time.sleep(2 * _LINGER_S)  # the watch's thread ends the process

    def end(self, code: int, why: str) -> NoReturn:
        """Ends this process, whatever its other threads do; process 0 tells the others first."""
        self._ending.set()
        if self._leads:
            self._end_others(code, why, 0.0)
        _say(why)
        if self._leads:
            self._linger()
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        # A main thread inside a collective cannot be interrupted.
        os._exit(code)

    def _watch(self) -> None:
        beat = time.monotonic()
        while self._open and not self._closed.is_set():
            for key, _ in self._selector.select(max(beat - time.monotonic(), 0.0)):
                self._receive(key.data)
            if self._closed.is_set():
                return
            now = time.monotonic()
            if now >= beat:
                self.tell({"alive": 1})
                beat = now + BEAT_S
            for index in [i for i in self._open if now - self._heard_at[i] > SILENCE_S]:
                self._died(index, f"has not been heard of for {SILENCE_S:.0f} s")

    def _receive(self, index: int) -> None:
        connection = self._open.get(index)
        if connection is None:
            return
        try:
            received = connection.recv(_RECEIVE_BYTES)
        except TimeoutError:
            return
        except OSError:
            received = b""
        if self._closed.is_set():
            return
        if not received:
            self._drop(index)
            if index not in self._gone:
                self._died(index, "has died (its connection closed)")
            return
        self._heard_at[index] = time.monotonic()
        *lines, self._texts[index] = (self._texts[index] + received).split(b"\n")
        for line in lines:
            with contextlib.suppress(ValueError):
                said = json.loads(line)
                if isinstance(said, dict):
                    self._take(index, said)

    def _take(self, index: int, said: dict) -> None:
        if "alive" in said:
            return
        if "end" in said:
            self._gone.add(index)
            time.sleep(0 if self._ending.is_set() else float(said.get("patience", 0)))
            if self._left is None:
                self.end(int(said["end"]), str(said.get("why")))
        elif "bye" in said:
            self._gone.add(index)
            if said["bye"] and self._leads:
                why = f"process {self._name(index)} ended: {said.get('why')}"
                self._end_others(int(said["bye"]), why, _PATIENCE_S)
                self._take(index, {"end": said["bye"], "why": why, "patience": _PATIENCE_S})
        else:
            with self._listening:
                heard = self._listener
                if heard is None:
                    self._unheard.append((index, said))
            if heard is not None:
                heard(index, said)

    def _died(self, index: int, how: str) -> None:
        self._drop(index)
        if self._left:  # this process is on its way out, and the others follow
            return
        self.end(
            REQUEUE,
            f"process {self._name(index)} {how}; all processes end, and the same command goes on "
            "from what was saved last",
        )

    def _end_others(self, code: int, why: str, patience_s: float) -> None:
        self.tell({"end": code, "why": why, "patience": patience_s})

    def _send(self, index: int, said: dict) -> None:
        connection = self._open.get(index)
        if connection is None:
            return
        # Whoever cannot be reached is found dead by the reading side.
        with self._sending, contextlib.suppress(OSError):
            connection.sendall(json.dumps(said).encode() + b"\n")

    def _end_bounded(self) -> None:
        """This process is done, and waits in JAX's shutdown for all others.

        One that was killed after its goodbye never comes there.
        """
        connections = self._settings.count - 1 if self._leads else 1
        while len(self._open) == connections:
            time.sleep(0.5)
            if self._closed.is_set():
                return
        if not self._closed.wait(_EXIT_S):
            os._exit(0)

    def _hang_up(self) -> None:
        """Says no more, so that the others hang up too; what they said is still received."""
        for connection in list(self._open.values()):
            with self._sending, contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)

    def _linger(self) -> None:
        """Waits until the others have hung up: what lies unread when a socket closes is lost."""
        deadline = time.monotonic() + _LINGER_S
        if threading.current_thread() is not self._thread:
            while self._open and time.monotonic() < deadline and not self._ending.is_set():
                time.sleep(0.05)
            return
        while self._open and (left := deadline - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                connection = self._open.get(key.data)
                with contextlib.suppress(OSError):
                    if connection is None or connection.recv(_RECEIVE_BYTES):
                        continue
                self._drop(key.data)

    def _drop(self, index: int) -> None:
        connection = self._open.pop(index, None)
        if connection is not None:
            self._selector.unregister(connection)
            connection.close()

    def _name(self, index: int) -> str:
        return self._settings.name_of(index)


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(f"mt0: {text}", file=sys.stderr, flush=True)
