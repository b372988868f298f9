"""The roll call: before JAX connects its processes, they meet here, and who is absent is named.

jax.distributed.initialize aborts every process with a stack trace when one does not come, and
says neither how many came nor which. So process 0 first listens itself at the coordinator's
address. The others connect and say who they are; when all have come, or time is up, each is
told; then the port is free again for JAX, and the connections are the watch's (peer_watch.py).
Lines of JSON over TCP.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import selectors
import socket
import sys
import time
from collections.abc import Callable, Iterable

from mt0_tpu.errors import UserError
from mt0_tpu.process_settings import ProcessSettings

_LINE_BYTES = 4096
_PORT_PATIENCE_S = 30.0  # the run before may still be leaving
_NEWS_EVERY_S = 30.0
# Beyond its own time, for the verdict of a process 0 that started a little later: one sentence
# for all.
_VERDICT_PATIENCE_S = 10.0


class ProcessesAbsentError(UserError):
    """Some processes of the job did not come; `absent` holds their numbers."""

    def __init__(self, message: str, absent: Iterable[int] = ()):
        super().__init__(message)
        self.absent = tuple(absent)


def gather(
    settings: ProcessSettings, say: Callable[[str], None] | None = None
) -> dict[int, socket.socket]:
    """Returns in every process once all have come.

    Args:
      settings: count above 1.
      say: takes lines about who is still absent, in process 0.

    Returns:
      Open connections by the number of the process at their other end: in process 0 to all
      others, in these to process 0.

    Raises:
      ProcessesAbsentError: after settings.initialization_timeout_s, in each that came.
      UserError: the port is taken; this process is here twice, or counts otherwise than process 0.
    """
    deadline = time.monotonic() + settings.initialization_timeout_s
    if settings.index == 0:
        return _Leader(settings, say or _to_stderr).gather(deadline)
    return {0: _follow(settings, deadline)}


def absent_text(settings: ProcessSettings, absent: Iterable[int]) -> str:
    """'3 of 4 processes are here; absent: 2 (node03)'."""
    absent = sorted(absent)
    names = [settings.name_of(index) for index in absent]
    if len(names) > 20:
        names = [*names[:20], f"and {len(names) - 20} more"]
    here = settings.count - len(absent)
    return f"{here} of {settings.count} processes are here; absent: {', '.join(names)}"


def _late(settings: ProcessSettings, absent: Iterable[int]) -> str:
    return (
        f"after {settings.initialization_timeout_s} s {absent_text(settings, absent)}. Were they "
        "started, and what do their logs say? --initialization_timeout=SECONDS waits longer"
    )


def _to_stderr(text: str) -> None:
    print(f"mt0: {text}", file=sys.stderr, flush=True)


# Process 0.


@dataclasses.dataclass(eq=False)
class _Guest:
    """A connection, and what came over it."""

    connection: socket.socket
    origin: str
    text: bytes = b""
    index: int | None = None


class _Leader:
    def __init__(self, settings: ProcessSettings, say: Callable[[str], None]):
        self._settings = settings
        self._say = say
        self._selector = selectors.DefaultSelector()
        self._guests: list[_Guest] = []
        self._came: set[int] = set()
        self._refused = 0

    def gather(self, deadline: float) -> dict[int, socket.socket]:
        listener = _listen(self._settings, deadline)
        with contextlib.ExitStack() as stack:
            stack.callback(self._close)
            stack.enter_context(listener)
            self._selector.register(listener, selectors.EVENT_READ)
            self._receive(listener, deadline)
            absent = self._absent()
            if not absent:
                self._tell({"go": True})
                return self._keep()
            text = _late(self._settings, absent)
            self._tell({"stop": text, "absent": absent})
            self._wait_until_gone(time.monotonic() + 2.0)
            if left := sorted(self._came.intersection(absent)):
                text += f"; came and left: {', '.join(map(str, left))}"
            if self._refused:
                text += f"; {self._refused} refused, whose logs say why"
            raise ProcessesAbsentError(text, absent)

    def _receive(self, listener: socket.socket, deadline: float) -> None:
        """Takes what comes until all are here or time is up."""
        news = time.monotonic() + _NEWS_EVERY_S
        while (absent := self._absent()) and (now := time.monotonic()) < deadline:
            for key, _ in self._selector.select(min(deadline, news) - now):
                if key.fileobj is listener:
                    self._accept(listener)
                else:
                    self._read(key.data)
            if time.monotonic() >= news:
                self._say(f"waiting: {absent_text(self._settings, absent)}")
                news += _NEWS_EVERY_S

    def _absent(self) -> list[int]:
        here = {0, *(guest.index for guest in self._guests)}
        return [index for index in range(self._settings.count) if index not in here]

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it may have gone already
            connection, address = listener.accept()
            connection.settimeout(5.0)
            guest = _Guest(connection, str(address[0]))
            self._guests.append(guest)
            self._selector.register(connection, selectors.EVENT_READ, guest)

    def _read(self, guest: _Guest) -> None:
        try:
            received = guest.connection.recv(_LINE_BYTES)
        except OSError:
            received = b""
        guest.text += received
        if not received or len(guest.text) > _LINE_BYTES:
            self._drop(guest)
        elif guest.index is None and b"\n" in guest.text:
            self._greet(guest)

    def _greet(self, guest: _Guest) -> None:
        said = _parsed(guest.text)
        index, count = said.get("index"), said.get("count")
        if said.get("mt0") != "here" or not isinstance(index, int):
            self._drop(guest)  # a stranger's
            return
        there = [other for other in self._guests if other.index == index]
        refusal = None
        if count != self._settings.count or not 0 < index < self._settings.count:
            refusal = (
                f"process {index} counts {count} processes, but process 0 counts "
                f"{self._settings.count}; start all with the same settings"
            )
        elif there:
            refusal = (
                f"there is a process {index} already ({there[0].origin}), and this one "
                f"({said.get('who')}) calls itself {index} too; give each its own number"
            )
        if refusal:
            self._refused += 1
            self._send(guest, {"stop": refusal})
            self._say(f"refused: {refusal}")
            self._drop(guest)
            return
        guest.index, guest.origin = index, str(said.get("who"))
        self._came.add(index)
        self._tell({"absent": self._absent()})

    def _tell(self, what: dict) -> None:
        for guest in [guest for guest in self._guests if guest.index is not None]:
            self._send(guest, what)

    def _send(self, guest: _Guest, what: dict) -> None:
        try:
            guest.connection.sendall(json.dumps(what).encode() + b"\n")
        except OSError:
            self._drop(guest)

    def _wait_until_gone(self, deadline: float) -> None:
        while (here := [guest for guest in self._guests if guest.index is not None]) and (
            left := deadline - time.monotonic()
        ) > 0:
            for key, _ in self._selector.select(left):
                if key.data in here:
                    self._drop(key.data)

    def _drop(self, guest: _Guest) -> None:
        if guest in self._guests:
            self._guests.remove(guest)
            self._selector.unregister(guest.connection)
            guest.connection.close()

    def _keep(self) -> dict[int, socket.socket]:
        """Lets go of those that came, with their connections open, and drops the others."""
        kept = [guest for guest in self._guests if guest.index is not None]
        for guest in kept:
            self._guests.remove(guest)
            self._selector.unregister(guest.connection)
        return {guest.index: guest.connection for guest in kept}

    def _close(self) -> None:
        for guest in list(self._guests):
            self._drop(guest)
        self._selector.close()


def _listen(settings: ProcessSettings, deadline: float) -> socket.socket:
    """Listens where JAX's coordinator will: everywhere, on the address's port."""
    bind = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS")
    host, port = _host_port(bind or settings.coordinator_address)
    everywhere = bind is None and host not in ("localhost", "127.0.0.1")
    patience = min(deadline, time.monotonic() + _PORT_PATIENCE_S)
    while True:
        try:
            if not everywhere or host == "0.0.0.0":
                return socket.create_server((host, port), backlog=4096)
            try:
                return socket.create_server(
                    ("", port), family=socket.AF_INET6, backlog=4096, dualstack_ipv6=True
                )
            except (OSError, ValueError):  # no IPv6 here, or the port is taken in both
                return socket.create_server(("", port), backlog=4096)
        except OSError as error:
            if time.monotonic() > patience:
                reason = os.strerror(error.errno) if error.errno else error
                raise UserError(
                    f"process 0 cannot listen on port {port} ({reason}); another "
                    "job may hold it: choose another by --coordinator_address or "
                    "JAX_COORDINATOR_PORT"
                ) from None
        time.sleep(0.5)


# The others.


def _follow(settings: ProcessSettings, deadline: float) -> socket.socket:
    """Calls until process 0 answers, waits for what it decides; returns the connection."""
    address = _host_port(settings.coordinator_address)
    hello = {"mt0": "here", "index": settings.index, "count": settings.count, "who": _who()}
    reason, absent = "no answer", None
    while (left := deadline - time.monotonic()) > 0:
        try:
            with contextlib.ExitStack() as stack:
                connection = socket.create_connection(address, timeout=min(left, 10.0))
                stack.enter_context(connection)
                connection.sendall(json.dumps(hello).encode() + b"\n")
                heard = _listen_to(connection, deadline + _VERDICT_PATIENCE_S)
                for said in heard:
                    if said.get("go"):
                        stack.pop_all()
                        return connection
                    absent = said.get("absent", absent)
                    if "stop" in said:
                        raise _stopped(said)
            reason, absent = "it hung up", None
        except TimeoutError:
            reason = "no answer"
        except OSError as error:
            reason, absent = str(error.strerror or error), None
        # A thousand processes shall not call in the same instant.
        time.sleep(min(max(deadline - time.monotonic(), 0.0), random.uniform(0.2, 0.8)))
    if absent:
        raise ProcessesAbsentError(_late(settings, absent), absent)
    raise ProcessesAbsentError(
        f"process {settings.index} of {settings.count} waited "
        f"{settings.initialization_timeout_s} s for process {settings.name_of(0)}, which does not "
        f"answer at {settings.coordinator_address} ({reason}). Was it started, and can this "
        "machine reach it? --initialization_timeout=SECONDS waits longer",
        (0,),
    )


def _stopped(said: dict) -> UserError:
    if "absent" in said:
        return ProcessesAbsentError(str(said["stop"]), said["absent"])
    return UserError(str(said["stop"]))


def _listen_to(connection: socket.socket, deadline: float) -> Iterable[dict]:
    """Yields what process 0 says, line by line, until it hangs up or time is up."""
    text = b""
    while (left := deadline - time.monotonic()) > 0:
        connection.settimeout(left)
        received = connection.recv(_LINE_BYTES)
        if not received:
            return
        *lines, text = (text + received).split(b"\n")
        for line in lines:
            yield _parsed(line)
    raise TimeoutError


def _parsed(line: bytes) -> dict:
    """What a line says; nothing, where another program is speaking."""
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _host_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _who() -> str:
    return f"{socket.gethostname()}, process id {os.getpid()}"
