"""How long a training run takes from SIGTERM to its end, its step saved.

    JAX_PLATFORMS=cpu python -m benchmarks.preemption --processes 1 2 --repeat 3 [--mt5_small]

The tiny run of tests/tiny_run.py, a save of it under way or not as it happens, or mT5-small
(300M parameters, 1.2 GB a checkpoint; a step of it is about a second here); one of the processes
gets the signal. Printed are the seconds until the last of them has ended, the exit
codes, and the step that the latest checkpoint holds beside the last one logged before.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.mt5_small import MT5_SMALL
from mt0_tpu import run_folder
from mt0_tpu.checkpoints import CheckpointConfig
from tests import tiny_run


def train_small(model_dir: str, cache: str) -> None:
    """Trains mT5-small on the tiny run's data, saving every 20 steps."""
    tiny_run.run(
        model_dir, cache, 100000, model=MT5_SMALL, log_every_steps=1,
        checkpoint=CheckpointConfig(save_every_steps=20, keep_last=1),
    )  # fmt: skip


def start(count: int, model_dir: Path, cache: Path, small: bool) -> list[subprocess.Popen]:
    """Starts a run that would go on for hours."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "tests.tiny_run", str(model_dir), str(cache), "100000"]
    if small:
        code = (
            "import sys; from benchmarks import preemption; preemption.train_small(*sys.argv[1:])"
        )
        command = [sys.executable, "-c", code, str(model_dir), str(cache)]
    job = {"MT0_COORDINATOR": address, "MT0_NUM_PROCESSES": str(count)} if count > 1 else {}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return [
        subprocess.Popen(
            command, env=os.environ | job | ({"MT0_PROCESS_ID": str(n)} if job else {}), **quiet
        )
        for n in range(count)
    ]


def one(count: int, victim: int, root: Path, number: int, small: bool) -> str:
    """Runs, stops and returns a line."""
    model_dir = root / f"run-{count}-{number}"
    processes = start(count, model_dir, root / "cache", small)
    metrics = model_dir / "metrics.jsonl"
    while not metrics.exists() or metrics.read_text().count("\n") < 8 + number:
        if any(process.poll() is not None for process in processes):
            raise RuntimeError(f"ended early: {[process.poll() for process in processes]}")
        time.sleep(0.005)
    logged = json.loads(metrics.read_text().splitlines()[-1])["step"]
    began = time.monotonic()
    processes[victim].send_signal(signal.SIGTERM)
    codes = [process.wait() for process in processes]
    seconds = time.monotonic() - began
    steps = run_folder.steps_of(model_dir)
    return (
        f"{count} process(es), signal to {victim}: {seconds:.2f} s, codes {codes}, logged step "
        f"{logged}, saved {steps[-1]}"
    )


def main() -> None:
    """Prints one line a run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--mt5_small", action="store_true", help="instead of the tiny network")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="preemption-") as folder:
        root = Path(folder)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(root / "compiled")
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        tiny_run.write_tiny_cache(root / "cache")
        for count in flags.processes:
            for number in range(flags.repeat):
                print(
                    one(count, (count - 1) * (number % 2), root, number, flags.mt5_small),
                    flush=True,
                )


if __name__ == "__main__":
    main()
