"""Kills a job at random moments, starts it again, and counts what was lost.

    JAX_PLATFORMS=cpu python -m benchmarks.fault_campaign --kills 100 --seed 0

Tiny runs of one and of two processes, killed by SIGKILL at start, in a step, during a save,
in an evaluation and at the end; `mt0 cache`, and evaluation and inference jobs, at any time.
After each kill the same command runs again; finished, its metrics, parameters, batches and
files must equal those of a run that nobody disturbed. Places and delays follow from the seed;
the place counted is where the process was when the kill came.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from benchmarks.fault_any_time import (
    cache_command,
    evaluate_job,
    files_of,
    infer_job,
    kill_any_time,
    scores_of,
    write_quizzes,
)
from benchmarks.fault_children import (
    PATIENCE_S,
    Child,
    Command,
    environment_of,
    free_port,
    in_a_child,
)
from benchmarks.fault_tally import Tally
from mt0_tpu import process_flags, run_folder
from mt0_tpu.exit_codes import REQUEUE
from mt0_tpu.formats import own_run
from tests import marked_run, tiny_run
from tests.marked_run import EVAL, EXIT, SAVE, START, STEP

STEPS = 18
ABSENT_S = 20
PLACES = (START, STEP, STEP, SAVE, SAVE, EVAL, EXIT)


class TrainingJob:
    """A run folder, its processes, and what each of them has left behind."""

    def __init__(self, folder: Path, cache: Path, count: int):
        self.folder, self.cache, self.count = folder, cache, count
        self.model_dir = folder / "run"
        folder.mkdir(parents=True)

    def start(self) -> list[Child]:
        port = free_port()
        children = []
        for index in range(self.count):
            (self.folder / f"marks{index}").unlink(missing_ok=True)
            (self.folder / f"batches{index}").unlink(missing_ok=True)
            arguments = (
                str(self.model_dir), str(self.cache), STEPS, self.folder / f"marks{index}",
                self.folder / f"batches{index}",
            )  # fmt: skip
            programs = self.cache.parent / f"programs{self.count}"

            def work(arguments=arguments, programs=programs) -> None:
                # Killed before the others have met it, it is waited for so long, not 300 s.
                process_flags.take_flags(argparse.Namespace(initialization_timeout=ABSENT_S))
                marked_run.keep_programs(programs)
                marked_run.run(*arguments)

            children.append(
                Child(
                    work,
                    environment_of(index, self.count, port),
                    self.folder / f"errors{index}",
                )
            )
        return children

    def place(self) -> tuple[bytes, int]:
        return marked_run.read(self.folder / "marks0")

    def saving(self) -> bool:
        folder = self.model_dir / run_folder.FOLDER
        return folder.is_dir() and any("tmp" in name for name in os.listdir(folder))

    def batches(self, index: int) -> list[str]:
        """The whole lines of a process's record of this start."""
        path = self.folder / f"batches{index}"
        text = path.read_text() if path.exists() else ""
        return text[: text.rfind("\n") + 1].splitlines()

    def metrics(self) -> list:
        """metrics.jsonl without what a clock decides."""
        found = []
        for line in map(json.loads, (self.model_dir / "metrics.jsonl").read_text().splitlines()):
            kept = {name: v for name, v in line["metrics"].items() if "timing" not in name}
            found.append((line["step"], line["split"], kept))
        return found


def numbers_of(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor of a checkpoint, the optimizer's included, read without JAX."""
    weights = own_run.open_weights(folder)
    found = {name: weights.read(name) for name in weights.tensors()}
    return found | {name: weights.read_state(name) for name in weights.state_tensors()}


def save_numbers(job: TrainingJob) -> None:
    """Writes what a job came to where the campaign can compare it."""
    np.savez(job.folder / "numbers.npz", **numbers_of(job.model_dir))


def check_checkpoints(job: TrainingJob) -> None:
    """Reads all of every checkpoint there is; fails where one is not whole."""
    for step in run_folder.steps_of(job.model_dir):
        folder = job.model_dir / run_folder.FOLDER / str(step)
        numbers_of(folder)
        json.loads((folder / "position" / "metadata").read_text())


def wait_for(place: bytes, job: TrainingJob, children: list[Child], rng: random.Random) -> bool:
    """Returns at a moment of the kind asked for; False where the processes ended first."""
    if place == START:
        deadline = time.monotonic() + rng.uniform(0.0, 3.0)
        while time.monotonic() < deadline:
            if any(child.poll() is not None for child in children):
                return False
            time.sleep(0.002)
        return True
    # An evaluation is over in milliseconds.
    target, delay = rng.randint(1, 9), rng.uniform(0.0, 0.002 if place == EVAL else 0.05)
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if all(child.poll() is not None for child in children):
            return False
        here, step = job.place()
        arrived = {
            STEP: here == STEP and step >= target,
            SAVE: job.saving(),
            EVAL: here == EVAL,
            EXIT: here == EXIT,
        }[place]
        if arrived:
            time.sleep(delay)
            return all(child.poll() is None for child in children)
        time.sleep(0.0005 if place == EVAL else 0.003)
    return False


def train_with_kills(
    folder: Path, cache: Path, reference: TrainingJob, kills: int, rng: random.Random, tally: Tally
) -> None:
    """Kills training jobs until there were so many kills, and lets the last one finish."""
    number, done = 0, 0
    while done < kills:
        job = TrainingJob(folder / f"job{number}", cache, reference.count)
        number += 1
        while True:
            before = (run_folder.steps_of(job.model_dir) or [0])[-1]
            children = job.start()
            if done < kills and wait_for(rng.choice(PLACES), job, children, rng):
                done += kill_one(job, children, before, reference, rng, tally)
                continue
            if finished(job, children, before, reference, tally):
                break
            if job.model_dir.exists() and tally.wrong["restarts that failed"] > 5:
                return
        shutil.rmtree(job.folder)


def kill_one(job, children, before, reference, rng, tally) -> bool:
    """Kills one of the processes and looks at what it left; False where it had ended."""
    victim = rng.choice(children)
    place, _ = job.place()
    saving = job.saving()
    victim.kill()
    if victim.code != -signal.SIGKILL:
        for child in children:
            child.wait()
        return False
    began = time.monotonic()
    for child in [child for child in children if child is not victim]:
        code = child.wait(60.0)
        if code is None:
            tally.wrong["processes that hung"] += 1
            print(f"hung after a kill at {place.decode()}: {child.told()[-6000:]}", flush=True)
            child.kill()
            continue
        tally.stop_s.append(time.monotonic() - began)
        tally.codes[code] += 1
        # It was done already; or JAX noticed the death of process 0 first, in words of its own.
        said = child.errors.read_text()
        known = code == 0 or (code == -signal.SIGABRT and victim is children[0])
        known |= f"after {ABSENT_S} s 1 of 2 processes are here" in said
        if not known and ("has died" not in said or code != REQUEUE):
            tally.wrong["ends without a sentence"] += 1
            print(f"code {code}: {child.errors.read_text()[-2000:]}", flush=True)
    where = "async save" if saving and place != SAVE else place.decode()
    tally.killed(f"{len(children)} process{'es' * (len(children) > 1)}: {where}")
    if not in_a_child(lambda: check_checkpoints(job), job.folder):
        tally.wrong["corrupt checkpoints"] += 1
        print((job.folder / "errors-check").read_text()[-2000:], flush=True)
    ran = check_batches(job, before, reference, tally)
    kept = (run_folder.steps_of(job.model_dir) or [0])[-1]
    tally.lost_steps.append(max(0, before + ran - kept))
    return True


def check_batches(job, before: int, reference: TrainingJob, tally: Tally) -> int:
    """Compares what was taken since step `before` to the undisturbed stream; returns how many."""
    most = 0
    for index in range(job.count):
        taken = job.batches(index)
        # A loader hands out what comes next; what it had prefetched is not counted.
        if taken != reference.batches(index)[before : before + len(taken)]:
            tally.wrong["repeated or lost examples"] += 1
        most = max(most, len(taken))
    return most


def finished(job, children, before, reference: TrainingJob, tally: Tally) -> bool:
    """Waits for an undisturbed end and compares everything; False where it failed."""
    codes = [child.wait() for child in children]
    if any(codes):
        tally.wrong["restarts that failed"] += 1
        print(f"codes {codes}: {children[0].errors.read_text()[-2000:]}", flush=True)
        for child in children:
            child.kill()
        return False
    tally.runs += 1
    check_batches(job, before, reference, tally)
    tally.wrong["metrics that differ"] += job.metrics() != reference.metrics()
    in_a_child(lambda: save_numbers(job), job.folder)
    same = (job.folder / "numbers.npz").exists() and all(
        np.array_equal(one, other)
        for one, other in zip(
            np.load(job.folder / "numbers.npz").values(),
            np.load(reference.folder / "numbers.npz").values(),
            strict=True,
        )
    )
    tally.wrong["parameters that differ"] += not same
    return True


PARTS = ("one", "two", "infer", "eval", "cache")


def campaign(kills: int, seed: int, root: Path, parts: Sequence[str] = PARTS) -> Tally:
    """Spends about two fifths of the kills on runs of one process, a third on runs of two."""
    rng, tally = random.Random(seed), Tally()
    cache = root / "cache"
    tiny_run.write_tiny_cache(cache)
    write_quizzes(cache)
    inputs = root / "asked.jsonl"
    lines = [{"inputs": f"question {n}"} for n in range(64)]
    inputs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    share = dict.fromkeys(("infer", "eval", "cache"), kills // 12)
    of_two = kills // 3
    of_one = kills - of_two - sum(share.values())
    for part, count, its_kills in (("one", 1, of_one), ("two", 2, of_two)):
        if part not in parts:
            continue
        reference = TrainingJob(root / f"undisturbed{count}", cache, count)
        codes = [child.wait() for child in reference.start()]
        if any(codes):
            raise RuntimeError((reference.folder / "errors0").read_text())
        if not in_a_child(lambda job=reference: save_numbers(job), reference.folder):
            raise RuntimeError((reference.folder / "errors-check").read_text())
        train_with_kills(root / f"jobs{count}", cache, reference, its_kills, rng, tally)
        print("\n".join(["", *tally.lines(0.0)]), flush=True)
    errors = root / "errors"
    starts = {
        "infer": lambda out: Child(lambda: infer_job(out, inputs), {}, errors),
        "eval": lambda out: Child(lambda: evaluate_job(out, cache), {}, errors),
        "cache": lambda out: Command(cache_command(out), errors),
    }
    for name, start in starts.items():
        if share[name] and name in parts:
            shown = scores_of if name == "eval" else files_of
            kill_any_time(name, start, root / name, share[name], rng, tally, shown)
    return tally


def main() -> None:
    """Prints what became of the kills; code 1 where anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS, help="of the kills; all by default"
    )
    flags = parser.parse_args()
    began = time.monotonic()
    # Not a TemporaryDirectory, which the exit of each forked process would delete.
    folder = tempfile.mkdtemp(prefix="faults-")
    try:
        jax.config.update("jax_compilation_cache_dir", f"{folder}/compiled")
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        tally = campaign(flags.kills, flags.seed, Path(folder), flags.parts)
    finally:
        shutil.rmtree(folder)
    print("\n".join(["", *tally.lines(time.monotonic() - began)]), flush=True)
    sys.exit(1 if sum(tally.wrong.values()) else 0)


if __name__ == "__main__":
    main()
