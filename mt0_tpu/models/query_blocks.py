"""Attention a block of queries at a time, so that the logits of only one block exist.

Whole, they are B * H * S * T float32 numbers, four times over while their gradients are made; at a
thousand positions that is more than all a layer keeps. The gradient computes a block's again, which
a rematerialised layer would have done anyway. (Rabe and Staats, 2021, without blocks of keys.)

Letters: B batch rows, S queries, s of a block, H heads, K head width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from mt0_tpu.models.layers import KERNEL_PRODUCT


def attend_by_blocks(
    attend: Callable[..., jax.Array],
    block: int | None,
    query_BSHK: jax.Array,
    *parts: tuple[jax.Array | None, int],
) -> jax.Array:
    """Returns attend(query, *arrays) [B, S, H, K], put together from blocks of queries.

    Args:
      attend: gives [B, s, H, K] of s queries; what does not depend on them it brings along.
      block: the most queries at a time; None is all. The largest divisor of S up to it is taken,
        unless that is less than half of it, where all are.
      parts: arrays that are cut with the queries, and their axis of queries; None stays None.
    """
    length = query_BSHK.shape[1]
    pieces = 1 if block is None else _pieces(length, block)
    if pieces == 1:
        return attend(query_BSHK, *(array for array, _ in parts))

    # Inside a scan the barrier against common-subexpression elimination is not needed.
    attend_again = functools.partial(jax.checkpoint, prevent_cse=False)(attend)

    def body(_, cut):
        return None, attend_again(*cut)

    cut = [_cut(array, axis, pieces) for array, axis in ((query_BSHK, 1), *parts)]
    _, mixed = jax.lax.scan(body, None, tuple(cut))
    mixed_BSHK = jnp.moveaxis(mixed, 0, 1).reshape(query_BSHK.shape)
    # Kept like a product: else 'minimal' would go through the blocks a third time to make it again.
    return checkpoint_name(mixed_BSHK, KERNEL_PRODUCT)


def _pieces(length: int, block: int) -> int:
    width = next(size for size in range(min(block, length), 0, -1) if length % size == 0)
    return length // width if 2 * width > block else 1


def _cut(array: jax.Array | None, axis: int, pieces: int) -> jax.Array | None:
    """Moves blocks along an axis to the front: [.., S, ..] becomes [S / s, .., s, ..]."""
    if array is None:
        return None
    shape = array.shape
    split = array.reshape(*shape[:axis], pieces, shape[axis] // pieces, *shape[axis + 1 :])
    return jnp.moveaxis(split, axis, 0)
