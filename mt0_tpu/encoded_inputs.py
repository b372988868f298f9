"""How decoding reads inputs with an encoder: each once, its keys and values for every step.

Letters: G inputs of a group, T encoder length.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from mt0_tpu.text_vocabulary import EOS_ID, PAD_ID

__all__ = ["EOS_ID", "LEAVES", "PAD_ID", "lengths_of", "read"]

# What of the cache belongs to the inputs: the axis of their length, and what fills it up.
LEAVES = {"cross_k": (3, 0), "cross_v": (3, 0), "cross_mask": (1, 0)}


def lengths_of(tokens_GT: np.ndarray) -> np.ndarray:
    """Returns int32 [G], up to the last token that is not padding."""
    real_GT = tokens_GT != PAD_ID
    last_G = tokens_GT.shape[1] - np.argmax(real_GT[:, ::-1], axis=1)
    return np.where(real_GT.any(axis=1), last_G, 0).astype(np.int32)


def read(
    run: Callable, tokens_GT: jax.Array, lengths_G: jax.Array, max_decode_len: int, decodes: int
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Returns (the cache of `decode_step`, what the decoder reads first: T5's token 0).

    Args:
      run: applies a method of the network to its parameters.
    """
    segments_GT = (tokens_GT > 0).astype(jnp.int32)
    encoded_GTD = run(tokens_GT, segments_GT, method="encode")
    cache = run(encoded_GTD, segments_GT, max_decode_len, decodes, method="init_cache")
    return cache, jnp.zeros_like(lengths_G)
