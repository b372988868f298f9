"""The keys and values a decoder keeps of the positions before, by name.

Letters: L layers, R rows of a cached step, H heads, S decode length, K head width.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Cache = dict[str, jax.Array]


def with_position(
    cache: Cache, position_R: jax.Array, key_LRHK: jax.Array, value_LRHK: jax.Array
) -> Cache:
    """Returns the cache with self_k and self_v [L, R, H, S, K] set at each row's own position."""
    index_R = jnp.arange(position_R.shape[0])
    new = dict(cache)
    # Indices apart from each other bring the rows to the front of what is set.
    for name, made_LRHK in (("self_k", key_LRHK), ("self_v", value_LRHK)):
        made_RLHK = jnp.swapaxes(made_LRHK, 0, 1)
        new[name] = cache[name].at[:, index_R, :, position_R].set(made_RLHK)
    return new
