"""The device mesh, and where every array lies on it.

Arrays name their dimensions logically ('embed', 'vocab', 'batch' ...); the rules below say
which mesh axis each name is cut along. Knows no data and no network.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mt0_tpu.errors import UserError

MESH_AXES = ("replica", "data", "fsdp", "tensor")
# Mesh axes that hold different examples; a batch is cut along all of them at once.
BATCH_AXES = ("replica", "data", "fsdp")

# In order of priority: a mesh axis serves one dimension of an array only, so an activation
# [batch, length, embed], whose batch took 'fsdp' already, keeps its embed whole, while a
# parameter [embed, mlp] is cut along both.
LOGICAL_RULES: tuple[tuple[str, str | tuple[str, ...] | None], ...] = (
    ("batch", BATCH_AXES),
    ("replica", "replica"),
    ("vocab", "tensor"),
    ("mlp", "tensor"),
    ("heads", "tensor"),
    ("joined_kv", "tensor"),
    ("embed", "fsdp"),
    ("embed", None),
    ("kv", None),
    ("length", None),
    ("sequence", "tensor"),
    ("layers", None),
    ("relpos_buckets", None),
)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many ways each mesh axis cuts the work.

    Attributes:
      replica: slices, joined by the data-centre network; only gradients cross it.
      data: copies of the model that see different rows; -1 takes the devices that are left.
      fsdp: like data, with parameters and optimizer state cut as well.
      tensor: ways that heads, feed-forward and vocabulary are cut.
      num_partitions: T5X's spelling of `tensor`.
      model_parallel_submesh: T5X's (x, y, z, cores); its product is `tensor`.
    """

    replica: int = 1
    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    num_partitions: int | None = None
    model_parallel_submesh: tuple[int, ...] | None = None

    def __post_init__(self):
        for name in ("replica", "fsdp", "tensor"):
            if getattr(self, name) < 1:
                raise UserError(f"mesh axis {name} is {getattr(self, name)}; write 1 or more")
        if self.data == 0 or self.data < -1:
            raise UserError(f"mesh axis data is {self.data}; write 1 or more, or -1 for the rest")
        spellings = {self.tensor} - {1}
        if self.num_partitions is not None:
            spellings.add(self.num_partitions)
        if self.model_parallel_submesh is not None:
            spellings.add(math.prod(self.model_parallel_submesh))
        if len(spellings) > 1:
            raise UserError(
                f"tensor={self.tensor}, num_partitions={self.num_partitions} and "
                f"model_parallel_submesh={self.model_parallel_submesh} name the same axis with "
                "different sizes; give one of them"
            )

    @property
    def tensor_ways(self) -> int:
        """Size of the tensor axis, whichever spelling gave it."""
        if self.model_parallel_submesh is not None:
            return math.prod(self.model_parallel_submesh)
        return self.num_partitions if self.num_partitions is not None else self.tensor


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh with axes replica, data, fsdp, tensor over all devices.

    TPUs are laid out as their network is: along the axes that talk most, the last ones, devices
    are neighbours; slices, which the data-centre network joins, differ in `replica` alone.

    Raises:
      UserError: the axes do not multiply to the number of devices, or slices do not divide
        `replica`.
    """
    devices = list(jax.devices() if devices is None else devices)
    fixed = config.replica * config.fsdp * config.tensor_ways
    data = len(devices) // fixed if config.data == -1 else config.data
    if fixed * data != len(devices) or data < 1:
        raise UserError(
            f"the mesh replica={config.replica} x data={config.data} x fsdp={config.fsdp} x "
            f"tensor={config.tensor_ways} does not divide {len(devices)} devices; choose axes "
            "whose product is the number of devices, or data=-1 for the rest"
        )
    shape = (config.replica, data, config.fsdp, config.tensor_ways)
    # Meshes now default to Explicit axes, under which a gather from a sharded table needs
    # annotations everywhere; Auto leaves the propagation to the compiler.
    types = (AxisType.Auto,) * len(MESH_AXES)
    return Mesh(_laid_out(devices, shape), MESH_AXES, axis_types=types)


def _laid_out(devices: list, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the devices as an array of that shape."""
    slices = {getattr(device, "slice_index", 0) for device in devices}
    replica = shape[0]
    if len(slices) == 1:
        return _within_a_slice(devices, shape)
    if replica % len(slices) == 0:
        inside = (replica // len(slices), *shape[1:])
        parts = [
            _within_a_slice([one for one in devices if one.slice_index == number], inside)
            for number in sorted(slices)
        ]
        if len({part.size for part in parts}) == 1:
            return np.concatenate(parts)
    if devices[0].platform == "tpu":
        raise UserError(
            f"the devices are {len(slices)} slices, which only the data-centre network joins, and "
            f"replica is {replica}; write MeshConfig.replica = {len(slices)}, or a multiple: then "
            "nothing but gradients crosses it"
        )
    # What JAX calls a slice of GPUs is a machine; they may share any axis.
    return _within_a_slice(sorted(devices, key=lambda one: (one.slice_index, one.id)), shape)


def _within_a_slice(devices: list, shape: tuple[int, ...]) -> np.ndarray:
    if devices[0].platform != "tpu":
        return np.asarray(devices).reshape(shape)
    try:
        return mesh_utils.create_device_mesh(shape, devices)
    except NotImplementedError:  # no axis of the torus is as long as one of ours
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)


def batch_ways(mesh: Mesh) -> int:
    """Returns the number of ways that rows of a batch are cut."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def check_batch_size(batch_size: int, mesh: Mesh, num_microbatches: int = 1) -> None:
    """Raises UserError unless every microbatch divides over the mesh."""
    ways = batch_ways(mesh) * num_microbatches
    if batch_size % ways:
        nearest = max(ways, round(batch_size / ways) * ways)
        raise UserError(
            f"BATCH_SIZE {batch_size} does not divide by {batch_ways(mesh)} batch shards of the "
            f"mesh x {num_microbatches} microbatches = {ways}; the nearest that does is {nearest}"
        )


def check_dimensions(axes, abstract, mesh: Mesh, num_heads: int | None = None) -> None:
    """Raises UserError unless the mesh divides every dimension of a network that it is to cut.

    partition_spec leaves such a dimension whole: right, but each device would hold and compute
    all of it, without a word.

    Args:
      axes, abstract: trees of the parameters' logical axes and shapes.
      num_heads: of attention, which may be no parameter's dimension.
    """
    found = {("heads", num_heads)} if num_heads else set()

    def look(names, leaf) -> None:
        found.update(zip(names, leaf.shape, strict=True))

    jax.tree.map(look, axes, abstract, is_leaf=is_axes)
    targets = {name: target for name, target in LOGICAL_RULES if isinstance(target, str)}
    wrong = []
    for name, size in sorted(pair for pair in found if pair[0] in targets):
        axis = targets[name]
        if size % mesh.shape[axis]:
            fitting = [n for n in range(1, min(size, mesh.size) + 1) if size % n == 0]
            wrong.append(
                f"{axis}={mesh.shape[axis]} does not divide {name}={size} "
                f"({', '.join(map(str, fitting[-6:]))} would)"
            )
    if wrong:
        raise UserError(f"the mesh does not fit the network: {'; '.join(wrong)}")


def partition_spec(axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh) -> PartitionSpec:
    """Returns the mesh axes for one array, skipping axes in use and sizes that do not divide."""
    entries: list = [None] * len(axes)
    used: set[str] = set()
    for name, target in LOGICAL_RULES:
        if target is None:
            continue
        wanted = (target,) if isinstance(target, str) else target
        for dim, axis in enumerate(axes):
            if axis != name or entries[dim] is not None or used & set(wanted):
                continue
            ways = math.prod(mesh.shape[one] for one in wanted)
            if shape[dim] % ways == 0:
                entries[dim] = target
                used.update(wanted)
    return PartitionSpec(*entries)


def is_axes(node) -> bool:
    """Tells a tuple of logical names (a leaf) from a tuple that is a tree."""
    return isinstance(node, tuple) and all(name is None or isinstance(name, str) for name in node)


def shardings(axes, abstract, mesh: Mesh):
    """Returns a tree of NamedSharding for a tree of logical axes and one of shaped arrays."""
    return jax.tree.map(
        lambda names, leaf: NamedSharding(mesh, partition_spec(names, leaf.shape, mesh)),
        axes,
        abstract,
        is_leaf=is_axes,
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over every batch axis, the rest whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def to_devices(batch: dict[str, np.ndarray], where) -> dict[str, jax.Array]:
    """Returns global arrays [batch_size, ...] from the rows this process holds."""
    return {
        name: jax.make_array_from_process_local_data(where, rows) for name, rows in batch.items()
    }
