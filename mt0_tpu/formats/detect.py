"""Which kind of checkpoint lies at a path, decided by what is in it."""

from __future__ import annotations

import glob
import importlib
from pathlib import Path

from mt0_tpu.errors import UserError
from mt0_tpu.formats.weights import Weights

# Asked in this order: our runs hold Orbax folders that T5X's Orbax reader would know too.
READERS = ("own_run", "t5x_orbax", "t5x", "huggingface", "mesh_tf")
_EXPECTED = (
    "a MODEL_DIR or MODEL_DIR/checkpoints/STEP of ours, a T5X checkpoint_STEP, a Hugging Face "
    "folder with config.json, or a Mesh TensorFlow model.ckpt-STEP"
)


def find(path: str | Path) -> tuple[str, Path] | None:
    """Returns (name of the reader, what it reads), or None where nothing known lies there."""
    for name in READERS:
        found = importlib.import_module(f"mt0_tpu.formats.{name}").find(Path(path))
        if found is not None:
            return name, found
    return None


def open_any(path: str | Path) -> Weights:
    """Opens a checkpoint of any kind.

    Raises:
      UserError: nothing lies there, nothing known does, or it is damaged.
    """
    try:
        return _open(Path(path))
    except OSError as error:
        raise UserError(
            f"the checkpoint at {path} cannot be read ({error.strerror}: {error.filename}); look "
            "at its permissions, or copy it anew"
        ) from error
    except RecursionError:
        raise UserError(
            f"the checkpoint at {path} is damaged: a file of it is nested too deep; copy it anew"
        ) from None


def _open(given: Path) -> Weights:
    found = find(given)
    if found is None:
        # TensorFlow names a checkpoint by a prefix of its files.
        there = given.exists() or any(given.parent.glob(f"{glob.escape(given.name)}.*"))
        what = "holds no checkpoint that is known" if there else "does not exist"
        raise UserError(f"no checkpoint at {given}: it {what}; give {_EXPECTED}")
    name, root = found
    return importlib.import_module(f"mt0_tpu.formats.{name}").open_weights(root)
