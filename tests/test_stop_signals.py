"""A signal ends a command, unless something takes it."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from mt0_tpu import stop_signals
from mt0_tpu.exit_codes import INTERRUPTED, REQUEUE
from tests.conftest import REPOSITORY


@pytest.fixture(autouse=True)
def nothing_is_installed(monkeypatch):
    """A run of another test may have left this process listening, to a taker of its own."""
    monkeypatch.setattr(stop_signals, "_installed", None)
    monkeypatch.setattr(stop_signals, "_taker", None)


def send(number):
    os.kill(os.getpid(), number)
    time.sleep(5)  # the handler ends it


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_stops_the_command(number, monkeypatch):
    monkeypatch.setattr(stop_signals, "_end_late", lambda name, unwound: None)
    before = signal.getsignal(number)
    with stop_signals.installed(), pytest.raises(stop_signals.Stopped) as stopped:
        send(number)
    assert stopped.value.code == REQUEUE
    assert f"stopped by {signal.Signals(number).name}" in stopped.value.why
    assert signal.getsignal(number) == before


def test_control_c_stays_what_it_was():
    with stop_signals.installed(), pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT)
    assert stop_signals.exit_code("SIGINT") == INTERRUPTED


def test_a_taker_has_them_instead_at_once():
    """Even while the main thread is busy; and no longer than it lives."""

    class Taker:
        def __init__(self):
            self.names, self.came = [], threading.Event()

        def heard(self, name):
            self.names.append(name)
            self.came.set()

    with stop_signals.installed():
        taker = Taker()
        stop_signals.take(taker)
        os.kill(os.getpid(), signal.SIGTERM)
        assert taker.came.wait(timeout=60)
        assert taker.names == ["SIGTERM"]
        del taker
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_a_signal_read_late_does_not_end_the_command_after_it(monkeypatch):
    """The thread may come to read it when its command is over and the next one has begun."""
    ended, started = [], []
    monkeypatch.setattr(stop_signals, "_UNWIND_S", 0.1)
    monkeypatch.setattr(stop_signals, "end_now", ended.append)
    real, held = stop_signals._end_late, threading.Event()

    def late(name, unwound):
        started.append(name)
        held.wait(60)
        real(name, unwound)
        started.append("over")

    monkeypatch.setattr(stop_signals, "_end_late", late)
    with pytest.raises(stop_signals.Stopped), stop_signals.installed():
        send(signal.SIGTERM)
    with stop_signals.installed():
        held.set()
        deadline = time.monotonic() + 60
        while started != ["SIGTERM", "over"] and time.monotonic() < deadline:
            time.sleep(0.01)
    assert started == ["SIGTERM", "over"] and ended == []


def test_another_thread_installs_nothing():
    before = signal.getsignal(signal.SIGUSR1)
    thread = threading.Thread(target=stop_signals.install)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGUSR1) is before
    assert stop_signals._installed is None


def test_a_main_thread_that_does_not_come_back_is_ended():
    code = """
import os, signal, threading
from mt0_tpu import stop_signals
stop_signals._UNWIND_S = 0.2
with stop_signals.installed():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(5)
    except BaseException:
        while True:
            threading.Event().wait(5)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (REQUEUE, "mt0: stopped by SIGTERM\n")
