"""Programs that a model may write: what passes, what fails, and what they cannot touch."""

import ctypes
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from seqio_tasks import code_execution, code_isolation
from seqio_tasks.code_execution import Limits, Outcome, Program, run_program, run_programs

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or code_execution.missing_walls() != (),
    reason="this machine cannot isolate programs (Linux with seccomp is needed)",
)
TEST = "def check(f):\n    assert f(2, 3) == 5\n    assert f(-1, 1) == 0\n\ncheck(add)\n"
ONCE = "assert add(2, 3) == 5\n"
RIGHT = "def add(a, b):\n    return a + b\n"
SHORT = Limits(cpu_seconds=1, wall_seconds=2.0)


@pytest.fixture(autouse=True)
def permission(monkeypatch):
    monkeypatch.delenv("MT0_EXECUTE_CODE", raising=False)
    with code_execution.allowed():
        yield


def outcome(code, test=TEST, limits=SHORT):
    return run_program(Program(code, test), limits)


def test_right_and_wrong():
    assert outcome(RIGHT) == Outcome(True)
    assert outcome(RIGHT.replace("+", "-")) == Outcome(False, "AssertionError")
    # Equal programs run once, all are told.
    both = [Program(RIGHT, TEST), Program("def add(a, b): pass", TEST), Program(RIGHT, TEST)]
    assert [one.passed for one in run_programs(both, SHORT)] == [True, False, True]


def test_a_program_has_the_standard_library_and_a_module_of_its_own():
    code = """
import collections, dataclasses, decimal, functools, hashlib, heapq, itertools, math, random, re
from typing import List, Optional
@dataclasses.dataclass
class Pair:
    left: "int"
    right: Optional[int] = None
print("this goes nowhere")
def add(a, b):
    import bisect, statistics, string, fractions, datetime, json, operator
    return sum(dataclasses.astuple(Pair(a, b)))
"""
    assert outcome(code) == Outcome(True)
    assert (
        outcome("import numpy\n" + RIGHT).reason == "ModuleNotFoundError: No module named 'numpy'"
    )


# None of them returns a sum; each ends, stalls or cheats in its own way.
WRONG = {
    "pass": "def add(a, b):\n    pass",
    "none": "def add(a, b):\n    return None",
    "syntax": "def add(a, b):\n    return a +",
    "nothing": "",
    "exit": "import sys\nsys.exit(0)",
    "exit in the function": "import sys\ndef add(a, b):\n    sys.exit(0)",
    "_exit": "import os\nos._exit(0)",
    "_exit in the function": "import os\ndef add(a, b):\n    os._exit(0)",
    "abort": "import os\nos.abort()",
    "raise": "raise KeyboardInterrupt",
    "print passed": "print('passed')\nraise SystemExit(0)",
    "write to every file": (
        "import os\nfor fd in range(64):\n    try:\n        os.write(fd, b'passed')\n"
        "    except OSError:\n        pass\nos._exit(0)"
    ),
    "close every file": "import os\nos.closerange(0, 64)\nos._exit(0)",
    "swallow the test": "def add(a, b):\n    return '''",
    "own check": "def check(f):\n    pass\ndef add(a, b):\n    return 0",
    "exit at exit": "import atexit, os\natexit.register(os._exit, 0)\ndef add(a, b):\n    return 0",
    "loop": "while True:\n    pass",
    "loop in the function": "def add(a, b):\n    while True:\n        pass",
    "loop that heeds no signal": (
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True:\n    pass"
    ),
    "sleep": "import time\ntime.sleep(1000)",
    "memory": "held = []\nwhile True:\n    held.append(bytearray(1 << 26))",
    "one huge number": "def add(a, b):\n    return 10 ** (10 ** 10)",
    "recursion": "def add(a, b):\n    return add(a, b)",
    "forks": "import os\nwhile True:\n    os.fork()",
    "processes": "import subprocess\ndef add(a, b):\n    return subprocess.call(['true']) or 5",
    "threads": "import threading\nwhile True:\n    threading.Thread(target=input).start()",
    "kill all": "import os, signal\nos.kill(-1, signal.SIGKILL)",
    "kill the parent": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)",
    "input": "def add(a, b):\n    return int(input())",
    "flood": "def add(a, b):\n    while True:\n        print('x' * (1 << 16))",
    "huge message": "raise ValueError('x' * (1 << 24))",
    "message that fails": (
        "class E(Exception):\n    def __str__(self):\n        raise self\nraise E"
    ),
}


@pytest.fixture(scope="module")
def outcomes_of_the_wrong():
    with code_execution.allowed():
        # Many of them only wait.
        found = run_programs([Program(code, TEST) for code in WRONG.values()], SHORT, workers=6)
    return dict(zip(WRONG, found, strict=True))


@pytest.mark.parametrize("name", WRONG)
def test_none_of_the_wrong_ones_passes(name, outcomes_of_the_wrong):
    found = outcomes_of_the_wrong[name]
    assert not found.passed and found.reason
    assert len(found.reason) <= code_isolation.MAX_MESSAGE_CHARS


@pytest.mark.parametrize(
    "name, reason",
    [
        ("pass", "AssertionError"),
        ("syntax", "SyntaxError: invalid syntax (<program>, line 2)"),
        ("exit", "SystemExit: 0"),
        ("_exit", "it ended early, with status 0"),
        ("loop", "no time left"),
        ("sleep", "no time left"),
        ("forks", "PermissionError: [Errno 1] Operation not permitted"),
    ],
)
def test_a_reason_is_told(name, reason, outcomes_of_the_wrong):
    assert outcomes_of_the_wrong[name].reason == reason


def test_memory_runs_out_first():
    assert outcome(WRONG["memory"], limits=Limits(memory_mib=128)).reason == "MemoryError"


# Each would pass if it could do what it tries.
ATTEMPTS = {
    "write": "open(PATH, 'w').write('spoiled')",
    "append": "open(PATH, 'a').write('spoiled')",
    "write in place": "os.write(os.open(PATH, os.O_RDWR), b'spoiled')",
    "truncate": "os.truncate(PATH, 0)",
    "delete": "os.remove(PATH)",
    "delete the folder": "shutil.rmtree(FOLDER, onerror=lambda call, path, error: 1 / 0)",
    "rename": "os.rename(PATH, PATH + '.other')",
    "new file": "open(PATH + '.new', 'x').close()",
    "new folder": "os.mkdir(PATH + '.folder')",
    "new here": "open('here', 'w').close()",
    "link": "os.symlink('/etc/passwd', PATH + '.link')",
    "mode": "os.chmod(PATH, 0)",
    "times": "os.utime(PATH, (0, 0))",
    "limits": "resource.prlimit(0, resource.RLIMIT_CPU, (60, 60))",
    "socket": "socket.socket()",
    "socket pair": "socket.socketpair()",
    "connect": "socket.create_connection(ADDRESS, 1).send(b'hello')",
    "fork": "os.fork() or os._exit(0)",
    "spawn": "os.posix_spawn('/bin/true', ['true'], {})",
    "exec": "os.execv('/bin/true', ['true'])",
    "thread": "threading.Thread(target=print).start()",
    "kill": "os.kill(VICTIM, signal.SIGTERM)",
    "signal by a pipe": "own_a_pipe(VICTIM)",
    "shared memory": "ctypes.CDLL(None).shm_open(b'/mt0', os.O_CREAT, 0o600) < 0 and 1 / 0",
    "raw call": "ctypes.CDLL(None, use_errno=True).syscall(UNSHARE, 0x10000000) and 1 / 0",
    "undo the filter": "ctypes.CDLL(None).prctl(22, 0, 0, 0, 0) and 1 / 0",
}  # fmt: skip
REFUSALS = ("PermissionError", "ZeroDivisionError", "RuntimeError")
_IMPORTS = """
import ctypes, fcntl, os, platform, resource, shutil, signal, socket, threading
UNSHARE = 272 if platform.machine() == "x86_64" else 97
def own_a_pipe(victim):
    read, write = os.pipe()
    fcntl.fcntl(read, 8, victim)  # F_SETOWN: who gets its signals
"""


def tried(name, folder, address=("127.0.0.1", 9), victim=1):
    code = (
        f"{_IMPORTS}FOLDER, PATH = {str(folder)!r}, {str(folder / 'kept')!r}\n"
        f"ADDRESS, VICTIM = {address!r}, {victim}\n"
        f"def add(a, b):\n    {ATTEMPTS[name]}\n    return a + b\n"
    )
    return code


@pytest.mark.parametrize("name", ATTEMPTS)
def test_a_program_can_reach_nothing(name, tmp_path):
    (tmp_path / "kept").write_text("as it was")
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.05)
    with server, subprocess.Popen(["sleep", "60"]) as victim:
        code = tried(name, tmp_path, server.getsockname(), victim.pid)
        found = outcome(code, ONCE, Limits())
        with pytest.raises(TimeoutError):
            server.accept()
        assert victim.poll() is None
        victim.kill()
    assert not found.passed
    # Refused, not broken by the way it is written.
    assert found.reason.split(":")[0] in REFUSALS
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_text() == "as it was"
    assert os.stat(tmp_path / "kept").st_mode & 0o600 == 0o600


@pytest.mark.parametrize("name", ["write", "delete", "connect", "thread", "kill", "fork"])
def test_the_same_attempts_succeed_without_walls(name, tmp_path):
    """Otherwise the test above would show nothing."""
    (tmp_path / "kept").write_text("as it was")
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        subprocess.Popen(["sleep", "60"]) as victim,
    ):
        code = tried(name, tmp_path, server.getsockname(), victim.pid)
        done = subprocess.run([sys.executable, "-c", code + ONCE], timeout=60, check=False)
        victim.kill()
        assert done.returncode == 0
        if name == "kill":
            assert victim.wait() in (-signal.SIGTERM, -signal.SIGKILL)


def test_a_program_sees_nothing_of_ours(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "1234")
    code = (
        "import os, sys\ndef add(a, b):\n"
        "    assert os.listdir('.') == []\n"
        "    assert 'SECRET_TOKEN' not in os.environ and 'HOME' not in os.environ\n"
        "    assert sys.stdin.read() == '' and sys.argv == ['program.py']\n"
        "    assert not any('site-packages' in path for path in sys.path)\n"
        "    return a + b\n"
    )
    assert outcome(code) == Outcome(True)


def has_landlock():
    return ctypes.CDLL(None).syscall(444, None, 0, 1) > 0


@pytest.mark.skipif(not has_landlock(), reason="this system has no Landlock")
@pytest.mark.parametrize("attempt", ["open(PATH).read()", "os.listdir(FOLDER)", "os.listdir('/')",
                                     "open('/proc/self/maps').read()"])  # fmt: skip
def test_a_program_reads_nothing_of_ours(attempt, tmp_path):
    (tmp_path / "kept").write_text("secret")
    code = f"import os\nFOLDER, PATH = {str(tmp_path)!r}, {str(tmp_path / 'kept')!r}\n{attempt}"
    assert outcome(code, "").reason.startswith("PermissionError")


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    run_programs(
        [Program(WRONG["sleep"], str(n)) for n in range(2)] + [Program(RIGHT, TEST)], SHORT
    )
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == before and len(os.listdir("/proc/self/fd")) == files


def test_nothing_runs_unasked(monkeypatch):
    code_execution.allow(False)
    with pytest.raises(ValueError, match="evaluate.execute_code = True"):
        run_programs([Program(RIGHT, TEST)])
    with code_execution.allowed():
        assert outcome(RIGHT).passed
    with pytest.raises(ValueError, match="off until it is asked for"):
        run_program(Program(RIGHT, TEST))


def test_the_variable_allows_it(monkeypatch):
    monkeypatch.setattr(code_execution, "_switch", None)
    for told in ("", "0"):
        monkeypatch.setenv("MT0_EXECUTE_CODE", told)
        with pytest.raises(ValueError, match="off until"):
            code_execution.require()
    monkeypatch.setenv("MT0_EXECUTE_CODE", "1")
    assert code_execution.require() is True
    monkeypatch.setenv("MT0_EXECUTE_CODE", "yes")
    with pytest.raises(ValueError, match="MT0_EXECUTE_CODE is 'yes'; write 1, 0 or unisolated"):
        code_execution.require()


def test_without_walls_it_takes_another_word(monkeypatch):
    monkeypatch.setattr(code_execution, "missing_walls", lambda: ("files", "the network"))
    with pytest.raises(ValueError, match="cannot keep a program from files, the network; .*unisol"):
        code_execution.require()
    monkeypatch.setenv("MT0_EXECUTE_CODE", "unisolated")
    assert code_execution.require() is False
    code_execution.allow(False)
    with pytest.raises(ValueError, match="off until"):
        code_execution.require()


def test_a_child_without_walls_runs_nothing(tmp_path, monkeypatch):
    """A machine whose name has no filter: the child refuses by itself."""
    child = tmp_path / "child.py"
    text = code_execution._CHILD.read_text().replace('"x86_64": (0', '"other": (0')
    child.write_text(text.replace('"aarch64": (1', '"another": (1'))
    monkeypatch.setattr(code_execution, "_CHILD", child)
    reason = "not run: the walls around it could not be put up"
    assert outcome(RIGHT) == Outcome(False, reason)
    code_execution.missing_walls.cache_clear()
    try:
        assert code_execution.missing_walls() == ("the network", "other processes", "files")
        # Accepted in words, it runs, still under its limits.
        assert code_execution._run(Program(RIGHT, TEST), SHORT, isolated=False) == Outcome(True)
        assert (
            "no time left"
            == code_execution._run(Program(WRONG["loop"], TEST), SHORT, isolated=False).reason
        )
    finally:
        code_execution.missing_walls.cache_clear()


def test_an_interpreter_that_does_not_start(monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/false")
    code_execution.missing_walls.cache_clear()
    try:
        with pytest.raises(
            ValueError, match="/bin/false runs no program here .it ended early, wit"
        ):
            outcome(RIGHT)
    finally:
        code_execution.missing_walls.cache_clear()


@pytest.mark.parametrize(
    "field, value",
    [("cpu_seconds", 0), ("cpu_seconds", 1.5), ("memory_mib", 8), ("wall_seconds", 0)],
)
def test_limits_check_themselves(field, value):
    with pytest.raises(ValueError, match=rf"Limits.{field} is {value}; write"):
        dataclasses.replace(Limits(), **{field: value})


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_jumps_inside_itself(machine):
    made = code_isolation.filter_program(machine, 7)
    for at, (code, if_true, if_false, operand) in enumerate(made):
        assert 0 <= operand < 1 << 32
        if code & 7 == 5:  # a jump
            assert max(if_true, if_false) < 256 and at + 1 + max(if_true, if_false) < len(made)
    assert made[-1] == (0x06, 0, 0, 0x00050001)
