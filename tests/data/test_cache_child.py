"""The caching child of a job ends with it, and says why it ended."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from mt0_tpu import stop_signals
from mt0_tpu.data import cache_child
from mt0_tpu.errors import UserError
from tests.conftest import REPOSITORY


def python(code):
    return [sys.executable, "-c", code]


def gone(process_id, patience_s=60.0):
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        try:
            os.kill(process_id, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    "code, error, match",
    [
        (
            "sys.stderr.write('mt0: error: no such task\\n'); sys.exit(2)",
            UserError,
            "^no such task",
        ),
        ("sys.exit(7)", UserError, "caching failed: it ended with code 7"),
    ],
)
def test_a_child_that_fails_says_why(code, error, match):
    with pytest.raises(error, match=match):
        cache_child.run(python(f"import sys; {code}"), print)


def test_a_child_that_was_stopped_stops_the_job():
    code = "import sys; sys.stderr.write('mt0: stopped by SIGTERM; x\\n'); sys.exit(42)"
    with pytest.raises(stop_signals.Stopped) as stopped:
        cache_child.run(python(code), print)
    assert stopped.value.why == "caching was stopped: stopped by SIGTERM; x"


def test_a_job_that_is_stopped_stops_its_child():
    said = []
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(300)"

    def hear(line):
        said.append(int(line))
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()

    with stop_signals.installed(), pytest.raises(stop_signals.Stopped):
        cache_child.run(python(code), hear)
    assert gone(said[0])


def test_a_child_ends_when_its_job_was_killed():
    child = "import os,time; from mt0_tpu.data import cache_child; cache_child.end_with_parent(); "
    child += "print(os.getpid(), flush=True); time.sleep(300)"
    job = f"""
import sys
from mt0_tpu.data import cache_child
cache_child.run([sys.executable, "-c", {child!r}], lambda line: print(line, flush=True))
"""
    process = subprocess.Popen(
        python(job), cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    grandchild = int(process.stdout.readline())
    process.kill()
    process.wait()
    assert gone(grandchild)
