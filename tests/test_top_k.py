"""The largest values by blocks and over devices, against jax's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mt0_tpu import partitioning
from mt0_tpu.top_k import arg_max, top_k


@pytest.mark.parametrize("vocabulary", [100, 128, 1024])
def test_arg_max_takes_the_first(vocabulary):
    values = jnp.round(jax.random.normal(jax.random.key(3), (50, vocabulary)))
    np.testing.assert_array_equal(arg_max(values), jnp.argmax(values, axis=1))


def few_values(vocabulary):
    """Ties everywhere, also between blocks and devices."""
    return jnp.round(jax.random.normal(jax.random.key(7), (8, vocabulary)) * 2)


@pytest.mark.parametrize(("vocabulary", "k"), [(100, 6), (1024, 1), (1024, 8), (1024, 15)])
def test_top_k_and_its_ties(vocabulary, k):
    values = few_values(vocabulary)
    for found, wanted in zip(top_k(values, k), jax.lax.top_k(values, k), strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("tensor", [2, 8])
def test_top_k_of_a_vocabulary_cut_over_devices(tensor):
    mesh = partitioning.make_mesh(partitioning.MeshConfig(tensor=tensor))
    values = few_values(64)
    cut = jax.jit(lambda values: top_k(values, 6, mesh))
    placed = jax.device_put(values, partitioning.shardings(("batch", "vocab"), values, mesh))
    with jax.set_mesh(mesh):
        for found, wanted in zip(cut(placed), jax.lax.top_k(values, 6), strict=True):
            np.testing.assert_array_equal(found, wanted)
        lines = cut.lower(placed).compile().as_text().splitlines()
    gathered = [line for line in lines if " all-gather(" in line]
    # Candidates travel, six a device; whole rows of 64 do not.
    assert gathered and not any(",64]" in line.split("all-gather")[0] for line in gathered)
