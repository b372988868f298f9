"""The folders `checkpoint_<step>` of T5X: which one is meant, and which was never finished."""

from __future__ import annotations

import re
from pathlib import Path

from mt0_tpu.errors import UserError
from mt0_tpu.formats import whole_folder

_WHOLE = re.compile(r"checkpoint_(\d+)")
# T5X's own writer and Orbax's; both rename the folder when it is whole.
_HALF = re.compile(r"checkpoint_\d+\.(orbax-checkpoint-)?tmp-.*")
# What one checkpoint has beside the position in the data, which no conversion writes.
FOREIGN = whole_folder.entry_beside(
    "checkpoint", "target.*", "state.*", "state", "dataset", "_CHECKPOINT_METADATA",
    "commit_success.txt",
)  # fmt: skip


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
