"""When a step reads blocks of kernels, which, and how long they live."""

import dataclasses
import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mt0_tpu import decode_weights, decoding, partitioning, train_state
from mt0_tpu.models.networks import network
from mt0_tpu.models.row_products import KERNEL_BLOCKS, LAYER, MOST_ROWS
from mt0_tpu.models.t5 import T5
from tests.tiny import TINY
from tests.tiny_bloom import TINY_BLOOM

TIED = dataclasses.replace(TINY, logits_via_embedding=True)
BFLOAT16 = dataclasses.replace(TINY, dtype="bfloat16")


@pytest.fixture(autouse=True)
def _few_cores(monkeypatch):
    """Blocks whatever machine the tests run on."""
    monkeypatch.setattr(decode_weights, "MOST_CORES", 2**20)


def drawn(config, seed=0):
    return jax.jit(lambda: train_state.init_params(network(config), seed))()


def names(tree):
    return {
        "/".join(key.key for key in path[:-1])
        for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    }


OF_A_LAYER = {
    f"decoder/layers/{part}"
    for part in (
        *(f"self_attention/{name}" for name in ("query", "key", "value", "out")),
        *(f"encoder_decoder_attention/{name}" for name in ("query", "out")),
        *(f"mlp/{name}" for name in ("wi_0", "wi_1", "wo")),
    )
}


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        (TINY, OF_A_LAYER | {"decoder/logits_dense"}),
        (TIED, OF_A_LAYER | {"token_embedder"}),
        (BFLOAT16, {"decoder/logits_dense"}),
        # 500 is no multiple of a block's columns.
        (dataclasses.replace(TINY, vocab_size=500), OF_A_LAYER),
    ],
)
def test_blocks_are_of_what_a_step_reads_in_float32(config, wanted):
    found = decode_weights.variables(drawn(config), config, 4)
    assert names(found[KERNEL_BLOCKS]) == names(found[LAYER]) == wanted


def test_without_use_for_blocks_there_are_the_parameters_alone(monkeypatch):
    params = drawn(TINY)
    plain = {"params": params}
    assert decode_weights.variables(params, TINY, MOST_ROWS).keys() > plain.keys()
    assert decode_weights.variables(params, TINY, MOST_ROWS + 1) == plain
    mesh = partitioning.make_mesh(partitioning.MeshConfig())
    on_mesh = jax.device_put(params, partitioning.replicated(mesh))
    assert decode_weights.variables(on_mesh, TINY, 4).keys() == plain.keys()
    assert decode_weights.variables(params, TINY, 4, mesh) == plain
    shapes = jax.eval_shape(lambda: params)
    assert decode_weights.variables(shapes, TINY, 4).keys() == plain.keys()
    monkeypatch.setattr(decode_weights, "MOST_COPY_BYTES", 1000)
    assert decode_weights.variables(params, TINY, 4) == plain
    monkeypatch.undo()
    monkeypatch.setattr(decode_weights, "MOST_CORES", 0)
    assert decode_weights.variables(params, TINY, 4) == plain


def test_blocks_live_as_long_as_their_parameters():
    gc.collect()
    before = len(decode_weights._blocks_of)
    params = drawn(TINY)
    first = decode_weights.variables(params, TINY, 4)[KERNEL_BLOCKS]
    again = decode_weights.variables(params, TINY, 1)[KERNEL_BLOCKS]
    assert all(a is b for a, b in zip(*map(jax.tree.leaves, (first, again)), strict=True))
    assert len(decode_weights._blocks_of) == before + len(OF_A_LAYER) + 1
    del params, first, again
    gc.collect()
    assert len(decode_weights._blocks_of) == before


@pytest.mark.parametrize("config", [TINY, TIED, TINY_BLOOM, BFLOAT16])
def test_a_step_is_the_same_with_blocks(config):
    """Hidden states, new keys and logits of one step, from both sets of variables."""
    params, rows = drawn(config), 3
    tokens_RT = np.random.default_rng(0).integers(3, 512, (rows, 7)).astype(np.int32)
    engine = decoding.engine(config, decoding.DecodeConfig(), 5, eos_id=1)
    state = engine.prefill(params, tokens_RT, np.arange(rows, dtype=np.int32), 0, np.full(rows, 7))
    cache = {name: decoding._merge_rows(leaf) if leaf.ndim == 6 else leaf
             for name, leaf in state.cache.items()}  # fmt: skip

    def step(variables):
        run = lambda *arguments, method: network(config).apply(  # noqa: E731
            variables, *arguments, method=method
        )
        hidden_RD, new = run(
            jnp.asarray(tokens_RT[:, 0]), jnp.zeros(rows, jnp.int32), cache, method="decode_step"
        )
        return hidden_RD, new, run(hidden_RD[:, None], method="logits")

    plain = jax.jit(step)({"params": params})
    blocks = jax.jit(step)(decode_weights.variables(params, config, rows))
    for one, other in zip(*map(jax.tree.leaves, (plain, blocks)), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(
            np.asarray(one, np.float32), np.asarray(other, np.float32), atol=2e-5
        )


def test_greedy_ids_are_the_same_with_blocks(monkeypatch):
    params = drawn(TINY)
    tokens_BT = np.random.default_rng(0).integers(3, 512, (4, 9)).astype(np.int32)
    blocks = decoding.greedy_decode(params, TINY, tokens_BT, 12, eos_id=-1)
    monkeypatch.setattr(decode_weights, "MOST_CORES", 0)
    plain = decoding.greedy_decode(params, TINY, tokens_BT, 12, eos_id=-1)
    np.testing.assert_array_equal(blocks, plain)


def test_parameters_of_one_device_decode_on_a_mesh_of_eight():
    mesh = partitioning.make_mesh(partitioning.MeshConfig())
    tokens_BT = np.random.default_rng(0).integers(3, 512, (8, 9)).astype(np.int32)
    found = decoding.greedy_decode(drawn(TINY), TINY, tokens_BT, 3, mesh=mesh)
    assert found.shape == (8, 3)


def test_one_device_of_a_mesh_has_blocks(monkeypatch):
    """As in a job on a laptop, and on another device than the first."""
    mesh = partitioning.make_mesh(partitioning.MeshConfig(), jax.devices()[3:4])
    params = drawn(TINY)
    axes = train_state.parameter_axes(T5(TINY))
    placed = jax.device_put(params, partitioning.shardings(axes, params, mesh))
    found = decode_weights.variables(placed, TINY, 4)[KERNEL_BLOCKS]
    assert {d for leaf in jax.tree.leaves(found) for d in leaf.devices()} == {jax.devices()[3]}
    tokens_BT = np.random.default_rng(0).integers(3, 512, (4, 9)).astype(np.int32)
    ids = decoding.greedy_decode(placed, TINY, tokens_BT, 12, eos_id=-1, mesh=mesh)
    monkeypatch.setattr(decode_weights, "MOST_CORES", 0)
    plain = decoding.greedy_decode(params, TINY, tokens_BT, 12, eos_id=-1)
    np.testing.assert_array_equal(ids, plain)
