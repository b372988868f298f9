"""The decoder-only network of BLOOM, computing what Hugging Face's BloomForCausalLM computes.

Layers are stacked on axis 0 and run by `nn.scan`. Dims: B batch rows, S row length, P prefix
length, T positions a cached row may add, D width, H heads, K head width, V vocabulary, L layers,
R rows of a cached step (R = B * beams).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from mt0_tpu.models.alibi import AlibiAttention, distance_bias, slopes
from mt0_tpu.models.attention import visible
from mt0_tpu.models.cache import Cache, with_position
from mt0_tpu.models.config import BloomConfig
from mt0_tpu.models.layers import MLP, Embed, LayerNorm, Site, constrain, dropout, fold_keys
from mt0_tpu.models.stacked_layers import scan_layers


def _kernel_init(config: BloomConfig, output: bool = False) -> nn.initializers.Initializer:
    """Megatron's: normal, std sqrt(1 / 3D) (0.0048 for 176B); outputs less by sqrt(2L)."""
    deviation = (3 * config.emb_dim) ** -0.5
    if output:
        deviation *= (2 * config.num_layers) ** -0.5
    return nn.initializers.normal(deviation)


def _norm(config: BloomConfig) -> LayerNorm:
    return LayerNorm(config.emb_dim, config.jax_dtype, config.layer_norm_epsilon)


class BloomLayer(nn.Module):
    """Self attention and MLP, each behind a norm and added to the residual stream."""

    config: BloomConfig

    def setup(self) -> None:
        config = self.config
        inits = (_kernel_init(config), _kernel_init(config, output=True))
        self.pre_attention_layer_norm = _norm(config)
        self.attention = AlibiAttention(
            config.emb_dim, config.num_heads, config.dropout_rate, config.jax_dtype, *inits,
            query_block=config.attention_query_block,
        )  # fmt: skip
        self.pre_mlp_layer_norm = _norm(config)
        # Megatron drops nothing inside the MLP.
        self.mlp = MLP(
            config.emb_dim, config.mlp_dim, ("gelu",), 0.0, config.jax_dtype, True, *inits
        )

    def __call__(self, x_BSD, layer, position_BS, visible_BSS, tower_keys_B):
        """Returns (x [B, S, D], keys [B, S, H, K], values [B, S, H, K])."""
        rate = self.config.dropout_rate
        keys_B = fold_keys(tower_keys_B, layer)
        x_BSD = constrain(x_BSD, "batch", "length", "embed")
        normed_BSD = self.pre_attention_layer_norm(x_BSD)
        y_BSD, key_BSHK, value_BSHK = self.attention(normed_BSD, position_BS, visible_BSS, keys_B)
        y_BSD = dropout(y_BSD, keys_B, Site.SELF_OUTPUT, rate, elementwise=True)
        x_BSD = self._residual(x_BSD, normed_BSD) + y_BSD
        normed_BSD = self.pre_mlp_layer_norm(x_BSD)
        y_BSD = dropout(self.mlp(normed_BSD), keys_B, Site.MLP_OUTPUT, rate, elementwise=True)
        x_BSD = self._residual(x_BSD, normed_BSD) + y_BSD
        return constrain(x_BSD, "batch", "length", "embed"), key_BSHK, value_BSHK

    def _residual(self, x: jax.Array, normed: jax.Array) -> jax.Array:
        return normed if self.config.residual_post_layernorm else x

    def step(self, x_RD, cached, prefix_bias_BHNP, past_bias_RHT):
        """One position of every row; `cached` is this layer's slice of the cache."""
        x_RD = constrain(x_RD, "batch", "embed")
        normed_RD = self.pre_attention_layer_norm(x_RD)
        y_RD, key_RHK, value_RHK = self.attention.step(
            normed_RD,
            (cached["prefix_k"], cached["prefix_v"]),
            (cached["self_k"], cached["self_v"]),
            prefix_bias_BHNP,
            past_bias_RHT,
        )
        x_RD = self._residual(x_RD, normed_RD) + y_RD
        normed_RD = self.pre_mlp_layer_norm(x_RD)
        x_RD = self._residual(x_RD, normed_RD) + self.mlp(normed_RD)
        return constrain(x_RD, "batch", "embed"), (key_RHK, value_RHK)


class BloomDecoder(nn.Module):
    """The stack of layers and the norm after it."""

    config: BloomConfig

    def setup(self) -> None:
        self.layers = BloomLayer(self.config)
        self.decoder_norm = _norm(self.config)

    def __call__(self, x_BSD, position_BS, visible_BSS, dropout_keys_B, keep=False):
        """Returns ([B, S, D], and if `keep` keys and values, each [L, B, H, S, K], else None)."""
        config = self.config
        tower_keys_B = fold_keys(dropout_keys_B, Site.DECODER_LAYERS)

        def body(layer, x_BSD, index):
            x_BSD, *kept = layer(x_BSD, index, position_BS, visible_BSS, tower_keys_B)
            # Heads before positions: cached steps read them head by head.
            return x_BSD, tuple(jnp.swapaxes(part, 1, 2) for part in kept) if keep else None

        count = config.num_layers
        rate = config.dropout_rate
        x_BSD = dropout(x_BSD, dropout_keys_B, Site.DECODER_EMBEDDING, rate, elementwise=True)
        scan = scan_layers(body, count, config.remat_policy)
        x_BSD, kept = scan(self.layers, x_BSD, jnp.arange(count))
        return self.decoder_norm(x_BSD), kept

    def step(self, x_RD: jax.Array, position_R: jax.Array, cache: Cache):
        """Runs one position of every row; the new keys and values enter the cache at the end."""
        slopes_H = slopes(self.config.num_heads)
        count, rows, _, length, _ = cache["self_k"].shape
        prefix_BP, batch = cache["prefix_positions"], cache["prefix_positions"].shape[0]
        lengths_B = jnp.max(prefix_BP, axis=1, initial=-1) + 1
        at_BN = position_R.reshape(batch, -1) + lengths_B[:, None]
        seen_BNP = jnp.broadcast_to(prefix_BP[:, None, :] >= 0, (*at_BN.shape, prefix_BP.shape[1]))
        prefix_bias_BHNP = distance_bias(slopes_H, at_BN, prefix_BP, seen_BNP)
        columns_RT = jnp.broadcast_to(jnp.arange(length)[None, :], (rows, length))
        past_RT = columns_RT < position_R[:, None]
        past_bias = distance_bias(slopes_H, position_R[:, None], columns_RT, past_RT[:, None])

        def body(layer, x_RD, cached):
            return layer.step(x_RD, cached, prefix_bias_BHNP, past_bias[:, :, 0])

        slices = {name: cache[name] for name in ("self_k", "self_v", "prefix_k", "prefix_v")}
        x_RD, (key_LRHK, value_LRHK) = scan_layers(body, count)(self.layers, x_RD, slices)
        return self.decoder_norm(x_RD), with_position(cache, position_R, key_LRHK, value_LRHK)


class Bloom(nn.Module):
    """A decoder. Calling it on a batch gives hidden states, not logits.

    The loss multiplies them with the token table block by block; `logits` does it whole.
    """

    config: BloomConfig

    def setup(self) -> None:
        config = self.config
        self.token_embedder = Embed(
            config.vocab_size, config.emb_dim, config.jax_dtype, _kernel_init(config)
        )
        self.embedding_norm = _norm(config)
        self.decoder = BloomDecoder(config)

    def __call__(
        self, batch: dict[str, jax.Array], dropout_keys_B: jax.Array | None = None
    ) -> jax.Array:
        """Returns hidden states [B, S, D] of a batch with T5X's decoder-only feature names.

        Needs decoder_input_tokens, and of these what is there:
          decoder_segment_ids: a position sees its own segment's earlier ones; 0 is padding.
          decoder_positions: what ALiBi counts distances by; else the place in the row.
          decoder_causal_attention: 1 at a segment's inputs, which see each other both ways where
            the config asks for inputs_bidirectional_attention.
          decoder_cross_ids: a segment that each position sees as well, so that several
            continuations share one prefix, which comes before them in the row (0: none).
        """
        tokens_BS = batch["decoder_input_tokens"]
        segment_ids_BS = batch.get("decoder_segment_ids")
        if segment_ids_BS is None:
            segment_ids_BS = jnp.ones_like(tokens_BS)
        position_BS = batch.get("decoder_positions")
        if position_BS is None:
            position_BS = jnp.broadcast_to(jnp.arange(tokens_BS.shape[1])[None], tokens_BS.shape)
        visible_BSS = visible(segment_ids_BS, segment_ids_BS, causal=True)
        cross_ids_BS = batch.get("decoder_cross_ids")
        if cross_ids_BS is not None:
            visible_BSS |= visible(cross_ids_BS, segment_ids_BS, causal=True)
        if self.config.inputs_bidirectional_attention:
            inputs_BS = batch["decoder_causal_attention"] > 0
            visible_BSS |= _both_ways(segment_ids_BS, inputs_BS)
        hidden_BSD, _ = self.decoder(
            self._embed(tokens_BS), position_BS, visible_BSS, dropout_keys_B
        )
        return hidden_BSD

    def _embed(self, tokens: jax.Array) -> jax.Array:
        return self.embedding_norm(self.token_embedder(tokens))

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Returns float32 logits [..., V] of hidden states [..., D]: the head is the table."""
        return self.token_embedder.logits(hidden.astype(jnp.float32))

    def prefill(
        self, tokens_BP: jax.Array, segment_ids_BP: jax.Array | None = None
    ) -> tuple[jax.Array, Cache]:
        """Reads the prompts; returns (hidden [B, D] of each one's last token, their keys).

        Padding, on either side, has segment id 0; without ids there is none. The hidden state
        predicts the first new token. The second result is for `init_cache`.
        """
        if segment_ids_BP is None:
            segment_ids_BP = jnp.ones_like(tokens_BP)
        real_BP = segment_ids_BP > 0
        position_BP = jnp.where(real_BP, jnp.cumsum(real_BP, axis=1) - 1, -1).astype(jnp.int32)
        visible_BPP = visible(segment_ids_BP, segment_ids_BP, causal=True)
        if self.config.inputs_bidirectional_attention:
            visible_BPP |= _both_ways(segment_ids_BP, real_BP)
        hidden_BPD, (key_LBHPK, value_LBHPK) = self.decoder(
            self._embed(tokens_BP), position_BP, visible_BPP, None, keep=True
        )
        last_B = jnp.argmax(position_BP, axis=1)
        last_BD = jnp.take_along_axis(hidden_BPD, last_B[:, None, None], axis=1)[:, 0]
        prefix = {"prefix_k": key_LBHPK, "prefix_v": value_LBHPK, "prefix_positions": position_BP}
        return last_BD, prefix

    def init_cache(self, prefix: Cache, max_decode_len: int, beams: int = 1) -> Cache:
        """Returns the cache of `decode_step` for R = B * beams rows.

        prefix_k, prefix_v [L, B, H, P, K] and prefix_positions [B, P] (-1: padding) are
        `prefill`'s, shared by the beams of a row (step rows r*beams .. r*beams + beams - 1);
        self_k, self_v [L, R, H, T, K], for T = max_decode_len new tokens, start as zeros.
        """
        layers, batch, heads, _, width = prefix["prefix_k"].shape
        shape = (layers, batch * beams, heads, max_decode_len, width)
        zeros = jnp.zeros(shape, self.config.jax_dtype)
        return {**prefix, "self_k": zeros, "self_v": zeros}

    def decode_step(
        self, token_R: jax.Array, position_R: jax.Array, cache: Cache
    ) -> tuple[jax.Array, Cache]:
        """Feeds one new token per row; returns (hidden [R, D], new cache).

        `position_R` counts a row's new tokens: the first after the prompt is at 0. Keys at
        positions >= position are never read, so a row may go back and overwrite.
        """
        return self.decoder.step(self._embed(token_R), position_R, cache)


def _both_ways(segment_ids_BS: jax.Array, inputs_BS: jax.Array) -> jax.Array:
    """Which inputs see which: all of their own segment's."""
    queries_BS = jnp.where(inputs_BS, segment_ids_BS, -1)
    return visible(queries_BS, jnp.where(inputs_BS, segment_ids_BS, 0))
