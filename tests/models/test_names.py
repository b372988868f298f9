"""The stacked tree and T5X's names are two views of the same parameters."""

import jax
import numpy as np
import pytest

from mt0_tpu.models import names
from mt0_tpu.models.networks import abstract_params
from tests.tiny import TINY


@pytest.fixture(scope="module")
def flat(golden):
    with np.load(golden / "t5_tiny" / "params.npz") as archive:
        return dict(archive)


def test_names_and_shapes_are_t5xs(flat):
    found = {name: leaf.shape for name, leaf in names.expected(TINY).items()}
    assert found == {name: array.shape for name, array in flat.items()}
    assert all(leaf.dtype == np.float32 for leaf in names.expected(TINY).values())


def test_round_trip(flat):
    tree = names.stack(flat, TINY)
    shapes = lambda tree: jax.tree.map(lambda leaf: leaf.shape, tree)  # noqa: E731
    assert shapes(tree) == shapes(abstract_params(TINY))
    back = names.unstack(tree)
    assert back.keys() == flat.keys()
    for name, array in flat.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)
    # Layers are views: exporting a large model must not double it.
    kernel = tree["encoder"]["layers"]["mlp"]["wo"]["kernel"]
    assert np.shares_memory(back["encoder.layers_1.mlp.wo.kernel"], kernel)


def test_everything_that_does_not_fit_is_listed(flat):
    bad = dict(flat)
    del bad["encoder.layers_1.mlp.wo.kernel"]
    bad["encoder.layers_2.mlp.wo.kernel"] = np.zeros((2, 2))
    bad["decoder.decoder_norm.scale"] = np.zeros(3)
    with pytest.raises(ValueError) as error:
        names.stack(bad, TINY)
    message = str(error.value)
    assert "encoder.layers_1.mlp.wo.kernel: missing" in message
    assert "encoder.layers_2.mlp.wo.kernel: not a parameter of this model" in message
    assert "decoder.decoder_norm.scale: expected (64,), found (3,)" in message
