"""The largest values of rows as long as a vocabulary, and where they are.

By blocks: the maxima of blocks cost one pass over the row, and only what is in the best blocks is
looked at more closely. Of equals the first comes first, as in jax.lax.top_k and argmax.

Letters: R rows, V vocabulary, W values of a block, N = V / W blocks, P devices that share V.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mt0_tpu import partitioning

_BLOCK = 64


def arg_max(values_RV: jax.Array) -> jax.Array:
    """Returns the arg max of each row, int32 [R]; of equals the first.

    XLA's own arg max carries an index along with each value: on a CPU a sixth of what the product
    with mT5's head costs. Maxima of blocks first, then the best block, cost nothing beside it.
    """
    rows, vocabulary = values_RV.shape
    if vocabulary % _BLOCK:
        return jnp.argmax(values_RV, axis=-1).astype(jnp.int32)
    values_RNW = values_RV.reshape(rows, -1, _BLOCK)
    block_R = jnp.argmax(jnp.max(values_RNW, axis=2), axis=1)
    best_RW = jnp.take_along_axis(values_RNW, block_R[:, None, None], axis=1)[:, 0]
    return (block_R * _BLOCK + jnp.argmax(best_RW, axis=1)).astype(jnp.int32)


def top_k(values_RV: jax.Array, k: int, mesh: Mesh | None = None) -> tuple[jax.Array, jax.Array]:
    """Returns (values, indices) of the k largest of each row; of equals the first.

    Where 'tensor' cuts the vocabulary, each device finds its own k and only these travel.
    """
    rows, vocabulary = values_RV.shape
    parts = 1 if mesh is None else mesh.shape["tensor"]
    if parts == 1 or vocabulary % parts or k > vocabulary // parts:
        return _top_k_by_blocks(values_RV, k)
    width = vocabulary // parts
    values_RPW = values_RV.reshape(rows, parts, width)
    place = partitioning.shardings(("batch", "vocab", None), values_RPW, mesh)
    values_RPW = jax.lax.with_sharding_constraint(values_RPW, place)
    best_RPk, at_RPk = jax.lax.top_k(values_RPW, k)
    at_RPk = at_RPk + width * jnp.arange(parts, dtype=at_RPk.dtype)[None, :, None]
    # Parts in order, each of them sorted: among equals the first still comes first.
    best_Rk, of_Rk = jax.lax.top_k(best_RPk.reshape(rows, -1), k)
    return best_Rk, jnp.take_along_axis(at_RPk.reshape(rows, -1), of_Rk, axis=1)


def _top_k_by_blocks(values_RV: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """top_k that sorts the maxima of blocks, and then the k blocks with the highest ones.

    The k largest values lie in those; of blocks with equal maxima the first ones suffice.
    """
    rows, vocabulary = values_RV.shape
    if vocabulary % _BLOCK or k * _BLOCK >= vocabulary:
        return jax.lax.top_k(values_RV, k)
    values_RNW = values_RV.reshape(rows, -1, _BLOCK)
    _, block_Rk = jax.lax.top_k(jnp.max(values_RNW, axis=2), k)
    block_Rk = jnp.sort(block_Rk, axis=1)  # of equal values the first must still come first
    kept_RkW = jnp.take_along_axis(values_RNW, block_Rk[:, :, None], axis=1)
    best_Rk, at_Rk = jax.lax.top_k(kept_RkW.reshape(rows, -1), k)
    of_Rk = jnp.take_along_axis(block_Rk, at_Rk // _BLOCK, axis=1)
    return best_Rk, of_Rk * _BLOCK + at_Rk % _BLOCK
