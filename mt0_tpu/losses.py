"""Softmax cross-entropy over a large vocabulary, never holding [tokens, vocabulary] logits.

B batch rows, S decoder length, D width, V vocabulary (of this shard), N tokens (flattened),
n tokens of one block.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mt0_tpu.errors import UserError, did_you_mean
from mt0_tpu.vocabulary_blocks import (
    Head,
    LossSums,
    block_size,
    gradients_of_shard,
    log_probs_of_shard,
    sums_of_shard,
)

NORMALIZING_FACTORS = (
    "NUM_REAL_TARGET_TOKENS",
    "NUM_TOTAL_TARGET_TOKENS",
    "AVERAGE_PER_SEQUENCE",
)
LossNormalizingFactor = float | str | None


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """The loss of a run, in T5X's terms; mT5 was trained with z_loss 1e-4.

    logits_block_mib bounds the float32 logits alive at a time (per device). normalize_over_rows
    divides the weights of every so many rows by their sum and averages over these groups:
    Megatron's loss, its micro-batch being that many rows. None normalises the batch as a whole.
    """

    z_loss: float = 1e-4
    label_smoothing: float = 0.0
    loss_normalizing_factor: LossNormalizingFactor = None
    logits_block_mib: int = 256
    normalize_over_rows: int | None = None

    def __post_init__(self) -> None:
        if self.z_loss < 0:
            raise UserError(f"LossConfig.z_loss is {self.z_loss}; write 0 or more, e.g. 1e-4.")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(
                f"LossConfig.label_smoothing is {self.label_smoothing}; write a number from 0 up"
                f" to, not including, 1."
            )
        if self.logits_block_mib <= 0:
            raise UserError(
                f"LossConfig.logits_block_mib is {self.logits_block_mib}; write a size in MiB > 0,"
                f" e.g. 256."
            )
        check_normalizing_factor(self.loss_normalizing_factor)
        rows = self.normalize_over_rows
        if rows is not None and (isinstance(rows, bool) or not isinstance(rows, int) or rows < 1):
            raise UserError(
                f"LossConfig.normalize_over_rows is {rows!r}; write a number of rows, such as 1, "
                "or None for the whole batch"
            )

    def check_batch_size(self, batch_size: int) -> None:
        """Raises UserError unless a batch falls into groups of normalize_over_rows."""
        rows = self.normalize_over_rows
        if rows and batch_size % rows:
            raise UserError(
                f"BATCH_SIZE is {batch_size} and LossConfig.normalize_over_rows {rows}; write a "
                f"batch size that is a multiple of {rows}"
            )


def check_normalizing_factor(factor: LossNormalizingFactor) -> None:
    """Raises UserError unless `factor` is None, a positive number or one of the names."""
    if factor is None or (isinstance(factor, str) and factor in NORMALIZING_FACTORS):
        return
    if isinstance(factor, str):
        raise UserError(
            f"LOSS_NORMALIZING_FACTOR is '{factor}'; write None, a number or one of"
            f" {', '.join(NORMALIZING_FACTORS)}."
            f"{did_you_mean(factor.upper(), NORMALIZING_FACTORS)}"
        )
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not factor > 0:
        raise UserError(
            f"LOSS_NORMALIZING_FACTOR is {factor!r}; write None, a number > 0 or one of"
            f" {', '.join(NORMALIZING_FACTORS)}."
        )


def normalized_weights(
    batch: dict[str, jax.Array],
    factor: LossNormalizingFactor,
    normalize_over_rows: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Returns the token weights [B, S] and the divisor of their loss sum, both float32.

    Call it once, on the whole batch: microbatches then sum to the loss of one big batch (T5X
    normalises each microbatch by itself). AVERAGE_PER_SEQUENCE divides each weight by the sum
    over its sequence (a segment of a packed row, or the row); the divisor is then the number of
    sequences. Where there is no weight at all the divisor is 1, so that 0/0 is 0. With
    normalize_over_rows the weights of every so many rows sum to 1, and the divisor is their groups.
    """
    check_normalizing_factor(factor)
    if normalize_over_rows:
        weights_BS, _ = normalized_weights(batch, factor)
        groups = weights_BS.reshape(-1, normalize_over_rows, weights_BS.shape[1])
        totals = jnp.sum(groups, axis=(1, 2), keepdims=True)
        groups = jnp.where(totals == 0, 0.0, groups / jnp.where(totals == 0, 1.0, totals))
        filled = jnp.sum(totals > 0, dtype=jnp.float32)
        return groups.reshape(weights_BS.shape), jnp.maximum(filled, 1.0)
    targets = batch["decoder_target_tokens"]
    weights = batch.get("decoder_loss_weights")
    weights = (targets > 0 if weights is None else weights).astype(jnp.float32)
    if factor is None:
        return weights, jnp.float32(1.0)
    if not isinstance(factor, str):
        return weights, jnp.float32(factor)
    if factor == "NUM_TOTAL_TARGET_TOKENS":
        return weights, jnp.float32(targets.size)
    if factor == "AVERAGE_PER_SEQUENCE":
        totals = _sequence_totals(weights, batch.get("decoder_segment_ids"))
        weights = jnp.where(totals == 0, 0.0, weights / jnp.where(totals == 0, 1.0, totals))
    total = jnp.sum(weights)
    return weights, jnp.where(total == 0, 1.0, total)


def _sequence_totals(weights_BS: jax.Array, segment_ids_BS: jax.Array | None) -> jax.Array:
    if segment_ids_BS is None:
        return jnp.sum(weights_BS, axis=1, keepdims=True)
    # Compared pairwise, fused into the sum: any ids do, and rows stay on their device.
    same = segment_ids_BS[:, :, None] == segment_ids_BS[:, None, :]
    return jnp.sum(jnp.where(same, weights_BS[:, None, :], 0.0), axis=2)


def _ways(mesh: Mesh | None, axes: Sequence[str]) -> int:
    return 1 if mesh is None else math.prod(mesh.shape[axis] for axis in axes)


def _placement(mesh, batch_axes, embed_axes, vocab_axes, hidden_BSD, kernel_DV):
    """The mesh and the axes that split anything; a kernel dimension that cannot be stays whole.

    That is how partitioning places such a kernel too. A collective of one device would still
    copy its operand, so axes of size 1 are left out, and with them a mesh of one device.

    Where the kernel is split along axes that split the rows as well, either the kernel or the
    tokens have to be gathered along them. The tokens are where they are fewer than the kernel's
    columns: for mT5-xxl on 16 x 4 devices below 62,528 positions of 16 devices, and then neither
    the whole width of the kernel nor that of its gradient is ever on one device.
    """
    rows, ways = hidden_BSD.shape[0], _ways(mesh, batch_axes)
    if rows % ways:
        raise UserError(
            f"The loss has {rows} batch rows for {ways} devices of mesh axes {tuple(batch_axes)};"
            f" choose a batch size (per microbatch) that is a multiple of {ways}."
        )
    if mesh is None or mesh.size == 1:
        return None, (), (), (), ()
    split: list[tuple[str, ...]] = []
    for size, axes in zip(
        (rows, *kernel_DV.shape), (batch_axes, embed_axes, vocab_axes), strict=True
    ):
        axes = tuple(axis for axis in axes if mesh.shape[axis] > 1)
        split.append(() if size % _ways(mesh, axes) else axes)
    batch, embed, vocab = split
    tokens = hidden_BSD.shape[1] * rows // ways * _ways(mesh, embed)
    columns, rest = divmod(kernel_DV.shape[1], _ways(mesh, vocab + embed))
    together = set(embed) <= set(batch) and rest == 0 and tokens < columns * _ways(mesh, embed)
    if embed and together:
        return mesh, batch, (), vocab + embed, embed
    return mesh, batch, embed, vocab, ()


def head_blocks(
    hidden_BSD: jax.ShapeDtypeStruct,
    kernel_DV: jax.ShapeDtypeStruct,
    *,
    logits_block_mib: float = 256,
    mesh: Mesh | None = None,
    batch_axes: tuple[str, ...] = (),
    embed_axes: tuple[str, ...] = (),
    vocab_axes: tuple[str, ...] = (),
) -> int:
    """Returns how many blocks each device works off where no position is padding."""
    where = _placement(mesh, batch_axes, embed_axes, vocab_axes, hidden_BSD, kernel_DV)
    head = Head(0.0, 0.0, logits_block_mib, "float32", *where)
    rows, length, _ = hidden_BSD.shape
    tokens = rows // _ways(mesh, batch_axes) * length
    return -(-tokens // block_size(head, tokens, kernel_DV.shape[1] // head.vocab_shards))


def blocked_cross_entropy(
    hidden_BSD: jax.Array,
    kernel_DV: jax.Array,
    targets_BS: jax.Array,
    weights_BS: jax.Array,
    *,
    z_loss: float,
    label_smoothing: float,
    logits_block_mib: float = 256,
    head_dtype: str = "float32",
    mesh: Mesh | None = None,
    batch_axes: tuple[str, ...] = (),
    embed_axes: tuple[str, ...] = (),
    vocab_axes: tuple[str, ...] = (),
) -> LossSums:
    """Returns the sums of T5X's loss, differentiable in hidden and kernel through `.loss`.

    Per token: CE against 1-ls on the target and ls/(V-1) elsewhere, minus that distribution's
    entropy, plus z_loss * logsumexp^2. Positions of weight 0 are left out before any product.
    `head_dtype` 'bfloat16' rounds the factors of the products, which accumulate in float32.
    With a mesh, rows are sharded over batch_axes, the kernel over (embed_axes, vocab_axes).

    Raises:
      UserError: one token's logits exceed logits_block_mib, or the rows do not divide.
    """
    where = _placement(mesh, batch_axes, embed_axes, vocab_axes, hidden_BSD, kernel_DV)
    head = Head(z_loss, label_smoothing, logits_block_mib, head_dtype, *where)
    if head.token_axes:
        # Laid out otherwise for the products, the kernel's gradient comes back as the kernel is.
        vocab = head.without_tokens(head.vocab_axes)
        place = NamedSharding(mesh, P(head.token_axes, vocab or None))
        kernel_DV = jax.lax.with_sharding_constraint(kernel_DV, place)
    return _loss_sums(head, hidden_BSD, kernel_DV, targets_BS, weights_BS)


def token_log_probs(
    hidden_BSD: jax.Array,
    kernel_DV: jax.Array,
    targets_BS: jax.Array,
    weights_BS: jax.Array | None = None,
    *,
    logits_block_mib: float = 256,
    head_dtype: str = "float32",
    mesh: Mesh | None = None,
    batch_axes: tuple[str, ...] = (),
    embed_axes: tuple[str, ...] = (),
    vocab_axes: tuple[str, ...] = (),
) -> tuple[jax.Array, jax.Array]:
    """Returns log p(target) [B, S] float32 and whether the target is the arg max [B, S] bool.

    Forward only. Positions of weight 0 (default: target 0) get 0.0 and False, at no cost; other
    weights do not scale the result.
    """
    where = _placement(mesh, batch_axes, embed_axes, vocab_axes, hidden_BSD, kernel_DV)
    head = Head(0.0, 0.0, logits_block_mib, head_dtype, *where)
    if weights_BS is None:
        weights_BS = targets_BS > 0
    rows = P(head.batch_axes or None, None)
    run = _sharded(head, functools.partial(log_probs_of_shard, head), (rows, rows))
    return run(hidden_BSD, kernel_DV, targets_BS, weights_BS.astype(jnp.float32))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loss_sums(head: Head, hidden_BSD, kernel_DV, targets_BS, weights_BS) -> LossSums:
    run = _sharded(head, functools.partial(sums_of_shard, head), P())
    return run(hidden_BSD, kernel_DV, targets_BS, weights_BS)


def _loss_forward(head: Head, hidden_BSD, kernel_DV, targets_BS, weights_BS):
    # The loss is linear in its cotangent, so the gradients for cotangent 1 are made here, while
    # the logits are at hand: three products instead of the four of recomputing them.
    out_specs = (
        P(),
        P(head.batch_axes or None, None, None),
        P(head.embed_axes or None, head.vocab_axes or None),
    )
    run = _sharded(head, functools.partial(gradients_of_shard, head), out_specs)
    sums, dhidden_BSD, dkernel_DV = run(hidden_BSD, kernel_DV, targets_BS, weights_BS)
    # Empty arrays carry the dtypes the gradients must have.
    dtypes = (jnp.zeros((0,), hidden_BSD.dtype), jnp.zeros((0,), kernel_DV.dtype))
    return sums, (dhidden_BSD, dkernel_DV, dtypes)


def _loss_backward(head: Head, residuals, cotangents: LossSums):
    dhidden_BSD, dkernel_DV, (hidden_like, kernel_like) = residuals
    scale = cotangents.loss
    dhidden_BSD = (dhidden_BSD * scale).astype(hidden_like.dtype)
    dkernel_DV = (dkernel_DV * scale).astype(kernel_like.dtype)
    return dhidden_BSD, dkernel_DV, None, None


_loss_sums.defvjp(_loss_forward, _loss_backward)


def _sharded(head: Head, function, out_specs):
    """`function` of one device's rows and its columns of the kernel, at full width D."""
    if head.mesh is None:
        return function
    rows = P(head.batch_axes or None, None)
    hidden, kernel = P(head.batch_axes or None, None, None), P(None, head.vocab_axes or None)
    in_specs = (hidden, kernel, rows, rows)
    return jax.shard_map(
        function, mesh=head.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )
