"""One device's share of the vocabulary head: logits by blocks of tokens, and their gradients.

B batch rows, S decoder length, D width, V vocabulary of this device, N tokens moved to the front,
n tokens of one block, m those of the blocks that devices work off together (head.token_axes).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mt0_tpu.errors import UserError

# Products of fewer rows are bound by reading the kernel (a quarter slower at 64 rows on a CPU).
_EFFICIENT_ROWS = 256


class LossSums(NamedTuple):
    """Float32 sums over tokens of weight * …; loss = cross_ent + z_loss."""

    loss: jax.Array
    cross_ent: jax.Array
    z_loss: jax.Array
    correct: jax.Array  # weight where the arg max (the first, on ties) is the target
    weight: jax.Array


@dataclasses.dataclass(frozen=True)
class Head:
    """The static part of a call; hashable, so that custom_vjp can carry it.

    Of the mesh axes that split rows, those in `token_axes` split the vocabulary as well: their
    devices gather each other's tokens, block by block, instead of the kernel.
    """

    z_loss: float
    label_smoothing: float
    logits_block_mib: float
    head_dtype: str
    mesh: Mesh | None
    batch_axes: tuple[str, ...]
    embed_axes: tuple[str, ...]
    vocab_axes: tuple[str, ...]
    token_axes: tuple[str, ...] = ()

    def ways(self, axes: tuple[str, ...]) -> int:
        """Into how many parts mesh axes split."""
        return 1 if self.mesh is None else math.prod(self.mesh.shape[axis] for axis in axes)

    @property
    def vocab_shards(self) -> int:
        return self.ways(self.vocab_axes)

    def without_tokens(self, axes: tuple[str, ...]) -> tuple[str, ...]:
        """Those of some axes along which devices do not share their tokens."""
        return tuple(axis for axis in axes if axis not in self.token_axes)


class _Tokens(NamedTuple):
    """The positions of weight != 0 of one device, moved to the front."""

    hidden_ND: jax.Array
    targets_N: jax.Array
    weights_N: jax.Array
    order_N: jax.Array  # where each came from; past the end for filling
    blocks: jax.Array  # how many blocks hold a real position


def _compact(head: Head, block: int, hidden_BSD, targets_BS, weights_BS) -> _Tokens:
    weights_N = weights_BS.reshape(-1).astype(jnp.float32)
    total = weights_N.shape[0]
    room = -(-total // block) * block
    order_N = jnp.nonzero(weights_N != 0, size=room, fill_value=total)[0]
    take = functools.partial(jnp.take, indices=order_N, axis=0, mode="fill", fill_value=0)
    blocks = -(-jnp.count_nonzero(weights_N) // block)
    if head.mesh is not None:
        # The same count everywhere: devices that share a vocabulary meet inside the loop.
        blocks = jax.lax.pmax(blocks, head.mesh.axis_names)
    return _Tokens(
        take(hidden_BSD.reshape(total, -1)),
        take(targets_BS.reshape(-1)),
        take(weights_N),
        order_N,
        blocks,
    )


def block_size(head: Head, tokens: int, vocabulary: int) -> int:
    """Rows of one block: the memory bound, but not so many that padding is computed."""
    together = head.ways(head.token_axes)
    row_bytes = 4 * vocabulary * together
    fits = int(head.logits_block_mib * 2**20) // row_bytes
    if fits < 1:
        raise UserError(
            f"logits_block_mib is {head.logits_block_mib}, but the logits of one token take"
            f" {row_bytes / 2**20:.2f} MiB a device; write"
            f" {math.ceil(row_bytes / 2**20)} or more."
        )
    efficient = max(1, _EFFICIENT_ROWS // together)
    if tokens <= min(fits, efficient):
        return tokens
    # The loop runs whole blocks, so an eighth of the tokens bounds what padding can cost.
    block = min(fits, max(efficient, -(-tokens // 8)))
    return block // 8 * 8 or block


class _BlockStatistics(NamedTuple):
    logits_nV: jax.Array
    local_n: jax.Array  # the target's column on this device; out of range: on another
    lse_n: jax.Array
    label_n: jax.Array  # the target's logit
    correct_n: jax.Array


def _statistics(head: Head, hidden_nD, kernel_DV, targets_n) -> _BlockStatistics:
    """Logits of one block and what the whole vocabulary says about them, all float32."""
    axes, width = head.vocab_axes, kernel_DV.shape[1]
    sharded = head.mesh is not None and axes
    logits_nV = _product("nd,dv->nv", head, hidden_nD, kernel_DV)
    offset = jax.lax.axis_index(axes) * width if sharded else 0
    columns_V = jnp.arange(width, dtype=targets_n.dtype) + offset
    local_n = targets_n - offset
    mine_n = (local_n >= 0) & (local_n < width)
    label_n = jnp.take_along_axis(logits_nV, jnp.clip(local_n, 0, width - 1)[:, None], axis=1)
    label_n = jnp.where(mine_n, label_n[:, 0], 0.0)
    max_n = jnp.max(logits_nV, axis=1)
    if sharded:
        label_n = jax.lax.psum(label_n, axes)
        max_n = jax.lax.pmax(max_n, axes)
    sum_n = jnp.sum(jnp.exp(logits_nV - max_n[:, None]), axis=1)
    # An earlier column with the same logit is the arg max: a third of argmax's time on a CPU.
    earlier_nV = (logits_nV == max_n[:, None]) & (columns_V[None, :] < targets_n[:, None])
    beaten_n = jnp.any(earlier_nV, axis=1)
    if sharded:
        sum_n = jax.lax.psum(sum_n, axes)
        beaten_n = jax.lax.psum(beaten_n.astype(jnp.int32), axes) > 0
    correct_n = (label_n == max_n) & ~beaten_n
    return _BlockStatistics(logits_nV, local_n, max_n + jnp.log(sum_n), label_n, correct_n)


def _product(equation: str, head: Head, left: jax.Array, right: jax.Array) -> jax.Array:
    dtype = jnp.dtype(head.head_dtype)
    return jnp.einsum(
        equation, left.astype(dtype), right.astype(dtype), preferred_element_type=jnp.float32
    )


def _target_distribution(head: Head, vocabulary: int) -> tuple[float, float, float]:
    """Probability of the target, of each other token, and the entropy of that distribution."""
    high = 1.0 - head.label_smoothing
    if head.label_smoothing == 0.0:
        return 1.0, 0.0, 0.0
    low = head.label_smoothing / (vocabulary - 1)
    return high, low, -(high * math.log(high) + (vocabulary - 1) * low * math.log(low))


def _block_sums(head: Head, stats: _BlockStatistics, weights_n) -> LossSums:
    vocabulary = stats.logits_nV.shape[1] * head.vocab_shards
    high, low, entropy = _target_distribution(head, vocabulary)
    cross_n = stats.lse_n - high * stats.label_n - entropy
    if low:
        all_n = jnp.sum(stats.logits_nV, axis=1)
        if head.mesh is not None and head.vocab_axes:
            all_n = jax.lax.psum(all_n, head.vocab_axes)
        cross_n = cross_n - low * (all_n - stats.label_n)
    z_n = head.z_loss * stats.lse_n * stats.lse_n
    parts = (cross_n + z_n, cross_n, z_n, stats.correct_n.astype(jnp.float32), jnp.float32(1.0))
    return LossSums(*(jnp.sum(weights_n * part) for part in parts))


def _dlogits(head: Head, stats: _BlockStatistics, weights_n) -> jax.Array:
    """d (weighted loss) / d logits = weight * (softmax * (1 + 2 z lse) - target distribution)."""
    vocabulary = stats.logits_nV.shape[1] * head.vocab_shards
    high, low, _ = _target_distribution(head, vocabulary)
    softmax_nV = jnp.exp(stats.logits_nV - stats.lse_n[:, None])
    gain_n = weights_n * (1.0 + 2.0 * head.z_loss * stats.lse_n)
    dlogits_nV = softmax_nV * gain_n[:, None]
    if low:
        dlogits_nV = dlogits_nV - (low * weights_n)[:, None]
    # One entry a row: a scatter in place beats comparing every column with the target.
    rows_n, width = jnp.arange(weights_n.shape[0]), dlogits_nV.shape[1]
    columns_n = jnp.where(stats.local_n < 0, width, stats.local_n)  # negative ids would wrap
    return dlogits_nV.at[rows_n, columns_n].add((low - high) * weights_n, mode="drop")


def _zero_sums() -> LossSums:
    return LossSums(*(jnp.float32(0.0) for _ in LossSums._fields))


def _add_sums(a: LossSums, b: LossSums) -> LossSums:
    return LossSums(*(x + y for x, y in zip(a, b, strict=True)))


def _all_rows(head: Head, sums: LossSums) -> LossSums:
    """Sums over devices; those that share their tokens have each other's already."""
    axes = head.without_tokens(head.batch_axes)
    return jax.lax.psum(sums, axes) if head.mesh is not None and axes else sums


def _together(head: Head, *arrays_n: jax.Array) -> tuple[jax.Array, ...]:
    """This device's block and those of the devices that share its tokens, end to end."""
    if not head.token_axes:
        return arrays_n
    gather = functools.partial(jax.lax.all_gather, axis_name=head.token_axes, tiled=True)
    return tuple(gather(array) for array in arrays_n)


def _own(head: Head, array_m: jax.Array, block: int) -> jax.Array:
    """This device's block among those of _together."""
    if not head.token_axes:
        return array_m
    start = jax.lax.axis_index(head.token_axes) * block
    return jax.lax.dynamic_slice_in_dim(array_m, start, block)


def _block_of(tokens: _Tokens, index, block: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    return tuple(
        jax.lax.dynamic_slice_in_dim(array, index * block, block)
        for array in (tokens.hidden_ND, tokens.targets_N, tokens.weights_N)
    )


def sums_of_shard(head: Head, hidden_BSD, kernel_DV, targets_BS, weights_BS) -> LossSums:
    block = block_size(head, targets_BS.size, kernel_DV.shape[1])
    tokens = _compact(head, block, hidden_BSD, targets_BS, weights_BS)

    def body(index, sums):
        hidden_mD, targets_m, weights_m = _together(head, *_block_of(tokens, index, block))
        stats = _statistics(head, hidden_mD, kernel_DV, targets_m)
        return _add_sums(sums, _block_sums(head, stats, weights_m))

    return _all_rows(head, jax.lax.fori_loop(0, tokens.blocks, body, _zero_sums()))


def log_probs_of_shard(head: Head, hidden_BSD, kernel_DV, targets_BS, weights_BS):
    block = block_size(head, targets_BS.size, kernel_DV.shape[1])
    tokens = _compact(head, block, hidden_BSD, targets_BS, weights_BS)

    def body(index, carry):
        hidden_mD, targets_m, _ = _together(head, *_block_of(tokens, index, block))
        stats = _statistics(head, hidden_mD, kernel_DV, targets_m)
        new = (stats.label_n - stats.lse_n, stats.correct_n)
        return tuple(
            jax.lax.dynamic_update_slice_in_dim(old, _own(head, x, block), index * block, 0)
            for old, x in zip(carry, new, strict=True)
        )

    start = tuple(jnp.zeros(tokens.order_N.shape, dtype) for dtype in (jnp.float32, bool))
    results = jax.lax.fori_loop(0, tokens.blocks, body, start)
    return tuple(_scatter_back(tokens, x, targets_BS.shape) for x in results)


def _scatter_back(tokens: _Tokens, values_N: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    flat = jnp.zeros((math.prod(shape[:2]), *values_N.shape[1:]), values_N.dtype)
    return flat.at[tokens.order_N].set(values_N, mode="drop").reshape(shape)


def gradients_of_shard(head: Head, hidden_BSD, kernel_DV, targets_BS, weights_BS):
    """The sums and their gradients in hidden and kernel, float32, of one device's rows."""
    block = block_size(head, targets_BS.size, kernel_DV.shape[1])
    tokens = _compact(head, block, hidden_BSD, targets_BS, weights_BS)

    def gradients(*block_n):
        hidden_nD, targets_n, weights_n = _together(head, *block_n)
        stats = _statistics(head, hidden_nD, kernel_DV, targets_n)
        dlogits_nV = _dlogits(head, stats, weights_n)
        dhidden_nD = _product("nv,dv->nd", head, dlogits_nV, kernel_DV)
        # The kernel is read for the last time above. Were the order of the two left open, an
        # optimizer updating it in place would have to copy it first.
        hidden_nD = _after(dhidden_nD, hidden_nD)
        dkernel_DV = _product("nd,nv->dv", head, hidden_nD, dlogits_nV)
        if head.token_axes:  # summed over their shares of the vocabulary, each its own tokens
            dhidden_nD = jax.lax.psum_scatter(dhidden_nD, head.token_axes, tiled=True)
        return _block_sums(head, stats, weights_n), dhidden_nD, dkernel_DV

    def body(index, carry):
        sums, dhidden_ND, dkernel_DV = carry
        new_sums, dhidden_nD, new_DV = gradients(*_block_of(tokens, index, block))
        dhidden_ND = jax.lax.dynamic_update_slice_in_dim(dhidden_ND, dhidden_nD, index * block, 0)
        return _add_sums(sums, new_sums), dhidden_ND, dkernel_DV + new_DV

    if tokens.order_N.shape[0] == block:  # no loop, so no second buffer as large as the kernel
        sums, dhidden_ND, dkernel_DV = gradients(*_block_of(tokens, 0, block))
    else:
        zeros = (jnp.zeros(x.shape, jnp.float32) for x in (tokens.hidden_ND, kernel_DV))
        carry = (_zero_sums(), *zeros)
        sums, dhidden_ND, dkernel_DV = jax.lax.fori_loop(0, tokens.blocks, body, carry)
    dhidden_BSD = _scatter_back(tokens, dhidden_ND, hidden_BSD.shape)
    if head.mesh is not None:
        axes = head.without_tokens(head.vocab_axes)
        dhidden_BSD = jax.lax.psum(dhidden_BSD, axes) if axes else dhidden_BSD
        dkernel_DV = _reduce_kernel(head, dkernel_DV)
    return _all_rows(head, sums), dhidden_BSD, dkernel_DV


def _after(first: jax.Array, then: jax.Array) -> jax.Array:
    """`then`, but not before `first` is known: XLA:CPU drops optimization_barrier too early."""
    one = first.reshape(-1)[0]
    never = (one != one) & (one == one)
    return jnp.where(never, jnp.zeros_like(then), then)


def _reduce_kernel(head: Head, dkernel_DV: jax.Array) -> jax.Array:
    """Sums over the batch axes and leaves each device its rows along the embed axes."""
    rest = head.without_tokens(tuple(a for a in head.batch_axes if a not in head.embed_axes))
    if rest:
        dkernel_DV = jax.lax.psum(dkernel_DV, rest)
    # Major axis first, the order in which a PartitionSpec splits a dimension.
    for axis in head.embed_axes:
        if axis in head.batch_axes:
            dkernel_DV = jax.lax.psum_scatter(dkernel_DV, axis, scatter_dimension=0, tiled=True)
        else:
            rows = dkernel_DV.shape[0] // head.mesh.shape[axis]
            start = jax.lax.axis_index(axis) * rows
            dkernel_DV = jax.lax.dynamic_slice_in_dim(dkernel_DV, start, rows, 0)
    return dkernel_DV
