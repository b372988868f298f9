"""What may be drawn, how often it is, and the scores that go with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mt0_tpu import sampling
from mt0_tpu.decode_config import DecodeConfig

LOGITS = jnp.log(jnp.array([[0.4, 0.05, 0.3, 0.05, 0.2], [0.05, 0.1, 0.5, 0.25, 0.1]]))


def kept(masked):
    return [np.flatnonzero(row > -1e6).tolist() for row in np.asarray(masked)]


@pytest.mark.parametrize(
    ("k", "wanted"),
    [(1, [[0], [2]]), (3, [[0, 2, 4], [1, 2, 3, 4]]), (4, [[0, 1, 2, 3, 4], [1, 2, 3, 4]])],
)
def test_top_k_keeps_those_that_tie(k, wanted):
    # Row 0 ties at its fourth, row 1 at its third.
    assert kept(sampling.keep_top_k(LOGITS, k)) == wanted


def test_top_k_orders_negative_and_positive_numbers():
    logits = jnp.array([[-3.0, 2.0, -0.5, 0.0, 1.0, -1e6]])
    assert [kept(sampling.keep_top_k(logits, k))[0] for k in (1, 2, 3, 4, 5)] == [
        [1], [1, 4], [1, 3, 4], [1, 2, 3, 4], [0, 1, 2, 3, 4],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("p", "wanted"),
    [(0.3, [[0], [2]]), (0.55, [[0, 2], [2, 3]]), (0.8, [[0, 2, 4], [1, 2, 3, 4]]),
     (0.97, [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]])],
)  # fmt: skip
def test_top_p_keeps_the_fewest_that_hold_p(p, wanted):
    assert kept(sampling.keep_top_p(LOGITS, p)) == wanted


@pytest.mark.parametrize("head", [1024, 10])
def test_masks_against_a_sort(monkeypatch, head):
    # A head of 10 holds enough of the probability in some rows only.
    monkeypatch.setattr(sampling, "_HEAD", head)
    logits = jax.random.normal(jax.random.key(3), (6, 300)) * jnp.arange(1.0, 7.0)[:, None]
    sorted_ = np.sort(np.asarray(logits), axis=1)[:, ::-1]
    for k in (1, 7, 299, 300):
        expected = np.asarray(logits) >= sorted_[:, k - 1 : k]
        np.testing.assert_array_equal(sampling.keep_top_k(logits, k) > -1e6, expected)
    probabilities = np.asarray(jax.nn.softmax(logits, axis=1), np.float64)
    for p in (0.1, 0.5, 0.95):
        for row, found in zip(probabilities, sampling.keep_top_p(logits, p) > -1e6, strict=True):
            mass, chosen = row[found].sum(), row[found].min()
            assert mass >= p - 1e-6 and mass - chosen < p
            assert row[~np.asarray(found)].max() < chosen


def draws(decode, count=4000):
    keys = jax.random.split(jax.random.key(1), count)
    logits = jnp.tile(LOGITS[:1], (count, 1))
    return sampling.choose(logits, decode, keys)


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, [0.4, 0.05, 0.3, 0.05, 0.2]),
        ({"top_k": 2}, [4 / 7, 0, 3 / 7, 0, 0]),
        ({"top_p": 0.75}, [4 / 9, 0, 3 / 9, 0, 2 / 9]),
        ({"temperature": 0.5}, np.array([16, 0.25, 9, 0.25, 4]) / 29.5),
    ],
)
def test_frequencies_and_scores(fields, wanted):
    tokens, scores = draws(DecodeConfig("sample", **fields))
    found = np.bincount(np.asarray(tokens), minlength=5) / len(tokens)
    np.testing.assert_allclose(found, wanted, atol=0.03)  # about four standard deviations
    np.testing.assert_allclose(scores, np.log(np.asarray(wanted)[np.asarray(tokens)]), atol=1e-5)


def test_draws_of_a_long_row_with_most_of_it_masked():
    logits = (
        jnp.full((1, 1000), -1e7).at[0, jnp.array([3, 64, 999])].set(jnp.log(jnp.arange(1.0, 4)))
    )
    keys = jax.random.split(jax.random.key(2), 3000)
    tokens = np.asarray(sampling.draw(jnp.tile(logits, (3000, 1)), keys))
    found = np.bincount(tokens, minlength=1000) / 3000
    np.testing.assert_allclose(found[[3, 64, 999]], np.array([1, 2, 3]) / 6, atol=0.04)
    assert found[[3, 64, 999]].sum() == 1


def test_a_goal_that_rounding_puts_at_the_end_takes_a_real_token():
    weights = jnp.array([[0.5, 0.5, 0.0, 0.0]])
    at = sampling._first_above(jnp.cumsum(weights, axis=1), weights, jnp.array([[1.0]]))
    assert at.tolist() == [[1]]


def test_raw_scores_are_the_networks_own():
    decode = DecodeConfig("sample", top_k=2, temperature=0.5, rescale_log_probs=False)
    tokens, scores = draws(decode, 50)
    np.testing.assert_allclose(scores, LOGITS[0][tokens], atol=1e-5)


def test_a_draw_depends_on_its_own_key_only():
    keys = jax.random.split(jax.random.key(5), 2)
    decode = DecodeConfig("sample")
    both, _ = sampling.choose(LOGITS, decode, keys)
    for row in range(2):
        alone, _ = sampling.choose(LOGITS[row : row + 1], decode, keys[row : row + 1])
        assert alone[0] == both[row]
