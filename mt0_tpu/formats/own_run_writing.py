"""A checkpoint of ours written a tensor at a time, in the layout that Orbax restores.

Orbax saves a tree it has whole in memory, which is 52 GB for an xxl network; this writes the same
zarr arrays through tensorstore as they are read. The chunks of a large stack hold one layer.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import tensorstore

from mt0_tpu.errors import UserError
from mt0_tpu.formats import whole_folder
from mt0_tpu.formats.byte_progress import ByteProgress
from mt0_tpu.formats.own_run import CHECKPOINTS, NETWORK, STATISTICS
from mt0_tpu.formats.run_record import BLOOM_FIELDS
from mt0_tpu.formats.weights import TensorInfo, Weights
from mt0_tpu.models.names import LAYERS
from mt0_tpu.models.networks import NetworkConfig

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
_ZARR_DTYPES = {"float32": "<f4", "bfloat16": "bfloat16", "int32": "<i4"}
_CHUNK_BYTES = 64 << 20
_TOGETHER_BYTES = 16 << 20
# Adafactor.min_dim_size_to_factor; T5X facts, section 2.4.
_FACTORED_FROM = 128
_HANDLERS = "orbax.checkpoint._src.handlers."


def write(
    weights: Weights,
    destination: Path,
    *,
    dtype: str = "float32",
    with_state: bool = False,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda text: None,
    step: int | None = None,
) -> None:
    """Makes `destination` a MODEL_DIR with one checkpoint of these weights.

    Args:
      weights: any network's; read in the order of its layers, one at a time.
      destination: the MODEL_DIR to be.
      dtype: of the parameters, 'float32' or 'bfloat16'; statistics stay float32.
      with_state: also Adafactor's statistics, which a run needs to resume here. Without them the
        folder serves as INITIAL_CHECKPOINT_PATH.
      overwrite: replaces a destination that a conversion wrote; never a run that trained.
      say: told of the progress, every few seconds.
      step: what the checkpoint is the step of; None for the weights' own, or 0.

    Raises UserError for a destination that exists or has no room, an unknown dtype, layers or
    statistics that do not fit together, and whatever reading raises.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype is {dtype!r}; write 'float32' or 'bfloat16'")
    step = step if step is not None else weights.step or 0
    leaves = _leaves(weights, dtype, with_state)
    total = sum(leaf.num_bytes for leaf in leaves.values())
    with whole_folder.appearing(Path(destination), overwrite, _foreign, total) as folder:
        root = folder / CHECKPOINTS / str(step)
        state = root / "state"
        state.mkdir(parents=True)
        progress = ByteProgress(total, say)
        _write_array(state, "step", np.asarray(step, np.int32))
        for name, leaf in leaves.items():
            leaf.write(state, ".".join(name))
            progress.add(leaf.num_bytes)
        shapes = {("step",): (), **{name: leaf.shape for name, leaf in leaves.items()}}
        _write_trees(root, shapes, _noted(weights.config))


def _noted(config: NetworkConfig | None) -> dict[str, Any]:
    """What no shape tells of a network: a MODEL_DIR of a conversion has no config.gin."""
    if config is None or not config.decoder_only:
        return {}
    return {NETWORK: {name: getattr(config, name) for name in BLOOM_FIELDS}}


class _Leaf:
    """One array to be: its shape and the readers of its layers, or of itself."""

    def __init__(self, shape, dtype: str, readers, stacked: bool):
        self.shape = (len(readers), *shape) if stacked else tuple(shape)
        self._dtype, self._readers, self._stacked = dtype, readers, stacked
        self.num_bytes = int(np.prod(self.shape)) * DTYPES[dtype].itemsize

    def write(self, state: Path, name: str) -> None:
        # A commit costs milliseconds, so small layers go together.
        if self._stacked and self.num_bytes > _TOGETHER_BYTES:
            store = _create(state, name, self.shape, self._dtype, True)
            for i, read in enumerate(self._readers):
                _fill(store[i], read())
        else:
            store = _create(state, name, self.shape, self._dtype, False)
            arrays = [read() for read in self._readers]
            _fill(store, np.stack(arrays) if self._stacked else arrays[0])


def _leaves(weights: Weights, dtype: str, with_state: bool) -> dict[tuple[str, ...], _Leaf]:
    """{path in our tree: leaf} of everything but the step."""
    found = weights.tensors()
    statistics = weights.state_tensors() if with_state else {}
    if with_state and not statistics:
        raise UserError(
            f"{weights.path} ({weights.kind}) holds no Adafactor statistics; write it without "
            "optimizer state, and training starts them afresh"
        )
    leaves = {}
    for path, names in _grouped(weights).items():
        stacked = LAYERS in path
        info = _same(weights, names, found)
        readers = [lambda name=name: weights.read(name) for name in names]
        leaves["params", *path] = _Leaf(info.shape, dtype, readers, stacked)
        if with_state:
            for key in STATISTICS:
                leaf = _statistic(weights, names, key, info, statistics, stacked)
                leaves["opt_state", *path, key] = leaf
    return leaves


def _grouped(weights: Weights) -> dict[tuple[str, ...], list[str]]:
    """{path in our tree: names of its layers in order}; UserError where a layer is missing."""
    groups: dict[tuple[str, ...], dict[int, str]] = {}
    for name in weights.tensors():
        keys = name.split(".")
        layer = 0
        for at, key in enumerate(keys):
            if match := re.fullmatch(rf"{LAYERS}_(\d+)", key):
                keys[at], layer = LAYERS, int(match[1])
        groups.setdefault(tuple(keys), {})[layer] = name
    counts = {path[0]: 0 for path in groups}
    for path, layers in groups.items():
        counts[path[0]] = max(counts[path[0]], max(layers) + 1 if LAYERS in path else 0)
    for path, layers in groups.items():
        missing = sorted(set(range(counts[path[0]] if LAYERS in path else 1)) - layers.keys())
        if missing:
            raise UserError(
                f"{weights.path} ({weights.kind}) is not whole: {'.'.join(path)} lacks layer "
                f"{missing[0]} of {counts[path[0]]}; copy it anew"
            )
    return {path: [layers[i] for i in sorted(layers)] for path, layers in groups.items()}


def _same(weights: Weights, names: list[str], found: dict[str, TensorInfo]) -> TensorInfo:
    first = found[names[0]]
    for name in names[1:]:
        if found[name].shape != first.shape:
            raise UserError(
                f"{weights.path} ({weights.kind}) has layers of different shapes: {names[0]} is "
                f"{first.shape}, {name} is {found[name].shape}; all layers must be alike"
            )
    return first


def _statistic(weights, names, key, info: TensorInfo, found, stacked: bool) -> _Leaf:
    """The leaf of one statistic of one parameter; a placeholder where Adafactor has none."""
    wanted = _statistic_shape(info.shape, key)
    has = [f"{name}.{key}" for name in names if f"{name}.{key}" in found]
    real = [one for one in has if found[one].shape != (1,)]
    if key == "m" and real:
        wanted = info.shape
    if wanted is None and not real:
        return _Leaf((1,), "float32", [lambda: np.zeros(1, np.float32)], False)
    if wanted is None or len(has) < len(names) or any(found[n].shape != wanted for n in has):
        shapes = sorted({found[one].shape for one in has}) or "nothing"
        raise UserError(
            f"{weights.path} ({weights.kind}): the statistic {key} of {names[0]} is {shapes}, "
            f"expected {wanted or 'none'} in every layer; write it without optimizer state"
        )
    readers = [lambda name=name: weights.read_state(name) for name in has]
    return _Leaf(wanted, "float32", readers, stacked)


def _statistic_shape(shape: tuple[int, ...], key: str) -> tuple[int, ...] | None:
    """What Adafactor keeps of a parameter by default; None for a placeholder or `m`."""
    if len(shape) == 2 and min(shape) >= _FACTORED_FROM:
        return {"v_row": (min(shape),), "v_col": (max(shape),)}.get(key)
    return tuple(shape) if key == "v" else None


def _create(state: Path, name: str, shape: tuple[int, ...], dtype: str, stacked: bool):
    layer = shape[1:] if stacked else shape
    if layer:
        row_bytes = max(1, int(np.prod(layer[1:])) * np.dtype(_width(dtype)).itemsize)
        layer = (min(layer[0], max(1, _CHUNK_BYTES // row_bytes)), *layer[1:])
    spec = {
        "driver": "zarr",
        "kvstore": {
            "driver": "ocdbt",
            "base": {"driver": "file", "path": f"{state}/"},
            "path": f"{name}/",
        },
        "metadata": {
            "shape": list(shape),
            "chunks": [1, *layer] if stacked else list(layer),
            "compressor": {"id": "zstd", "level": 1},
            "dtype": _ZARR_DTYPES[dtype],
        },
        # Else zeros would not be there, and could not be told from a lost piece.
        "store_data_equal_to_fill_value": True,
    }
    return tensorstore.open(spec, create=True, open=False).result()


def _width(dtype: str) -> np.dtype:
    return DTYPES.get(dtype, np.dtype(np.int32))


def _fill(store, array: np.ndarray) -> None:
    """Writes an array chunk by chunk, waiting for each, so that few copies are alive.

    From float32 to bfloat16 it rounds to the nearest even.
    """
    dtype = store.dtype.numpy_dtype
    if array.ndim == 0:
        store.write(array.astype(dtype)).result()
        return
    rows = store.chunk_layout.write_chunk.shape[-array.ndim]
    for start in range(0, array.shape[0], rows):
        stop = min(start + rows, array.shape[0])
        store[start:stop].write(array[start:stop].astype(dtype, copy=False)).result()


def _write_array(state: Path, name: str, array: np.ndarray) -> None:
    _fill(_create(state, name, array.shape, array.dtype.name, False), array)


def _write_trees(
    root: Path, shapes: dict[tuple[str, ...], tuple[int, ...]], noted: dict[str, Any]
) -> None:
    """Writes the files by which Orbax knows the tree and that the checkpoint is whole."""
    tree = {
        str(path): {
            "key_metadata": [{"key": key, "key_type": 2} for key in path],
            "value_metadata": {
                "value_type": "jax.Array",
                "skip_deserialize": False,
                "write_shape": list(shape),
            },
        }
        for path, shape in sorted(shapes.items())
    }
    metadata = {
        "tree_metadata": tree,
        "use_ocdbt": True,
        "use_zarr3": False,
        "store_array_data_equal_to_fill_value": True,
        "custom_metadata": None,
    }
    _write_file(root / "state" / "_METADATA", json.dumps(metadata))
    # The loader starts afresh: there is no position to go on from.
    (root / "position").mkdir()
    _write_file(root / "position" / "metadata", "{}")
    now = time.time_ns()
    about = {
        "item_handlers": {
            "position": f"{_HANDLERS}json_checkpoint_handler.JsonCheckpointHandler",
            "state": f"{_HANDLERS}pytree_checkpoint_handler.PyTreeCheckpointHandler",
        },
        "metrics": {},
        "performance_metrics": {},
        "init_timestamp_nsecs": now,
        "commit_timestamp_nsecs": now,
        "custom_metadata": noted,
    }
    _write_file(root / "_CHECKPOINT_METADATA", json.dumps(about))
    for folder in (root / "state", root / "position", root):
        _write_file(folder / "commit_success.txt", "whole")


def _write_file(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _foreign(folder: Path) -> str | None:
    """What a training run has beside one checkpoint without a place in the data."""
    if entry := whole_folder.entry_beside(CHECKPOINTS)(folder):
        return entry
    steps = list(folder.glob(f"{CHECKPOINTS}/*"))
    if len(steps) > 1:
        return f"{len(steps)} checkpoints"
    for place in folder.glob(f"{CHECKPOINTS}/*/position/metadata"):
        if place.read_text(encoding="utf-8", errors="replace").strip() != "{}":
            return "a run's place in its data"
    return None
