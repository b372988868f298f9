"""Between our stacked parameter tree and flat, unscanned names in T5X's manner.

T5X stores layer i of a tower as 'encoder.layers_i.attention.query.kernel'; we store all layers of
a tower in one array [L, ...] at encoder/layers/attention/query/kernel. Shapes are the same but for
that axis. BLOOM, which T5X does not know, follows the same rule.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax import traverse_util

from mt0_tpu.models.networks import NetworkConfig, abstract_params

LAYERS = "layers"


def unstack(params: Any) -> dict[str, Any]:
    """Returns {T5X name: array} with one entry per layer, in the order of the tree.

    NumPy leaves give views, jax leaves slices; jax.ShapeDtypeStruct leaves give structs.
    """
    flat = {}
    for path, value in traverse_util.flatten_dict(nn.meta.unbox(params)).items():
        if LAYERS not in path:
            flat[".".join(path)] = value
            continue
        at = path.index(LAYERS)
        for i in range(value.shape[0]):
            name = ".".join((*path[:at], f"{LAYERS}_{i}", *path[at + 1 :]))
            flat[name] = _layer(value, i)
    return flat


def _layer(stacked: Any, i: int) -> Any:
    if isinstance(stacked, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(stacked.shape[1:], stacked.dtype)
    return stacked[i]


def expected(config: NetworkConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns {T5X name: shape and dtype} of every parameter of a network."""
    return unstack(abstract_params(config))


def stack(flat: dict[str, Any], config: NetworkConfig) -> Any:
    """Returns our parameter tree from {T5X name: array}; jax arrays stay jax arrays.

    Raises ValueError naming every parameter that is missing, unknown or of another shape.
    """
    _check(flat, config)
    tree = {}
    for path, leaf in traverse_util.flatten_dict(abstract_params(config)).items():
        if LAYERS not in path:
            tree[path] = flat[".".join(path)]
            continue
        at = path.index(LAYERS)
        names = [
            ".".join((*path[:at], f"{LAYERS}_{i}", *path[at + 1 :])) for i in range(leaf.shape[0])
        ]
        arrays = [flat[name] for name in names]
        on_device = any(isinstance(array, jax.Array) for array in arrays)
        tree[path] = jax.numpy.stack(arrays) if on_device else np.stack(arrays)
    return traverse_util.unflatten_dict(tree)


def _check(flat: dict[str, Any], config: NetworkConfig) -> None:
    wanted = expected(config)
    wrong = [f"{name}: missing" for name in wanted if name not in flat]
    wrong += [f"{name}: not a parameter of this model" for name in flat if name not in wanted]
    wrong += [
        f"{name}: expected {leaf.shape}, found {tuple(flat[name].shape)}"
        for name, leaf in wanted.items()
        if name in flat and tuple(flat[name].shape) != leaf.shape
    ]
    if wrong:
        shown = "; ".join(wrong[:8]) + (f"; and {len(wrong) - 8} more" if len(wrong) > 8 else "")
        raise ValueError(f"These parameters do not fit the model: {shown}.")
