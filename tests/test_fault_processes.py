"""Faults seen by two real processes: both know of them, and both do the same."""

import os
import re
import socket
import subprocess
import sys

from tests.conftest import REPOSITORY
from tests.small_disk import small_disk  # noqa: F401


def both(*arguments) -> list[tuple[int, str]]:
    """Runs tests.fault_process twice; returns codes and what was printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "MT0_COORDINATOR": f"127.0.0.1:{port}", "MT0_NUM_PROCESSES": "2", "XLA_FLAGS": "",
        "JAX_PLATFORMS": "cpu",
    }  # fmt: skip
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.fault_process", *map(str, arguments)],
            cwd=REPOSITORY, env=environment | {"MT0_PROCESS_ID": str(number)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for number in range(2)
    ]  # fmt: skip
    ended = []
    try:
        for child in children:
            said, _ = child.communicate(timeout=600)
            ended.append((child.returncode, said))
    finally:
        for child in children:
            child.kill()
    return ended


def test_a_bit_that_flips_in_one_process_is_named_in_both():
    for code, said in both("flip"):
        assert code == 3, said
        assert "at step 2 copies of the same numbers differ" in said
        # Of each half there are two copies, one in each process.
        named = r"params/w: device \d+ of process 0, device \d+ of process 1 among themselves"
        assert re.search(named, said), said


def test_a_disk_that_is_full_for_one_save(small_disk):  # noqa: F811
    for code, said in both("full", small_disk):
        assert code == 0, said
        assert "steps 1 [1]" in said and "steps 2 [1]" in said and "steps 3 [3]" in said
        assert "step 2 could not be saved" in said
