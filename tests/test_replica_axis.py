"""Only gradients and the loss's sums cross from slice to slice, read off compiled programs."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mt0_tpu import partitioning, train_state
from mt0_tpu import train_step as steps
from mt0_tpu.losses import LossConfig
from mt0_tpu.models.networks import network
from mt0_tpu.optimizers import Adafactor
from mt0_tpu.partitioning import MeshConfig
from mt0_tpu.schedules import LearningRate
from tests.hlo_replicas import crossing, groups
from tests.test_train_step import decoder_only_batch, packed_batch
from tests.tiny import TINY
from tests.tiny_bloom import TINY_BLOOM


def compiled(config, mesh, batch, num_microbatches):
    model, optimizer = network(config), Adafactor()
    shapes, axes = train_state.abstract_state(model, optimizer)
    step = steps.make_train_step(
        model, LossConfig(), optimizer, LearningRate(), axes.params,
        seed=0, num_microbatches=num_microbatches, mesh=mesh,
    )  # fmt: skip
    where = partitioning.shardings(axes, shapes, mesh)
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
    program = steps.compile_train_step(step, where, shapes, abstract, mesh).as_text()
    return program, shapes.params


@pytest.mark.parametrize(
    "config, mesh_config, num_microbatches",
    [
        (TINY, MeshConfig(replica=2, fsdp=2, tensor=2), 1),
        (TINY, MeshConfig(replica=2, data=2, tensor=2), 2),
        (TINY_BLOOM, MeshConfig(replica=2, fsdp=2, tensor=2), 1),
    ],
)
def test_gradients_alone_cross_the_replica_axis(config, mesh_config, num_microbatches):
    mesh = partitioning.make_mesh(mesh_config)
    batch = packed_batch() if config is TINY else decoder_only_batch(config=config)
    program, params = compiled(config, mesh, batch, num_microbatches)
    found = crossing(program, 8, 2)
    assert {kind for kind, _ in found} == {"all-reduce"}
    large = [size for _, sizes in found for size in sizes if size > 1]
    # A stack's gradients come a layer at a time; each is whole or cut by fsdp, tensor or both.
    fsdp, tensor = mesh.shape["fsdp"], mesh.shape["tensor"]
    cuts = {1, fsdp, tensor, fsdp * tensor}
    leaves = jax.tree.leaves(params)
    gradients = {leaf.size // layers // cut for leaf in leaves for layers in (1, 2) for cut in cuts}
    if config is TINY:
        # The relative bias's, [heads, T, T], before they are summed over buckets.
        gradients |= {config.num_heads // tensor * length**2 for length in (24, 16)}
    assert set(large) <= gradients
    assert len(large) >= len(leaves) and sum(large) <= sum(leaf.size for leaf in leaves)


def test_what_crosses_is_seen():
    """The reading itself: an activation gathered from the other replica shows."""
    mesh = partitioning.make_mesh(MeshConfig(replica=2, fsdp=2, tensor=2))
    rows = NamedSharding(mesh, P(partitioning.BATCH_AXES))
    whole = NamedSharding(mesh, P())
    x = jax.ShapeDtypeStruct((8, 5), jnp.float32, sharding=rows)
    gather = jax.jit(lambda x: x + 1, out_shardings=whole).lower(x).compile().as_text()
    assert [kind for kind, _ in crossing(gather, 8, 2)] == ["all-gather"]
    inside = NamedSharding(mesh, P("replica"))
    stays = jax.jit(lambda x: x + 1, out_shardings=inside).lower(x).compile().as_text()
    assert "all-gather" in stays and crossing(stays, 8, 2) == []


@pytest.mark.parametrize(
    "text, expected",
    [
        ("x), replica_groups={{0,4},{1,5}}, y", [[0, 4], [1, 5]]),
        ("x), replica_groups=[2,4]<=[8], y", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("x), replica_groups=[4,2]<=[2,4]T(1,0), y", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("x), replica_groups=mesh['a'=2,'b'=4] {'a'}, y", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        (
            "x), replica_groups=mesh['a'=2,'b'=4], device_ids=([2,2,2]T(1,0,2)) {'a'}, y",
            [[0, 2], [1, 3], [4, 6], [5, 7]],
        ),
        ("x), replica_groups=mesh['a'=2,'b'=2,'c'=2] {'a','c'}, y", [[0, 1, 4, 5], [2, 3, 6, 7]]),
        ("x), source_target_pairs={{0,1},{1,0}}, y", [[0, 1], [1, 0]]),
        ("x), replica_groups={}, y", [[0, 1, 2, 3, 4, 5, 6, 7]]),
    ],
)
def test_groups_in_every_spelling(text, expected):
    assert groups(text, 8) == expected
