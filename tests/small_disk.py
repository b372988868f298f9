"""A disk of a few MiB that a test can fill; skipped aloud where nothing may be mounted."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

MIB = 8


@pytest.fixture
def small_disk(tmp_path):
    """A tmpfs of MIB MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount(folder, f"size={MIB}m")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def mount(folder: Path, options: str) -> None:
    """Mounts a tmpfs there, or changes the one that is mounted ('remount,…')."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if shutil.which("mount") is None:
        pytest.skip("no `mount` here: faults of a disk are not tried")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"nothing may be mounted here ({done.stderr.strip()}): faults of a disk are "
                    "not tried; run as root")  # fmt: skip


def fill(folder: Path, leave: int) -> Path:
    """Fills the disk but for so many bytes; the file can be deleted again."""
    filler = folder / "filler"
    free = shutil.disk_usage(folder).free
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(free - leave, 1))
    return filler
