"""The mesh and where arrays lie on it."""

import dataclasses
import random

import jax
import numpy as np
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
        # What does not divide is whole here; check_dimensions refuses it beforehand.
        (("heads", "relpos_buckets"), (7, 32), P(None, None)),
        ((), (), P()),
    ],
)
def test_partition_spec(mesh_2x2x2, axes, shape, spec):
    assert partition_spec(axes, shape, mesh_2x2x2) == spec


@dataclasses.dataclass(frozen=True)
class FakeTpu:
    """A TPU v4 chip as JAX shows it."""

    id: int
    slice_index: int
    coords: tuple[int, int, int]
    process_index: int
    core_on_chip: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v4"


def slices_of_v4(count, shape=(2, 2, 4)):
    """Chips of several slices, in an order that is no help."""
    chips = []
    for number in range(count):
        for place in np.ndindex(*reversed(shape)):
            coords = tuple(reversed(place))
            chips.append(FakeTpu(len(chips), number, coords, len(chips) // 4))
    random.Random(0).shuffle(chips)
    return chips


@pytest.mark.parametrize(
    "config, inside",
    [
        (MeshConfig(replica=2, fsdp=4, tensor=4), (1, 1, 4, 4)),
        (MeshConfig(replica=2, tensor=2), (1, 8, 1, 2)),
        (MeshConfig(replica=4, fsdp=2, tensor=2), (2, 2, 2, 2)),
    ],
)
def test_slices_differ_in_the_replica_alone(config, inside):
    mesh = make_mesh(config, slices_of_v4(2))
    assert mesh.devices.shape == (2 * inside[0], *inside[1:])
    for number, part in enumerate(np.split(mesh.devices, 2)):
        assert {device.slice_index for device in part.flat} == {number}


def test_neighbours_on_the_torus_are_neighbours_in_the_mesh():
    """Along tensor, the axis that talks most, four chips fill a box of four."""
    mesh = make_mesh(MeshConfig(tensor=4), slices_of_v4(1))
    for group in mesh.devices.reshape(-1, 4):
        coords = np.array([device.coords for device in group])
        assert np.prod(np.ptp(coords, axis=0) + 1) == 4


def test_axes_that_no_axis_of_the_torus_fits_are_laid_out_all_the_same():
    assert make_mesh(MeshConfig(fsdp=8, tensor=2), slices_of_v4(1)).devices.shape == (1, 1, 8, 2)


def test_slices_without_a_replica_say_what_to_write():
    with pytest.raises(UserError, match=r"2 slices.*replica is 1; write MeshConfig.replica = 2"):
        make_mesh(MeshConfig(fsdp=4), slices_of_v4(2))


def test_machines_of_gpus_may_share_an_axis():
    gpus = [
        dataclasses.replace(chip, platform="gpu", device_kind="H100") for chip in slices_of_v4(2)
    ]
    ids = [device.id for device in make_mesh(MeshConfig(fsdp=32), gpus).devices.flat]
    assert ids == list(range(32))


def test_dimensions_that_do_not_divide_are_all_named(mesh_2x2x2):
    axes = {"table": ("vocab", "embed"), "kernel": ("layers", "embed", "mlp"), "scale": ("embed",)}
    shapes = {"table": (500, 63), "kernel": (3, 63, 127), "scale": (63,)}
    abstract = {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in shapes.items()}
    with pytest.raises(UserError) as error:
        partitioning.check_dimensions(axes, abstract, mesh_2x2x2, num_heads=7)
    assert str(error.value) == (
        "the mesh does not fit the network: fsdp=2 does not divide embed=63 (1, 3, 7 would); "
        "tensor=2 does not divide heads=7 (1, 7 would); tensor=2 does not divide mlp=127 (1 would)"
    )
    partitioning.check_dimensions(axes, abstract, make_mesh(MeshConfig()), num_heads=7)


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
