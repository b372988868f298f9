"""What a decode step reads: the parameters, and on a CPU their kernels laid out in blocks.

The blocks (models/row_products.py) are a copy of the decoder's kernels and of the head. It is made
once for the arrays it is a copy of, and goes when they go.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mt0_tpu import row_kernel
from mt0_tpu.cores import cores_here
from mt0_tpu.models.networks import NetworkConfig
from mt0_tpu.models.row_products import COLUMNS, KERNEL_BLOCKS, LAYER, MOST_ROWS

# The product of blocks runs on one core, XLA's on all: on 2 it takes less CPU time and less wall
# time (benchmarks/LOG.md), on many it may take more of the latter.
MOST_CORES = 4
# mT5-large's copy takes 2.3 GiB, xl's 7. Whoever decodes xl on a CPU is short of memory.
MOST_COPY_BYTES = 4 * 2**30
_ALIGNMENT_BYTES = 64  # for which jax takes a numpy array as it is

_blocks_of: dict[int, jax.Array] = {}  # by the id of the array they are a copy of


class _Kernel(NamedTuple):
    """What a step multiplies rows with: [V, D] of a table, else [D, F] or a stack [L, D, F]."""

    path: tuple[str, ...]
    array: jax.Array
    is_table: bool


def variables(
    params: Any, config: NetworkConfig, rows: int, mesh: Mesh | None = None
) -> dict[str, Any]:
    """Returns the collections to apply the network with in steps of `rows` rows.

    Where blocks are of use, that is for at most MOST_ROWS rows of float32 on one CPU device of at
    most MOST_CORES cores, they are among them: the decoder's kernels and the head once more, up
    to MOST_COPY_BYTES in all.

    Args:
      params: of the network; blocks are made of them at the first call, in a second or two.
      mesh: over which the steps will run.

    Returns:
      "params" as given, and with blocks KERNEL_BLOCKS and LAYER as models/row_products.py has them.
    """
    found: dict[str, Any] = {"params": params}
    # Parameters on one device may be about to be spread over a mesh of several.
    spread = mesh is not None and mesh.size > 1
    if rows > MOST_ROWS or cores_here() > MOST_CORES or spread or not _on_one_cpu(params):
        return found
    kernels = list(_kernels(params, config))
    if not kernels or sum(kernel.array.nbytes for kernel in kernels) > MOST_COPY_BYTES:
        return found
    row_kernel.register()
    found |= {KERNEL_BLOCKS: {}, LAYER: {}}
    for kernel in kernels:
        layers = kernel.array.shape[0]
        stacked = kernel.array.ndim == 3
        numbers = np.arange(layers, dtype=np.int32) if stacked else np.int32(0)
        _put(found[KERNEL_BLOCKS], kernel.path, _blocks(kernel))
        _put(found[LAYER], kernel.path, numbers)
    return found


def _on_one_cpu(params: Any) -> bool:
    leaves = jax.tree.leaves(params)
    if not all(isinstance(leaf, jax.Array) for leaf in leaves):
        return False
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return False
    devices = set().union(*(leaf.devices() for leaf in leaves))
    return len(devices) == 1 and next(iter(devices)).platform == "cpu"


def _kernels(params: Any, config: NetworkConfig) -> Iterator[_Kernel]:
    """Yields what is float32, is computed with in float32 and divides into blocks."""
    tied = config.decoder_only or config.logits_via_embedding
    table = params["token_embedder"]["embedding"]
    if tied and table.dtype == jnp.float32 and table.shape[0] % COLUMNS == 0:
        yield _Kernel(("token_embedder", "embedding"), table, True)
    for keys, array in jax.tree_util.tree_leaves_with_path(params["decoder"]):
        path = ("decoder", *(key.key for key in keys))
        if path[-1] != "kernel" or array.dtype != jnp.float32 or array.shape[-1] % COLUMNS:
            continue
        # The encoder's keys and values are computed once, of many rows.
        if "encoder_decoder_attention" in path and path[-2] in ("key", "value"):
            continue
        # The head is computed in float32 whatever the rest is.
        if "logits_dense" in path or config.jax_dtype == jnp.float32:
            yield _Kernel(path, array, False)


def _put(tree: dict, path: tuple[str, ...], leaf: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = leaf


def _blocks(kernel: _Kernel) -> jax.Array:
    """Returns the blocks [L, N, D, C] of an array, the same ones as long as the array lives."""
    key = id(kernel.array)
    if key not in _blocks_of:
        values = np.asarray(kernel.array)
        if kernel.is_table:
            features, width = values.shape
            host = _aligned((1, features // COLUMNS, width, COLUMNS))
            row_kernel.lay_out_table(values, host)
        else:
            values = values.reshape(-1, *values.shape[-2:])
            layers, width, features = values.shape
            host = _aligned((layers, features // COLUMNS, width, COLUMNS))
            row_kernel.lay_out(values, host)
        _blocks_of[key] = jax.device_put(host, next(iter(kernel.array.devices())))
        weakref.finalize(kernel.array, _blocks_of.pop, key)
    return _blocks_of[key]


def _aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Returns an array that jax takes over without a copy; numpy asks for huge pages for it.

    Memory that XLA allocates has small ones, with which a product of the head takes a fifth more.
    """
    size = int(np.prod(shape))
    words = _ALIGNMENT_BYTES // 4
    raw = np.empty(size + words, np.float32)
    start = -raw.ctypes.data // 4 % words
    return raw[start : start + size].reshape(shape)
