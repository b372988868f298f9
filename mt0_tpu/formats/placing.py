"""Weights of any format onto devices, as our own tree: layers stacked, leaves laid out by sharding.

Dims: L layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from mt0_tpu.errors import UserError
from mt0_tpu.formats.weights import TensorInfo, Weights
from mt0_tpu.models.names import LAYERS


def place_params(weights: Weights, placed: Any) -> Any:
    """Returns the parameters as arrays that lie as `placed` says, in its dtypes.

    Args:
      weights: what to read; one stacked tensor at a time is in memory.
      placed: our parameter tree of jax.ShapeDtypeStructs with shardings.

    Raises UserError listing every parameter that is missing, unknown or of another shape.
    """
    flat = traverse_util.flatten_dict(placed)
    check(weights, weights.tensors(), {path: leaf.shape for path, leaf in flat.items()})
    arrays = {path: _place(leaf, path, weights.read) for path, leaf in flat.items()}
    return traverse_util.unflatten_dict(arrays)


def place_state(weights: Weights, placed: Any) -> Any:
    """Returns Adafactor's statistics the same way; UserError where they do not fit."""
    flat = traverse_util.flatten_dict(placed)
    found = weights.state_tensors()
    shapes = {
        path: leaf.shape
        for path, leaf in flat.items()
        # The (1,)-placeholders say nothing, and formats differ in whether they keep them.
        if leaf.shape != (1,)
    }
    check(weights, {n: info for n, info in found.items() if info.shape != (1,)}, shapes)
    arrays = {}
    for path, leaf in flat.items():
        read = weights.read_state if path in shapes else (lambda name: np.zeros(1, np.float32))
        arrays[path] = _place(leaf, path if path in shapes else ("placeholder",), read)
    return traverse_util.unflatten_dict(arrays)


def names_of(path: tuple[str, ...], shape: tuple[int, ...]) -> list[str]:
    """Returns the T5X names behind a leaf of ours: one, or one a layer."""
    if LAYERS not in path:
        return [".".join(path)]
    at = path.index(LAYERS)
    return [".".join((*path[:at], f"{LAYERS}_{i}", *path[at + 1 :])) for i in range(shape[0])]


def check(
    weights: Weights,
    found: Mapping[str, TensorInfo],
    shapes: Mapping[tuple[str, ...], tuple[int, ...]],
) -> None:
    """Raises UserError unless `found` holds exactly the tensors behind the leaves `shapes`."""
    wanted: dict[str, tuple[int, ...]] = {}
    for path, shape in shapes.items():
        one = shape[1:] if LAYERS in path else shape
        wanted |= dict.fromkeys(names_of(path, shape), one)
    wrong = [
        f"{name}: expected {wanted.get(name, 'nothing')}, "
        f"found {found[name].shape if name in found else 'nothing'}"
        for name in sorted(wanted.keys() | found.keys())
        if name not in found or found[name].shape != wanted.get(name)
    ]
    if wrong:
        more = f" and {len(wrong) - 6} more" if len(wrong) > 6 else ""
        raise UserError(
            f"{weights.path} ({weights.kind}) does not fit the model: {'; '.join(wrong[:6])}"
            f"{more}; use the model gin of its size (gin/models)"
        )


def _place(leaf: jax.ShapeDtypeStruct, path: tuple[str, ...], read) -> jax.Array:
    parts = [np.asarray(read(name), leaf.dtype) for name in names_of(path, leaf.shape)]
    whole = np.stack(parts) if LAYERS in path else parts[0]
    return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: whole[index])
