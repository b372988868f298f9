"""Who dies is named to all; who ends by itself says so. Here each process is a thread."""

import os
import threading
import time

import pytest

from mt0_tpu import peer_watch
from mt0_tpu.exit_codes import REQUEUE
from tests.peer_pairs import closing, watches


@pytest.fixture(autouse=True)
def all_closed():
    with closing():
        yield


class Ended(BaseException):
    """Instead of os._exit, which would end the tests."""


@pytest.fixture
def ends(monkeypatch, capfd):
    """Gives what was said by when `count` processes have ended with `code`."""
    codes = []

    def end(code):
        codes.append(code)
        raise Ended

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(peer_watch, "_LINGER_S", 0.2)
    monkeypatch.setattr(peer_watch, "_PATIENCE_S", 0.2)
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)

    def wait(count, code):
        deadline = time.monotonic() + 30
        while len(codes) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        assert codes == [code] * count
        return capfd.readouterr().err

    return wait


def kill(watch):
    """As the kernel does for a process that was killed: its connections close."""
    for connection in watch._open.values():
        connection.close()


def test_one_that_dies_is_named_by_all_others(ends):
    *others, victim = watches(4, start=False)
    for one in others:
        one.start()
    kill(victim)
    said = ends(3, REQUEUE)
    assert said.count("process 3 (node3) has died (its connection closed); all processes end") == 3


def test_process_0_that_dies_is_named_by_all_others(ends):
    victim, *others = watches(3, start=False)
    for one in others:
        one.start()
    kill(victim)
    assert ends(2, REQUEUE).count("process 0 (node0) has died") == 2


def test_a_machine_that_falls_silent_is_given_up(ends, monkeypatch):
    monkeypatch.setattr(peer_watch, "SILENCE_S", 0.3)
    monkeypatch.setattr(peer_watch, "BEAT_S", 0.05)
    *others, silent = watches(3, start=False)
    for one in others:
        one.start()
    assert ends(2, REQUEUE).count("process 2 (node2) has not been heard of for 0 s") == 2
    assert silent._open  # its connection is still open


def test_beats_keep_them_together(ends, monkeypatch):
    monkeypatch.setattr(peer_watch, "SILENCE_S", 1.0)
    monkeypatch.setattr(peer_watch, "BEAT_S", 0.05)
    watches(3)
    time.sleep(2.5)
    assert ends(0, REQUEUE) == ""


@pytest.mark.parametrize("index", [0, 2])
def test_who_ends_with_an_error_takes_the_others_along(ends, index):
    everyone = watches(3)
    everyone[index].leave(2, "the disk is full")
    said = ends(2, 2)
    assert said.count(f"process {index} (node{index}) ended: the disk is full") == 2


def test_who_is_done_leaves_the_others_in_peace(ends):
    first, second, third = watches(3)
    second.leave(0)
    time.sleep(0.3)
    kill(second)
    third.leave(0)
    time.sleep(0.3)
    assert ends(0, 0) == ""
    first.leave(0)


def test_words_of_others_wait_for_a_listener():
    first, second = watches(2)
    second.tell({"notice": "SIGTERM"})
    time.sleep(0.3)
    heard = []
    first.listen(lambda index, said: heard.append((index, said)))
    second.tell({"passed": 7})
    deadline = time.monotonic() + 20
    while len(heard) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert heard == [(1, {"notice": "SIGTERM"}), (1, {"passed": 7})]


def test_one_killed_after_its_goodbye_does_not_hold_who_is_done(ends, monkeypatch):
    """Where JAX's shutdown waits for all."""
    monkeypatch.setattr(peer_watch, "_EXIT_S", 0.2)
    first, second = watches(2)
    second.leave(0)
    time.sleep(0.3)
    first.leave(0)
    second.close()
    kill(second)
    ends(1, 0)
