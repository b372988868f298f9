"""How decoding reads inputs with a decoder alone: as the beginning of the text it continues.

Letters: G inputs of a group, T longest input.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from mt0_tpu.errors import UserError

# No token stands for padding, and each vocabulary has an EOS of its own (BLOOM's is 2).
PAD_ID = None
EOS_ID = None

# What of the cache belongs to the inputs: the axis of their length, and what fills it up.
LEAVES = {"prefix_k": (3, 0), "prefix_v": (3, 0), "prefix_positions": (1, -1)}


def lengths_of(tokens_GT: np.ndarray) -> np.ndarray:
    """Raises UserError: tokens do not say where an input ends."""
    raise UserError(
        f"inputs of shape {tokens_GT.shape} came without lengths; a decoder-only vocabulary has no "
        "padding, so hand over lengths_G"
    )


def read(
    run: Callable, tokens_GT: jax.Array, lengths_G: jax.Array, max_decode_len: int, decodes: int
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Returns (the cache of `decode_step`, what is read first: each input's last token).

    The last token is fed again by the first step, in a place of its own, so that every step is
    the same. Its first reading counts all the same where inputs see each other both ways.

    Args:
      run: applies a method of the network to its parameters.
    """
    columns_1T = jnp.arange(tokens_GT.shape[1], dtype=jnp.int32)[None, :]
    segments_GT = (columns_1T < lengths_G[:, None]).astype(jnp.int32)
    _, prefix = run(tokens_GT, segments_GT, method="prefill")
    before_GT = columns_1T < lengths_G[:, None] - 1
    positions_GT = jnp.where(before_GT, prefix["prefix_positions"], -1)
    prefix = {**prefix, "prefix_positions": positions_GT}
    last_G1 = jnp.maximum(lengths_G - 1, 0)[:, None]
    first_G = jnp.take_along_axis(tokens_GT, last_G1, axis=1)[:, 0]
    return run(prefix, max_decode_len, decodes, method="init_cache"), first_G
