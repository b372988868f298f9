"""Where a path lies: on a disk, or in a bucket that checkpoints can be written to (gs://…)."""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from mt0_tpu.errors import UserError

if TYPE_CHECKING:
    from etils import epath

BUCKET = "gs://"

# Orbax reads small files of a bucket through TensorFlow where that is installed, which loads all of
# it, unless it is told not to before it first looks at any path.
if importlib.util.find_spec("gcsfs") is not None:
    os.environ.setdefault("EPATH_USE_TF", "false")


class CannotBeSeen(UserError, OSError):
    """What lies in a folder of a bucket is not known: no access, or no answer."""


def is_address(path: str | os.PathLike) -> bool:
    """Whether it names something that is no file of this machine."""
    return "://" in os.fspath(path)


def is_bucket(path: str | os.PathLike) -> bool:
    """Whether it lies in a bucket that runs can be written to."""
    return os.fspath(path).startswith(BUCKET)


def place(path: str | os.PathLike) -> Path | epath.Path:
    """Returns an absolute path, local or in a bucket: both have pathlib's methods.

    Raises UserError for a bucket where the library that reads it is missing.
    """
    if not is_bucket(path):
        return Path(os.path.abspath(path))
    if importlib.util.find_spec("gcsfs") is None:
        raise UserError(
            f"{path} needs gcsfs, which is not installed: `pip install mt0_tpu[gcs]`, or name a "
            "local folder"
        )
    _prepare()
    from etils import epath

    return epath.Path(spelt(path))


def spelt(address: str | os.PathLike) -> str:
    """Returns an address in a bucket as all its spellings are kept: gs://b//run/./ is gs://b/run."""
    parts = os.fspath(address).removeprefix(BUCKET).split("/")
    return BUCKET + "/".join(part for part in parts if part not in ("", "."))


def entries(folder: Path | epath.Path) -> list[Path | epath.Path]:
    """Returns what lies in a folder of `place`; nothing where there is none, or it is a file.

    Raises CannotBeSeen where the bucket, asked six times over half a minute, does not say: its
    is_dir() is False then, and a run would start anew beside its checkpoints.
    """
    if not is_bucket(folder):
        return list(folder.iterdir()) if folder.is_dir() else []
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except Exception as error:  # of HTTP, of the line, of the login: each library has its own
        said = (str(error).splitlines() or [""])[0][:200]
        raise CannotBeSeen(
            f"what lies in {os.fspath(folder)} cannot be seen ({type(error).__name__}: {said}); "
            "log in as someone who may list objects there, and run the same command again"
        ) from error


def absolute(path: str | os.PathLike) -> str:
    """Returns the path from the root, or the address as it is."""
    return os.fspath(path) if is_address(path) else os.path.abspath(path)


@functools.cache
def _prepare() -> None:
    import fsspec.config

    # It logs each error that it raises, with its stack; who catches it says it in a line.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    # What tensorstore and other processes write is not in a listing that is remembered.
    fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
