"""A job's processes as threads of this one, joined by socket pairs, for tests of the watch."""

from __future__ import annotations

import contextlib
import socket

from mt0_tpu.peer_watch import PeerWatch
from mt0_tpu.process_settings import ProcessSettings

_made: list[PeerWatch] = []


@contextlib.contextmanager
def closing():
    """Closes what watches() made meanwhile: left alone, it would end pytest."""
    try:
        yield
    finally:
        for one in _made:
            one.close()
        _made.clear()


def watches(count: int, start: bool = True) -> list[PeerWatch]:
    """The watch of each process, number 0 joined to all others."""
    pairs = {index: socket.socketpair() for index in range(1, count)}
    connections = [{index: pair[0] for index, pair in pairs.items()}]
    connections += [{0: pairs[index][1]} for index in range(1, count)]
    hosts = tuple(f"node{index}" for index in range(count))
    made = [
        PeerWatch(ProcessSettings(count, index, "localhost:1", "test", hosts), connections[index])
        for index in range(count)
    ]
    _made.extend(made)
    for one in made if start else ():
        one.start()
    return made
