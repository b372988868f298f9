"""Jobs of one process that the fault campaign kills at any time: evaluation, inference, caching."""

from __future__ import annotations

import json
import random
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.fault_children import Child
from benchmarks.fault_tally import Tally
from mt0_tpu import evaluate, infer, partitioning
from tests.tiny import TINY


def write_quizzes(root: Path) -> None:
    """A small rank task, cached by hand."""
    from tests.test_evaluate import GROUPS, write_task

    rng = np.random.default_rng(0)
    ids = lambda most: [*rng.integers(3, 250, rng.integers(2, most)).tolist(), 1]  # noqa: E731
    examples = [{"inputs": ids(12), "choices": [ids(5), ids(5)]} for _ in range(64)]
    for name in GROUPS:
        write_task(root, name, examples, [0] * len(examples))
    tasks = [{"name": name, "rate": 1.0, "splits": ["validation"]} for name in GROUPS]
    content = {"name": "quizzes", "tasks": tasks, "definition_files": {}, "module": None}
    (root / "quizzes.mixture.json").write_text(json.dumps(content))


def evaluate_job(out: Path, cache: Path) -> None:
    """Scores a drawn network; results of a killed evaluation are replaced."""
    evaluate.evaluate(
        str(out), TINY, untrained=True, cache_dir=str(cache), mixture_or_task_name="quizzes",
        batch_size=4,
    )  # fmt: skip


def infer_job(out: Path, inputs: Path) -> None:
    """Answers a file of inputs, writing after each batch."""
    params = evaluate.drawn_parameters(TINY, 0, partitioning.make_mesh(partitioning.MeshConfig()))
    infer.infer(
        str(out), TINY, "drawn", str(inputs), {"inputs": 24, "targets": 6}, "byt5",
        params=params, batch_size=4, checkpoint_period=1,
    )  # fmt: skip


def cache_command(root: Path) -> list[str]:
    """A mixture of many small tasks."""
    return [sys.executable, "-m", "mt0_tpu", "cache", "--mixture", "mini_eval",
            "--cache_dir", str(root), "--num_processes", "1"]  # fmt: skip


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file's bytes, without clocks and TensorBoard's events."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "tfevents" not in path.name:
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def kill_any_time(
    name: str,
    start: Callable[[Path], Child],
    folder: Path,
    kills: int,
    rng: random.Random,
    tally: Tally,
    shown: Callable[[Path], dict] = files_of,
) -> None:
    """Kills a job within the time it takes undisturbed, until it has come through."""
    undisturbed = folder / f"{name}-undisturbed"
    undisturbed.mkdir(parents=True)
    began = time.monotonic()
    if start(undisturbed).wait() != 0:
        tally.wrong["restarts that failed"] += 1
        return
    takes_s = time.monotonic() - began
    wanted = shown(undisturbed)
    done = number = 0
    while done < kills:
        out = folder / f"{name}-{number}"
        out.mkdir()
        number += 1
        while True:
            child = start(out)
            # Where nothing is written yet a kill proves little.
            moment = time.monotonic() + takes_s * rng.uniform(0.3, 1.0)
            while done < kills and time.monotonic() < moment and child.poll() is None:
                time.sleep(0.001)
            if done < kills and child.poll() is None:
                child.kill()
                done += 1
                tally.killed(name)
                continue
            break
        if child.wait() != 0:
            tally.wrong["restarts that failed"] += 1
            print(f"{name}: {child.errors.read_text()[-2000:]}", flush=True)
        tally.runs += 1
        found = shown(out)
        if found != wanted:
            tally.wrong["files that differ"] += 1
            names = sorted(n for n in {*found, *wanted} if found.get(n) != wanted.get(n))
            print(f"{name}: other or absent: {', '.join(names)}", flush=True)
        shutil.rmtree(out)


def scores_of(folder: Path) -> dict:
    """rank.jsonl and the lines of each task."""
    return {
        name: [json.loads(line) for line in text.splitlines()]
        for name, text in files_of(folder).items()
        if name.endswith(".jsonl")
    }
