"""Blocks of queries: which there are, and that together they are the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mt0_tpu.models.query_blocks import attend_by_blocks


@pytest.mark.parametrize(
    "length, block, widths",
    [
        (12, None, {12}),
        (12, 12, {12}),
        (12, 100, {12}),
        (12, 4, {4}),
        (12, 5, {4}),
        (12, 1, {1}),
        (24, 16, {12}),
        (13, 6, {13}),  # no divisor of more than half a block: all at once
    ],
)
def test_blocks_divide_the_queries_evenly(length, block, widths):
    seen = set()

    def attend(query_BSHK, number_BS, table_1HS, nothing):
        assert nothing is None
        seen.add(query_BSHK.shape[1])
        return query_BSHK * number_BS[:, :, None, None] + jnp.swapaxes(table_1HS, 1, 2)[..., None]

    draw = np.random.default_rng(0).normal
    query_BSHK, number_BS = draw(size=(2, length, 3, 5)), draw(size=(2, length))
    table_1HS = draw(size=(1, 3, length))
    parts = (number_BS, 1), (table_1HS, 2), (None, 1)
    parts = [(None if array is None else jnp.float32(array), axis) for array, axis in parts]
    found = attend_by_blocks(attend, block, jnp.float32(query_BSHK), *parts)
    wanted = query_BSHK * number_BS[:, :, None, None] + np.swapaxes(table_1HS, 1, 2)[..., None]
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert seen == widths


def test_the_gradient_never_holds_the_logits_of_all_queries():
    def mixed(block, query_BSHK, key_BTHK):
        def attend(query_BSHK):
            logits_BHST = jnp.einsum("bshk,bthk->bhst", query_BSHK, key_BTHK)
            return jnp.einsum("bhst,bthk->bshk", jax.nn.softmax(logits_BHST), key_BTHK)

        return jnp.sum(attend_by_blocks(attend, block, query_BSHK) ** 2)

    def temporaries(block):
        shape = jax.ShapeDtypeStruct((1, 512, 4, 8), jnp.float32)
        step = jax.jit(jax.grad(lambda *args: mixed(block, *args), (0, 1)))
        return step.lower(shape, shape).compile().memory_analysis().temp_size_in_bytes

    logits_bytes = 4 * 512 * 512 * 4
    assert temporaries(None) > logits_bytes > temporaries(64)
