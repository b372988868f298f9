"""The parts every network here is made of: dense layers, norms, MLP, embedding, dropout.

Dims: B batch rows, T length, D width, F feed-forward width, V vocabulary.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from mt0_tpu.models import row_products

Initializer = Callable[..., jax.Array]

KERNEL_PRODUCT = "kernel_product"  # what remat policy 'minimal' keeps

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": lambda x: nn.gelu(x, approximate=True),  # mT5 was trained with the tanh form
    "relu": nn.relu,
    "silu": nn.silu,
    "linear": lambda x: x,
}

attention_init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
dense_init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
embedding_init = nn.initializers.normal(stddev=1.0)


def scaled_init(init: Initializer, scale: float) -> Initializer:
    """Returns an initialiser that draws from `init` and multiplies by `scale`."""

    def draw(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        return init(key, shape, dtype) * jnp.asarray(scale, dtype)

    return draw


class Site(enum.IntEnum):
    """Where dropout is applied. The numbers are folded into keys: never renumber them."""

    ENCODER_LAYERS = 0
    DECODER_LAYERS = 1
    ENCODER_EMBEDDING = 2
    DECODER_EMBEDDING = 3
    ENCODER_FINAL = 4
    DECODER_FINAL = 5
    SELF_PROBABILITIES = 6
    SELF_OUTPUT = 7
    CROSS_PROBABILITIES = 8
    CROSS_OUTPUT = 9
    MLP_HIDDEN = 10
    MLP_OUTPUT = 11


def fold_keys(keys_B: jax.Array | None, number: int | jax.Array) -> jax.Array | None:
    """Folds one number into the key of every row; None (no dropout) stays None."""
    if keys_B is None:
        return None
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys_B)


def dropout_scale(
    keys_B: jax.Array, site: Site, rate: float, row_shape: tuple[int, ...], dtype: jnp.dtype
) -> jax.Array:
    """Draws [B, *row_shape] of 0 (dropped) or 1 / (1 - rate) (kept).

    Every row draws from its own key, so that what is dropped in a row depends neither on the other
    rows of the batch nor on how the batch is laid over devices or microbatches.
    """

    def draw(key: jax.Array) -> jax.Array:
        return jax.random.bernoulli(jax.random.fold_in(key, site), 1.0 - rate, row_shape)

    return jax.vmap(draw)(keys_B).astype(dtype) * jnp.asarray(1.0 / (1.0 - rate), dtype)


def dropout(
    x_BTD: jax.Array, keys_B: jax.Array | None, site: Site, rate: float, elementwise: bool = False
) -> jax.Array:
    """Drops entries of x; as in T5X the mask is shared along the length unless `elementwise`."""
    if keys_B is None or rate == 0.0:
        return x_BTD
    _, length, width = x_BTD.shape
    row_shape = (length if elementwise else 1, width)
    scale = dropout_scale(keys_B, site, rate, row_shape, x_BTD.dtype)
    return x_BTD * jnp.broadcast_to(scale, x_BTD.shape)


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """Lays an activation over the mesh by logical names; does nothing without rules or mesh."""
    return nn.with_logical_constraint(x, names)


@jax.custom_vjp
def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns x @ kernel for x [..., in] and kernel [in, out].

    The kernel's gradient is x^T g over flattened tokens. Left to itself jax contracts over [B, T]
    with g first, for which XLA on CPU writes a transposed copy of g: twice the time.
    """
    return jax.lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))


def _matmul_forward(x, kernel):
    return matmul(x, kernel), (x, kernel)


def _matmul_backward(saved, g):
    x, kernel = saved
    dx = jax.lax.dot_general(g, kernel, (((g.ndim - 1,), (1,)), ((), ())))
    x_NI, g_NO = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    return dx, jax.lax.dot_general(x_NI, g_NO, (((0,), (0,)), ((), ())))


matmul.defvjp(_matmul_forward, _matmul_backward)


def _product(activations, parts, scale):
    hidden = None
    for name, part in zip(activations, parts, strict=True):
        activated = ACTIVATIONS[name](part)
        hidden = activated if hidden is None else hidden * activated
    return hidden if scale is None else hidden * jnp.broadcast_to(scale, hidden.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def gated_product(
    activations: tuple[str, ...], parts: tuple[jax.Array, ...], scale: jax.Array | None
) -> jax.Array:
    """Returns the product of activations of [B, T, F] parts, times a dropout scale [B, 1, F].

    Saves the parts alone and recomputes the rest: the eight intermediates jax would keep cost
    more to write and read than to compute.
    """
    return _product(activations, parts, scale)


def _gated_forward(activations, parts, scale):
    return _product(activations, parts, scale), (parts, scale)


def _gated_backward(activations, saved, g):
    parts, scale = saved
    _, pull = jax.vjp(lambda parts: _product(activations, parts, scale), parts)
    return pull(g)[0], None if scale is None else jnp.zeros_like(scale)


gated_product.defvjp(_gated_forward, _gated_backward)


class Dense(nn.Module):
    """x @ kernel (+ bias); the float32 kernel [in, out] is cast to `dtype` at use."""

    in_features: int
    out_features: int
    axes: tuple[str, str]
    dtype: jnp.dtype
    kernel_init: Initializer = dense_init
    use_bias: bool = False

    def setup(self) -> None:
        init = nn.with_logical_partitioning(self.kernel_init, self.axes)
        shape = (self.in_features, self.out_features)
        self.kernel = self.param("kernel", init, shape, jnp.float32)
        if self.use_bias:
            zeros = nn.with_logical_partitioning(nn.initializers.zeros_init(), self.axes[1:])
            self.bias = self.param("bias", zeros, (self.out_features,), jnp.float32)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.astype(self.dtype)
        product = row_products.from_blocks(self, "kernel", x)
        if product is None:
            product = matmul(x, self.kernel.astype(self.dtype))
        # A remat policy does not see into a custom gradient: it goes by this name.
        product = checkpoint_name(product, KERNEL_PRODUCT)
        return product + along_last(self.bias, product) if self.use_bias else product


def along_last(vector: jax.Array, x: jax.Array) -> jax.Array:
    """A vector [D] in the dtype and rank of x [..., D], which strict promotion asks for."""
    return vector.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


class RMSNorm(nn.Module):
    """T5X's norm: x / sqrt(mean(x^2) + 1e-6) in float32, cast to `dtype`, times a scale."""

    features: int
    dtype: jnp.dtype
    epsilon: float = 1e-6

    def setup(self) -> None:
        init = nn.with_logical_partitioning(nn.initializers.ones_init(), ("embed",))
        self.scale = self.param("scale", init, (self.features,), jnp.float32)

    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)
        rms_inverse = jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.epsilon)
        normed = (x32 * rms_inverse).astype(self.dtype)
        return normed * along_last(self.scale, normed)


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, all in float32, cast to `dtype`."""

    features: int
    dtype: jnp.dtype
    epsilon: float = 1e-5

    def setup(self) -> None:
        for name, init in (("scale", nn.initializers.ones_init()),
                           ("bias", nn.initializers.zeros_init())):  # fmt: skip
            init = nn.with_logical_partitioning(init, ("embed",))
            setattr(self, name, self.param(name, init, (self.features,), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)
        # From the deviations: the mean of squares less the square of the mean cancels.
        deviations = x32 - jnp.mean(x32, axis=-1, keepdims=True)
        variance = jnp.mean(deviations * deviations, axis=-1, keepdims=True)
        normed = deviations * jax.lax.rsqrt(variance + self.epsilon)
        return (normed * along_last(self.scale, x32) + along_last(self.bias, x32)).astype(
            self.dtype
        )


class MLP(nn.Module):
    """Feed-forward block: the product of one activation per input kernel, dropout, then `wo`.

    ('gelu', 'linear') is mT5's gated gelu with kernels wi_0 (through gelu) and wi_1; a single
    activation is T5 1.0's and BLOOM's block with one kernel `wi`.
    """

    emb_dim: int
    mlp_dim: int
    activations: tuple[str, ...]
    dropout_rate: float
    dtype: jnp.dtype
    use_bias: bool = False
    wi_init: Initializer = dense_init
    wo_init: Initializer = dense_init

    def setup(self) -> None:
        gated = len(self.activations) > 1
        names = [f"wi_{i}" if gated else "wi" for i in range(len(self.activations))]
        into = (self.emb_dim, self.mlp_dim, ("embed", "mlp"), self.dtype)
        for name in names:
            setattr(self, name, Dense(*into, kernel_init=self.wi_init, use_bias=self.use_bias))
        back = (self.mlp_dim, self.emb_dim, ("mlp", "embed"), self.dtype)
        self.wo = Dense(*back, kernel_init=self.wo_init, use_bias=self.use_bias)
        self.input_names = tuple(names)

    def __call__(self, x_BTD: jax.Array, keys_B: jax.Array | None = None) -> jax.Array:
        parts = tuple(getattr(self, name)(x_BTD) for name in self.input_names)
        scale_B1F = None
        if keys_B is not None and self.dropout_rate > 0.0:
            row_shape = (1, self.mlp_dim)
            scale_B1F = dropout_scale(
                keys_B, Site.MLP_HIDDEN, self.dropout_rate, row_shape, self.dtype
            )
        hidden_BTF = gated_product(self.activations, parts, scale_B1F)
        if hidden_BTF.ndim == 3:
            hidden_BTF = constrain(hidden_BTF, "batch", "length", "mlp")
        return self.wo(hidden_BTF)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gather_rows(shape: tuple[int, int], dtype: jnp.dtype, table_VD, tokens):
    replicas = _replicas(tokens.shape[0])
    if replicas == 1:
        return jnp.take(table_VD, tokens, axis=0, mode="fill", fill_value=jnp.nan)
    # As below: else vectors may be gathered from all slices.
    tokens_RN = _by_replica(tokens, replicas, ())
    vectors_RND = jnp.take(table_VD, tokens_RN, axis=0, mode="fill", fill_value=jnp.nan)
    vectors_RND = constrain(vectors_RND, "replica", None, "embed")
    return vectors_RND.reshape(*tokens.shape, shape[1])


def _gather_forward(shape, dtype, table_VD, tokens):
    return _gather_rows(shape, dtype, table_VD, tokens), tokens


def _gather_backward(shape, dtype, tokens, vectors):
    # The zeros wait for the vectors: made at the start of the step, they would lie through all
    # of it, half a gigabyte for mT5-small.
    replicas = _replicas(tokens.shape[0])
    if replicas == 1:
        vectors, zeros = jax.lax.optimization_barrier((vectors, jnp.zeros(shape, dtype)))
        return zeros.at[tokens].add(vectors, mode="drop"), None
    # Left to itself XLA gathers the vectors of the whole batch to all slices. Here each slice
    # adds up its own rows (R), and the sum over slices is all that crosses between them.
    tokens_RN = _by_replica(tokens, replicas, ())
    vectors_RND = _by_replica(vectors, replicas, ("embed",))
    zeros_RVD = jnp.zeros((replicas, *shape), dtype)
    vectors_RND, zeros_RVD = jax.lax.optimization_barrier((vectors_RND, zeros_RVD))
    zeros_RVD = constrain(zeros_RVD, "replica", "vocab", "embed")
    sums_RVD = jax.vmap(lambda zeros, ids, rows: zeros.at[ids].add(rows, mode="drop"))(
        zeros_RVD, tokens_RN, vectors_RND
    )
    sums_RVD = constrain(sums_RVD, "replica", "vocab", "embed")
    return sums_RVD.sum(axis=0), None


def _replicas(num_rows: int) -> int:
    """Returns the ways that the mesh's replica axis cuts a batch of so many rows."""
    ways = jax.sharding.get_abstract_mesh().shape.get("replica", 1)
    return ways if num_rows % ways == 0 else 1


def _by_replica(x: jax.Array, replicas: int, last: tuple[str, ...]) -> jax.Array:
    """[B, ..., D] -> [R, N, D], or [B, ...] -> [R, N]; rows of a batch lie replica by replica."""
    x = x.reshape(replicas, -1, *x.shape[x.ndim - len(last) :])
    return constrain(x, "replica", None, *last)


_gather_rows.defvjp(_gather_forward, _gather_backward)


def gather_rows(table_VD: jax.Array, tokens: jax.Array) -> jax.Array:
    """Returns the table's rows [..., D] at int32 tokens [...]; NaN for an id outside it."""
    return _gather_rows(table_VD.shape, table_VD.dtype, table_VD, tokens)


class Embed(nn.Module):
    """A token table [V, D], read by gather; T5X's one-hot product more than doubles mT5-small."""

    vocab_size: int
    emb_dim: int
    dtype: jnp.dtype
    init: Initializer = embedding_init

    def setup(self) -> None:
        init = nn.with_logical_partitioning(self.init, ("vocab", "embed"))
        shape = (self.vocab_size, self.emb_dim)
        self.embedding = self.param("embedding", init, shape, jnp.float32)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Returns vectors [..., D]; an id outside the vocabulary gives NaN, which is noticed."""
        return gather_rows(self.embedding, tokens).astype(self.dtype)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Returns float32 [..., V] of float32 [..., D]: the table as a head."""
        logits = row_products.from_blocks(self, "embedding", hidden)
        return jnp.einsum("...d,vd->...v", hidden, self.embedding) if logits is None else logits
