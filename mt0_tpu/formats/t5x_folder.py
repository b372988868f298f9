"""The folders `checkpoint_<step>` of T5X: which one is meant, and which was never finished."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from mt0_tpu.errors import UserError

_WHOLE = re.compile(r"checkpoint_(\d+)")
# T5X's own writer and Orbax's; both rename the folder when it is whole.
_HALF = re.compile(r"checkpoint_\d+\.(orbax-checkpoint-)?tmp-.*")


def step_of(folder: Path) -> int | None:
    """Returns the step in the name of a checkpoint's folder; None for another name."""
    match = _WHOLE.fullmatch(folder.name)
    return int(match.group(1)) if match else None


def is_half_written(folder: Path) -> bool:
    """Says whether the name is one that T5X gives a checkpoint while it is being written."""
    return _HALF.fullmatch(folder.name) is not None


def latest(parent: Path) -> Path | None:
    """Returns the `checkpoint_<step>` of the highest step in a folder.

    Where there are only half-written ones it is one of these, so that its reader can say so;
    None where there is nothing of the name.
    """
    if not parent.is_dir():
        return None
    folders = [child for child in parent.iterdir() if child.is_dir()]
    whole = [child for child in folders if step_of(child) is not None]
    if whole:
        return max(whole, key=lambda child: step_of(child) or 0)
    return max((child for child in folders if is_half_written(child)), default=None)


def refuse_half_written(folder: Path) -> None:
    """Raises UserError for a folder that T5X never finished."""
    if is_half_written(folder):
        raise UserError(
            f"{folder} was never finished: T5X renames the folder to checkpoint_<step> at the end; "
            "give a whole checkpoint"
        )


@contextlib.contextmanager
def appearing(destination: Path, overwrite: bool) -> Iterator[Path]:
    """Gives a folder to write into; it takes the name `destination` when the block ends well.

    Raises:
      UserError: the destination exists and `overwrite` is False, or cannot be written.
    """
    destination = Path(os.path.abspath(destination))
    if destination.exists() and not overwrite:
        raise UserError(
            f"{destination} exists already; name another destination or allow overwriting"
        )
    temporary = destination.with_name(f"{destination.name}.tmp-{os.getpid()}")
    old = destination.with_name(f"{destination.name}.old-{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if destination.exists():
            os.replace(destination, old)
        os.replace(temporary, destination)
    except OSError as error:
        raise UserError(
            f"{destination} could not be written ({error.strerror or error}); free some space or "
            "name another destination"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if destination.exists() and old.exists():
            shutil.rmtree(old) if old.is_dir() else old.unlink()
