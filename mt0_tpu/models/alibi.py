"""BLOOM's attention: queries, keys and values from one kernel, distances by ALiBi.

Dims: B batch rows, S query length, T key length, P prefix length, D width, H heads, K head width,
R rows of a cached step, N = R / B rows that share a prefix.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mt0_tpu.models import layers
from mt0_tpu.models.attention import MASKED
from mt0_tpu.models.query_blocks import attend_by_blocks


def slopes(num_heads: int) -> np.ndarray:
    """Returns float32 [H]: what a head adds to a logit per position of distance.

    Press et al. 2022: for a power of two, 2^(-8 i/H) for i = 1..H. Any other H takes the slopes
    of the power of two below it, then every other slope of the power of two above.
    """

    def geometric(count: int) -> np.ndarray:
        return 2.0 ** (-8.0 / count * np.arange(1, count + 1))

    below = 1 << (num_heads.bit_length() - 1)
    between = geometric(2 * below)[::2][: num_heads - below]
    return np.concatenate([geometric(below), between]).astype(np.float32)


def distance_bias(
    slopes_H: np.ndarray, query_BS: jax.Array, key_BT: jax.Array, visible_BST: jax.Array
) -> jax.Array:
    """Returns float32 [B, H, S, T] for the logits of queries and keys at integer positions.

    ALiBi adds slope * key position; less the query's own, which the softmax does not see, a near
    key's bias is small and exact where 0.7 * 2047 would round away four digits of the logit.
    """
    distance_BST = (key_BT[:, None, :] - query_BS[:, :, None]).astype(jnp.float32)
    bias_BHST = jnp.asarray(slopes_H)[None, :, None, None] * distance_BST[:, None]
    return jnp.where(visible_BST[:, None], bias_BHST, jnp.float32(MASKED))


class AlibiAttention(nn.Module):
    """Multi-head attention from one kernel [D, 3D], its columns ordered (head, q/k/v, K)."""

    emb_dim: int
    num_heads: int
    dropout_rate: float
    dtype: jnp.dtype
    kernel_init: layers.Initializer
    out_init: layers.Initializer
    query_block: int | None = None  # the most queries whose logits exist at a time; None: all

    def setup(self) -> None:
        into = (self.emb_dim, 3 * self.emb_dim, ("embed", "joined_kv"), self.dtype)
        self.query_key_value = layers.Dense(*into, kernel_init=self.kernel_init, use_bias=True)
        back = (self.emb_dim, self.emb_dim, ("joined_kv", "embed"), self.dtype)
        self.out = layers.Dense(*back, kernel_init=self.out_init, use_bias=True)
        self.head_dim = self.emb_dim // self.num_heads
        self.slopes_H = slopes(self.num_heads)

    def _split(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns query, key and value, each [..., H, K]."""
        joined = self.query_key_value(x).reshape(*x.shape[:-1], self.num_heads, 3, self.head_dim)
        return joined[..., 0, :], joined[..., 1, :], joined[..., 2, :]

    def _logits(self, equation: str, query: jax.Array, key: jax.Array) -> jax.Array:
        # Scaled after the product: in bfloat16 a query times 1/sqrt(80) would round once more.
        product = jnp.einsum(equation, query, key, preferred_element_type=jnp.float32)
        return product * jnp.float32(self.head_dim**-0.5)

    def __call__(
        self,
        x_BSD: jax.Array,
        position_BS: jax.Array,
        visible_BSS: jax.Array,
        dropout_keys_B: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns ([B, S, D], keys [B, S, H, K], values); the softmax runs in float32."""
        names = ("batch", "length", "heads", "kv")
        query_BSHK, key_BSHK, value_BSHK = (
            layers.constrain(part, *names) for part in self._split(x_BSD)
        )
        mixed_in = value_BSHK
        if dropout_keys_B is not None and self.dropout_rate > 0.0:
            # As in the T5 here the mask is shared along the queries: it drops value vectors.
            row_shape = (value_BSHK.shape[1], self.num_heads, 1)
            site = layers.Site.SELF_PROBABILITIES
            mixed_in = value_BSHK * layers.dropout_scale(
                dropout_keys_B, site, self.dropout_rate, row_shape, self.dtype
            )

        def attend(query_BSHK, query_position_BS, visible_BSS):
            logits_BHST = self._logits("bshk,bthk->bhst", query_BSHK, key_BSHK)
            bias_BHST = distance_bias(self.slopes_H, query_position_BS, position_BS, visible_BSS)
            probabilities_BHST = jax.nn.softmax(logits_BHST + bias_BHST, axis=-1)
            return jnp.einsum("bhst,bthk->bshk", probabilities_BHST.astype(self.dtype), mixed_in)

        mixed_BSHK = attend_by_blocks(
            attend, self.query_block, query_BSHK, (position_BS, 1), (visible_BSS, 1)
        )
        out_BSD = self.out(mixed_BSHK.reshape(*mixed_BSHK.shape[:2], -1))
        return out_BSD, key_BSHK, value_BSHK

    def step(
        self,
        x_RD: jax.Array,
        prefix_kv: tuple[jax.Array, jax.Array],
        own_kv: tuple[jax.Array, jax.Array],
        prefix_bias_BHNP: jax.Array,
        past_bias_RHT: jax.Array,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """One cached position; the cache is read, not written.

        prefix_kv [B, H, P, K] is shared by the rows r*N..r*N+N-1, own_kv [R, H, T, K] holds what
        each row has added; the position itself is one more column, at distance 0.

        Returns (output [R, D], new key [R, H, K], new value [R, H, K]).
        """
        rows, batch = x_RD.shape[0], prefix_kv[0].shape[0]
        query_RHK, new_key_RHK, new_value_RHK = self._split(x_RD)
        query_BNHK = query_RHK.reshape(batch, -1, self.num_heads, self.head_dim)
        prefix_BHNP = self._logits("bnhk,bhpk->bhnp", query_BNHK, prefix_kv[0]) + prefix_bias_BHNP
        prefix_RHP = jnp.swapaxes(prefix_BHNP, 1, 2).reshape(rows, self.num_heads, -1)
        past_RHT = self._logits("rhk,rhtk->rht", query_RHK, own_kv[0]) + past_bias_RHT
        own_RH1 = self._logits("rhk,rhk->rh", query_RHK, new_key_RHK)[:, :, None]
        logits = jnp.concatenate([prefix_RHP, past_RHT, own_RH1], axis=-1)
        probabilities = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
        prefix = prefix_RHP.shape[-1]
        by_prefix = probabilities[:, :, :prefix].reshape(batch, -1, self.num_heads, prefix)
        mixed_BNHK = jnp.einsum("bnhp,bhpk->bnhk", by_prefix, prefix_kv[1])
        mixed_RHK = mixed_BNHK.reshape(query_RHK.shape) + jnp.einsum(
            "rht,rhtk->rhk", probabilities[:, :, prefix:-1], own_kv[1]
        )
        mixed_RHK = mixed_RHK + probabilities[:, :, -1:] * new_value_RHK
        return self.out(mixed_RHK.reshape(rows, -1)), new_key_RHK, new_value_RHK
