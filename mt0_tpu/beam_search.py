"""Beam search with T5X's semantics: live and finished hypotheses, the brevity penalty.

Of each input the N best hypotheses that reached EOS are kept beside the N best that have not. A
step looks at the 2N best continuations, so that N live ones remain even if N of them end. Within
the state the best of an input comes last, as in T5X, whose order of equals this keeps.

Letters: B inputs, N beams, R = B * N rows, C = 2N continuations, S decode length, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mt0_tpu.top_k import top_k

NOTHING = -1e7  # the score of a place that no hypothesis fills, as in T5X


class Beams(NamedTuple):
    """The hypotheses of B inputs under way."""

    live_ids_BNS: jax.Array
    live_BN: jax.Array  # log-probabilities
    finished_ids_BNS: jax.Array
    finished_BN: jax.Array  # scores: log-probability over the penalty
    filled_BN: jax.Array  # which finished places hold a hypothesis


def start(inputs: int, decodes: int, length: int) -> Beams:
    """Returns the state before the first token: one live hypothesis, the empty one."""
    ids_BNS = jnp.zeros((inputs, decodes, length), jnp.int32)
    places_BN = jnp.broadcast_to(jnp.arange(decodes)[None], (inputs, decodes))
    return Beams(
        ids_BNS,
        jnp.where(places_BN == 0, 0.0, NOTHING).astype(jnp.float32),
        ids_BNS,
        jnp.full((inputs, decodes), NOTHING, jnp.float32),
        jnp.zeros((inputs, decodes), bool),
    )


def last_tokens(search: Beams, position_B: jax.Array) -> jax.Array:
    """Returns int32 [B, N], what was written last; zeros before the first token."""
    before_B11 = jnp.maximum(position_B - 1, 0)[:, None, None]
    token_BN = jnp.take_along_axis(search.live_ids_BNS, before_B11, axis=2)[:, :, 0]
    return jnp.where(position_B[:, None] > 0, token_BN, 0)


def penalty(alpha: float, length: jax.Array) -> jax.Array:
    """Returns ((5 + length) / 6) ** alpha (Wu et al. 2016, equation 14, without coverage)."""
    return ((5.0 + length.astype(jnp.float32)) / 6.0) ** alpha


def advance(own, state, logits_RV: jax.Array, cache):
    """Continues the hypotheses of every input that has not ended by one token.

    Args:
      own: the decoding.Engine; state: its decoding.State before the step.
      cache: after the step, in the order of the hypotheses before it.

    Returns:
      (Beams, bool [B]: no live hypothesis can still enter the finished ones, the cache in the
      order of the new live hypotheses).
    """
    before: Beams = state.search
    inputs, beams = before.live_BN.shape
    length_B = state.position_B + 1
    log_prob_BC, token_BC, parent_BC = continuations(logits_RV, before.live_BN, own.mesh)
    ids_BCS = _take(before.live_ids_BNS, parent_BC)
    ids_BCS = ids_BCS.at[jnp.arange(inputs), :, state.position_B].set(token_BC, mode="drop")
    ended_BC = token_BC == own.eos_id

    live_BC = log_prob_BC + jnp.where(ended_BC, NOTHING, 0.0)
    live_BN, picked_BN = _best_last(live_BC, beams)
    score_BC = log_prob_BC / penalty(own.decode.alpha, length_B)[:, None]
    score_BC = score_BC + jnp.where(ended_BC, 0.0, NOTHING)
    scores = jnp.concatenate([before.finished_BN, score_BC], axis=1)
    finished_BN, kept_BN = _best_last(scores, beams)
    after = Beams(
        _take(ids_BCS, picked_BN),
        live_BN,
        _take(jnp.concatenate([before.finished_ids_BNS, ids_BCS], axis=1), kept_BN),
        finished_BN,
        _take(jnp.concatenate([before.filled_BN, ended_BC], axis=1), kept_BN),
    )
    still_B = ~state.ended_B
    after = jax.tree.map(
        lambda new, old: jnp.where(still_B.reshape(-1, *[1] * (old.ndim - 1)), new, old),
        after,
        before,
    )
    # Each layer's [B, N, ...] is gathered along N alone, input by input, so that a mesh that cuts
    # inputs moves nothing between devices.
    source_BN = _take(parent_BC, picked_BN)
    cache = {name: jax.vmap(_take, in_axes=(0, None))(leaf, source_BN)
             for name, leaf in cache.items()}  # fmt: skip
    return after, _settled(after, own.decode.alpha, own.max_decode_len), cache


def _settled(search: Beams, alpha: float, max_decode_len: int) -> jax.Array:
    """Returns bool [B]: the worst finished score beats what any live hypothesis can reach.

    T5X's bound: its live log-probability over the penalty of max_decode_len + 1 tokens.
    """
    most = penalty(alpha, jnp.int32(max_decode_len + 1))
    reachable_B1 = search.live_BN[:, -1:] / most
    worst_B1 = jnp.min(search.finished_BN, axis=1, keepdims=True)
    worst_BN = jnp.where(search.filled_BN, worst_B1, NOTHING)
    return jnp.all(worst_BN > reachable_B1, axis=1)


def outcome(search: Beams) -> tuple[jax.Array, jax.Array]:
    """Returns (ids [B, N, S], scores [B, N]), the best first.

    An input without any finished hypothesis gives its live ones with their log-probabilities,
    not divided by a penalty; a place that nothing fills holds zeros and the score -1e7.
    """
    any_B1 = jnp.any(search.filled_BN, axis=1, keepdims=True)
    ids_BNS = jnp.where(any_B1[:, :, None], search.finished_ids_BNS, search.live_ids_BNS)
    return ids_BNS[:, ::-1], jnp.where(any_B1, search.finished_BN, search.live_BN)[:, ::-1]


def continuations(
    logits_RV: jax.Array, live_BN: jax.Array, mesh: Mesh | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the 2N best continuations of each input, the best first.

    Returns:
      (log-probability of the whole hypothesis, its last token, the beam it continues), each
      [B, C].
    """
    inputs, beams = live_BN.shape
    wanted = min(2 * beams, logits_RV.shape[1])
    # The best 2N of an input are among the best 2N of each of its beams.
    best_RC, token_RC = top_k(logits_RV, wanted, mesh)
    log_z_R = jax.nn.logsumexp(logits_RV, axis=-1)
    log_prob_RC = best_RC - log_z_R[:, None] + live_BN.reshape(-1, 1)
    log_prob_BC, at_BC = jax.lax.top_k(log_prob_RC.reshape(inputs, -1), 2 * beams)
    token_BC = jnp.take_along_axis(token_RC.reshape(inputs, -1), at_BC, axis=1)
    return log_prob_BC, token_BC, at_BC // wanted


def _best_last(scores_BC: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    best_BN, at_BN = jax.lax.top_k(scores_BC, count)
    return best_BN[:, ::-1], at_BN[:, ::-1]


def _take(values_BM: jax.Array, at_BN: jax.Array) -> jax.Array:
    """Returns values_BM[b, at_BN[b, n]] for values of any further dimensions."""
    return jax.vmap(lambda values, at: jnp.take(values, at, axis=0, mode="clip"))(values_BM, at_BN)
