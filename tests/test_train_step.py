"""One step: the same on every mesh, with every number of microbatches, packed or not."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mt0_tpu import partitioning, train_state
from mt0_tpu import train_step as steps
from mt0_tpu.losses import LossConfig
from mt0_tpu.models.networks import network
from mt0_tpu.models.t5 import T5
from mt0_tpu.optimizers import Adafactor
from mt0_tpu.partitioning import MeshConfig
from tests.tiny import TINY
from tests.tiny_bloom import TINY_BLOOM

ROWS = 8
MESHES = {
    "data": MeshConfig(data=8),
    "fsdp": MeshConfig(data=1, fsdp=8),
    "tensor": MeshConfig(data=4, tensor=2),
    "tensor4": MeshConfig(data=1, fsdp=2, tensor=4),
    "all": MeshConfig(replica=2, data=1, fsdp=2, tensor=2),
}


def packed_batch(seed: int = 0) -> dict[str, np.ndarray]:
    """Rows of two or three segments with padding at the end."""
    rng = np.random.default_rng(seed)
    features = {
        "encoder_input_tokens": np.zeros((ROWS, 24), np.int32),
        "encoder_segment_ids": np.zeros((ROWS, 24), np.int32),
        "encoder_positions": np.zeros((ROWS, 24), np.int32),
        "decoder_target_tokens": np.zeros((ROWS, 16), np.int32),
        "decoder_input_tokens": np.zeros((ROWS, 16), np.int32),
        "decoder_segment_ids": np.zeros((ROWS, 16), np.int32),
        "decoder_positions": np.zeros((ROWS, 16), np.int32),
    }
    for row in range(ROWS):
        ends = {"encoder": 0, "decoder": 0}
        for segment in range(1, 3 + row % 2):
            for side, low, high in (("encoder", 2, 8), ("decoder", 1, 5)):
                length = int(rng.integers(low, high))
                begin = ends[side]
                ends[side] = begin + length
                where = (row, slice(begin, begin + length))
                tokens = rng.integers(2, TINY.vocab_size, length)
                name = "encoder_input_tokens" if side == "encoder" else "decoder_target_tokens"
                features[name][where] = tokens
                features[f"{side}_segment_ids"][where] = segment
                features[f"{side}_positions"][where] = np.arange(length)
                if side == "decoder":
                    features["decoder_input_tokens"][where] = [0, *tokens[:-1]]
    features["decoder_loss_weights"] = (features["decoder_target_tokens"] > 0).astype(np.int32)
    return features


def unpack(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same examples, one a row."""
    rows = []
    for row in range(ROWS):
        for segment in range(1, batch["encoder_segment_ids"][row].max() + 1):
            example = {}
            for side in ("encoder", "decoder"):
                chosen = batch[f"{side}_segment_ids"][row] == segment
                for name, values in batch.items():
                    if name.startswith(side) and "segment" not in name and "positions" not in name:
                        padded = np.zeros_like(values[row])
                        padded[: chosen.sum()] = values[row][chosen]
                        example[name] = padded
            rows.append(example)
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def run(config, batch, num_steps=2, num_microbatches=1, mesh_config=None, factor=None):
    """Returns (losses of each step, parameters after) on a mesh."""
    optimizer, loss = Adafactor(), LossConfig(loss_normalizing_factor=factor)
    model = network(config)
    devices = jax.devices()[:1] if mesh_config is None else jax.devices()
    mesh = partitioning.make_mesh(mesh_config or MeshConfig(), devices)
    shapes, axes = train_state.abstract_state(model, optimizer)
    where = partitioning.shardings(axes, shapes, mesh)
    state = train_state.init_state(model, optimizer, mesh, 0)
    abstract = {n: jax.ShapeDtypeStruct(v.shape, v.dtype) for n, v in batch.items()}
    step = steps.make_train_step(
        model, loss, optimizer, lambda step: jnp.float32(1e-2), axes.params,
        seed=0, num_microbatches=num_microbatches, mesh=mesh,
    )  # fmt: skip
    compiled = steps.compile_train_step(step, where, shapes, abstract, mesh)
    losses = []
    for _ in range(num_steps):
        placed = jax.device_put(batch, partitioning.batch_sharding(mesh))
        state, metrics = compiled(state, placed)
        losses.append(float(metrics["loss"]))
    return losses, jax.device_get(state.params)


def assert_same_params(got, want, tolerance=1e-5):
    """1e-5 as the golden data: Adafactor divides by the gradient's size, so rounding shows."""
    flat = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    for one, other in flat:
        np.testing.assert_allclose(one, other, atol=tolerance, rtol=0)


DROPOUT = dataclasses.replace(TINY, dropout_rate=0.1)


@pytest.fixture(scope="module")
def one_device():
    return run(DROPOUT, packed_batch(), factor="AVERAGE_PER_SEQUENCE")


@pytest.mark.parametrize("name", MESHES)
def test_every_mesh_gives_the_step_of_one_device(one_device, name):
    """Dropout is on: it is a function of (seed, step, row), so the mesh does not change it."""
    losses, params = run(
        DROPOUT, packed_batch(), mesh_config=MESHES[name], factor="AVERAGE_PER_SEQUENCE"
    )
    np.testing.assert_allclose(losses, one_device[0], rtol=2e-6)
    assert_same_params(params, one_device[1])


def test_cutting_the_sequence_changes_no_number(one_device):
    """The residual stream in four pieces of 6 and 4 positions, put together where heads need it."""
    config = dataclasses.replace(DROPOUT, sequence_parallel=True)
    losses, params = run(
        config, packed_batch(), mesh_config=MESHES["tensor4"], factor="AVERAGE_PER_SEQUENCE"
    )
    np.testing.assert_allclose(losses, one_device[0], rtol=2e-6)
    assert_same_params(params, one_device[1])


@pytest.mark.parametrize("name", ["fsdp", "tensor4"])
def test_what_lies_on_the_host_and_blocks_of_queries_change_no_number(one_device, name):
    config = dataclasses.replace(DROPOUT, remat_policy="minimal_offload", attention_query_block=8)
    losses, params = run(
        config, packed_batch(), mesh_config=MESHES[name], factor="AVERAGE_PER_SEQUENCE"
    )
    np.testing.assert_allclose(losses, one_device[0], rtol=2e-6)
    assert_same_params(params, one_device[1])


@pytest.mark.parametrize("num_microbatches", [2, 4])
@pytest.mark.parametrize("mesh", [None, MeshConfig(data=2, fsdp=1, tensor=4)])
def test_microbatches_give_the_step_of_the_whole_batch(one_device, num_microbatches, mesh):
    losses, params = run(
        DROPOUT, packed_batch(), num_microbatches=num_microbatches, mesh_config=mesh,
        factor="AVERAGE_PER_SEQUENCE",
    )  # fmt: skip
    np.testing.assert_allclose(losses, one_device[0], rtol=2e-6)
    assert_same_params(params, one_device[1])


@pytest.mark.parametrize("factor", [None, "NUM_REAL_TARGET_TOKENS", "AVERAGE_PER_SEQUENCE"])
def test_packed_and_unpacked_give_the_same_loss_and_gradients(factor):
    packed = packed_batch()
    model, loss = T5(TINY), LossConfig(loss_normalizing_factor=factor)
    params = train_state.init_params(model, 0)
    found = [
        jax.jit(
            lambda batch: steps.gradients(
                params, batch, None, model=model, loss=loss, num_microbatches=1, mesh=None
            )
        )(batch)
        for batch in (packed, unpack(packed))
    ]
    (packed_grads, packed_sums, norm), (grads, sums, other_norm) = found
    np.testing.assert_allclose(norm, other_norm)
    np.testing.assert_allclose(packed_sums.loss, sums.loss, rtol=1e-6)
    np.testing.assert_allclose(packed_sums.correct, sums.correct)
    for one, other in zip(jax.tree.leaves(packed_grads), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5 * np.abs(other).max())


def test_unpacked_batch_trains_too():
    losses, _ = run(TINY, unpack(packed_batch()), num_steps=3)
    assert losses[2] < losses[0]


def test_factored_statistics_lie_where_the_parameters_do():
    """jit alone would leave them whole on every device."""
    config = dataclasses.replace(TINY, emb_dim=128, mlp_dim=256)
    mesh = partitioning.make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
    where = train_state.state_shardings(T5(config), Adafactor(), mesh)
    state = where.opt_state["encoder"]["layers"]["mlp"]["wi_0"]["kernel"]
    specs = {name: place.spec for name, place in state.items() if any(place.spec)}
    assert specs, "no factored statistic is sharded"
    assert {axis for spec in specs.values() for axis in spec if axis} == {"fsdp", "tensor"}


def test_metrics_of_one_step_are_pinned():
    """A change of these numbers changes every run: if it was meant, put the new ones here."""
    model = T5(TINY)
    params = train_state.init_params(model, 0)
    step = steps.make_eval_step(model, LossConfig(loss_normalizing_factor="NUM_REAL_TARGET_TOKENS"))
    with nn.logical_axis_rules(()):
        metrics = jax.device_get(jax.jit(step)(params, packed_batch()))
    found = {name: round(float(metrics[name]), 4) for name in ("loss", "z_loss", "weight")}
    assert found == PINNED, f"found {found}: if the change was meant, pin these"


PINNED = {"loss": 6.6569, "z_loss": 0.0045, "weight": 51.0}


# BLOOM: the same step over decoder-only rows.

BLOOM = dataclasses.replace(TINY_BLOOM, num_layers=1, dropout_rate=0.1)


def decoder_only_batch(seed: int = 0, config=BLOOM) -> dict[str, np.ndarray]:
    """Rows of two or three segments of inputs and targets, padding at the end."""
    rng = np.random.default_rng(seed)
    names = ("target_tokens", "input_tokens", "loss_weights", "segment_ids", "positions")
    batch = {f"decoder_{name}": np.zeros((ROWS, 32), np.int32) for name in names}
    for row in range(ROWS):
        at = 0
        for segment in range(1, 3 + row % 2):
            inputs, targets = int(rng.integers(2, 6)), int(rng.integers(1, 5))
            # Token 0 is one like the others.
            ids = rng.integers(0, config.vocab_size, inputs + targets)
            span = (row, slice(at, at + len(ids) - 1))
            batch["decoder_input_tokens"][span] = ids[:-1]
            batch["decoder_target_tokens"][span] = ids[1:]
            batch["decoder_loss_weights"][span] = np.arange(1, len(ids)) >= inputs
            batch["decoder_segment_ids"][span] = segment
            batch["decoder_positions"][span] = np.arange(len(ids) - 1)
            at += len(ids) - 1
    return batch


def run_bloom(**options):
    """As `run`, the keys' biases left out.

    The softmax does not see them: their gradient is rounding, which Adafactor makes a full step.
    """
    losses, params = run(BLOOM, decoder_only_batch(), factor="AVERAGE_PER_SEQUENCE", **options)
    joined = params["decoder"]["layers"]["attention"]["query_key_value"]
    joined["bias"] = joined["bias"].reshape(BLOOM.num_heads, 3, -1)[:, ::2]
    return losses, params


@pytest.fixture(scope="module")
def bloom_on_one_device():
    return run_bloom()


@pytest.mark.parametrize("name", MESHES)
def test_every_mesh_gives_blooms_step_of_one_device(bloom_on_one_device, name):
    losses, params = run_bloom(mesh_config=MESHES[name])
    np.testing.assert_allclose(losses, bloom_on_one_device[0], rtol=2e-6)
    assert losses[1] < losses[0]
    assert_same_params(params, bloom_on_one_device[1])


def test_microbatches_give_blooms_step_of_the_whole_batch(bloom_on_one_device):
    mesh = MeshConfig(data=2, fsdp=1, tensor=4)
    losses, params = run_bloom(num_microbatches=4, mesh_config=mesh)
    np.testing.assert_allclose(losses, bloom_on_one_device[0], rtol=2e-6)
    assert_same_params(params, bloom_on_one_device[1])


def unpack_segments(batch):
    """The same examples of a decoder-only batch, one a row."""
    rows = []
    for row, ids in enumerate(batch["decoder_segment_ids"]):
        for segment in range(1, ids.max() + 1):
            order = np.argsort(ids != segment, kind="stable")
            chosen = (ids == segment)[order]
            rows.append({name: values[row][order] * chosen for name, values in batch.items()})
            rows[-1]["decoder_segment_ids"] = chosen.astype(np.int32)
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def test_blooms_packed_and_unpacked_rows_give_the_same_loss_and_gradients():
    config = dataclasses.replace(BLOOM, dropout_rate=0.0)
    packed, loss = decoder_only_batch(), LossConfig(loss_normalizing_factor="AVERAGE_PER_SEQUENCE")
    model = network(config)
    params = train_state.init_params(model, 0)
    (one, one_sums, one_norm), (two, two_sums, two_norm) = [
        jax.jit(
            lambda batch: steps.gradients(
                params, batch, None, model=model, loss=loss, num_microbatches=1, mesh=None
            )
        )(batch)
        for batch in (packed, unpack_segments(packed))
    ]
    examples = packed["decoder_segment_ids"].max(1).sum()
    np.testing.assert_allclose([one_norm, two_norm], examples, rtol=1e-6)
    np.testing.assert_allclose(one_sums.loss, two_sums.loss, rtol=1e-6)
    for mine, other in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(mine, other, atol=2e-5 * np.abs(other).max() + 1e-8)


def test_blooms_metrics_tell_inputs_targets_and_padding_apart():
    batch = decoder_only_batch()
    step = steps.make_eval_step(network(BLOOM), LossConfig(z_loss=0.0))
    params = train_state.init_params(network(BLOOM), 0)
    sums = jax.device_get(jax.jit(step)(params, batch))
    assert sums["decoder_positions"] == ROWS * 32 and sums["encoder_positions"] == 0
    assert sums["decoder_tokens"] == sums["weight"] == batch["decoder_loss_weights"].sum()
    real = (batch["decoder_segment_ids"] > 0).sum()
    assert sums["encoder_tokens"] + sums["decoder_tokens"] == real
    # Drawn parameters know nothing: near log V a token.
    assert sums["weighted_loss"] / sums["weight"] == pytest.approx(np.log(512), abs=0.4)
