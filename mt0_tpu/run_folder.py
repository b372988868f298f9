"""The checkpoints in a run folder: which are whole, and whether one more can be written.

On a disk a checkpoint takes its name when it is whole. In a bucket nothing can be renamed at once:
there it lies under its name from the start, and is whole when it holds the mark.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from mt0_tpu.errors import UserError
from mt0_tpu.place import BUCKET, entries, is_address, is_bucket, place

FOLDER = "checkpoints"
# Orbax's own: written last of a checkpoint in a bucket, and deleted first.
MARK = "commit_success.txt"
# Of each checkpoint, however it was made.
_NEEDED = ("state/_METADATA", "state/manifest.ocdbt")
_AT_ONCE = 16
# What the library that deletes in buckets takes for patterns, and so for other runs' names.
_PATTERNS = "*?["


def steps_of(model_dir: str | os.PathLike) -> list[int]:
    """Returns the steps of the whole checkpoints of a run, in order."""
    return sorted(step for step, whole in _steps(model_dir).items() if whole)


def _steps(model_dir: str | os.PathLike) -> dict[int, bool]:
    """{step: whether it is whole} of all that lies under the name of a checkpoint."""
    found = [one for one in entries(place(model_dir) / FOLDER) if one.name.isdecimal()]
    if not is_bucket(model_dir):
        return {int(one.name): True for one in found if one.is_dir()}
    with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
        whole = pool.map(lambda one: (one / MARK).exists(), found)
        return {int(one.name): is_whole for one, is_whole in zip(found, whole, strict=True)}


def set_aside_damaged(model_dir: str, say: Callable[[str], None]) -> None:
    """Renames a run's latest checkpoints that lack files, so that it goes on from one before.

    A folder is whole when it takes its name, unless someone deleted a part of it, or the storage
    renames file by file, as a mounted bucket may. Only one process may call it.
    """
    for step in reversed(steps_of(model_dir)):
        folder = place(model_dir) / FOLDER / str(step)
        lacks = [name for name in _NEEDED if not (folder / name).exists()]
        if not lacks:
            return
        aside = folder.with_name(f"{step}.damaged-{time.time_ns()}")
        if is_bucket(model_dir):  # where it moves file by file: it must not count meanwhile
            (folder / MARK).unlink()
        folder.rename(aside)
        say(f"{folder} lacks {', '.join(lacks)}: it is called {aside.name} now, and not used")


def delete_unfinished(model_dir: str | os.PathLike) -> None:
    """Deletes what a save or a deletion that was cut off has left in a bucket.

    Only one process may call it, and none may be saving.
    """
    for step, whole in _steps(model_dir).items():
        if not whole:
            (place(model_dir) / FOLDER / str(step)).rmtree()


def delete_step(model_dir: str | os.PathLike, step: int) -> None:
    """Deletes a checkpoint in a bucket; cut off anywhere, what is left of it is none."""
    folder = place(model_dir) / FOLDER / str(step)
    (folder / MARK).unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):  # an answer was lost: all of it is gone
        folder.rmtree()


def last_saved(model_dir: str | os.PathLike) -> str:
    """Says which checkpoint a run would go on from."""
    steps = steps_of(model_dir)
    return f"the last checkpoint is step {steps[-1]}" if steps else "there is no checkpoint yet"


def check_bucket(model_dir: str) -> None:
    """Raises UserError for an address that no run can be written to; of local paths says nothing.

    Every process asks, since each writes its part.
    """
    if not is_address(model_dir):
        return
    if not is_bucket(model_dir):
        raise UserError(
            f"MODEL_DIR is {model_dir}, and of addresses only gs://BUCKET/… can be written to: "
            "write that, or mount the bucket (docs/launching.md) and name its folder"
        )
    if any(mark in model_dir for mark in _PATTERNS) or ".." in model_dir.split("/"):
        raise UserError(
            f"MODEL_DIR is {model_dir}; '..' and the characters {' '.join(_PATTERNS)} could lead "
            "to another run's files there: choose a name without them"
        )
    if not model_dir.removeprefix(BUCKET).strip("/").partition("/")[2]:
        raise UserError(
            f"MODEL_DIR is {model_dir}, a whole bucket; name a folder in it: gs://BUCKET/NAME"
        )
    probe = place(model_dir) / f".writable-{os.getpid()}-{time.time_ns()}"
    try:
        probe.write_text("x")
        entries(place(model_dir) / FOLDER)  # what a run starts from
        probe.unlink()
    except FileNotFoundError:
        raise UserError(
            f"MODEL_DIR {model_dir} cannot be written (there is no such bucket); create it, or "
            "correct its name"
        ) from None
    except Exception as error:  # of HTTP, of the line, of the login: each library has its own
        said = (str(error).splitlines() or [""])[-1][:200]
        raise UserError(
            f"MODEL_DIR {model_dir} cannot be written ({type(error).__name__}: {said}); log in "
            "(`gcloud auth application-default login`) as someone who may read, write and delete "
            "objects there, or name another bucket"
        ) from None


def check_model_dir(model_dir: str, state_bytes: int) -> None:
    """Raises UserError unless MODEL_DIR can be written and holds one more checkpoint."""
    if is_address(model_dir):
        check_bucket(model_dir)
        return
    folder = Path(model_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        probe.write_bytes(b"x")
        probe.unlink()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise UserError(
            f"MODEL_DIR {model_dir} cannot be written ({error.strerror}); name a folder you own"
        ) from None
    if free < state_bytes:
        raise UserError(
            f"MODEL_DIR {model_dir} has {free / 2**30:.2f} GiB free and one checkpoint needs "
            f"{state_bytes / 2**30:.2f} GiB; free some space or name another folder"
        )
