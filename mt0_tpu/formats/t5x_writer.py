"""Writes T5X's own checkpoints, version 3, in the layout T5X gives them on one host."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore

from mt0_tpu.formats import t5x, t5x_content, t5x_folder, t5x_msgpack, t5x_zarr, whole_folder
from mt0_tpu.formats.weights import Weights

_COMPRESSOR = {"id": "gzip", "level": 1}
# What T5X puts in folders: every parameter, and statistics that have a parameter's shape.
_IN_FOLDER = re.compile(r"target\..*|state\.param_states\..*\.(v|m)")


def write(
    weights: Weights,
    destination: Path,
    *,
    dtype: str = "float32",
    with_state: bool = False,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Writes a checkpoint folder; about one tensor is in memory at a time.

    Args:
      weights: what to write; its step, or 0 where it has none, becomes the checkpoint's.
      destination: the folder; T5X finds it by itself where its name is checkpoint_<step>.
      dtype: of the parameters: 'float32' or 'bfloat16' (rounded to nearest even).
      with_state: whether Adafactor's statistics are written, as float32.
      overwrite: whether an existing destination is replaced.
      say: receives lines of progress.

    Raises:
      UserError: the destination exists or cannot be written, an unknown dtype, no statistics.
    """
    with whole_folder.appearing(destination, overwrite, t5x_folder.FOREIGN) as folder:
        tree: dict[str, Any] = {"state": {"param_states": {}}, "target": {}}
        for name, value in t5x_content.arrays(weights, dtype, with_state, say):
            placeholder = value.shape == (1,) and not name.startswith("target.")
            in_folder = _IN_FOLDER.fullmatch(name) and not placeholder
            _put(tree, name, _write_folder(folder, name, value) if in_folder else value)
            del value  # Else it would be held while the next one is read.
        content = {"version": t5x.VERSION, "optimizer": _sorted(tree)}
        # Last: a folder without it is no checkpoint.
        (folder / t5x.FILE).write_bytes(t5x_msgpack.pack(content))


def _write_folder(folder: Path, name: str, value: np.ndarray) -> dict[str, Any]:
    """Writes an array and returns the spec that T5X's tree has in its place."""
    chunks = t5x_content.chunk_shape(value.shape, value.itemsize)
    place = {"driver": "file", "path": f"{(folder / name).absolute()}/"}
    kvstore = tensorstore.KvStore.open(place).result()
    t5x_zarr.write(kvstore, value, chunks, _COMPRESSOR)
    return {
        "driver": "zarr",
        "dtype": value.dtype.name,
        "kvstore": {"driver": "file", "path": f"{name}/"},
        "metadata": {
            "chunks": list(chunks),
            "compressor": _COMPRESSOR,
            "shape": list(value.shape),
        },
    }


def _put(tree: dict[str, Any], name: str, value: Any) -> None:
    *path, last = name.split(".")
    for key in path:
        tree = tree.setdefault(key, {})
    tree[last] = value


def _sorted(tree: Any) -> Any:
    """Returns the tree with its keys in order at every level but the specs', which are so."""
    if not isinstance(tree, dict):
        return tree
    return {key: _sorted(tree[key]) for key in sorted(tree)}
