"""T5X's own checkpoints: a msgpack file `checkpoint` and zarr folders of the large arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mt0_tpu.errors import UserError
from mt0_tpu.formats import t5x_folder, t5x_msgpack, t5x_tree, t5x_zarr
from mt0_tpu.formats.weights import TensorInfo, Weights

KIND = "T5X"
FILE = "checkpoint"
VERSION = 3
_TOP_KEYS = ("version", "optimizer", "target", "state")
# T5X knows a spec by these keys; before tensorstore 0.1.14 `path` stood beside them.
_SPEC_KEYS = {"driver", "kvstore", "metadata"}


def find(path: Path) -> Path | None:
    """Returns the checkpoint_<step> folder, or the file, of a T5X checkpoint at a path.

    Args:
      path: a checkpoint's folder, its file, or a folder of checkpoints: then the latest.
    """
    if path.is_file():
        if t5x_msgpack.first_key(path) not in _TOP_KEYS:
            return None
        return path.parent if path.name == FILE else path
    if not path.is_dir():
        return None
    if _is_checkpoint(path):
        return path
    latest = t5x_folder.latest(path)
    return latest if latest is not None and _is_checkpoint(latest) else None


def open_weights(path: Path) -> Weights:
    """Opens a T5X checkpoint that `find` returned; arrays are read one by one later.

    Raises:
      UserError: it was never finished, is of another version than 3, is not whole or damaged.
    """
    folder = path if path.is_dir() else path.parent
    file = path / FILE if path.is_dir() else path
    t5x_folder.refuse_half_written(folder)
    if not file.is_file():
        raise UserError(f"{folder} has the arrays of a T5X checkpoint and no file '{FILE}'; copy "
                        "the checkpoint again")  # fmt: skip
    tree = t5x_msgpack.load(file)
    _check_version(file, tree)
    found = _flatten(tree["optimizer"], (), file)
    leaves = {name: _leaf(value, name, file) for name, value in found}
    return t5x_tree.weights_of(KIND, str(path), leaves)


@dataclasses.dataclass(frozen=True)
class _Inline:
    """An array in the msgpack file."""

    file: Path
    array: t5x_msgpack.InlineArray

    @property
    def info(self) -> TensorInfo:
        return TensorInfo(self.array.shape, self.array.dtype)

    def read(self, index: tuple = ()) -> np.ndarray:
        return t5x_msgpack.read(self.file, self.array)[index]


@dataclasses.dataclass(frozen=True)
class _Number:
    """A number that is no array, such as a step that a tool wrote."""

    value: int | float

    @property
    def info(self) -> TensorInfo:
        return TensorInfo((), np.asarray(self.value).dtype.name)

    def read(self, index: tuple = ()) -> np.ndarray:
        return np.asarray(self.value)


def _is_checkpoint(folder: Path) -> bool:
    file = folder / FILE
    if file.is_file() and file.stat().st_size:
        return t5x_msgpack.first_key(file) in _TOP_KEYS
    # Arrays without the file, or beside an empty one: `open_weights` explains what is not whole.
    return any(folder.glob("target.*/")) and not (folder / "state").exists()


def _check_version(file: Path, tree: Any) -> None:
    if not isinstance(tree, dict):
        raise UserError(f"{file} is no T5X checkpoint: its msgpack is no map; give another")
    version = tree.get("version")
    if version == VERSION and isinstance(tree.get("optimizer"), dict):
        return
    if "version" not in tree:
        raise UserError(
            f"{file} has no version, as T5X's earliest checkpoints (version 0); only version "
            f"{VERSION} can be read: restore and save it once with a T5X of its time"
        )
    if isinstance(version, int) and version < VERSION:
        raise UserError(
            f"{file} is a T5X checkpoint of version {version}, which keeps bfloat16 as bare bits "
            f"or is older still; only version {VERSION} can be read: restore and save it once "
            "with a T5X of its time"
        )
    found = "without 'optimizer'" if version == VERSION else f"of version {version!r}"
    raise UserError(f"{file} is a T5X checkpoint {found}; only version {VERSION}, a map with "
                    "'version' and 'optimizer', can be read")  # fmt: skip


def _flatten(node: Any, path: tuple[str, ...], file: Path) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and not node.keys() >= _SPEC_KEYS:
        for key, child in node.items():
            yield from _flatten(child, (*path, key), file)
    elif node is not None:
        # nil stands for the state of a parameter that no optimizer touches.
        yield ".".join(path), node


def _leaf(value: Any, name: str, file: Path) -> t5x_tree.Leaf:
    if isinstance(value, t5x_msgpack.InlineArray):
        return _Inline(file, value)
    if isinstance(value, dict):
        return _sharded(value, name, file)
    if isinstance(value, int | float):
        return _Number(value)
    raise UserError(f"{file}: {name} is neither an array nor a place of one; give a checkpoint "
                    "that T5X wrote")  # fmt: skip


def _sharded(spec: dict[str, Any], name: str, file: Path) -> t5x_zarr.ZarrArray:
    """The array folder a spec names; its driver and bucket say where it was, not where it is."""
    try:
        place = spec["kvstore"].get("path") or spec["path"]
        expected = tuple(spec["metadata"]["shape"])
        folder = file.parent / place.rstrip("/").rsplit("/", 1)[-1]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: the place of {name} is damaged ({str(spec)[:200]}); copy "
                        "the checkpoint again") from error  # fmt: skip
    if spec["driver"] != "zarr":
        raise UserError(f"{file}: {name} is stored as {spec['driver']!r}; only 'zarr' can be read")
    if not folder.is_dir():
        raise UserError(f"{file.parent} lacks the folder {folder.name}; copy the checkpoint again")
    header = folder / t5x_zarr.HEADER
    content = header.read_bytes() if header.is_file() else None
    kvstore = {"driver": "file", "path": f"{folder.absolute()}/"}
    keys = {child.name for child in folder.iterdir()}
    array = t5x_zarr.inspect(content, keys, str(folder), kvstore)
    if array.info.shape != expected:
        raise UserError(
            f"{folder} holds an array of shape {array.info.shape}, and {file} says {expected}; "
            "copy the checkpoint again"
        )
    return array
