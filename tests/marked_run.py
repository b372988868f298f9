"""A tiny training run that leaves marks of where it is, so that a fault can be placed.

Used by tests and by benchmarks/fault_campaign.py, in a process of its own.
"""

from __future__ import annotations

import mmap
import pickle
import zlib
from pathlib import Path

import jax
import numpy as np
from jax.experimental import serialize_executable

from mt0_tpu import checkpoints, teacher_forced, train_step
from mt0_tpu.data import batches
from tests import tiny_run

# What a mark says the process is doing.
START, STEP, SAVE, EVAL, EXIT = b"start", b"step", b"save", b"eval", b"exit"
_MARK_BYTES = 64


def read(path: Path) -> tuple[bytes, int]:
    """Returns (what the process does, how many batches it has taken since its start)."""
    words = path.read_bytes().split() if path.exists() else []
    return (words[0], int(words[1])) if len(words) == 2 else (START, 0)


def keep_programs(folder: Path) -> None:
    """Compiled programs are read back from a folder: tracing is most of what a start costs.

    Call it in a process of its own. The keys are the functions' names and the process's number,
    so one folder serves one configuration.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def kept(compile_step):
        def compiled(*arguments):
            path = folder / f"{compile_step.__name__}-{jax.process_index()}"
            if path.exists():
                return serialize_executable.deserialize_and_load(*pickle.loads(path.read_bytes()))
            # What the persistent cache gives back cannot be written again.
            jax.config.update("jax_enable_compilation_cache", False)
            program = compile_step(*arguments)
            jax.config.update("jax_enable_compilation_cache", True)
            whole = path.with_suffix(".tmp")
            whole.write_bytes(pickle.dumps(serialize_executable.serialize(program)))
            whole.rename(path)
            return program

        return compiled

    train_step.compile_train_step = kept(train_step.compile_train_step)
    train_step.compile_eval_step = kept(train_step.compile_eval_step)


class Marks:
    """A small file shared with whoever watches: what the process does, and its last step."""

    def __init__(self, path: Path):
        path.write_bytes(b" " * _MARK_BYTES)
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _MARK_BYTES)

    def set(self, place: bytes, step: int) -> None:
        self._map[:] = (b"%s %d" % (place, step)).ljust(_MARK_BYTES)


def run(
    model_dir: str, cache_dir: str, steps: int, marks: Path, batches_file: Path, **changes
) -> None:
    """Trains as tiny_run does, evaluating every four steps.

    Appends to batches_file one line a batch: its place in the stream, and a checksum of this
    process's rows of it.
    """
    mark = Marks(marks)
    mark.set(START, 0)
    at = {"step": 0}
    give, save, evaluate = (
        batches.Loader.__next__,
        checkpoints.Checkpointer.save,
        teacher_forced.evaluate,
    )
    evaluating = {"now": False}

    def marked_give(self):
        place = self.state
        rows = give(self)
        if not evaluating["now"]:
            checksum = 0
            for name in sorted(rows):
                checksum = zlib.crc32(np.ascontiguousarray(rows[name]).tobytes(), checksum)
            with batches_file.open("a") as file:
                file.write(f"{place.window} {place.row} {checksum}\n")
            at["step"] += 1
            mark.set(STEP, at["step"])
        return rows

    def marked_save(self, *arguments, **options):
        mark.set(SAVE, at["step"])
        save(self, *arguments, **options)
        mark.set(STEP, at["step"])

    def marked_evaluate(*arguments):
        mark.set(EVAL, at["step"])
        evaluating["now"] = True
        try:
            return evaluate(*arguments)
        finally:
            evaluating["now"] = False
            mark.set(STEP, at["step"])

    batches.Loader.__next__ = marked_give
    checkpoints.Checkpointer.save = marked_save
    teacher_forced.evaluate = marked_evaluate
    held = tiny_run.dataset(cache_dir, mixture_or_task_name="held", split="validation")
    try:
        tiny_run.run(
            model_dir, cache_dir, steps, train_eval_dataset=held, eval_period=4, eval_steps=3,
            **changes,
        )  # fmt: skip
    finally:
        batches.Loader.__next__, checkpoints.Checkpointer.save = give, save
        teacher_forced.evaluate = evaluate
    mark.set(EXIT, at["step"])
