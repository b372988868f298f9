"""Greedy decoding with a key/value cache.

Letters: B rows, T encoder length, S decode length, V vocabulary.
"""

from __future__ import annotations

import functools
from contextlib import ExitStack

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mt0_tpu import partitioning
from mt0_tpu.errors import UserError
from mt0_tpu.models.t5 import T5, T5Config

EOS_ID = 1


def greedy_decode(
    params,
    config: T5Config,
    encoder_input_tokens_BT,
    max_decode_len: int,
    *,
    eos_id: int = EOS_ID,
    mesh: Mesh | None = None,
) -> jax.Array:
    """Takes the most likely token at every position until EOS.

    Stops as soon as every row has ended. A row without input tokens (padding of a batch) has
    ended before it starts. Compiles once a shape: pad inputs to a few lengths.

    Returns:
      int32 ids [B, max_decode_len]: EOS included, zeros after it. The call returns before the
      device is done; reading the array waits.
    """
    if max_decode_len < 1:
        raise UserError(f"max_decode_len is {max_decode_len}; write 1 or more")
    tokens_BT = encoder_input_tokens_BT
    if tokens_BT.ndim != 2:
        raise UserError(f"inputs have shape {tokens_BT.shape}; greedy_decode takes [rows, length]")
    with ExitStack() as stack:
        if mesh is not None:
            partitioning.check_batch_size(tokens_BT.shape[0], mesh)
            stack.enter_context(jax.set_mesh(mesh))
            stack.enter_context(nn.logical_axis_rules(partitioning.LOGICAL_RULES))
            rows = partitioning.batch_sharding(mesh)
            host_BT = np.asarray(tokens_BT, np.int32)
            tokens_BT = jax.make_array_from_callback(host_BT.shape, rows, lambda at: host_BT[at])
        return _compiled(config, max_decode_len, eos_id, mesh)(params, tokens_BT)


@functools.cache
def _compiled(config: T5Config, max_decode_len: int, eos_id: int, mesh: Mesh | None):
    decode = functools.partial(_greedy, config=config, max_decode_len=max_decode_len, eos_id=eos_id)
    if mesh is None:
        return jax.jit(decode)
    return jax.jit(decode, out_shardings=partitioning.replicated(mesh))


def _greedy(params, tokens_BT, *, config: T5Config, max_decode_len: int, eos_id: int):
    model = T5(config)
    run = functools.partial(model.apply, {"params": params})
    segments_BT = (tokens_BT > 0).astype(jnp.int32)
    encoded_BTD = run(tokens_BT, segments_BT, method="encode")
    cache = run(encoded_BTD, segments_BT, max_decode_len, method="init_cache")
    rows = tokens_BT.shape[0]

    def unfinished(carry):
        position, _, ended_B, _, _ = carry
        return (position < max_decode_len) & ~jnp.all(ended_B)

    def take(carry):
        position, token_B, ended_B, ids_BS, cache = carry
        position_B = jnp.full((rows,), position, jnp.int32)
        hidden_BD, cache = run(token_B, position_B, cache, method="decode_step")
        logits_BV = run(hidden_BD[:, None], method="logits")[:, 0]
        best_B = jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
        token_B = jnp.where(ended_B, jnp.int32(0), best_B)
        ids_BS = jax.lax.dynamic_update_slice_in_dim(ids_BS, token_B[:, None], position, axis=1)
        return position + 1, token_B, ended_B | (token_B == eos_id), ids_BS, cache

    start = (
        jnp.int32(0),
        jnp.zeros((rows,), jnp.int32),
        ~jnp.any(tokens_BT > 0, axis=1),
        jnp.zeros((rows, max_decode_len), jnp.int32),
        cache,
    )
    return jax.lax.while_loop(unfinished, take, start)[3]
