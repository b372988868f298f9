"""A bit that flips on one device is found, and named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from mt0_tpu import partitioning
from mt0_tpu.partitioning import MeshConfig
from mt0_tpu.replica_check import ReplicaCheck, ReplicasDifferError, checksum


def state_on(mesh):
    """Leaves of several kinds, whole on every device or cut."""
    numbers = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)
    leaves = {
        "kernel": (numbers, P("fsdp", "tensor")),
        "scale": (numbers[0], P()),
        "half": (numbers.astype(jnp.bfloat16), P(None, "tensor")),
        "step": (np.int32(7), P()),
    }
    return {
        name: jax.device_put(value, jax.sharding.NamedSharding(mesh, spec))
        for name, (value, spec) in leaves.items()
    }


def check_of(state, mesh):
    where = jax.tree.map(lambda leaf: leaf.sharding, state)
    return ReplicaCheck(where, jax.eval_shape(lambda: state), mesh)


def flipped(array, device_id: int, bit: int = 0):
    """The same array with one bit of one device's copy turned over."""
    parts = []
    for shard in array.addressable_shards:
        part = np.array(shard.data)
        if shard.device.id == device_id:
            part.reshape(-1).view(f"u{part.dtype.itemsize}")[-1] ^= 1 << bit
        parts.append(jax.device_put(part, shard.device))
    return jax.make_array_from_single_device_arrays(array.shape, array.sharding, parts)


def mesh_of(**axes):
    return partitioning.make_mesh(MeshConfig(**axes))


@pytest.mark.parametrize("axes", [{}, {"data": 4, "tensor": 2}, {"replica": 2, "fsdp": 2}], ids=str)
def test_equal_copies_pass(axes):
    mesh = mesh_of(**axes)
    state = state_on(mesh)
    check_of(state, mesh)(state, 3)


@pytest.mark.parametrize(
    "leaf, device, bit", [("kernel", 5, 31), ("scale", 0, 0), ("half", 7, 3), ("step", 2, 1)]
)
def test_one_bit_on_one_device_is_found_and_named(leaf, device, bit):
    mesh = mesh_of(data=4, tensor=2)
    state = state_on(mesh)
    check = check_of(state, mesh)
    state[leaf] = flipped(state[leaf], device, bit)
    with pytest.raises(ReplicasDifferError) as found:
        check(state, 12)
    others = {"kernel": 3, "half": 3, "scale": 7, "step": 7}[leaf]
    said = f"at step 12 .*: {leaf}: device {device} of process 0 against {others} others that agree"
    assert found.match(said)


def test_of_two_copies_neither_is_called_right():
    mesh = mesh_of(data=2, fsdp=4)
    state = state_on(mesh)
    check = check_of(state, mesh)
    state["kernel"] = flipped(state["kernel"], 6)
    with pytest.raises(ReplicasDifferError, match="kernel: device 2 .*, device 6 .*themselves"):
        check(state, 1)


def test_how_much_there_is_to_compare():
    everything = mesh_of(data=8)
    assert check_of(state_on(everything), everything).compared == 1.0
    cut = mesh_of(fsdp=8)
    state = state_on(cut)
    # Of 512 + 64 + 256 + 4 bytes the kernel's lie on one device each.
    assert check_of(state, cut).compared == pytest.approx(324 / 836)
    alone = partitioning.make_mesh(MeshConfig(), jax.devices()[:1])
    assert check_of(state_on(alone), alone).compared == 0.0


def test_equal_numbers_in_other_places_are_told_apart():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    sums = {int(checksum(jnp.asarray(y))) for y in (x, x[::-1], x[:, ::-1], -x)}
    assert len(sums) == 4
    # Minus zero is another bit pattern than zero, and NaN equals itself.
    assert checksum(jnp.float32([0.0])) != checksum(jnp.float32([-0.0]))
    assert checksum(jnp.float32([np.nan])) == checksum(jnp.float32([np.nan]))
