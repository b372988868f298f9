"""Choosing one token a row: the most likely one, or a draw by temperature, top-k and top-p.

The semantics are those of T5X's `temperature_sample`; what is drawn is not, since ours depends on
the seed, the input, the decode and the position alone.

Letters: B inputs, N decodes of an input, R = B * N rows, S decode length, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mt0_tpu.decode_config import DecodeConfig
from mt0_tpu.top_k import arg_max, top_k

_MASKED = -1e7  # T5X's stand-in for minus infinity
# At this temperature and below the most likely token is taken.
_COLDEST = 1e-4
_BLOCK = 64
_HEAD = 1024  # tokens that usually hold top_p of the probability


class Tokens(NamedTuple):
    """The decodes of B inputs under way."""

    token_BN: jax.Array  # the last one
    done_BN: jax.Array
    ids_BNS: jax.Array  # EOS included, zeros after it
    score_BN: jax.Array


def start(inputs: int, decodes: int, length: int) -> Tokens:
    """Returns the state before the first token."""
    shape = (inputs, decodes)
    return Tokens(
        jnp.zeros(shape, jnp.int32),
        jnp.zeros(shape, bool),
        jnp.zeros((*shape, length), jnp.int32),
        jnp.zeros(shape, jnp.float32),
    )


def last_tokens(search: Tokens, position_B: jax.Array) -> jax.Array:
    """Returns int32 [B, N], what was written last."""
    del position_B
    return search.token_BN


def advance(own, state, logits_RV: jax.Array, cache):
    """Takes one token more of every decode that has not ended.

    Args:
      own: the decoding.Engine; state: its decoding.State before the step.

    Returns:
      (Tokens, bool [B]: every decode of the input has ended, the cache as it was).
    """
    search: Tokens = state.search
    inputs, decodes = search.token_BN.shape
    keys_R = None
    if own.decode.method == "sample" and own.decode.temperature > _COLDEST:
        keys_R = _keys(state.key_B2, state.position_B, decodes)
    token_R, log_prob_R = choose(logits_RV, own.decode, keys_R, own.mesh)
    token_BN, log_prob_BN = (x.reshape(inputs, decodes) for x in (token_R, log_prob_R))
    still_BN = ~search.done_BN & ~state.ended_B[:, None]
    token_BN = jnp.where(still_BN, token_BN, 0)
    # An ended input may stand one past the end: nothing is written there.
    row_B = jnp.arange(inputs)
    ids_BNS = search.ids_BNS.at[row_B, :, state.position_B].add(token_BN, mode="drop")
    score_BN = search.score_BN + jnp.where(still_BN, log_prob_BN, 0.0)
    done_BN = search.done_BN | (still_BN & (token_BN == own.eos_id))
    return Tokens(token_BN, done_BN, ids_BNS, score_BN), jnp.all(done_BN, axis=1), cache


def outcome(search: Tokens) -> tuple[jax.Array, jax.Array]:
    """Returns (ids [B, N, S], scores [B, N]), the best first; of equals the later, as in T5X."""
    order_BN = jnp.argsort(search.score_BN, axis=1, stable=True)[:, ::-1]
    ids_BNS = jnp.take_along_axis(search.ids_BNS, order_BN[:, :, None], axis=1)
    return ids_BNS, jnp.take_along_axis(search.score_BN, order_BN, axis=1)


def _keys(key_B2: jax.Array, position_B: jax.Array, decodes: int) -> jax.Array:
    """Returns a random key for each row [R]: of its input, decode and position."""

    def of_row(key_2, position, decode):
        key = jax.random.fold_in(jax.random.wrap_key_data(key_2), decode)
        return jax.random.fold_in(key, position)

    of_input = jax.vmap(of_row, in_axes=(None, None, 0))
    return jax.vmap(of_input, in_axes=(0, 0, None))(
        key_B2, position_B, jnp.arange(decodes)
    ).reshape(-1)


def choose(
    logits_RV: jax.Array,
    decode: DecodeConfig,
    keys_R: jax.Array | None,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Returns (token int32 [R], its log-probability [R]).

    Args:
      keys_R: random keys; None takes the most likely token.

    The log-probability is of the distribution drawn from, hence 0 for a certain draw, unless
    decode.rescale_log_probs is off or the method is greedy.
    """
    greedy = keys_R is None
    if greedy:
        token_R = arg_max(logits_RV)
        if decode.method == "sample" and decode.rescale_log_probs:
            return token_R, jnp.zeros(token_R.shape, jnp.float32)
        return token_R, _log_prob(logits_RV, token_R)
    scaled_RV = logits_RV / decode.temperature
    if decode.top_k:
        scaled_RV = keep_top_k(scaled_RV, decode.top_k, mesh)
    if decode.top_p:
        scaled_RV = keep_top_p(scaled_RV, decode.top_p, mesh)
    token_R = draw(scaled_RV, keys_R)
    return token_R, _log_prob(scaled_RV if decode.rescale_log_probs else logits_RV, token_R)


def _log_prob(logits_RV: jax.Array, token_R: jax.Array) -> jax.Array:
    picked_R = jnp.take_along_axis(logits_RV, token_R[:, None], axis=-1)[:, 0]
    return picked_R - jax.nn.logsumexp(logits_RV, axis=-1)


def keep_top_k(logits_RV: jax.Array, k: int, mesh: Mesh | None = None) -> jax.Array:
    """Masks all but the k largest of each row, and those that equal the k-th."""
    best_Rk, _ = top_k(logits_RV, min(k, logits_RV.shape[1]), mesh)
    return jnp.where(logits_RV >= best_Rk[:, -1:], logits_RV, _MASKED)


def keep_top_p(logits_RV: jax.Array, p: float, mesh: Mesh | None = None) -> jax.Array:
    """Masks all but the fewest most likely tokens whose probabilities add up to p."""
    probabilities_RV = jax.nn.softmax(logits_RV, axis=-1)
    best_Rk, _ = top_k(probabilities_RV, min(_HEAD, logits_RV.shape[1]), mesh)
    upto_Rk = jnp.cumsum(best_Rk, axis=1)
    last_R1 = jnp.argmax(upto_Rk >= p, axis=1, keepdims=True)
    least_R1 = jnp.take_along_axis(best_Rk, last_R1, axis=1)
    enough_R1 = upto_Rk[:, -1:] >= p
    # Row by row, so that what a row keeps does not depend on the rows beside it.
    least_R1 = jax.lax.cond(
        jnp.all(enough_R1),
        lambda: least_R1,
        lambda: jnp.where(enough_R1, least_R1, _least_of_mass(probabilities_RV, p)),
    )
    return jnp.where(probabilities_RV >= least_R1, logits_RV, _MASKED)


def _least_of_mass(probabilities_RV: jax.Array, p: float) -> jax.Array:
    """Returns [R, 1], the largest threshold with p of the probability at or above it.

    What is not negative has the order of its bits: the threshold is found bit by bit, 31 sums over
    the vocabulary, which may be cut over a mesh, instead of a sort.
    """

    def settle(place, bits_R1):
        trial_R1 = bits_R1 | (jnp.int32(1) << (30 - place))
        least_R1 = jax.lax.bitcast_convert_type(trial_R1, jnp.float32)
        kept_RV = jnp.where(probabilities_RV >= least_R1, probabilities_RV, 0.0)
        enough_R1 = jnp.sum(kept_RV, axis=1, keepdims=True) >= p
        return jnp.where(enough_R1, trial_R1, bits_R1)

    none_R1 = jnp.zeros((probabilities_RV.shape[0], 1), jnp.int32)
    return jax.lax.bitcast_convert_type(jax.lax.fori_loop(0, 31, settle, none_R1), jnp.float32)


def draw(logits_RV: jax.Array, keys_R: jax.Array) -> jax.Array:
    """Returns int32 [R], a token of each row with the probabilities softmax(logits).

    One random number a row, looked up in the running sum of the probabilities, block by block and
    then in its block: noise for every token of mT5's vocabulary would cost twice its head.
    """
    rows, vocabulary = logits_RV.shape
    weights_RV = jnp.exp(logits_RV - jnp.max(logits_RV, axis=1, keepdims=True))
    weights_RNW = jnp.pad(weights_RV, ((0, 0), (0, -vocabulary % _BLOCK))).reshape(rows, -1, _BLOCK)
    sums_RN = jnp.sum(weights_RNW, axis=2)
    upto_RN = jnp.cumsum(sums_RN, axis=1)
    # A key a row, so that the draw does not depend on the rows beside it.
    goal_R1 = jax.vmap(jax.random.uniform)(keys_R)[:, None] * upto_RN[:, -1:]
    block_R1 = _first_above(upto_RN, sums_RN, goal_R1)
    before_R1 = jnp.take_along_axis(upto_RN - sums_RN, block_R1, axis=1)
    weights_RW = jnp.take_along_axis(weights_RNW, block_R1[:, :, None], axis=1)[:, 0]
    upto_RW = before_R1 + jnp.cumsum(weights_RW, axis=1)
    return (block_R1 * _BLOCK + _first_above(upto_RW, weights_RW, goal_R1))[:, 0]


def _first_above(upto_RM: jax.Array, weights_RM: jax.Array, goal_R1: jax.Array) -> jax.Array:
    """Returns int32 [R, 1], where the running sum first exceeds the goal.

    Where rounding left the goal at or above the whole sum, the last place of any weight.
    """
    count = weights_RM.shape[1]
    last_R1 = count - 1 - jnp.argmax(weights_RM[:, ::-1] > 0, axis=1, keepdims=True)
    first_R1 = jnp.sum(upto_RM <= goal_R1, axis=1, keepdims=True, dtype=jnp.int32)
    return jnp.minimum(first_R1, last_R1.astype(jnp.int32))
