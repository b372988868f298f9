"""The encoder-decoder network of T5 1.1 and mT5, computing what T5X's `examples/t5` computes.

Layers are stacked on axis 0 and run by `nn.scan`; the relative bias and the masks of a tower are
made once, outside the scan. Dims: B batch rows, T encoder length, S decoder length, D width,
H heads, K head width, V vocabulary, L layers, R rows of a cached step (B * beams).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from mt0_tpu.models.attention import Attention, RelativeBias, mask_bias, visible
from mt0_tpu.models.cache import Cache, with_position
from mt0_tpu.models.config import T5Config
from mt0_tpu.models.layers import (
    MLP,
    Dense,
    Embed,
    RMSNorm,
    Site,
    constrain,
    dropout,
    fold_keys,
)
from mt0_tpu.models.stacked_layers import scan_layers


def _attention(config: T5Config, site: Site) -> Attention:
    return Attention(
        emb_dim=config.emb_dim,
        num_heads=config.num_heads,
        head_dim=config.head_dim,
        dropout_rate=config.dropout_rate,
        dtype=config.jax_dtype,
        probabilities_site=site,
        query_block=config.attention_query_block,
    )


def _mlp(config: T5Config) -> MLP:
    return MLP(
        emb_dim=config.emb_dim,
        mlp_dim=config.mlp_dim,
        activations=config.mlp_activations,
        dropout_rate=config.dropout_rate,
        dtype=config.jax_dtype,
    )


def _norm(config: T5Config) -> RMSNorm:
    return RMSNorm(config.emb_dim, config.jax_dtype)


def _relative_bias(config: T5Config, bidirectional: bool) -> RelativeBias:
    return RelativeBias(
        num_heads=config.num_heads,
        num_buckets=config.relative_attention_num_buckets,
        max_distance=config.relative_attention_max_distance,
        bidirectional=bidirectional,
    )


def _residual(config: T5Config, x: jax.Array) -> jax.Array:
    """Lays the residual stream [B, T, D], or what is added to it, over the mesh."""
    return constrain(x, "batch", "sequence" if config.sequence_parallel else "length", "embed")


class EncoderLayer(nn.Module):
    """Self attention and MLP, each behind a norm and added to the residual stream."""

    config: T5Config

    def setup(self) -> None:
        self.pre_attention_layer_norm = _norm(self.config)
        self.attention = _attention(self.config, Site.SELF_PROBABILITIES)
        self.pre_mlp_layer_norm = _norm(self.config)
        self.mlp = _mlp(self.config)

    def __call__(self, x_BTD, layer, visible_BTT, relative_1HTT, tower_keys_B):
        rate = self.config.dropout_rate
        keys_B = fold_keys(tower_keys_B, layer)
        place = functools.partial(_residual, self.config)
        x_BTD = place(x_BTD)
        normed_BTD = self.pre_attention_layer_norm(x_BTD)
        y_BTD = self.attention(normed_BTD, normed_BTD, visible_BTT, relative_1HTT, keys_B)
        x_BTD = x_BTD + dropout(place(y_BTD), keys_B, Site.SELF_OUTPUT, rate)
        y_BTD = self.mlp(self.pre_mlp_layer_norm(x_BTD), keys_B)
        return place(x_BTD + dropout(place(y_BTD), keys_B, Site.MLP_OUTPUT, rate))


class DecoderLayer(nn.Module):
    """Causal self attention, attention to the encoder, MLP; also one position at a time."""

    config: T5Config

    def setup(self) -> None:
        self.pre_self_attention_layer_norm = _norm(self.config)
        self.self_attention = _attention(self.config, Site.SELF_PROBABILITIES)
        self.pre_cross_attention_layer_norm = _norm(self.config)
        self.encoder_decoder_attention = _attention(self.config, Site.CROSS_PROBABILITIES)
        self.pre_mlp_layer_norm = _norm(self.config)
        self.mlp = _mlp(self.config)

    def __call__(
        self, x_BSD, layer, encoded_BTD, visible_BSS, cross_BST, relative_1HSS, tower_keys_B
    ):
        rate = self.config.dropout_rate
        keys_B = fold_keys(tower_keys_B, layer)
        place = functools.partial(_residual, self.config)
        x_BSD = place(x_BSD)
        normed_BSD = self.pre_self_attention_layer_norm(x_BSD)
        y_BSD = self.self_attention(normed_BSD, normed_BSD, visible_BSS, relative_1HSS, keys_B)
        x_BSD = x_BSD + dropout(place(y_BSD), keys_B, Site.SELF_OUTPUT, rate)
        normed_BSD = self.pre_cross_attention_layer_norm(x_BSD)
        y_BSD = self.encoder_decoder_attention(normed_BSD, encoded_BTD, cross_BST, None, keys_B)
        x_BSD = x_BSD + dropout(place(y_BSD), keys_B, Site.CROSS_OUTPUT, rate)
        y_BSD = self.mlp(self.pre_mlp_layer_norm(x_BSD), keys_B)
        return place(x_BSD + dropout(place(y_BSD), keys_B, Site.MLP_OUTPUT, rate))

    def step(self, x_RD, cached, past_bias_RHS, own_bias_H, cross_mask_BT):
        """One position of every row; `cached` is this layer's slice of the cache."""
        x_RD = constrain(x_RD, "batch", "embed")
        y_RD, key_RHK, value_RHK = self.self_attention.self_step(
            self.pre_self_attention_layer_norm(x_RD),
            cached["self_k"],
            cached["self_v"],
            past_bias_RHS,
            own_bias_H,
        )
        x_RD = x_RD + y_RD
        x_RD = x_RD + self.encoder_decoder_attention.cross_step(
            self.pre_cross_attention_layer_norm(x_RD),
            cached["cross_k"],
            cached["cross_v"],
            cross_mask_BT,
        )
        x_RD = x_RD + self.mlp(self.pre_mlp_layer_norm(x_RD))
        return constrain(x_RD, "batch", "embed"), (key_RHK, value_RHK)


class Encoder(nn.Module):
    """The tower that reads the inputs."""

    config: T5Config

    def setup(self) -> None:
        self.relpos_bias = _relative_bias(self.config, bidirectional=True)
        self.layers = EncoderLayer(self.config)
        self.encoder_norm = _norm(self.config)

    def __call__(self, x_BTD, segment_ids_BT, dropout_keys_B):
        config = self.config
        visible_BTT = visible(segment_ids_BT, segment_ids_BT)
        relative_1HTT = self.relpos_bias(x_BTD.shape[1])
        tower_keys_B = fold_keys(dropout_keys_B, Site.ENCODER_LAYERS)

        def body(layer, x_BTD, index):
            return layer(x_BTD, index, visible_BTT, relative_1HTT, tower_keys_B), None

        count = config.num_encoder_layers
        x_BTD = dropout(x_BTD, dropout_keys_B, Site.ENCODER_EMBEDDING, config.dropout_rate)
        scan = scan_layers(body, count, config.remat_policy)
        x_BTD, _ = scan(self.layers, x_BTD, jnp.arange(count))
        x_BTD = self.encoder_norm(x_BTD)
        rate = config.dropout_rate
        return dropout(x_BTD, dropout_keys_B, Site.ENCODER_FINAL, rate, elementwise=True)


class Decoder(nn.Module):
    """The tower that writes the targets, and the head."""

    config: T5Config

    def setup(self) -> None:
        config = self.config
        self.relpos_bias = _relative_bias(config, bidirectional=False)
        self.layers = DecoderLayer(config)
        self.decoder_norm = _norm(config)
        if not config.logits_via_embedding:
            self.logits_dense = Dense(
                config.emb_dim, config.vocab_size, ("embed", "vocab"), jnp.dtype("float32")
            )

    def __call__(self, x_BSD, segment_ids_BS, encoded_BTD, cross_BST, dropout_keys_B):
        config = self.config
        visible_BSS = visible(segment_ids_BS, segment_ids_BS, causal=True)
        relative_1HSS = self.relpos_bias(x_BSD.shape[1])
        tower_keys_B = fold_keys(dropout_keys_B, Site.DECODER_LAYERS)
        # Every layer reads it whole: put together once, whatever `sequence_parallel` says.
        encoded_BTD = constrain(encoded_BTD, "batch", "length", "embed")

        def body(layer, x_BSD, index):
            x_BSD = layer(
                x_BSD, index, encoded_BTD, visible_BSS, cross_BST, relative_1HSS, tower_keys_B
            )
            return x_BSD, None

        count = config.num_decoder_layers
        x_BSD = dropout(x_BSD, dropout_keys_B, Site.DECODER_EMBEDDING, config.dropout_rate)
        scan = scan_layers(body, count, config.remat_policy)
        x_BSD, _ = scan(self.layers, x_BSD, jnp.arange(count))
        x_BSD = self.decoder_norm(x_BSD)
        return dropout(x_BSD, dropout_keys_B, Site.DECODER_FINAL, config.dropout_rate)

    def cross_keys_values(self, encoded_BTD: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the encoder's keys and values for every layer, each [L, B, H, T, K].

        Heads before positions: a cached step reads them head by head, and XLA on CPU would
        otherwise turn the whole cache around at every step.
        """

        def body(layer, carry, _):
            key_BTHK, value_BTHK = layer.encoder_decoder_attention.keys_values(encoded_BTD)
            return carry, (jnp.swapaxes(key_BTHK, 1, 2), jnp.swapaxes(value_BTHK, 1, 2))

        scan = scan_layers(body, self.config.num_decoder_layers)
        return scan(self.layers, None, None)[1]

    def step(self, x_RD: jax.Array, position_R: jax.Array, cache: Cache):
        """Runs one position of every row; the new keys and values enter the cache at the end."""
        count, _, _, length, _ = cache["self_k"].shape
        past_RS = jnp.arange(length)[None, :] < position_R[:, None]
        past_bias_RHS = self.relpos_bias.at_positions(position_R, length)
        past_bias_RHS = past_bias_RHS + mask_bias(past_RS)[:, None, :]
        own_bias_H = self.relpos_bias.by_distance(0, 0)[:, 0]
        cross_mask_BT = cache["cross_mask"]

        def body(layer, x_RD, cached):
            return layer.step(x_RD, cached, past_bias_RHS, own_bias_H, cross_mask_BT)

        slices = {name: cache[name] for name in ("self_k", "self_v", "cross_k", "cross_v")}
        x_RD, (key_LRHK, value_LRHK) = scan_layers(body, count)(self.layers, x_RD, slices)
        return self.decoder_norm(x_RD), with_position(cache, position_R, key_LRHK, value_LRHK)


class T5(nn.Module):
    """An encoder-decoder. Calling it on a batch gives decoder hidden states, not logits.

    The loss multiplies them with the head block by block; `logits` does it whole.
    """

    config: T5Config

    def setup(self) -> None:
        config = self.config
        self.token_embedder = Embed(config.vocab_size, config.emb_dim, config.jax_dtype)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def __call__(
        self, batch: dict[str, jax.Array], dropout_keys_B: jax.Array | None = None
    ) -> jax.Array:
        """Returns hidden states [B, S, D] of a batch with T5X's feature names.

        Unpacked batches lack segment ids, which then come from the padding: as in T5X a decoder
        position counts by its TARGET token, since the first decoder input is 0 and visible.
        """
        inputs_BT, outputs_BS = batch["encoder_input_tokens"], batch["decoder_input_tokens"]
        encoder_ids_BT = batch.get("encoder_segment_ids")
        if encoder_ids_BT is None:
            encoder_ids_BT = (inputs_BT > 0).astype(jnp.int32)
        decoder_ids_BS = batch.get("decoder_segment_ids")
        if decoder_ids_BS is None:
            decoder_ids_BS = (batch["decoder_target_tokens"] > 0).astype(jnp.int32)
        # One gather for both towers: each would otherwise bring a table-sized gradient of its own.
        vectors = self.token_embedder(jnp.concatenate([inputs_BT, outputs_BS], axis=1))
        split = inputs_BT.shape[1]
        encoded_BTD = self.encoder(vectors[:, :split], encoder_ids_BT, dropout_keys_B)
        hidden_BSD = self._decode(
            vectors[:, split:],
            encoded_BTD,
            encoder_ids_BT,
            decoder_ids_BS,
            batch.get("decoder_cross_ids"),
            dropout_keys_B,
        )
        if self.is_initializing():
            self.logits(hidden_BSD)
        return hidden_BSD

    def encode(
        self,
        encoder_input_tokens_BT: jax.Array,
        encoder_segment_ids_BT: jax.Array | None = None,
        dropout_keys_B: jax.Array | None = None,
    ) -> jax.Array:
        """Returns [B, T, D] after the final norm; without segment ids tokens > 0 are seen."""
        if encoder_segment_ids_BT is None:
            encoder_segment_ids_BT = (encoder_input_tokens_BT > 0).astype(jnp.int32)
        x_BTD = self.token_embedder(encoder_input_tokens_BT)
        return self.encoder(x_BTD, encoder_segment_ids_BT, dropout_keys_B)

    def decode(
        self,
        encoded_BTD: jax.Array,
        encoder_segment_ids_BT: jax.Array,
        decoder_input_tokens_BS: jax.Array,
        decoder_segment_ids_BS: jax.Array,
        decoder_cross_ids_BS: jax.Array | None = None,
        dropout_keys_B: jax.Array | None = None,
    ) -> jax.Array:
        """Returns hidden states [B, S, D] after the final norm.

        `decoder_cross_ids_BS` says which encoder segment each position looks at (default: the
        segment of the same number), so that several decoder segments may share one input.
        """
        return self._decode(
            self.token_embedder(decoder_input_tokens_BS),
            encoded_BTD,
            encoder_segment_ids_BT,
            decoder_segment_ids_BS,
            decoder_cross_ids_BS,
            dropout_keys_B,
        )

    def _decode(self, x_BSD, encoded_BTD, encoder_ids_BT, decoder_ids_BS, cross_ids_BS, keys_B):
        if encoder_ids_BT is None or decoder_ids_BS is None:
            raise ValueError(
                "T5.decode got None for segment ids: it cannot tell padding from their absence; "
                "write (encoder_input_tokens > 0) and (decoder_target_tokens > 0) as int32."
            )
        if cross_ids_BS is None:
            cross_ids_BS = decoder_ids_BS
        cross_BST = visible(cross_ids_BS, encoder_ids_BT)
        return self.decoder(x_BSD, decoder_ids_BS, encoded_BTD, cross_BST, keys_B)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Returns float32 logits [..., V] of hidden states [..., D]."""
        hidden = hidden.astype(jnp.float32)
        if not self.config.logits_via_embedding:
            return self.decoder.logits_dense(hidden)
        scale = jnp.float32(self.config.emb_dim**-0.5)
        return self.token_embedder.logits(hidden * scale)

    def init_cache(
        self,
        encoded_BTD: jax.Array,
        encoder_segment_ids_BT: jax.Array,
        max_decode_len: int,
        beams: int = 1,
    ) -> Cache:
        """Returns the cache of `decode_step` for R = B * beams rows.

        cross_k, cross_v [L, B, H, T, K] and cross_mask [B, T] are computed here once and shared by
        the beams of a row (step rows r*beams .. r*beams + beams - 1); self_k, self_v
        [L, R, H, S, K] start as zeros. Positions with encoder segment id 0 are hidden.
        """
        config = self.config
        rows = encoded_BTD.shape[0] * beams
        shape = (config.num_decoder_layers, rows, config.num_heads, max_decode_len)
        zeros = jnp.zeros((*shape, config.head_dim), config.jax_dtype)
        cross_k, cross_v = self.decoder.cross_keys_values(encoded_BTD)
        return {
            "cross_k": cross_k,
            "cross_v": cross_v,
            "cross_mask": encoder_segment_ids_BT > 0,
            "self_k": zeros,
            "self_v": zeros,
        }

    def decode_step(
        self, token_R: jax.Array, position_R: jax.Array, cache: Cache
    ) -> tuple[jax.Array, Cache]:
        """Feeds one token per row at its own position; returns (hidden [R, D], new cache).

        Keys at positions >= position are never read, so a row may go back and overwrite.
        """
        return self.decoder.step(self.token_embedder(token_R), position_R, cache)
