"""Dropout, norm, MLP and embedding alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mt0_tpu.models import layers
from mt0_tpu.models.layers import Site

F32 = jnp.dtype("float32")


def test_dropout_keeps_the_mean_and_the_rate():
    keys = jax.random.split(jax.random.key(0), 64)
    scale = np.asarray(layers.dropout_scale(keys, Site.SELF_OUTPUT, 0.1, (1, 1024), F32))
    assert set(np.unique(scale)) == {np.float32(0.0), np.float32(1 / 0.9)}
    # 65,536 draws: the standard error of the mean is 0.0013.
    assert abs(scale.mean() - 1.0) < 0.006


def test_dropout_mask_is_shared_along_the_length_unless_elementwise():
    keys = jax.random.split(jax.random.key(0), 2)
    x = jnp.ones((2, 6, 32))
    shared = np.asarray(layers.dropout(x, keys, Site.SELF_OUTPUT, 0.5))
    assert (shared == shared[:, :1]).all()
    assert (shared[0] != shared[1]).any()
    elementwise = np.asarray(layers.dropout(x, keys, Site.SELF_OUTPUT, 0.5, elementwise=True))
    assert (elementwise != elementwise[:, :1]).any()


def test_dropout_differs_between_sites_and_layers_but_not_between_batches():
    keys = jax.random.split(jax.random.key(0), 3)
    draw = lambda keys, site: np.asarray(  # noqa: E731
        layers.dropout_scale(keys, site, 0.5, (64,), F32)
    )
    here = draw(keys, Site.SELF_OUTPUT)
    assert (here != draw(keys, Site.MLP_OUTPUT)).any()
    assert (here != draw(layers.fold_keys(keys, 1), Site.SELF_OUTPUT)).any()
    np.testing.assert_array_equal(here[1:2], draw(keys[1:2], Site.SELF_OUTPUT))
    np.testing.assert_array_equal(here[::-1], draw(keys[::-1], Site.SELF_OUTPUT))


def test_dropout_without_keys_or_rate_is_the_identity():
    x = jnp.ones((1, 2, 3))
    assert layers.dropout(x, None, Site.SELF_OUTPUT, 0.5) is x
    assert layers.dropout(x, jax.random.split(jax.random.key(0), 1), Site.SELF_OUTPUT, 0.0) is x
    assert layers.fold_keys(None, 3) is None


def test_site_numbers_are_frozen():
    # A renumbered site silently changes every resumed run.
    assert [site.value for site in Site] == list(range(12))
    assert Site.ENCODER_LAYERS == 0 and Site.MLP_OUTPUT == 11


def test_norm_works_in_float32_whatever_the_activations_are():
    module = layers.RMSNorm(4, jnp.dtype("bfloat16"))
    x = jnp.array([[1e4, -1e4, 1e4, 2e4]], jnp.bfloat16)
    found = module.apply({"params": {"scale": jnp.array([1.0, 1.0, 2.0, 1.0])}}, x)
    assert found.dtype == jnp.bfloat16
    rms = np.sqrt((3 + 4) / 4)
    np.testing.assert_allclose(
        found.astype(jnp.float32), np.array([[1, -1, 2, 2]]) / rms, rtol=8e-3
    )


@pytest.mark.parametrize("activations, names", [(("relu",), ["wi"]), (("gelu", "linear"), None)])
def test_mlp_kernels_are_named_as_in_t5x(activations, names):
    module = layers.MLP(4, 8, activations, 0.0, F32)
    x = jax.random.normal(jax.random.key(1), (1, 3, 4))
    params = module.init(jax.random.key(0), x)["params"]
    assert sorted(params) == sorted((names or ["wi_0", "wi_1"]) + ["wo"])
    params = jax.tree.map(lambda leaf: np.asarray(leaf), jax.tree.map(_unbox, params, is_leaf=_box))
    if names:
        hidden = np.maximum(x @ params["wi"]["kernel"], 0)
    else:
        gate = np.asarray(x @ params["wi_0"]["kernel"])
        tanh = np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3))
        hidden = 0.5 * gate * (1 + tanh) * (x @ params["wi_1"]["kernel"])
    np.testing.assert_allclose(
        module.apply({"params": params}, x), hidden @ params["wo"]["kernel"], atol=2e-6
    )


def _box(leaf):
    return hasattr(leaf, "unbox")


def _unbox(leaf):
    return leaf.unbox()


def test_embedding_gathers_and_shows_an_id_outside_the_vocabulary():
    module = layers.Embed(3, 2, F32)
    variables = {"params": {"embedding": jnp.arange(6.0).reshape(3, 2)}}
    found = module.apply(variables, jnp.array([[2, 0, 3]]))
    np.testing.assert_array_equal(found[0, :2], [[4, 5], [0, 1]])
    assert np.isnan(found[0, 2]).all()


def test_hand_written_gradients_are_jaxs_own():
    a, b, x = (jax.random.normal(jax.random.key(i), (2, 3, 4)) for i in range(3))
    scale = layers.dropout_scale(
        jax.random.split(jax.random.key(3), 2), Site.MLP_HIDDEN, 0.5, (1, 4), F32
    )
    kernel = jax.random.normal(jax.random.key(4), (4, 5))
    names = ("gelu", "linear")

    def by_hand(a, b, x, kernel):
        hidden = layers.gated_product(names, (a, b), scale)
        return jnp.sum(jnp.sin(layers.matmul(hidden + x, kernel)))

    def plain(a, b, x, kernel):
        hidden = jax.nn.gelu(a, approximate=True) * b * jnp.broadcast_to(scale, a.shape)
        return jnp.sum(jnp.sin(jnp.einsum("bti,io->bto", hidden + x, kernel)))

    every = (0, 1, 2, 3)
    found = jax.jit(jax.grad(by_hand, every))(a, b, x, kernel)
    wanted = jax.jit(jax.grad(plain, every))(a, b, x, kernel)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
