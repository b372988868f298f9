"""From a config to its network: the one place that knows which families there are."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mt0_tpu.models.bloom import Bloom
from mt0_tpu.models.config import BloomConfig, T5Config
from mt0_tpu.models.t5 import T5

NetworkConfig = T5Config | BloomConfig


def network(config: NetworkConfig) -> nn.Module:
    """Returns the network of a config: apply it to a batch for hidden states."""
    return Bloom(config) if config.decoder_only else T5(config)


def dummy_batch(config: NetworkConfig) -> dict[str, jax.Array]:
    """Returns the smallest batch that draws or traces the parameters."""
    names = ["decoder_input_tokens", "decoder_target_tokens", "decoder_causal_attention"]
    if not config.decoder_only:
        names = ["encoder_input_tokens", *names[:2]]
    return {name: jnp.ones((1, 2), jnp.int32) for name in names}


def head_kernel(params: Any, config: NetworkConfig) -> jax.Array:
    """Returns the LM head [D, V]: BLOOM's token table, T5 1.0's scaled one, or mT5's own kernel."""
    if config.decoder_only:
        return params["token_embedder"]["embedding"].T
    if config.logits_via_embedding:
        embedding_VD = params["token_embedder"]["embedding"]
        return embedding_VD.T / jnp.sqrt(jnp.float32(embedding_VD.shape[1]))
    return params["decoder"]["logits_dense"]["kernel"]


def head_columns(params: Any, config: NetworkConfig, tokens_N: jax.Array) -> jax.Array:
    """Returns the LM head's columns [D, N] of tokens; a table is read by row, never turned."""
    if config.decoder_only:
        return params["token_embedder"]["embedding"][tokens_N].T
    return head_kernel(params, config)[:, tokens_N]


def abstract_params(config: NetworkConfig, boxed: bool = False) -> Any:
    """Returns the parameter tree as jax.ShapeDtypeStruct; `boxed` keeps flax's axis metadata."""
    model, batch = network(config), dummy_batch(config)
    params = jax.eval_shape(model.init, jax.random.key(0), batch)["params"]
    return params if boxed else nn.meta.unbox(params)


def param_axes(config: NetworkConfig) -> Any:
    """Returns the parameter tree with a tuple of logical axis names in place of every array."""
    boxed = abstract_params(config, boxed=True)
    is_box = lambda leaf: isinstance(leaf, nn.meta.AxisMetadata)  # noqa: E731
    return jax.tree.map(lambda box: tuple(box.names), boxed, is_leaf=is_box)


def parameter_count(config: NetworkConfig) -> int:
    """Returns the number of parameters, allocating none."""
    return sum(leaf.size for leaf in jax.tree.leaves(abstract_params(config)))
