"""Real processes on this machine join, wait for each other, and name who is absent."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mt0_tpu import distributed

REPOSITORY = Path(__file__).resolve().parent.parent

JOB = """
import os, sys, time
from mt0_tpu import distributed, process_flags
from mt0_tpu.errors import UserError
class Job:
    initialization_timeout = int(os.environ["TIMEOUT_S"])
process_flags.take_flags(Job)
try:
{body}
except UserError as error:
    print(f"{{type(error).__name__}}: {{error}}", flush=True)
    sys.exit(2)
"""


def start(body, count, indices=None, timeout_s=60):
    """Starts some of a job's processes, and returns them by number."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = JOB.format(body="\n".join(f"    {line}" for line in body.strip().splitlines()))
    common = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
        "MT0_COORDINATOR": f"127.0.0.1:{port}",
        "MT0_NUM_PROCESSES": str(count),
        "TIMEOUT_S": str(timeout_s),
    }
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = {}
    for index in range(count) if indices is None else indices:
        own = common | {"MT0_PROCESS_ID": str(index)}
        command = [sys.executable, "-c", code]
        started[index] = subprocess.Popen(command, cwd=REPOSITORY, env=own, **pipes)
    return started


def ends(processes):
    """{index: (exit code, stdout, stderr)}."""
    try:
        found = {}
        for index, process in processes.items():
            out, err = process.communicate(timeout=120)
            found[index] = (process.returncode, out, err)
        return found
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


def test_a_plain_machine_joins_nobody(capfd, monkeypatch):
    for name in ("MT0_COORDINATOR", "MT0_NUM_PROCESSES", "MT0_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    assert distributed.initialize().alone
    distributed.barrier("alone")
    assert distributed.leader_says("alone", "me") == "me"
    assert distributed.everyone_says("me") == ["me"]
    assert capfd.readouterr().err == ""


def test_four_processes_compute_together():
    body = """
distributed.initialize()
distributed.initialize()  # a second one does nothing
distributed.barrier("compiled")
told = distributed.leader_says("word", "hello" if os.environ["MT0_PROCESS_ID"] == "0" else None)
import jax, numpy
from jax.experimental import multihost_utils
rows = multihost_utils.process_allgather(numpy.int32(jax.process_index()))
for word in "ab":
    said = distributed.everyone_says(f"{word}{jax.process_index()}")
print(told, rows.tolist(), said, os.environ["MT0_ALONE"], jax.process_count())
"""
    processes = start(body, 4)
    address = "coordinator 127.0.0.1:"
    for index, (code, out, err) in ends(processes).items():
        assert code == 0, err
        assert out.splitlines()[-1] == "hello [0, 1, 2, 3] ['b0', 'b1', 'b2', 'b3'] 1 4"
        assert f"mt0: 4 processes, this is {index}, {address}" in err
        assert "by MT0_NUM_PROCESSES" in err


def test_one_that_never_starts_is_named_by_the_others():
    for _, (code, out, err) in ends(start("distributed.initialize()", 3, (0, 2), 5)).items():
        assert out.startswith(
            "ProcessesAbsentError: after 5 s 2 of 3 processes are here; absent: 1."
        )
        assert code == 2, err


def test_a_barrier_names_who_does_not_come():
    """Nobody waits for the absent one at the exit either; it is ended as the others leave."""
    body = """
distributed.initialize()
import jax
if jax.process_index() == 1:
    time.sleep(90)
    sys.exit(0)
distributed.barrier("eval ready 7", timeout_s=2)
"""
    found = ends(start(body, 3))
    for index in (0, 2):
        code, out, err = found[index]
        sentence = "not all processes came to 'eval ready 7' within 2 s: 2 of 3 processes are here"
        assert out.startswith(f"ProcessesAbsentError: {sentence}; absent: 1. Their logs say why")
        assert code == 2, err
    assert found[1][0] not in (0, 2)


JOBS = {
    "train": ("--gin_file=recipes/mini_mt0.gin", "--gin.MODEL_DIR='{out}/run'"),
    "eval": (
        "--gin_file=models/mt5/tiny.gin", "--gin_file=runs/eval.gin",
        "--gin.MIXTURE_OR_TASK_NAME='mini_eval'", "--gin.CHECKPOINT_PATH='{out}/none'",
        "--gin.EVAL_OUTPUT_DIR='{out}/eval'",
    ),
    "infer": (
        "--gin_file=models/mt5/tiny.gin", "--gin_file=runs/infer.gin",
        "--gin.INPUTS_PATH='{inputs}'", "--gin.TASK_FEATURE_LENGTHS={{'inputs':8,'targets':8}}",
        "--gin.VOCABULARY='byt5'", "--gin.network.T5Config.vocab_size=384",
        "--gin.CHECKPOINT_PATH='{out}/none'",
        "--gin.INFER_OUTPUT_DIR='{out}/infer'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("job, index", [("train", 0), ("eval", 0), ("infer", 1)])
def test_t5x_s_flags_reach_a_job(job, index, tmp_path):
    """A job, started as one of two, alone: it stops before any data is touched."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    inputs, out = tmp_path / "asked.txt", tmp_path / "out"
    inputs.write_text("why?\n")
    command = [
        sys.executable, "-m", "mt0_tpu", job,
        *(flag.format(out=out, inputs=inputs) for flag in JOBS[job]),
        "--multiprocess_gpu", "--process_count=2",
        f"--coordinator_address=127.0.0.1:{port}", f"--process_index={index}",
        "--initialization_timeout=2",
    ]  # fmt: skip
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert lines[0] == f"mt0: 2 processes, this is {index}, coordinator 127.0.0.1:{port}, by flags"
    if index == 0:
        assert lines[-1].startswith("mt0: error: after 2 s 1 of 2 processes are here; absent: 1.")
    else:
        assert lines[-1].startswith("mt0: error: process 1 of 2 waited 2 s for process 0, which")
    assert list(tmp_path.iterdir()) == [inputs]
