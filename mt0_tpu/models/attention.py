"""Attention of the T5 family: relative position buckets, masks from segment ids, cached steps.

Dims: B batch rows, S query length, T key length, D width, H heads, K head width, A = H*K,
N relative distances, R rows of a cached step (R = B * beams).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mt0_tpu.models import layers
from mt0_tpu.models.query_blocks import attend_by_blocks

# Finite, as in T5X: a row that sees nothing attends to everything alike instead of giving NaN.
MASKED = -1e10


def relative_buckets(
    distances: np.ndarray, *, bidirectional: bool, num_buckets: int, max_distance: int
) -> np.ndarray:
    """Buckets of relative positions (key minus query), int32 of the same shape.

    T5's rule: half of the buckets hold one distance each, the others grow logarithmically up to
    `max_distance`. A bidirectional tower spends half of all buckets on keys after the query; a
    causal one puts them all into bucket 0. Evaluated in float32 like T5X, on the host: distances
    are known when the program is traced.
    """
    distances = np.asarray(distances)
    if bidirectional:
        num_buckets //= 2
        offset = np.where(distances > 0, num_buckets, 0)
        distances = np.abs(distances)
    else:
        offset = 0
        distances = np.maximum(-distances, 0)
    exact = num_buckets // 2
    ratio = distances.astype(np.float32) / np.float32(exact) + np.finfo(np.float32).eps
    growth = np.log(ratio) / np.float32(np.log(max_distance / exact))
    steps = (growth * np.float32(num_buckets - exact)).astype(np.int32)
    logarithmic = np.minimum(exact + steps, num_buckets - 1)
    return (offset + np.where(distances < exact, distances, logarithmic)).astype(np.int32)


class RelativeBias(nn.Module):
    """One learned number per head and distance bucket, shared by all layers of a tower."""

    num_heads: int
    num_buckets: int
    max_distance: int
    bidirectional: bool

    def setup(self) -> None:
        init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
        init = nn.with_logical_partitioning(init, ("heads", "relpos_buckets"))
        shape = (self.num_heads, self.num_buckets)
        self.rel_embedding = self.param("rel_embedding", init, shape, jnp.float32)

    def by_distance(self, first: int, last: int) -> jax.Array:
        """Returns [H, N]: the bias at the distances first..last, both included."""
        buckets_N = relative_buckets(
            np.arange(first, last + 1),
            bidirectional=self.bidirectional,
            num_buckets=self.num_buckets,
            max_distance=self.max_distance,
        )
        return jnp.take(self.rel_embedding, buckets_N, axis=1, mode="clip")

    def __call__(self, length: int) -> jax.Array:
        """Returns [1, H, length, length] float32, entry [.., q, k] being the bias at k - q.

        The square is cut from shifted copies of the N = 2*length - 1 distinct values, so its
        gradient is a sum over those copies; a gather of the square would scatter-add length^2
        numbers per head into 32 buckets.
        """
        values_HN = self.by_distance(1 - length, length - 1)
        heads, n = values_HN.shape
        copies = jnp.broadcast_to(values_HN[:, None, :], (heads, length, n)).reshape(heads, -1)
        # copies[q * n + j] = values[j] and row q starts at j = length - 1 - q: a stride of n - 1.
        stop = length * n if length == 1 else length - 1 + length * (n - 1)
        rows = copies[:, length - 1 : stop].reshape(heads, length, -1)
        return rows[None, :, :, :length]

    def at_positions(self, position_R: jax.Array, length: int) -> jax.Array:
        """Returns [R, H, length]: the biases of one query per row, at its own position."""
        values_HN = self.by_distance(1 - length, length - 1)
        index_RT = jnp.arange(length)[None, :] - position_R[:, None] + length - 1
        return jnp.moveaxis(jnp.take(values_HN, index_RT, axis=1, mode="clip"), 0, 1)


def visible(query_ids_BS: jax.Array, key_ids_BT: jax.Array, causal: bool = False) -> jax.Array:
    """Returns bool [B, S, T]: which keys each query sees.

    A query sees the keys of its own segment; segment 0 is padding and is seen by none. `causal`
    also hides keys with a later row index.
    """
    same_BST = query_ids_BS[:, :, None] == key_ids_BT[:, None, :]
    seen_BST = same_BST & (key_ids_BT > 0)[:, None, :]
    if causal:
        seen_BST &= jnp.tri(query_ids_BS.shape[1], key_ids_BT.shape[1], dtype=bool)[None]
    return seen_BST


def mask_bias(visible_: jax.Array) -> jax.Array:
    """Returns float32 of the same shape to add to attention logits: 0 where visible."""
    return jnp.where(visible_, jnp.float32(0.0), jnp.float32(MASKED))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def repeat_rows(bias_1HST: jax.Array, batch: int) -> jax.Array:
    """Broadcasts a tower's bias over the batch; the gradient sums the rows by a product with ones.

    XLA on CPU takes 25 times as long for the plain sum over the leading axis.
    """
    return jnp.broadcast_to(bias_1HST, (batch, *bias_1HST.shape[1:]))


def _repeat_forward(bias_1HST, batch):
    return repeat_rows(bias_1HST, batch), None


def _repeat_backward(batch, _, g_BHST):
    return (jnp.einsum("b,bhst->hst", jnp.ones(batch, g_BHST.dtype), g_BHST)[None],)


repeat_rows.defvjp(_repeat_forward, _repeat_backward)


class Attention(nn.Module):
    """Multi-head attention without 1/sqrt(K): the query initialiser carries that factor instead."""

    emb_dim: int
    num_heads: int
    head_dim: int
    dropout_rate: float
    dtype: jnp.dtype
    probabilities_site: layers.Site
    query_block: int | None = None  # the most queries whose logits exist at a time; None: all

    def setup(self) -> None:
        joined = self.num_heads * self.head_dim
        init = layers.attention_init
        query_init = layers.scaled_init(init, self.head_dim**-0.5)
        into = (self.emb_dim, joined, ("embed", "joined_kv"), self.dtype)
        self.query = layers.Dense(*into, kernel_init=query_init)
        self.key = layers.Dense(*into, kernel_init=init)
        self.value = layers.Dense(*into, kernel_init=init)
        back = (joined, self.emb_dim, ("joined_kv", "embed"), self.dtype)
        self.out = layers.Dense(*back, kernel_init=init)

    def heads(self, x: jax.Array) -> jax.Array:
        """Splits [..., A] into [..., H, K]; A is head-major as in T5X."""
        return x.reshape(*x.shape[:-1], self.num_heads, self.head_dim)

    def keys_values(self, x_BTD: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns keys and values, each [B, T, H, K]."""
        names = ("batch", "length", "heads", "kv")
        key_BTHK = layers.constrain(self.heads(self.key(x_BTD)), *names)
        return key_BTHK, layers.constrain(self.heads(self.value(x_BTD)), *names)

    def __call__(
        self,
        x_BSD: jax.Array,
        context_BTD: jax.Array,
        visible_BST: jax.Array,
        relative_1HST: jax.Array | None = None,
        dropout_keys_B: jax.Array | None = None,
    ) -> jax.Array:
        """Returns [B, S, D]; the softmax runs in float32 whatever `dtype` is."""
        query_BSHK = layers.constrain(
            self.heads(self.query(x_BSD)), "batch", "length", "heads", "kv"
        )
        key_BTHK, value_BTHK = self.keys_values(context_BTD)
        if dropout_keys_B is not None and self.dropout_rate > 0.0:
            # T5X shares the mask of the probabilities along the queries, so dropping a
            # probability column is dropping that head's value vector: far fewer products.
            row_shape = (value_BTHK.shape[1], self.num_heads, 1)
            value_BTHK = value_BTHK * layers.dropout_scale(
                dropout_keys_B, self.probabilities_site, self.dropout_rate, row_shape, self.dtype
            )

        def attend(query_BSHK, visible_BST, relative_1HST):
            return self._attend(query_BSHK, key_BTHK, value_BTHK, visible_BST, relative_1HST)

        mixed_BSHK = attend_by_blocks(
            attend, self.query_block, query_BSHK, (visible_BST, 1), (relative_1HST, 2)
        )
        mixed_BSHK = layers.constrain(mixed_BSHK, "batch", "length", "heads", "kv")
        return self.out(mixed_BSHK.reshape(*mixed_BSHK.shape[:2], -1))

    def _attend(self, query_BSHK, key_BTHK, value_BTHK, visible_BST, relative_1HST):
        """Returns [B, S, H, K]: what each query takes of the values."""
        logits_BHST = jnp.einsum(
            "bshk,bthk->bhst", query_BSHK, key_BTHK, preferred_element_type=jnp.float32
        )
        # Said of every step, and so of its gradient: by heads, never by queries, whatever lies
        # around it.
        logits_BHST = layers.constrain(logits_BHST, "batch", "heads", "length", None)
        bias = mask_bias(visible_BST)[:, None, :, :]
        if relative_1HST is not None:
            bias = bias + repeat_rows(relative_1HST, query_BSHK.shape[0])
        probabilities_BHST = jax.nn.softmax(logits_BHST + bias, axis=-1).astype(self.dtype)
        return jnp.einsum("bhst,bthk->bshk", probabilities_BHST, value_BTHK)

    def self_step(
        self,
        x_RD: jax.Array,
        key_RHTK: jax.Array,
        value_RHTK: jax.Array,
        past_bias_RHT: jax.Array,
        own_bias_H: jax.Array,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """One cached position of self attention; the cache is read, not written.

        The position's own key and value join as one more column of the softmax and are returned,
        so that the caller writes those of all layers into the cache in one update.

        Returns (output [R, D], new key [R, H, K], new value [R, H, K]).
        """
        query_RHK, new_key_RHK = self.heads(self.query(x_RD)), self.heads(self.key(x_RD))
        new_value_RHK = self.heads(self.value(x_RD))
        past_RHT = jnp.einsum(
            "rhk,rhtk->rht", query_RHK, key_RHTK, preferred_element_type=jnp.float32
        )
        own_RH = jnp.einsum(
            "rhk,rhk->rh", query_RHK, new_key_RHK, preferred_element_type=jnp.float32
        )
        own_RH1 = (own_RH + own_bias_H[None, :])[:, :, None]
        logits = jnp.concatenate([past_RHT + past_bias_RHT, own_RH1], axis=-1)
        probabilities = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
        mixed_RHK = jnp.einsum("rht,rhtk->rhk", probabilities[:, :, :-1], value_RHTK)
        mixed_RHK = mixed_RHK + probabilities[:, :, -1:] * new_value_RHK
        return self.out(mixed_RHK.reshape(x_RD.shape[0], -1)), new_key_RHK, new_value_RHK

    def cross_step(
        self, x_RD: jax.Array, key_BHTK: jax.Array, value_BHTK: jax.Array, mask_BT: jax.Array
    ) -> jax.Array:
        """One position against cached encoder keys; rows r*n..r*n+n-1 share the encoder row r."""
        batch = key_BHTK.shape[0]
        query_BNHK = self.heads(self.query(x_RD)).reshape(batch, -1, self.num_heads, self.head_dim)
        logits_BHNT = jnp.einsum(
            "bnhk,bhtk->bhnt", query_BNHK, key_BHTK, preferred_element_type=jnp.float32
        )
        logits_BHNT = logits_BHNT + mask_bias(mask_BT)[:, None, None, :]
        probabilities_BHNT = jax.nn.softmax(logits_BHNT, axis=-1).astype(self.dtype)
        mixed_BNHK = jnp.einsum("bhnt,bhtk->bnhk", probabilities_BHNT, value_BHTK)
        return self.out(mixed_BNHK.reshape(x_RD.shape[0], -1))
