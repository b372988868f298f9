"""T5X's checkpoints in Orbax form: every array, the step too, in one OCDBT store."""

from __future__ import annotations

import ast
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import tensorstore

from mt0_tpu.errors import UserError
from mt0_tpu.formats import t5x_folder, t5x_tree, t5x_zarr
from mt0_tpu.formats.weights import Weights

KIND = "T5X Orbax"
STORE = "state"
TREE = "_METADATA"
MANIFEST = "manifest.ocdbt"


def find(path: Path) -> Path | None:
    """Returns the checkpoint_<step> folder of a T5X Orbax checkpoint at a path.

    Args:
      path: a checkpoint's folder, its folder 'state', or a folder of checkpoints: then the latest.
    """
    folders = [path, path.parent if path.name == STORE else None, t5x_folder.latest(path)]
    return next((folder for folder in folders if folder and _is_checkpoint(folder)), None)


def open_weights(path: Path) -> Weights:
    """Opens a T5X Orbax checkpoint that `find` returned; arrays are read one by one later.

    Raises:
      UserError: it was never finished, lacks arrays, is damaged or of a kind T5X does not write.
    """
    t5x_folder.refuse_half_written(path)
    store = path / STORE
    tree = _tree(store / TREE)
    if tree.get("use_zarr3"):
        raise UserError(f"{store} holds zarr3 arrays; only zarr v2, which T5X writes, can be read: "
                        "save it with use_zarr3=False")  # fmt: skip
    names = [".".join(key) for key in _keys(store / TREE, tree)]
    # Without OCDBT, Orbax keeps the same keys as files.
    in_files = tree.get("use_ocdbt") is False
    if not in_files and not (store / MANIFEST).is_file():
        raise UserError(f"{store} has no {MANIFEST}, so its arrays cannot be found; copy the "
                        "checkpoint again")  # fmt: skip
    leaves = _from_files(store, names) if in_files else _from_ocdbt(store, names)
    return t5x_tree.weights_of(KIND, str(path), leaves)


def _is_checkpoint(folder: Path) -> bool:
    """Says whether the tree of a folder's store has T5X's 'target'; our own runs' trees do not."""
    store = folder / STORE
    if t5x_folder.is_half_written(folder):
        return store.is_dir()
    if t5x_folder.step_of(folder) is not None:
        # T5X's name: where the tree is damaged, `open_weights` says so.
        return (store / MANIFEST).is_file() or (store / TREE).is_file()
    try:
        text = (store / TREE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "('target'," in text


def _tree(file: Path) -> dict[str, Any]:
    try:
        tree = json.loads(file.read_bytes())
        if not isinstance(tree["tree_metadata"], dict):
            raise TypeError("tree_metadata is no map")
        return tree
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} cannot be read as Orbax's tree ({type(error).__name__}: {error});"
                        " copy the checkpoint again") from error  # fmt: skip


def _keys(file: Path, tree: dict[str, Any]) -> list[tuple[str, ...]]:
    """Returns the paths of the leaves that are arrays: keys are tuples, written as text."""
    try:
        found = []
        for text, about in tree["tree_metadata"].items():
            kind = about.get("value_metadata", {}).get("value_type")
            if kind not in ("None", "Dict"):
                found.append(tuple(str(part) for part in ast.literal_eval(text)))
        return found
    except (ValueError, SyntaxError, AttributeError, TypeError) as error:
        raise UserError(f"{file} has keys that are no tuples ({error}); copy the checkpoint "
                        "again") from error  # fmt: skip


def _from_files(store: Path, names: list[str]) -> dict[str, t5x_tree.Leaf]:
    leaves = {}
    for name in names:
        folder = store / name
        keys = {child.name for child in folder.iterdir()} if folder.is_dir() else set()
        header = (folder / t5x_zarr.HEADER).read_bytes() if t5x_zarr.HEADER in keys else None
        kvstore = {"driver": "file", "path": f"{folder.absolute()}/"}
        leaves[name] = t5x_zarr.inspect(header, keys, str(folder), kvstore)
    return leaves


def _from_ocdbt(store: Path, names: list[str]) -> dict[str, t5x_tree.Leaf]:
    base = {"driver": "file", "path": f"{store.absolute()}/"}
    try:
        opened = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
        keys = defaultdict(set)
        for key in opened.list().result():
            name, _, file = key.decode().rpartition("/")
            keys[name].add(file)
        present = [name for name in names if t5x_zarr.HEADER in keys[name]]
        reads = [opened.read(f"{name}/{t5x_zarr.HEADER}") for name in present]
        headers = {name: read.result().value for name, read in zip(present, reads, strict=True)}
    except ValueError as error:
        reason = str(error).splitlines()[0][:300]
        raise UserError(f"{store} is damaged ({reason}); copy the checkpoint again") from error
    return {
        name: t5x_zarr.inspect(
            headers.get(name),
            keys[name],
            f"{store}: {name}",
            {"driver": "ocdbt", "base": base, "path": f"{name}/"},
        )
        for name in names
    }
