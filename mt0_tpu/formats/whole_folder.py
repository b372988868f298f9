"""A folder that is written whole or not at all, and replaces only what a conversion wrote."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from mt0_tpu.errors import UserError

# Says which entry of a folder a writer does not write; None where all are its own.
Foreign = Callable[[Path], str | None]


def entry_beside(*patterns: str) -> Foreign:
    """Returns a `Foreign` for a writer whose folders hold only entries of these patterns."""

    def find(folder: Path) -> str | None:
        names = sorted(one.name for one in folder.iterdir())
        return next((n for n in names if not any(fnmatch.fnmatch(n, p) for p in patterns)), None)

    return find


@contextlib.contextmanager
def appearing(
    destination: Path, overwrite: bool, foreign: Foreign, num_bytes: int = 0
) -> Iterator[Path]:
    """Gives a folder to write into; it takes the name `destination` when the block ends well.

    Args:
      destination: a folder that is not there yet; with `overwrite` it is replaced.
      foreign: what of an existing destination is no conversion's, and keeps it from being replaced.
      num_bytes: what will be written, where that is known beforehand.

    Raises:
      UserError: the destination exists, holds more than a converted checkpoint, or cannot be
        written.
    """
    destination = Path(os.path.abspath(destination))
    if os.path.lexists(destination):
        _check_replaceable(destination, overwrite, foreign)
    temporary = destination.with_name(f"{destination.name}.tmp-{os.getpid()}")
    old = destination.with_name(f"{destination.name}.old-{os.getpid()}")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        free = shutil.disk_usage(temporary).free
        if free < num_bytes:
            raise UserError(
                f"{destination.parent} has {free / 2**30:.1f} GiB free and the checkpoint needs "
                f"{num_bytes / 2**30:.1f} GiB; free some space or write elsewhere"
            )
        yield temporary
        if os.path.lexists(destination):
            # Again: hours may have passed, and another process may have written there.
            _check_replaceable(destination, overwrite, foreign)
            os.replace(destination, old)
        os.replace(temporary, destination)
    except OSError as error:
        raise UserError(
            f"{destination} could not be written ({error.strerror or error}); free some space or "
            "name another destination"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if destination.exists():
            shutil.rmtree(old, ignore_errors=True)


def _check_replaceable(destination: Path, overwrite: bool, foreign: Foreign) -> None:
    if not overwrite:
        raise UserError(f"{destination} exists; name another folder, or write --overwrite")
    if destination.is_symlink() or not destination.is_dir():
        raise UserError(
            f"{destination} is no folder that `mt0 convert` wrote, so --overwrite leaves it alone; "
            "name another folder, or take it away yourself"
        )
    if entry := foreign(destination):
        raise UserError(
            f"{destination} holds {entry}, which `mt0 convert` does not write there, and "
            "--overwrite would delete it; name another folder, or take this one away yourself"
        )
