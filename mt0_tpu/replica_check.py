"""Whether the copies of one state on several devices are still the same, bit for bit.

Data parallelism keeps the same numbers on many devices. A bit that flips in one of them changes
no shape and raises no error; the copies drift apart, and the checkpoint holds whichever is
first. Here every device makes a checksum of what it holds, and those that should hold the same
are compared, across processes too.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mt0_tpu.errors import UserError

# Odd, so that a product never loses a bit; one for each dimension of an array.
_FACTORS = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1, 0xD3A2646D)
_BITS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}
_SHOWN = 6


def check_period(every_steps: int | None) -> None:
    """Raises UserError unless it is a number of steps, or None for never."""
    if every_steps is not None and every_steps < 1:
        raise UserError(
            f"train.check_replicas_every_steps is {every_steps}; write 1 or more steps, or None"
        )


def make(every_steps: int | None, where, shapes, mesh: Mesh, say: Callable[[str], None]):
    """Returns compare(state, step, saves_now), which does so when it is due.

    It is every so many steps, and before a save: what differs is not saved.
    """
    if every_steps is None:
        return lambda state, step, saves_now: None
    check = ReplicaCheck(where, shapes, mesh)
    say(
        f"replicas: {check.compared:.1%} of the state has copies on several devices, compared "
        f"every {every_steps} steps and before each save"
        if check.compared
        else "replicas: no number of the state lies on two devices; there is nothing to compare"
    )

    def compare(state, step: int, saves_now: bool) -> None:
        if check.compared and (saves_now or step % every_steps == 0):
            check(state, step)

    return compare


class ReplicasDifferError(UserError):
    """Devices that should hold the same numbers do not; the message names leaf and devices."""


def checksum(x: jax.Array) -> jax.Array:
    """Returns a uint32 of all bits of x: the sum of a hash of each element and its place.

    The hash is one-to-one in the element, so a change of one always changes the sum; of several
    at once, all but once in about 2^32.
    """
    bits = jax.lax.bitcast_convert_type(x, _BITS[x.dtype.itemsize]).astype(jnp.uint32)
    for dim, factor in zip(range(x.ndim), _FACTORS, strict=False):
        bits += jax.lax.broadcasted_iota(jnp.uint32, x.shape, dim) * jnp.uint32(factor)
    # A plain weighted sum would miss two signs that flip: high bits must reach low ones.
    bits = (bits ^ (bits >> 16)) * jnp.uint32(_FACTORS[0])
    bits = (bits ^ (bits >> 15)) * jnp.uint32(_FACTORS[1])
    return jnp.sum(bits ^ (bits >> 16), dtype=jnp.uint32)


class ReplicaCheck:
    """Compares the copies of a state's leaves over a mesh.

    Args:
      where: a tree of NamedShardings, such as train_state.state_shardings gives.
      shapes: a like tree of shapes and dtypes.
      mesh: the mesh of all of them.

    Attributes:
      compared: fraction of the state's bytes of which there is more than one copy (0..1).
    """

    def __init__(self, where, shapes, mesh: Mesh):
        leaves = jax.tree_util.tree_leaves_with_path(shapes)
        self._mesh = mesh
        self._names = [_name(path) for path, _ in leaves]
        places: Sequence[NamedSharding] = jax.tree.leaves(where)
        self._groups = [
            _copies(place, leaf.shape) for place, (_, leaf) in zip(places, leaves, strict=True)
        ]
        sizes = [leaf.size * leaf.dtype.itemsize for _, leaf in leaves]
        copied = [s for s, g in zip(sizes, self._groups, strict=True) if len(g[0]) > 1]
        self.compared = sum(copied) / max(sum(sizes), 1)
        self._program = _compile(places, [leaf for _, leaf in leaves], mesh)

    def __call__(self, state, step: int) -> None:
        """Raises ReplicasDifferError, in every process, where copies are not the same.

        Waits for the device; every process has to call it at the same step.
        """
        sums_DL = np.asarray(self._program(jax.tree.leaves(state)))
        number = {device: at for at, device in enumerate(self._mesh.devices.flat)}
        wrong = []
        for leaf, (name, groups) in enumerate(zip(self._names, self._groups, strict=True)):
            for group in groups:
                found = [int(sums_DL[number[device], leaf]) for device in group]
                if len(set(found)) > 1:
                    wrong.append(f"{name}: {_who(group, found)}")
                    break
        if wrong:
            more = f" and {len(wrong) - _SHOWN} more leaves" if len(wrong) > _SHOWN else ""
            raise ReplicasDifferError(
                f"at step {step} copies of the same numbers differ between devices: "
                f"{'; '.join(wrong[:_SHOWN])}{more}. A device or its memory is at fault, and "
                "checkpoints saved since the last check that passed may hold its numbers: go on "
                "from one before, without that device"
            )


def _name(path) -> str:
    return "/".join(str(getattr(key, "key", getattr(key, "name", key))) for key in path)


def _copies(place: NamedSharding, shape: tuple[int, ...]) -> list[list[jax.Device]]:
    """Returns the devices that hold the same part of an array, a list for each part."""
    groups = collections.defaultdict(list)
    for device, index in place.devices_indices_map(shape).items():
        groups[tuple((part.start, part.stop) for part in index)].append(device)
    return list(groups.values())


def _compile(places: Sequence[NamedSharding], leaves, mesh: Mesh):
    """Compiles leaves -> checksums uint32 [devices, leaves], whole in every process."""

    def of_device(*shards):
        return jnp.stack([checksum(shard) for shard in shards])[None]

    def of_all(shards):
        per_device = jax.shard_map(
            of_device,
            mesh=mesh,
            in_specs=tuple(place.spec for place in places),
            out_specs=PartitionSpec(mesh.axis_names),
            # Under the check what is called replicated would be taken to be the same.
            check_vma=False,
        )
        return per_device(*shards)

    whole = NamedSharding(mesh, PartitionSpec())
    arguments = [
        jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)
        for leaf, place in zip(leaves, places, strict=True)
    ]
    return jax.jit(of_all, out_shardings=whole).lower(arguments).compile()


def _who(group: Sequence[jax.Device], found: Sequence[int]) -> str:
    """Which devices stand against the others; who is right cannot be told of two."""
    (common, times), *_ = collections.Counter(found).most_common()
    if times * 2 > len(found):
        odd = [_device(d) for d, one in zip(group, found, strict=True) if one != common]
        return f"{', '.join(odd)} against {times} others that agree"
    listed = ", ".join(_device(device) for device in group[:_SHOWN])
    return f"{listed}{' …' if len(group) > _SHOWN else ''} among themselves"


def _device(device: jax.Device) -> str:
    return f"device {device.id} of process {device.process_index}"
