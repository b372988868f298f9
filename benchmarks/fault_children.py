"""Forked processes for the fault campaign: JAX is imported once for all of them."""

from __future__ import annotations

import atexit
import faulthandler
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

# How long an undisturbed job may take, and a place to be killed at may be waited for.
PATIENCE_S = 180.0


class Child:
    """A forked process: JAX is imported once for all of them, and started in none before."""

    def __init__(self, work: Callable[[], object], environment: dict[str, str], errors: Path):
        sys.stdout.flush()
        self.code: int | None = None
        self.errors = errors
        self.pid = os.fork()
        if not self.pid:
            os.environ.update(environment)
            self._run(work)

    def _run(self, work) -> None:
        code = 1
        try:
            with self.errors.open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            faulthandler.register(signal.SIGUSR2, file=sys.__stderr__)
            work()
            code = 0
        except SystemExit as error:
            code = int(error.code or 0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            atexit._run_exitfuncs()
            sys.stderr.flush()
            os._exit(code)

    def poll(self) -> int | None:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def wait(self, timeout_s: float = PATIENCE_S) -> int | None:
        deadline = time.monotonic() + timeout_s
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        return self.code

    def told(self) -> str:
        """What it wrote; of a living one, also where its threads are."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGUSR2)
            time.sleep(1.0)
        return self.errors.read_text()

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()


class Command(Child):
    """A command line instead of a function."""

    def __init__(self, command: list[str], errors: Path):
        super().__init__(lambda: os.execv(command[0], command), {}, errors)


def in_a_child(work: Callable[[], object], folder: Path) -> bool:
    """Runs what starts JAX away from here, where it must not start; whether it succeeded."""
    return Child(work, {}, folder / "errors-check").wait() == 0


def environment_of(index: int, count: int, port: int) -> dict[str, str]:
    """Returns the variables that make a process number `index` of a job."""
    if count == 1:
        return {}
    return {
        "MT0_COORDINATOR": f"127.0.0.1:{port}", "MT0_NUM_PROCESSES": str(count),
        "MT0_PROCESS_ID": str(index),
    }  # fmt: skip


def free_port() -> int:
    """Returns a port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
