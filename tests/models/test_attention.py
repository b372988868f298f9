"""Buckets, masks and biases against golden tables and literal matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mt0_tpu.models import attention
from mt0_tpu.models.layers import Site, dropout_scale

MT5 = {"num_buckets": 32, "max_distance": 128}


@pytest.fixture(scope="module")
def tables(golden):
    with np.load(golden / "t5_tiny" / "relpos_buckets.npz") as archive:
        return dict(archive)


@pytest.mark.parametrize("name, bidirectional", [("bidirectional", True), ("causal", False)])
def test_buckets_are_t5xs(tables, name, bidirectional):
    found = attention.relative_buckets(
        tables["relative_position"], bidirectional=bidirectional, **MT5
    )
    np.testing.assert_array_equal(found, tables[name])


@pytest.mark.parametrize("name, bidirectional", [("bidirectional", True), ("causal", False)])
@pytest.mark.parametrize("length", [1, 2, 300])
def test_bias_square_is_the_table_looked_up(tables, name, bidirectional, length):
    module = attention.RelativeBias(num_heads=3, bidirectional=bidirectional, **MT5)
    embedding = np.random.default_rng(0).normal(size=(3, 32)).astype(np.float32)
    variables = {"params": {"rel_embedding": jnp.asarray(embedding)}}
    table = tables[f"table_{name}"][:length, :length]
    square = module.apply(variables, length)
    np.testing.assert_array_equal(square[0], embedding[:, table])

    # The gradient of the square counts how often each bucket occurs.
    counts = jax.grad(lambda v: module.apply(v, length).sum())(variables)["params"]
    wanted = np.bincount(table.ravel(), minlength=32).astype(np.float32)
    np.testing.assert_array_equal(counts["rel_embedding"], np.tile(wanted, (3, 1)))

    position = jnp.array([length - 1, 0, length // 2])
    rows = module.apply(variables, position, length, method="at_positions")
    np.testing.assert_array_equal(rows, np.moveaxis(square[0, :, position, :], 0, 0))


def as_rows(visible):
    return ["".join("1" if seen else "0" for seen in row) for row in np.asarray(visible)]


def test_self_mask_of_a_packed_row():
    ids = jnp.array([[1, 1, 2, 2, 2, 0]])
    assert as_rows(attention.visible(ids, ids)[0]) == [
        "110000",
        "110000",
        "001110",
        "001110",
        "001110",
        "000000",
    ]
    assert as_rows(attention.visible(ids, ids, causal=True)[0]) == [
        "100000",
        "110000",
        "001000",
        "001100",
        "001110",
        "000000",
    ]


def test_cross_mask_matches_segments_and_hides_padding():
    decoder, encoder = jnp.array([[1, 2, 2, 0]]), jnp.array([[1, 1, 1, 2, 0]])
    assert as_rows(attention.visible(decoder, encoder)[0]) == [
        "11100",
        "00010",
        "00010",
        "00000",
    ]


def make_attention(rate=0.0):
    module = attention.Attention(
        emb_dim=8,
        num_heads=2,
        head_dim=4,
        dropout_rate=rate,
        dtype=jnp.dtype("float32"),
        probabilities_site=Site.SELF_PROBABILITIES,
    )
    x = jax.random.normal(jax.random.key(1), (2, 3, 8))
    context = jax.random.normal(jax.random.key(2), (2, 5, 8))
    seen = jnp.ones((2, 3, 5), bool).at[0, :, 3:].set(False).at[1, 2].set(False)
    params = module.init(jax.random.key(0), x, context, seen)["params"]
    return module, jax.tree.map(lambda box: box.unbox(), params, is_leaf=_boxed), x, context, seen


def _boxed(leaf):
    return hasattr(leaf, "unbox")


def by_hand(params, x, context, seen, probability_scale=1.0):
    """The definition in NumPy: no scaling of logits, masked ones excluded, nothing seen: mean."""
    heads = lambda name, y: (y @ params[name]["kernel"]).reshape(*y.shape[:2], 2, 4)  # noqa: E731
    logits = np.einsum("bshk,bthk->bhst", heads("query", x), heads("key", context))
    logits = np.where(seen[:, None], logits, -1e10)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights = weights / weights.sum(-1, keepdims=True) * probability_scale
    mixed = np.einsum("bhst,bthk->bshk", weights, heads("value", context))
    return mixed.reshape(2, 3, 8) @ params["out"]["kernel"]


def test_attention_is_its_definition_and_a_blind_row_sees_all_alike():
    module, params, x, context, seen = make_attention()
    found = module.apply({"params": params}, x, context, seen)
    to_numpy = jax.tree.map(np.asarray, (params, x, context, seen))
    np.testing.assert_allclose(found, by_hand(*to_numpy), atol=2e-6)
    values = np.asarray(context[1] @ params["value"]["kernel"]).mean(0)
    np.testing.assert_allclose(found[1, 2], values @ params["out"]["kernel"], atol=2e-6)


def test_probability_dropout_is_shared_along_the_queries():
    module, params, x, context, seen = make_attention(rate=0.5)
    keys = jax.random.split(jax.random.key(3), 2)
    found = module.apply({"params": params}, x, context, seen, None, keys)
    scale_BTH1 = dropout_scale(keys, Site.SELF_PROBABILITIES, 0.5, (5, 2, 1), jnp.float32)
    scale_BH1T = np.moveaxis(np.asarray(scale_BTH1), (1, 2, 3), (3, 1, 2))
    assert set(np.unique(scale_BH1T)) == {0.0, 2.0}
    to_numpy = jax.tree.map(np.asarray, (params, x, context, seen))
    np.testing.assert_allclose(found, by_hand(*to_numpy, scale_BH1T), atol=4e-6)
