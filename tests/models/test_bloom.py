"""BLOOM computes what Hugging Face computes (golden/bloom_tiny), whole and step by step."""

import csv
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mt0_tpu.models import names
from mt0_tpu.models.bloom import Bloom
from mt0_tpu.models.config import BloomConfig
from mt0_tpu.models.networks import head_kernel, param_axes, parameter_count
from tests.tiny_bloom import GOLDEN, TINY_BLOOM, load_outputs, load_params

TOLERANCE = 5e-5  # the golden README's; logits have a standard deviation of 2.8


@pytest.fixture(scope="module", params=sorted(GOLDEN))
def size(request):
    return request.param


@functools.cache
def method(config, name):
    def run(params, *args):
        return Bloom(config).apply({"params": params}, *args, method=name)

    return jax.jit(run, static_argnames=(), static_argnums=(2, 3) if name == "init_cache" else ())


def logits_of(config, params, batch):
    hidden = method(config, "__call__")(params, batch)
    return method(config, "logits")(params, hidden)


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_whatever_the_padding(golden, size, side):
    want, params = load_outputs(golden, size), load_params(golden, size)
    mask = want[f"{side}_attention_mask"]
    batch = {"decoder_input_tokens": want[f"{side}_input_ids"], "decoder_segment_ids": mask}
    found = logits_of(GOLDEN[size], params, batch)
    gap = np.abs(found - want[f"{side}_logits"])[mask == 1]
    assert gap.max() < TOLERANCE


def test_logits_of_a_long_row(golden, size):
    want, params = load_outputs(golden, size), load_params(golden, size)
    found = logits_of(GOLDEN[size], params, {"decoder_input_tokens": want["long_input_ids"]})
    found = found[:, want["long_positions"]]
    np.testing.assert_allclose(found, want["long_logits"], atol=TOLERANCE)


def greedy(config, params, tokens, mask, length, eos=-1, pad=3):
    """Greedy decoding by prefill and steps; after EOS a row is padding."""
    hidden, prefix = method(config, "prefill")(params, tokens, mask)
    cache = method(config, "init_cache")(params, prefix, length)
    ids, done = [], np.zeros(len(tokens), bool)
    logits = first = method(config, "logits")(params, hidden)
    for step in range(length):
        token = np.where(done, pad, np.asarray(jnp.argmax(logits, axis=-1)))
        ids.append(token)
        done |= token == eos
        position = jnp.full(len(tokens), step)
        hidden, cache = method(config, "decode_step")(params, jnp.asarray(token), position, cache)
        logits = method(config, "logits")(params, hidden)
    return np.stack(ids, axis=1), first


@pytest.mark.parametrize("side", ["left", "right"])
def test_greedy_decodes(golden, size, side):
    want, params = load_outputs(golden, size), load_params(golden, size)
    tokens, mask = want[f"{side}_input_ids"], want[f"{side}_attention_mask"]
    ids, first = greedy(GOLDEN[size], params, tokens, mask, 16)
    np.testing.assert_allclose(first, want["greedy_first_step_logits"], atol=TOLERANCE)
    np.testing.assert_array_equal(ids, want["greedy_new_ids"])
    ids, _ = greedy(GOLDEN[size], params, tokens, mask, 16, eos=int(want["greedy_eos_id"]))
    np.testing.assert_array_equal(ids, want["greedy_eos_new_ids"])


@pytest.fixture(scope="module")
def params(golden):
    return load_params(golden)


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(0).integers(4, 512, (3, 12)).astype(np.int32)


def test_segments_of_a_row_are_apart(params, tokens):
    a, b = tokens[0][:5], tokens[1][:4]
    row = np.zeros((1, 12), np.int32)
    row[0, :5], row[0, 5:9] = a, b
    ids = np.array([[1, 1, 1, 1, 1, 2, 2, 2, 2, 0, 0, 0]], np.int32)
    batch = {"decoder_input_tokens": row, "decoder_segment_ids": ids}
    together = logits_of(TINY_BLOOM, params, batch)
    # Positions that start anew with each segment, as the loader writes them, change nothing.
    positions = np.array([[0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 0, 0]], np.int32)
    again = logits_of(TINY_BLOOM, params, {**batch, "decoder_positions": positions})
    for other in (together, again):
        for part, start in ((a, 0), (b, 5)):
            alone = logits_of(TINY_BLOOM, params, {"decoder_input_tokens": part[None]})
            np.testing.assert_allclose(other[0, start : start + len(part)], alone[0], atol=2e-5)


def test_continuations_share_a_prefix(params, tokens):
    """[prefix | choice 1 | choice 2] in one row is each choice after the prefix."""
    prefix, choices = tokens[0][:5], (tokens[1][:3], tokens[2][:4])
    batch = {
        "decoder_input_tokens": np.concatenate([prefix, *choices])[None],
        "decoder_segment_ids": np.array([[1, 1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3]], np.int32),
        "decoder_cross_ids": np.array([[0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1]], np.int32),
        "decoder_positions": np.array([[0, 1, 2, 3, 4, 5, 6, 7, 5, 6, 7, 8]], np.int32),
    }
    shared = logits_of(TINY_BLOOM, params, batch)
    at = 5
    for choice in choices:
        whole = np.concatenate([prefix, choice])[None]
        alone = logits_of(TINY_BLOOM, params, {"decoder_input_tokens": whole})
        np.testing.assert_allclose(shared[0, at : at + len(choice)], alone[0, 5:], atol=2e-5)
        at += len(choice)


def test_cached_steps_are_the_whole_row(params, tokens):
    """Prefixes of several lengths, two beams of each, rows that go back and overwrite."""
    lengths, beams = np.array([5, 1, 3]), 2
    mask = (np.arange(5)[None] < lengths[:, None]).astype(np.int32)
    hidden, prefix = method(TINY_BLOOM, "prefill")(params, tokens[:, :5], mask)
    cache = method(TINY_BLOOM, "init_cache")(params, prefix, 6, beams)
    assert cache["prefix_k"].shape == (2, 3, 4, 5, 16)
    assert cache["self_k"].shape == (2, 6, 4, 6, 16)
    new = np.random.default_rng(1).integers(4, 512, (6, 6)).astype(np.int32)
    whole = []
    for row in range(6):
        start = tokens[row // beams, : lengths[row // beams]]
        batch = {"decoder_input_tokens": np.concatenate([start, new[row]])[None]}
        out = method(TINY_BLOOM, "__call__")(params, batch)[0]
        whole.append(out[len(start) :])
        np.testing.assert_allclose(hidden[row // beams], out[len(start) - 1], atol=2e-5)
    back = np.array([0, 2, 0, 0, 3, 0])
    for step in range(6):
        position = np.maximum(step - back, 0)
        token = jnp.asarray(new[np.arange(6), position])
        out, cache = method(TINY_BLOOM, "decode_step")(params, token, jnp.asarray(position), cache)
        for row in range(6):
            np.testing.assert_allclose(out[row], whole[row][position[row]], atol=2e-5)


def test_a_prefix_lm_reads_its_inputs_both_ways(params, tokens):
    config = dataclasses.replace(TINY_BLOOM, inputs_bidirectional_attention=True)
    causal_attention = np.array([[1] * 4 + [0] * 3 + [1] * 3 + [0] * 2], np.int32)
    ids = np.array([[1] * 7 + [2] * 5], np.int32)
    batch = {
        "decoder_input_tokens": tokens[:1],
        "decoder_segment_ids": ids,
        "decoder_causal_attention": causal_attention,
    }
    base = method(config, "__call__")(params, batch)[0]

    def changed(at):
        other = tokens[:1].copy()
        other[0, at] = 4 if other[0, at] != 4 else 5
        out = method(config, "__call__")(params, {**batch, "decoder_input_tokens": other})[0]
        return set(np.flatnonzero(np.abs(out - base).max(-1) > 1e-4))

    # An input reaches all of its segment; a target only what comes after; another segment nothing.
    assert changed(3) == {0, 1, 2, 3, 4, 5, 6}
    assert changed(5) == {5, 6}
    assert changed(9) == {7, 8, 9, 10, 11}
    # The cache reads a prompt the same way.
    hidden, _ = method(config, "prefill")(params, tokens[:1, :4], None)
    np.testing.assert_allclose(hidden[0], base[3], atol=2e-5)


def test_residual_from_the_layer_norm(golden, tokens):
    """Hugging Face's apply_residual_connection_post_layernorm, by hand for one layer."""
    config = dataclasses.replace(TINY_BLOOM, num_layers=1, residual_post_layernorm=True)
    flat = names.unstack(load_params(golden))
    params = names.stack({k: v for k, v in flat.items() if "layers_1." not in k}, config)
    at = lambda name: np.asarray(flat[name], np.float64)  # noqa: E731

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * at(f"{name}.scale") + at(f"{name}.bias")

    def dense(x, name):
        return x @ at(f"decoder.layers_0.{name}.kernel") + at(f"decoder.layers_0.{name}.bias")

    x = norm(at("token_embedder.embedding")[tokens[0]], "embedding_norm")
    normed = norm(x, "decoder.layers_0.pre_attention_layer_norm")
    q, k, v = np.moveaxis(dense(normed, "attention.query_key_value").reshape(12, 4, 3, 16), 2, 0)
    distance = np.arange(12)[None, :] - np.arange(12)[:, None]
    slope = 2.0 ** (-2.0 * np.arange(1, 5))
    logits = np.einsum("shk,thk->hst", q, k) / 4 + slope[:, None, None] * distance
    weights = np.where(distance > 0, 0, np.exp(logits - logits.max(-1, keepdims=True)))
    mixed = np.einsum("hst,thk->shk", weights / weights.sum(-1, keepdims=True), v).reshape(12, 64)
    x = normed + dense(mixed, "attention.out")
    normed = norm(x, "decoder.layers_0.pre_mlp_layer_norm")
    wide = dense(normed, "mlp.wi")
    gelu = 0.5 * wide * (1 + np.tanh(0.79788456 * wide * (1 + 0.044715 * wide**2)))
    x = norm(normed + dense(gelu, "mlp.wo"), "decoder.decoder_norm")
    found = method(config, "__call__")(params, {"decoder_input_tokens": tokens[:1]})
    np.testing.assert_allclose(found[0], x, atol=2e-5)


@pytest.mark.parametrize(
    "policy, query_block",
    [("minimal", None), ("full", None), ("minimal_offload", None), ("none", 4), ("minimal", 4)],
)
def test_remat_and_query_blocks_change_no_gradient(params, tokens, policy, query_block):
    def gradients(config):
        loss = lambda p: jnp.sum(  # noqa: E731
            Bloom(config).apply({"params": p}, {"decoder_input_tokens": tokens}) ** 2
        )
        return jax.jit(jax.grad(loss))(params)

    want = gradients(TINY_BLOOM)
    changed = dataclasses.replace(
        TINY_BLOOM, remat_policy=policy, attention_query_block=query_block
    )
    found = gradients(changed)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5 * np.abs(other).max())


def test_dropout_of_a_row_does_not_depend_on_the_other_rows(params, tokens):
    config = dataclasses.replace(TINY_BLOOM, dropout_rate=0.3)
    batch = {"decoder_input_tokens": tokens}
    keys = jax.random.split(jax.random.key(5), 3)
    together = np.asarray(method(config, "__call__")(params, batch, keys))
    without = method(config, "__call__")(params, batch, None)
    np.testing.assert_array_equal(without, method(TINY_BLOOM, "__call__")(params, batch))
    assert np.abs(together - without).max() > 0.1
    alone = method(config, "__call__")(params, {"decoder_input_tokens": tokens[1:2]}, keys[1:2])
    np.testing.assert_allclose(alone[0], together[1], atol=1e-5)


def test_the_head_is_the_token_table_unscaled(params):
    hidden = jax.random.normal(jax.random.key(0), (2, 64))
    found = method(TINY_BLOOM, "logits")(params, hidden)
    table = np.asarray(params["token_embedder"]["embedding"])
    np.testing.assert_allclose(found, np.asarray(hidden) @ table.T, atol=1e-4)
    np.testing.assert_array_equal(head_kernel(params, TINY_BLOOM), table.T)


def test_parameter_counts_of_published_sizes(shared):
    with open(shared / "facts" / "xp3" / "bloom_sizes.tsv") as file:
        sizes = list(csv.DictReader(file, delimiter="\t"))
    assert len(sizes) == 6
    for size in sizes:
        config = BloomConfig(
            vocab_size=int(size["vocab_padded"]),
            emb_dim=int(size["hidden"]),
            num_heads=int(size["n_head"]),
            num_layers=int(size["n_layer"]),
        )
        assert (config.head_dim, config.mlp_dim) == (int(size["head_dim"]), int(size["ffn"]))
        assert parameter_count(config) == int(size["params_exact(tied)"]), size["model"]


def test_logical_axes():
    axes = param_axes(TINY_BLOOM)
    assert axes["token_embedder"]["embedding"] == ("vocab", "embed")
    assert axes["embedding_norm"] == {"scale": ("embed",), "bias": ("embed",)}
    layer = axes["decoder"]["layers"]
    attention = layer["attention"]
    assert attention["query_key_value"]["kernel"] == ("layers", "embed", "joined_kv")
    assert attention["query_key_value"]["bias"] == ("layers", "joined_kv")
    assert attention["out"]["kernel"] == ("layers", "joined_kv", "embed")
    assert layer["mlp"]["wi"]["bias"] == ("layers", "mlp")
    assert layer["mlp"]["wo"]["kernel"] == ("layers", "mlp", "embed")
    assert layer["pre_mlp_layer_norm"]["bias"] == ("layers", "embed")


def test_names_are_unstacked_by_the_same_rule(params):
    flat = names.unstack(params)
    assert "decoder.layers_1.attention.query_key_value.bias" in flat
    assert {name: x.shape for name, x in flat.items()} == {
        name: leaf.shape for name, leaf in names.expected(TINY_BLOOM).items()
    }
    back = names.stack(flat, TINY_BLOOM)
    for one, other in zip(jax.tree.leaves(back), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(one, other)


def test_initial_scales_are_megatrons():
    """0.0048 at 176B's width of 14336; what writes to the residual stream less by sqrt(2L)."""
    batch = {"decoder_input_tokens": jnp.ones((1, 2), jnp.int32)}
    drawn = jax.jit(Bloom(TINY_BLOOM).init)(jax.random.key(0), batch)["params"]
    fresh = jax.tree.map(lambda x: x.unbox(), drawn, is_leaf=lambda x: hasattr(x, "unbox"))
    layer, deviation = fresh["decoder"]["layers"], (3 * 64) ** -0.5
    for array, want in (
        (fresh["token_embedder"]["embedding"], deviation),
        (layer["attention"]["query_key_value"]["kernel"], deviation),
        (layer["mlp"]["wi"]["kernel"], deviation),
        (layer["attention"]["out"]["kernel"], deviation / 2),
        (layer["mlp"]["wo"]["kernel"], deviation / 2),
    ):
        assert abs(np.std(array) / want - 1) < 0.05
    assert (3 * 14336) ** -0.5 == pytest.approx(0.0048, rel=0.01)
    assert not layer["mlp"]["wo"]["bias"].any()
