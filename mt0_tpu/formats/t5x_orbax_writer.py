"""Writes T5X checkpoints in Orbax form, as T5X does on one host with use_orbax.

Like Orbax the arrays are written into a store of this process, whose keys are then taken over,
without their bytes, by the store of the checkpoint.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore

from mt0_tpu.formats import t5x_content, t5x_folder, t5x_orbax, t5x_zarr, whole_folder
from mt0_tpu.formats.weights import Weights

_PROCESS = "ocdbt.process_0"
_COMPRESSOR = {"id": "zstd", "level": 1}
# Small arrays are committed together: each commit rewrites the store's tree.
_COMMIT_BYTES = 64 * 2**20
_CONFIG = {"max_inline_value_bytes": 1024, "max_decoded_node_bytes": 100_000_000}
_HANDLERS = {
    "dataset": "t5x.checkpoints.DatasetCheckpointHandler",
    "state": "orbax.checkpoint._src.handlers.pytree_checkpoint_handler.PyTreeCheckpointHandler",
}
_DICT_KEY = 2  # Orbax's number for a key of a dict.


def write(
    weights: Weights,
    destination: Path,
    *,
    dtype: str = "float32",
    with_state: bool = False,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Writes a checkpoint folder; about one tensor, or 64 MiB, is in memory at a time.

    Args, errors: as t5x_writer.write. Arrays are marked as whole on one device.
    """
    began = time.time_ns()
    with whole_folder.appearing(destination, overwrite, t5x_folder.FOREIGN) as folder:
        store = folder / t5x_orbax.STORE
        (store / "array_metadatas").mkdir(parents=True)
        (folder / "dataset").mkdir()
        infos: dict[str, tuple[list[int], list[int]]] = {}
        stores = _Stores(store)
        for name, value in t5x_content.arrays(weights, dtype, with_state, say):
            chunks = t5x_content.chunk_shape(value.shape, value.itemsize)
            infos[name] = list(value.shape), list(chunks)
            stores.add(name, value, chunks)
            del value  # Else it would be held while the next one is read.
        stores.finish()
        names = sorted(infos, key=lambda name: name.split("."))
        _write_json(store / t5x_orbax.TREE, _tree({name: infos[name][0] for name in names}))
        _write_json(store / "array_metadatas" / "process_0", _arrays(infos))
        _write_json(store / "_sharding", _shardings(names))
        _finish(folder, destination, began)


class _Stores:
    """The store of this process, and the checkpoint's, which takes it over at the end.

    Args:
      folder: of the checkpoint's store.
    """

    def __init__(self, folder: Path):
        # Only within one context does tensorstore copy references in place of values.
        context = tensorstore.Context()
        self._whole, self._own = (
            tensorstore.KvStore.open(
                {
                    "driver": "ocdbt",
                    # The trailing slash makes it a folder to tensorstore.
                    "base": {"driver": "file", "path": f"{place.absolute()}/"},
                    "config": _CONFIG,
                },
                context=context,
            ).result()
            for place in (folder, folder / _PROCESS)
        )
        self._begin()

    def add(self, name: str, value: np.ndarray, chunks: tuple[int, ...]) -> None:
        """Adds an array; it is written when enough have come together."""
        # Encoded in memory first: zarr's own writes would each be a commit with files of its own.
        memory = tensorstore.KvStore.open({"driver": "memory"}).result()

        def take() -> None:
            for key in memory.list().result():
                # The header must stay: each write looks at it again.
                self._put(f"{name}/{key.decode()}", memory[key])
                if key.decode() != t5x_zarr.HEADER:
                    del memory[key]

        t5x_zarr.write(memory, value, chunks, _COMPRESSOR, take)

    def _put(self, key: str, encoded: bytes) -> None:
        self._pending[key] = encoded
        self._num_bytes += len(encoded)
        if self._num_bytes >= _COMMIT_BYTES:
            self._commit()

    def finish(self) -> None:
        """Writes what is left, and lets the checkpoint's store refer to all of it."""
        self._commit()
        try:
            self._own.experimental_copy_range_to(self._whole).result()
        except ValueError as error:
            raise OSError(str(error).splitlines()[0][:300]) from error

    def _begin(self) -> None:
        self._transaction = tensorstore.Transaction(atomic=True)
        self._pending = self._own.with_transaction(self._transaction)
        self._num_bytes = 0

    def _commit(self) -> None:
        try:
            self._transaction.commit_sync()
        except ValueError as error:
            raise OSError(str(error).splitlines()[0][:300]) from error
        self._begin()


def _shardings(names: list[str]) -> dict[str, str]:
    """Returns what Orbax's `_sharding` says of arrays that lay whole on one device."""
    one_device = {
        "sharding_type": "NamedSharding",
        "shape": [1, 1],
        "axis_names": ["data", "model"],
        "axis_types": ["AxisType.Auto", "AxisType.Auto"],
        "partition_spec": [],
        "device_mesh": {"mesh": [[{"id": 0}]]},
    }
    text = json.dumps(one_device)
    return {base64.b64encode(name.encode()).decode(): text for name in names}


def _tree(shapes: dict[str, list[int]]) -> dict[str, Any]:
    entries = {}
    for name, shape in shapes.items():
        keys = tuple(name.split("."))
        entries[str(keys)] = {
            "key_metadata": [{"key": key, "key_type": _DICT_KEY} for key in keys],
            "value_metadata": {
                "value_type": "jax.Array",
                "skip_deserialize": False,
                "write_shape": shape,
            },
        }
    return {
        "tree_metadata": entries,
        "use_ocdbt": True,
        "use_zarr3": False,
        "store_array_data_equal_to_fill_value": True,
        "custom_metadata": None,
    }


def _arrays(infos: dict[str, tuple[list[int], list[int]]]) -> dict[str, Any]:
    def entry(name: str) -> dict[str, Any]:
        shape, chunks = infos[name]
        about = {"param_name": name, "write_shape": shape, "chunk_shape": chunks}
        return {"array_metadata": {**about, "ext_metadata": None}}

    return {"array_metadatas": [entry(name) for name in sorted(infos)]}


def _finish(folder: Path, destination: Path, began: int) -> None:
    """Writes what marks the checkpoint as whole to Orbax."""
    for part in (folder / t5x_orbax.STORE, folder / "dataset", folder):
        place = destination / part.relative_to(folder)
        text = f"Checkpoint commit was successful to {place}\n"
        (part / "commit_success.txt").write_text(text, encoding="utf-8")
    about = {
        "item_handlers": _HANDLERS, "metrics": {}, "performance_metrics": {},
        "init_timestamp_nsecs": began, "commit_timestamp_nsecs": time.time_ns(),
        "custom_metadata": {},
    }  # fmt: skip
    _write_json(folder / "_CHECKPOINT_METADATA", about)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
