"""The checkpoints in a run folder: which are whole, and whether one more can be written."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from mt0_tpu.errors import UserError

FOLDER = "checkpoints"
# Of each checkpoint, however it was made.
_NEEDED = ("state/_METADATA", "state/manifest.ocdbt")


def steps_of(model_dir: str | Path) -> list[int]:
    """Returns the steps of the whole checkpoints of a run, in order."""
    folder = Path(model_dir) / FOLDER
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal() and p.is_dir())


def set_aside_damaged(model_dir: str, say: Callable[[str], None]) -> None:
    """Renames a run's latest checkpoints that lack files, so that it goes on from one before.

    A folder is whole when it takes its name, unless someone deleted a part of it, or the storage
    renames file by file, as a mounted bucket may. Only one process may call it.
    """
    for step in reversed(steps_of(model_dir)):
        folder = Path(model_dir) / FOLDER / str(step)
        lacks = [name for name in _NEEDED if not (folder / name).exists()]
        if not lacks:
            return
        aside = folder.with_name(f"{step}.damaged-{time.time_ns()}")
        folder.rename(aside)
        say(f"{folder} lacks {', '.join(lacks)}: it is called {aside.name} now, and not used")


def last_saved(model_dir: str | Path) -> str:
    """Says which checkpoint a run would go on from."""
    steps = steps_of(model_dir)
    return f"the last checkpoint is step {steps[-1]}" if steps else "there is no checkpoint yet"


def check_is_local(model_dir: str) -> None:
    """Raises UserError for an address: pathlib would take gs: for the name of a folder."""
    if "://" in model_dir:
        raise UserError(
            f"MODEL_DIR is remote ({model_dir}), but runs are written through the file system: "
            "mount the bucket (docs/launching.md) and name the folder that it appears as"
        )


def check_model_dir(model_dir: str, state_bytes: int) -> None:
    """Raises UserError unless MODEL_DIR can be written and holds one more checkpoint."""
    check_is_local(model_dir)
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
