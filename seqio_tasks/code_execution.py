"""Runs programs that a model wrote, each in a child process of its own, and says which pass.

Nothing runs unless someone has asked for it: `allow()`, `with allowed():`, MT0_EXECUTE_CODE=1, or
`evaluate.execute_code = True` of `mt0 eval`. What a child can and cannot do is said at the top of
`code_isolation`. Where those walls cannot be put up (not Linux, or seccomp is missing), programs
run only if that is accepted in words: MT0_EXECUTE_CODE=unisolated. They are then held back by time,
memory and file size alone, could read and delete the user's files and use the network.

Programs run with the standard library of this Python and no installed package, as published
evaluations of HumanEval assume.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

VARIABLE = "MT0_EXECUTE_CODE"
_UNISOLATED = "unisolated"
_CHILD = Path(__file__).with_name("code_isolation.py")
# Not -I: it would drop the fixed hash seed too. No site packages, no user folder, no .pyc files.
_FLAGS = ("-P", "-s", "-S", "-B", "-X", "utf8")
# Sets are walked in the same order every time, so that a verdict does not change by chance.
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
_MOST_ANSWER_BYTES = 4096
_REFUSED = "not run: the walls around it could not be put up"

_switch: str | None = None  # None: what the environment says; else 'on', 'off' or 'unisolated'


@dataclasses.dataclass(frozen=True)
class Program:
    """A program, and code that raises unless it is right; both run in the same names."""

    code: str
    test: str


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a program may use; checks itself.

    Attributes:
      cpu_seconds: of processor time, so that a busy machine fails nothing.
      wall_seconds: of real time, for programs that wait.
      memory_mib: of address space, the interpreter's own 30 included.
    """

    cpu_seconds: int = 3
    wall_seconds: float = 30.0
    memory_mib: int = 1024

    def __post_init__(self):
        for name, least in (("cpu_seconds", 1), ("wall_seconds", 0.1), ("memory_mib", 64)):
            value = getattr(self, name)
            whole = name == "wall_seconds" or isinstance(value, int)
            if isinstance(value, bool) or not whole or not value >= least:
                raise ValueError(f"Limits.{name} is {value!r}; write {least} or more.")


LIMITS = Limits()


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Whether a program passed its test, and if not, why ('AssertionError', 'no time left', …)."""

    passed: bool
    reason: str = ""


def allow(on: bool = True) -> None:
    """Allows programs to be run in this process from now on, or forbids it again."""
    global _switch
    _switch = "on" if on else "off"


@contextlib.contextmanager
def allowed() -> Iterator[None]:
    """Allows programs to be run inside a `with` statement."""
    global _switch
    before = _switch
    allow()
    try:
        yield
    finally:
        _switch = before


def _setting() -> str:
    """'off', 'on' or 'unisolated'."""
    told = os.environ.get(VARIABLE, "0")
    known = {"0": "off", "": "off", "1": "on", _UNISOLATED: _UNISOLATED}
    if told not in known:
        raise ValueError(f"${VARIABLE} is '{told}'; write 1, 0 or {_UNISOLATED}.")
    # The variable alone can give up isolation; a call can only allow or forbid.
    if _switch is None or (_switch == "on" and known[told] == _UNISOLATED):
        return known[told]
    return _switch


def require() -> bool:
    """Checks that programs may be run; returns whether they must be isolated.

    Raises:
      ValueError: nobody allowed it, or this machine has no walls to put up.
    """
    setting = _setting()
    if setting == "off":
        raise ValueError(
            "This runs code that a model wrote, which is off until it is asked for; set "
            f"evaluate.execute_code = True for mt0 eval, or {VARIABLE}=1, or call "
            "seqio_tasks.code_execution.allow()."
        )
    if not sys.executable or os.name != "posix":
        raise ValueError(
            f"Programs are run by an interpreter of their own on Linux or macOS; here it is "
            f"'{sys.executable}' on {os.name}. Evaluate code on another machine."
        )
    if setting == _UNISOLATED:
        return False
    missing = missing_walls()
    if missing:
        raise ValueError(
            f"This machine cannot keep a program from {', '.join(missing)}; run it on Linux "
            "(x86-64 or arm64) where seccomp is permitted, or accept that programs can do what "
            f"you can, with {VARIABLE}={_UNISOLATED}."
        )
    return True


# Each passes only where a wall holds; where none does, each is harmless.
_PROBES = {
    "the network": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()",
    "other processes": "import os\nif os.fork() == 0:\n    os._exit(0)",
    "files": "open('probe', 'w').close()",
}


@functools.cache
def missing_walls() -> tuple[str, ...]:
    """What a program could reach here, tried out by programs once a process; () if nothing.

    Raises:
      ValueError: no program runs at all.
    """
    plain = _run(Program("kept = True", "assert kept"), LIMITS, isolated=True)
    if not plain.passed and plain.reason != _REFUSED:
        raise ValueError(
            f"{sys.executable} runs no program here ({plain.reason}); check that it starts as "
            f"`{sys.executable} {' '.join(_FLAGS)}`."
        )
    found = []
    for what, attempt in _PROBES.items():
        body = "".join(f"    {line}\n" for line in attempt.splitlines())
        code = f"try:\n{body}except OSError:\n    kept = True\n"
        if not _run(Program(code, "assert kept"), LIMITS, isolated=True).passed:
            found.append(what)
    return tuple(found)


def run_program(program: Program, limits: Limits = LIMITS) -> Outcome:
    """Runs one program and its test; ValueError as `require` raises it."""
    return _run(program, limits, require())


def run_programs(
    programs: Sequence[Program], limits: Limits = LIMITS, workers: int | None = None
) -> list[Outcome]:
    """Runs programs side by side, equal ones once; returns their outcomes in order.

    Args:
      workers: how many at once; by default as many as there are processors for this process.

    Raises:
      ValueError: as `require` raises it.
    """
    isolated = require()
    distinct = list(dict.fromkeys(programs))
    if workers is None:
        usable = getattr(os, "sched_getaffinity", None)
        workers = len(usable(0)) if usable else os.cpu_count() or 1
    pool = concurrent.futures.ThreadPoolExecutor(max_workers=max(1, workers))
    try:
        outcomes = pool.map(lambda program: _run(program, limits, isolated), distinct)
        by_program = dict(zip(distinct, outcomes, strict=True))
    finally:
        pool.shutdown(cancel_futures=True)
    return [by_program[program] for program in programs]


def _run(program: Program, limits: Limits, isolated: bool) -> Outcome:
    number = secrets.token_hex(16).encode()
    number_read, number_write = os.pipe()
    with os.fdopen(number_read, "rb"), tempfile.TemporaryFile() as request:
        with os.fdopen(number_write, "wb") as writer:
            writer.write(number)
        told = {
            "program": program.code,
            "test": program.test,
            "cpu_seconds": limits.cpu_seconds,
            "memory_bytes": limits.memory_mib << 20,
            "number_fd": number_read,
            "isolated": isolated,
        }
        request.write(json.dumps(told).encode())
        request.seek(0)
        with tempfile.TemporaryDirectory(prefix="mt0_program_") as folder:
            child = subprocess.Popen(
                [sys.executable, *_FLAGS, str(_CHILD)],
                stdin=request,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env=_ENVIRONMENT,
                pass_fds=(number_read,),
                start_new_session=True,
            )
            answer, in_time = _answer(child, limits.wall_seconds)
    if answer == b"passed " + number:
        return Outcome(True)
    return Outcome(False, _why(answer, in_time, child.returncode))


def _answer(child: subprocess.Popen, seconds: float) -> tuple[bytes, bool]:
    """What a child says until it ends, is silenced or is out of time; nothing of it stays."""
    deadline = time.monotonic() + seconds
    answer, in_time = b"", True
    poll = select.poll()
    poll.register(child.stdout, select.POLLIN)
    try:
        while len(answer) < _MOST_ANSWER_BYTES:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                in_time = False
                break
            more = os.read(child.stdout.fileno(), _MOST_ANSWER_BYTES)
            if not more:
                break
            answer += more
    finally:
        # Before it is waited for, the child's number cannot have gone to another process; one
        # that is ending already keeps its own status.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
    return answer, in_time


def _why(answer: bytes, in_time: bool, status: int) -> str:
    if answer.startswith(b"failed "):
        return answer[len(b"failed ") :].decode("utf-8", "replace")
    if answer.startswith(b"refused"):
        return _REFUSED
    if not in_time or status == -signal.SIGXCPU:
        return "no time left"
    return f"it ended early, with status {status}"
