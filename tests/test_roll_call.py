"""Processes meet before JAX connects them; here each is a thread, over this machine's network."""

import concurrent.futures
import contextlib
import dataclasses
import json
import socket
import threading
import time

import pytest

from mt0_tpu import roll_call
from mt0_tpu.errors import UserError
from mt0_tpu.process_settings import ProcessSettings
from mt0_tpu.roll_call import ProcessesAbsentError


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def job(port, count, timeout_s=20, hosts=()):
    """The settings of each process."""
    return [
        ProcessSettings(count, index, f"localhost:{port}", "test", hosts, None, timeout_s)
        for index in range(count)
    ]


def meet(settings, said=None):
    """What each process's roll call comes to: None, or its error."""

    def one(its):
        try:
            roll_call.gather(its, None if said is None else said.append)
        except UserError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(len(settings)) as pool:
        return list(pool.map(one, settings))


@pytest.mark.parametrize("count", [2, 16])
def test_all_come(port, count):
    assert meet(job(port, count)) == [None] * count


def test_the_port_is_free_again(port):
    for _ in range(5):
        assert meet(job(port, 3)) == [None] * 3
        with socket.create_server(("127.0.0.1", port)):
            pass


def test_who_never_starts_is_named_to_all(port):
    everyone = job(port, 4, timeout_s=1, hosts=("a", "b", "c", "d"))
    errors = meet([everyone[0], everyone[1], everyone[3]])
    for error in errors:
        assert isinstance(error, ProcessesAbsentError)
        assert error.absent == (2,)
        assert "after 1 s 3 of 4 processes are here; absent: 2 (c)." in str(error)


def test_a_leader_that_never_starts_is_named_to_all(port):
    for error in meet(job(port, 3, timeout_s=1)[1:]):
        assert error.absent == (0,)
        assert f"for process 0, which does not answer at localhost:{port} (" in str(error)


def test_many_absent_are_not_all_listed(port):
    (error,) = meet(job(port, 100, timeout_s=1)[:1])
    assert error.absent == tuple(range(1, 100))
    assert "1 of 100 processes are here; absent: 1, 2," in str(error)
    assert "20, and 79 more. Were" in str(error)


def test_who_gives_up_first_still_names_the_absent(port, monkeypatch):
    """Their clocks start when they do: one whose time is up first knows who came until then."""
    monkeypatch.setattr(roll_call, "_VERDICT_PATIENCE_S", 0.0)
    everyone = job(port, 3, timeout_s=3)
    hasty = dataclasses.replace(everyone[1], initialization_timeout_s=1)
    leader_says, its = meet([everyone[0], hasty])
    assert its.absent == (2,)
    assert "after 1 s 2 of 3 processes are here; absent: 2." in str(its)
    assert leader_says.absent == (1, 2)
    assert str(leader_says).endswith("; came and left: 1")


def test_late_ones_are_waited_for(port):
    everyone = job(port, 3)
    late = [
        threading.Timer(wait, meet, [[its]])
        for wait, its in ((1.0, everyone[0]), (1.5, everyone[2]))
    ]
    for timer in late:
        timer.start()
    assert meet(everyone[1:2]) == [None]
    for timer in late:
        timer.join()


def test_the_same_number_twice(port):
    everyone = job(port, 3, timeout_s=2)
    said = []
    first, *twins = meet([everyone[0], everyone[1], everyone[1]], said)
    refused, waited = sorted(twins, key=lambda error: isinstance(error, ProcessesAbsentError))
    assert "there is a process 1 already (" in str(refused)
    assert "give each its own number" in str(refused)
    assert first.absent == waited.absent == (2,)
    assert "; 1 refused, whose logs say why" in str(first)
    assert said[0].startswith("refused: there is a process 1 already")


def test_another_count_of_processes(port):
    ours, theirs = job(port, 2, timeout_s=2), job(port, 3, timeout_s=2)
    first, other = meet([ours[0], theirs[1]])
    assert "process 1 counts 3 processes, but process 0 counts 2" in str(other)
    assert first.absent == (1,)


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\n",
        b"[]\n",
        b'{"index": 1}\n',
        b'{"mt0": "here", "index": "1", "count": 2}\n',
        b"x" * 9000,
        b"",
    ],
)
def test_strangers_do_not_disturb(port, said):
    def stranger():
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                    connection.sendall(said)
                    return

    everyone = job(port, 2)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        leader = pool.submit(meet, everyone[:1])
        pool.submit(stranger).result()
        assert pool.submit(meet, everyone[1:]).result() == leader.result() == [None]


def test_a_process_that_dies_while_waiting_may_come_again(port):
    everyone = job(port, 3)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        leader = pool.submit(meet, everyone[:1])
        with connected(port) as dead:
            hello = {"mt0": "here", "index": 1, "count": 3, "who": "dead"}
            dead.sendall(json.dumps(hello).encode() + b"\n")
            assert b"absent" in dead.recv(100)
        others = pool.submit(meet, everyone[1:])
        assert others.result() == [None, None]
        assert leader.result() == [None]


def connected(port) -> socket.socket:
    deadline = time.monotonic() + 10
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=5)
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_another_program_at_the_coordinator_s_port(port, monkeypatch):
    monkeypatch.setattr(roll_call, "_PORT_PATIENCE_S", 0.5)
    with socket.create_server(("127.0.0.1", port)):
        (first,) = meet(job(port, 2)[:1])
    assert f"process 0 cannot listen on port {port} (Address already in use)" in str(first)


def test_process_0_says_who_it_waits_for(port, monkeypatch):
    monkeypatch.setattr(roll_call, "_NEWS_EVERY_S", 0.3)
    said = []
    meet(job(port, 3, timeout_s=1)[:2], said)
    assert said[-1] == "waiting: 2 of 3 processes are here; absent: 2"
