"""The mesh and where arrays lie on it."""

import jax
import pytest
from jax.sharding import PartitionSpec as P

from mt0_tpu import partitioning
from mt0_tpu.errors import UserError
from mt0_tpu.partitioning import MeshConfig, make_mesh, partition_spec


@pytest.fixture(scope="module")
def mesh_2x2x2():
    return make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))


def test_data_takes_what_is_left():
    assert dict(make_mesh(MeshConfig(tensor=2)).shape) == {
        "replica": 1,
        "data": 4,
        "fsdp": 1,
        "tensor": 2,
    }


@pytest.mark.parametrize(
    "config",
    [
        MeshConfig(tensor=4),
        MeshConfig(num_partitions=4),
        MeshConfig(model_parallel_submesh=(2, 2, 1, 1)),
    ],
)
def test_t5x_spellings_of_the_tensor_axis(config):
    assert make_mesh(config).shape["tensor"] == 4


@pytest.mark.parametrize(
    "axes, shape, spec",
    [
        (("vocab", "embed"), (512, 64), P("tensor", "fsdp")),
        (("embed", "mlp"), (64, 128), P("fsdp", "tensor")),
        (("layers", "embed", "joined_kv"), (2, 64, 64), P(None, "fsdp", "tensor")),
        # The batch takes fsdp, so embed stays whole.
        (("batch", "length", "embed"), (8, 5, 64), P(partitioning.BATCH_AXES, None, None)),
        # Six heads do not divide by four ways of tensor: whole, not an error.
        (("heads", "relpos_buckets"), (7, 32), P(None, None)),
        ((), (), P()),
    ],
)
def test_partition_spec(mesh_2x2x2, axes, shape, spec):
    assert partition_spec(axes, shape, mesh_2x2x2) == spec


def test_mesh_that_does_not_divide_says_so():
    with pytest.raises(UserError, match="does not divide 8 devices"):
        make_mesh(MeshConfig(tensor=3))


def test_two_spellings_that_differ_are_refused():
    with pytest.raises(UserError, match="different sizes"):
        MeshConfig(num_partitions=2, tensor=4)


def test_batch_that_does_not_divide_names_the_nearest(mesh_2x2x2):
    partitioning.check_batch_size(8, mesh_2x2x2, 2)
    with pytest.raises(UserError, match="BATCH_SIZE 10 .* the nearest that does is 8"):
        partitioning.check_batch_size(10, mesh_2x2x2, 2)


def test_eight_simulated_devices():
    assert jax.device_count() == 8
