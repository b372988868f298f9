"""Real processes over this machine's network: on any mesh, told to stop, killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mt0_tpu import checkpoints, run_folder
from mt0_tpu.exit_codes import INTERRUPTED, REQUEUE
from tests import tiny_run
from tests.conftest import REPOSITORY
from tests.test_train import record

STEPS = 6


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("cache")
    tiny_run.write_tiny_cache(root)
    return root


def start(module, arguments, count, cache_dir, devices=1) -> list[subprocess.Popen]:
    """The processes of a job."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(Path(cache_dir) / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, "-m", module, *map(str, arguments)]
    started = []
    for index in range(count):
        job = {"MT0_COORDINATOR": f"127.0.0.1:{port}", "MT0_NUM_PROCESSES": str(count)}
        own = job | {"MT0_PROCESS_ID": str(index)} if count > 1 else {}
        started.append(
            subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=common | own,
                text=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )  # fmt: skip
        )
    return started


def ends(processes) -> list[tuple[int, str]]:
    """(exit code, stderr) of each."""
    found = []
    for process in processes:
        _, err = process.communicate(timeout=1800)
        found.append((process.returncode, err))
    return found


def run_legs(cache_dir, legs, count, devices):
    for code, err in ends(
        start("tests.mesh_legs", [cache_dir, json.dumps(legs)], count, cache_dir, devices)
    ):
        assert code == 0, err


def losses(model_dir):
    lines = (Path(model_dir) / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [line["step"] for line in found], [line["metrics"]["loss"] for line in found]


@pytest.fixture(scope="module")
def one_process(cache_dir, tmp_path_factory) -> Path:
    """Twelve steps of one process with one device, which every mesh must repeat."""
    model_dir = tmp_path_factory.mktemp("one") / "run"
    run_legs(cache_dir, [[str(model_dir), 12, {}]], 1, 1)
    return model_dir


# T5X's two spellings of tensor among them.
MESHES = {
    "replica-fsdp-tensor": {"replica": 2, "fsdp": 2, "num_partitions": 2},
    "replica-data-tensor": {"replica": 2, "data": 2, "model_parallel_submesh": [2, 1, 1, 1]},
}


@pytest.mark.slow
def test_two_processes_of_four_devices_train_as_one_on_every_mesh(cache_dir, one_process, tmp_path):
    legs = [[str(tmp_path / name), STEPS, mesh] for name, mesh in MESHES.items()]
    run_legs(cache_dir, legs, 2, 4)
    steps, wanted = losses(one_process)
    for name in MESHES:
        found_steps, found = losses(tmp_path / name)
        assert found_steps == steps[: STEPS // 2]
        np.testing.assert_allclose(found, wanted[: STEPS // 2], rtol=1e-5)


@pytest.mark.slow
def test_four_processes_save_and_two_and_one_go_on(cache_dir, one_process, tmp_path):
    """Each on a mesh of its own: the stream continues where it was, the loss as if alone."""
    model_dir = str(tmp_path / "run")
    everything = {"replica": 2, "data": 2, "fsdp": 2, "tensor": 2}
    run_legs(cache_dir, [[model_dir, 4, everything]], 4, 4)
    run_legs(cache_dir, [[model_dir, 8, {"data": 2, "fsdp": 4}]], 2, 4)
    run_legs(cache_dir, [[model_dir, 12, {"fsdp": 2, "tensor": 2}]], 1, 8)
    steps, wanted = losses(one_process)
    found_steps, found = losses(model_dir)
    assert found_steps == steps
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    taken = Path(f"{model_dir}.batches-0").read_text()
    assert taken == Path(f"{one_process}.batches-0").read_text()
    # The others took the same batches, those of them that were there.
    assert Path(f"{model_dir}.batches-1").read_text().splitlines() == taken.splitlines()[:8]
    assert Path(f"{model_dir}.batches-3").read_text().splitlines() == taken.splitlines()[:4]


# Told to stop.


def train_until(lines, model_dir, cache_dir, count) -> list[subprocess.Popen]:
    """Starts a long run, and returns once metrics.jsonl has so many lines."""
    processes = start("tests.tiny_run", [model_dir, cache_dir, 100_000], count, cache_dir)
    metrics = Path(model_dir) / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and all(one.poll() is None for one in processes):
        if metrics.exists() and metrics.read_text().count("\n") >= lines:
            return processes
        time.sleep(0.005)
    raise AssertionError([one.communicate()[1] for one in processes])


def goes_on_as_if_nothing_had_been(model_dir, cache_dir, count):
    """Two more log lines, from the step that was saved; equal to the bit to a run's of its own."""
    saved = run_folder.steps_of(model_dir)[-1]
    last = saved + 4
    for folder in (model_dir, model_dir.parent / "undisturbed"):
        for code, err in ends(start("tests.tiny_run", [folder, cache_dir, last], count, cache_dir)):
            assert code == 0, err
    mine, other = record(model_dir), record(model_dir.parent / "undisturbed")
    assert mine == other


@pytest.mark.slow
def test_sigterm_to_one_of_two_saves_the_same_step_everywhere(cache_dir, tmp_path):
    model_dir = tmp_path / "run"
    processes = train_until(3, model_dir, cache_dir, 2)
    processes[1].send_signal(signal.SIGTERM)
    for code, err in ends(processes):
        assert code == REQUEUE, err
    goes_on_as_if_nothing_had_been(model_dir, cache_dir, 2)


@pytest.mark.slow
@pytest.mark.parametrize("number, code", [("SIGTERM", REQUEUE), ("SIGINT", INTERRUPTED)])
def test_a_signal_to_a_process_alone(number, code, cache_dir, tmp_path):
    model_dir = tmp_path / "run"
    processes = train_until(3, model_dir, cache_dir, 1)
    logged = json.loads((model_dir / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    processes[0].send_signal(getattr(signal, number))
    ((found, err),) = ends(processes)
    assert found == code, err
    assert run_folder.steps_of(model_dir)[-1] > logged


@pytest.mark.slow
def test_a_second_signal_leaves_the_last_checkpoint(cache_dir, tmp_path):
    model_dir = tmp_path / "run"
    processes = train_until(3, model_dir, cache_dir, 1)
    # A save is whole some time after the steps that it is of.
    while not run_folder.steps_of(model_dir) and processes[0].poll() is None:
        time.sleep(0.01)
    for _ in range(2):
        processes[0].send_signal(signal.SIGTERM)
        time.sleep(0.01)
    ((code, err),) = ends(processes)
    assert code == REQUEUE
    assert "stopped at once by a second notice, SIGTERM; the last checkpoint is step" in err
    assert checkpoints.restore_params(str(model_dir), tiny_run.ONE_LAYER)


# Killed.


@pytest.mark.slow
def test_a_few_random_kills_lose_nothing():
    """benchmarks/fault_campaign.py in small; test_train.py kills a process alone."""
    command = [sys.executable, "-m", "benchmarks.fault_campaign", "--parts", "two"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    done = subprocess.run(
        [*command, "--kills", "9", "--seed", "7"],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kills 3," in done.stdout
