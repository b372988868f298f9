"""The whole network against T5X's numbers, and what packing, dropout and remat must not change."""

import csv
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mt0_tpu.models import names
from mt0_tpu.models.networks import param_axes, parameter_count
from mt0_tpu.models.t5 import T5, T5Config
from tests.models.conftest import Network
from tests.tiny import TINY, load_batch


@pytest.fixture(scope="module")
def golden_logits(golden):
    with np.load(golden / "t5_tiny" / "logits.npz") as archive:
        return dict(archive)


def segments(batch, row):
    """Yields (segment, inputs [1, T], decoder inputs [1, S], decoder positions) of a packed row."""
    for segment in range(1, batch["encoder_segment_ids"][row].max() + 1):
        inside = batch["encoder_segment_ids"][row] == segment
        outside = batch["decoder_segment_ids"][row] == segment
        yield (
            segment,
            batch["encoder_input_tokens"][row][inside],
            batch["decoder_input_tokens"][row][outside],
            np.flatnonzero(outside),
        )


def padded(tokens, length):
    return jnp.asarray(np.pad(tokens, (0, length - len(tokens)))[None])


@pytest.mark.parametrize("name", ["unpacked", "packed", "long"])
def test_logits_are_t5xs(network, params, golden, golden_logits, name):
    batch = load_batch(golden, name)
    logits, real = network.golden_logits(params, batch), batch["decoder_loss_weights"] > 0
    assert logits.dtype == jnp.float32 and np.isfinite(logits).all()
    logits = np.asarray(logits)
    if name == "long":
        positions = golden_logits["long_positions"]
        logits, real = logits[:, positions], real[:, positions]
    np.testing.assert_allclose(logits[real], golden_logits[name][real], atol=5e-5)


def test_bfloat16_is_near_t5xs_bfloat16(params, golden):
    network = Network(dataclasses.replace(TINY, dtype="bfloat16"))
    batch = load_batch(golden, "unpacked")
    hidden = network.call(params, batch)
    assert hidden.dtype == jnp.bfloat16
    logits, real = network.logits(params, hidden), batch["decoder_loss_weights"] > 0
    with np.load(golden / "t5_tiny" / "logits_bf16.npz") as archive:
        wanted = archive[archive.files[0]]
    # T5X's own distance from float32 is max 0.13, mean 0.020.
    distance = np.abs(np.asarray(logits) - wanted)[real]
    assert distance.max() < 0.3 and distance.mean() < 0.04


def cross_entropy(network, params, batch):
    logits = network.golden_logits(params, batch)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    picked = jnp.take_along_axis(logits, batch["decoder_target_tokens"][..., None], axis=-1)
    loss = log_z - picked[..., 0] + 1e-4 * log_z**2
    return jnp.sum(loss * batch["decoder_loss_weights"].astype(jnp.float32))


@pytest.fixture(scope="module")
def packed_gradients(network, params, golden):
    batch = jax.tree.map(jnp.asarray, load_batch(golden, "packed"))
    return jax.jit(jax.grad(lambda p: cross_entropy(network, p, batch)))(params)


def test_gradients_are_t5xs(packed_gradients, golden):
    with np.load(golden / "t5_tiny" / "grads_packed.npz") as archive:
        wanted = dict(archive)
    found = names.unstack(packed_gradients)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        tolerance = 2e-5 * np.abs(gradient).max()
        np.testing.assert_allclose(found[name], gradient, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize(
    "policy, query_block",
    [("minimal", None), ("full", None), ("minimal_offload", None), ("none", 16), ("minimal", 16)],
)
def test_remat_and_query_blocks_change_neither_logits_nor_gradients(
    policy, query_block, network, params, golden, packed_gradients
):
    changed = dataclasses.replace(TINY, remat_policy=policy, attention_query_block=query_block)
    other = Network(changed)
    batch = jax.tree.map(jnp.asarray, load_batch(golden, "packed"))
    np.testing.assert_allclose(
        other.golden_logits(params, batch), network.golden_logits(params, batch), atol=1e-5
    )
    found = jax.jit(jax.grad(lambda p: cross_entropy(other, p, batch)))(params)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(packed_gradients), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


def test_a_packed_segment_is_the_example_alone(network, params, golden):
    batch = load_batch(golden, "packed_1")
    hidden = np.asarray(network.call(params, batch))
    for row in range(3):
        for _, inputs, outputs, positions in segments(batch, row):
            encoder, decoder = padded(inputs, 48), padded(outputs, 32)
            alone = network.decode(
                params,
                network.encode(params, encoder),
                (encoder > 0).astype(jnp.int32),
                decoder,
                (jnp.arange(32) < len(outputs)).astype(jnp.int32)[None],
            )
            np.testing.assert_allclose(hidden[row, positions], alone[0, : len(outputs)], atol=2e-5)


def test_choices_sharing_one_input_are_each_alone(network, params, golden):
    """Two inputs packed in the encoder; three choices look at the first, two at the second."""
    batch = load_batch(golden, "packed")
    (_, first, _, _), (_, second, _, _) = list(segments(batch, 0))[:2]
    random = np.random.default_rng(0)
    choices = [np.r_[0, random.integers(3, 512, n)] for n in (1, 4, 3, 6, 2)]
    looks_at = [1, 1, 1, 2, 2]
    lengths = [len(choice) for choice in choices]
    encoder = padded(np.r_[first, second], 48)
    encoder_ids = padded(np.repeat([1, 2], [len(first), len(second)]), 48)
    encoded = network.encode(params, encoder, encoder_ids)
    hidden = network.decode(
        params,
        encoded,
        encoder_ids,
        padded(np.concatenate(choices), 32),
        padded(np.repeat([1, 2, 3, 4, 5], lengths), 32),
        padded(np.repeat(looks_at, lengths), 32),
    )
    starts = np.cumsum([0, *lengths])
    for choice, look, start in zip(choices, looks_at, starts, strict=False):
        inputs = padded(first if look == 1 else second, 48)
        ids = (inputs > 0).astype(jnp.int32)
        alone_ids = (jnp.arange(32) < len(choice)).astype(jnp.int32)[None]
        encoded_alone = network.encode(params, inputs)
        alone = network.decode(params, encoded_alone, ids, padded(choice, 32), alone_ids)
        np.testing.assert_allclose(
            hidden[0, start : start + len(choice)], alone[0, : len(choice)], atol=2e-5
        )


def test_decode_refuses_missing_segment_ids(params):
    module = T5(TINY)
    arguments = (jnp.zeros((1, 2, 64)), None, jnp.zeros((1, 2), jnp.int32), None)
    with pytest.raises(ValueError, match="T5.decode got None for segment ids"):
        module.apply({"params": params}, *arguments, method="decode")


@pytest.fixture(scope="module")
def dropping():
    return Network(dataclasses.replace(TINY, dropout_rate=0.3))


def test_dropout_of_a_row_does_not_depend_on_the_other_rows(dropping, network, params, golden):
    batch = jax.tree.map(jnp.asarray, load_batch(golden, "packed"))
    keys = jax.random.split(jax.random.key(5), 3)
    together = np.asarray(dropping.call(params, batch, keys))
    np.testing.assert_array_equal(together, dropping.call(params, batch, keys))
    assert np.abs(together - network.call(params, batch)).max() > 0.1
    other = dropping.call(params, batch, jax.random.split(jax.random.key(6), 3))
    assert np.abs(together - other).max() > 0.1
    order = jnp.array([2, 0, 1])
    shuffled = dropping.call(params, jax.tree.map(lambda x: x[order], batch), keys[order])
    np.testing.assert_allclose(shuffled, together[order], atol=1e-5)
    alone = dropping.call(params, jax.tree.map(lambda x: x[1:2], batch), keys[1:2])
    np.testing.assert_allclose(alone[0], together[1], atol=1e-5)


def test_without_keys_there_is_no_dropout(dropping, network, params, golden):
    batch = load_batch(golden, "packed")
    np.testing.assert_array_equal(
        dropping.call(params, batch, None), network.call(params, batch, None)
    )


def test_parameter_counts_of_published_sizes(shared):
    with open(shared / "facts" / "xp3" / "mt5_sizes.tsv") as file:
        sizes = list(csv.DictReader(file, delimiter="\t"))
    assert len(sizes) == 5
    for size in sizes:
        config = T5Config(
            vocab_size=int(size["vocab"]),
            emb_dim=int(size["emb_dim"]),
            num_heads=int(size["num_heads"]),
            head_dim=int(size["head_dim"]),
            mlp_dim=int(size["mlp_dim"]),
            num_encoder_layers=int(size["enc_layers"]),
            num_decoder_layers=int(size["dec_layers"]),
        )
        assert parameter_count(config) == int(size["params_exact(computed)"]), size["size"]


def test_logical_axes_name_the_stacked_dimension():
    axes = param_axes(TINY)
    assert axes["token_embedder"]["embedding"] == ("vocab", "embed")
    assert axes["decoder"]["logits_dense"]["kernel"] == ("embed", "vocab")
    layer = axes["decoder"]["layers"]
    assert layer["self_attention"]["query"]["kernel"] == ("layers", "embed", "joined_kv")
    assert layer["encoder_decoder_attention"]["out"]["kernel"] == ("layers", "joined_kv", "embed")
    assert layer["mlp"]["wo"]["kernel"] == ("layers", "mlp", "embed")
    assert layer["pre_mlp_layer_norm"]["scale"] == ("layers", "embed")
    assert axes["encoder"]["relpos_bias"]["rel_embedding"] == ("heads", "relpos_buckets")


@pytest.fixture(scope="module")
def fresh():
    tokens = jnp.ones((1, 2), jnp.int32)
    feature_names = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
    variables = jax.jit(T5(TINY).init)(jax.random.key(0), dict.fromkeys(feature_names, tokens))
    return jax.tree.map(lambda x: x.unbox(), variables["params"], is_leaf=_boxed)


def _boxed(leaf):
    return hasattr(leaf, "unbox")


def test_initial_scales_are_t5xs(fresh):
    layer = fresh["decoder"]["layers"]
    deviations = {
        "query": (layer["self_attention"]["query"]["kernel"], (64 * 16) ** -0.5),
        "key": (layer["encoder_decoder_attention"]["key"]["kernel"], 64**-0.5),
        "out": (layer["self_attention"]["out"]["kernel"], 64**-0.5),
        "wi": (layer["mlp"]["wi_0"]["kernel"], 64**-0.5),
        "wo": (layer["mlp"]["wo"]["kernel"], 128**-0.5),
        "embedding": (fresh["token_embedder"]["embedding"], 1.0),
        "logits": (fresh["decoder"]["logits_dense"]["kernel"], 64**-0.5),
    }
    for name, (array, wanted) in deviations.items():
        assert abs(np.std(array) / wanted - 1) < 0.05, name
    # Truncated at two standard deviations of the untruncated normal; attention is not.
    assert np.abs(layer["mlp"]["wi_0"]["kernel"]).max() < 2.3 * 64**-0.5
    assert np.abs(layer["self_attention"]["key"]["kernel"]).max() > 3 * 64**-0.5
    bound = np.sqrt(3 / ((4 + 32) / 2))
    relative = np.abs(fresh["encoder"]["relpos_bias"]["rel_embedding"])
    assert 0.9 * bound < relative.max() <= bound
    assert (layer["pre_mlp_layer_norm"]["scale"] == 1).all()
    assert (layer["mlp"]["wo"]["kernel"][0] != layer["mlp"]["wo"]["kernel"][1]).mean() > 0.99


def test_logits_via_embedding(params):
    """T5 1.0's head: the token table, divided by sqrt(D)."""
    network = Network(dataclasses.replace(TINY, logits_via_embedding=True))
    del (without := {**params, "decoder": dict(params["decoder"])})["decoder"]["logits_dense"]
    hidden = jax.random.normal(jax.random.key(0), (1, 2, 64))
    wanted = np.asarray(hidden) @ np.asarray(params["token_embedder"]["embedding"]).T / 8
    np.testing.assert_allclose(network.logits(without, hidden), wanted, atol=1e-4)
    assert parameter_count(network.config) == 263168 - 64 * 512


def decode_rows(network, params, golden):
    batch = load_batch(golden, "decode")
    inputs = jnp.asarray(batch["encoder_input_tokens"])
    tokens = np.random.default_rng(1).integers(3, 512, (8, 24)).astype(np.int32)
    tokens[:, 0] = 0
    ids = (inputs > 0).astype(jnp.int32)
    return network.encode(params, inputs), ids, jnp.asarray(tokens)


def test_cached_steps_are_the_whole_decode(network, params, golden):
    encoded, ids, tokens = decode_rows(network, params, golden)
    whole = network.decode(params, encoded, ids, tokens, jnp.ones_like(tokens))
    cache = network.init_cache(params, encoded, ids, 24, 1)
    # Rows advance at their own pace, and row 3 steps back and overwrites what it wrote.
    start = np.array([0, 0, 0, 5, 0, 0, 0, 0])
    for step in range(24):
        position = jnp.asarray(np.maximum(step - start, 0))
        token = tokens[jnp.arange(8), position]
        hidden, cache = network.decode_step(params, token, position, cache)
        np.testing.assert_allclose(hidden, whole[jnp.arange(8), position], atol=2e-5)


def test_beams_share_the_encoder_row(network, params, golden):
    encoded, ids, tokens = decode_rows(network, params, golden)
    by_beam = tokens.reshape(4, 2, 24)
    cache = network.init_cache(params, encoded[:4], ids[:4], 24, 2)
    assert cache["cross_k"].shape == (2, 4, 4, 20, 16)
    assert cache["self_k"].shape == (2, 8, 4, 24, 16)
    encoded, ids = jnp.repeat(encoded[:4], 2, axis=0), jnp.repeat(ids[:4], 2, axis=0)
    whole = network.decode(params, encoded, ids, tokens, jnp.ones_like(tokens))
    for step in range(3):
        position = jnp.full(8, step)
        token = by_beam.reshape(8, 24)[:, step]
        hidden, cache = network.decode_step(params, token, position, cache)
        np.testing.assert_allclose(hidden, whole[:, step], atol=2e-5)
