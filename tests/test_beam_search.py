"""Beam search against T5X's ids and scores, and against trying everything."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mt0_tpu import beam_search, decoding
from mt0_tpu.decode_config import DecodeConfig
from tests.tiny import TINY, load_batch, load_params

RUNS = {
    "greedy_beam1": DecodeConfig("beam"),
    "beam4": DecodeConfig("beam", num_decodes=4),
    "beam4_alpha0": DecodeConfig("beam", num_decodes=4, alpha=0.0),
}


@pytest.mark.parametrize("name", RUNS)
def test_golden_ids_and_scores(golden, name):
    params, tokens = load_params(golden), load_batch(golden, "decode")["encoder_input_tokens"]
    engine = decoding.engine(TINY, RUNS[name], 24)
    state = engine.prefill(params, tokens, np.arange(8, dtype=np.int32), 0)
    _, report = engine.run(params, state, 8)
    with np.load(golden / "t5_tiny" / "decodes.npz") as archive:
        # T5X puts the best last.
        np.testing.assert_array_equal(report.ids_BNS[:, ::-1], archive[f"{name}.ids"])
        np.testing.assert_allclose(report.scores_BN[:, ::-1], archive[f"{name}.scores"], atol=1e-3)


class Fixed:
    """An engine and a state around logits that depend on the position alone."""

    eos_id, mesh = 1, None

    def __init__(self, logits_SV, beams, alpha):
        self.decode = DecodeConfig("beam", num_decodes=beams, alpha=alpha)
        self.logits_SV, self.max_decode_len = logits_SV, logits_SV.shape[0]

    def search(self):
        beams, vocabulary = self.decode.num_decodes, self.logits_SV.shape[1]
        search = beam_search.start(1, beams, self.max_decode_len)
        # The cache holds who is who: it must follow its hypothesis.
        cache = {"self_k": jnp.zeros((1, 1, beams, self.max_decode_len), jnp.int32)}
        ended = jnp.zeros(1, bool)
        for position in range(self.max_decode_len):
            at = jnp.full(1, position, jnp.int32)
            fed = beam_search.last_tokens(search, at)
            cache["self_k"] = cache["self_k"].at[0, :, :, position].set(fed)
            state = decoding.State(cache, at, ended, None, search, None)
            logits = jnp.broadcast_to(self.logits_SV[position], (beams, vocabulary))
            search, settled, cache = beam_search.advance(self, state, logits, cache)
            shifted = jnp.pad(search.live_ids_BNS[:, :, :position], ((0, 0), (0, 0), (1, 0)))
            np.testing.assert_array_equal(cache["self_k"][0, :, :, : position + 1], shifted)
            ended = ended | settled
        return beam_search.outcome(search)


def everything(logits_SV, alpha):
    """The scores of all hypotheses that end, best first, tried one by one."""
    log_SV = np.asarray(jax.nn.log_softmax(logits_SV))
    found = []
    length, vocabulary = log_SV.shape
    others = [token for token in range(vocabulary) if token != 1]
    for size in range(1, length + 1):
        for head in itertools.product(others, repeat=size - 1):
            ids = [*head, 1]
            total = sum(log_SV[at, token] for at, token in enumerate(ids))
            found.append((total / ((5 + size) / 6) ** alpha, ids + [0] * (length - size)))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_wide_beams_find_what_trying_everything_finds(alpha):
    logits_SV = jax.random.normal(jax.random.key(2), (4, 4)) * 1.5
    wanted = everything(logits_SV, alpha)
    ids, scores = Fixed(logits_SV, 54, alpha).search()
    assert len(wanted) == 1 + 3 + 9 + 27
    np.testing.assert_allclose(scores[0, :40], [score for score, _ in wanted], atol=1e-5)
    np.testing.assert_array_equal(ids[0, :40], [its for _, its in wanted])
    assert scores[0, 40] < -1e6


def test_without_a_finished_hypothesis_the_live_ones_come_undivided():
    logits_SV = jnp.array([[0.0, -50.0, 1.0, 0.5, -1.0, -1.0]] * 3)
    ids, scores = Fixed(logits_SV, 2, 0.6).search()
    log_p = np.asarray(jax.nn.log_softmax(logits_SV[0]))
    assert ids[0, 0].tolist() == [2, 2, 2]
    np.testing.assert_allclose(scores[0], [3 * log_p[2], 2 * log_p[2] + log_p[3]], atol=1e-5)


def test_places_that_nothing_fills():
    # EOS is among the best continuations of the first position only, hence one hypothesis.
    logits_SV = jnp.array([[-50.0, 2.0, *[0.0] * 6], [0.0, -60.0, *[0.0] * 6]])
    ids, scores = Fixed(logits_SV, 2, 0.6).search()
    assert ids[0].tolist() == [[1, 0], [0, 0]]
    assert scores[0, 0] > -1 and scores[0, 1] == beam_search.NOTHING
