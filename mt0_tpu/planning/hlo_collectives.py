"""What a collective operation of a compiled program moves, and between which devices.

`output_bytes` is the size of the result on one device, the figure that is compared between
programs; `wire_bytes` what a device sends at least, by the ring algorithms: (n-1)/n of the whole
for a gather or a scatter, twice that for an all-reduce.
"""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np

from mt0_tpu.planning.hlo_text import Array, Computation, Instruction, Module

KINDS = (
    "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all",
    "collective-permute", "collective-broadcast",
)  # fmt: skip
_IOTA = re.compile(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH_AXIS = re.compile(r"'([^']+)'=(\d+)")
# How a TPU's program hands what crosses slices to the hosts, which add it up.
_BETWEEN_SLICES = re.compile(r'_xla_megascale_transfer_type="(\w+)"')


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective, run once, on one device.

    Attributes:
      kind: one of KINDS.
      asynchronous: started and awaited apart, so that work can go on meanwhile.
      output_bytes, wire_bytes: see the file's head.
      group_size: devices that take part together.
      crosses_slices: some group joins devices of different slices.
    """

    kind: str
    asynchronous: bool
    output_bytes: int
    wire_bytes: float
    group_size: int
    crosses_slices: bool


def collective_of(
    module: Module, home: Computation, one: Instruction, slice_of: tuple[int, ...] | None = None
) -> Collective | None:
    """Returns what an instruction moves; None where it is no collective or only awaits one.

    Args:
      slice_of: the slice of each device, in the order of the program; None: one for all.
    """
    opcode, asynchronous = one.opcode, False
    if opcode == "send":
        return _between_slices(one, slice_of)
    if opcode == "async-start":
        inner = module[one.called("calls")[0]].root
        kind = inner.opcode
        if kind not in KINDS:
            return None
        results, asynchronous, holder = inner.arrays, True, inner
    elif opcode.removesuffix("-start") in KINDS:
        kind, asynchronous, holder = opcode.removesuffix("-start"), opcode.endswith("-start"), one
        results = _results(home, one) if asynchronous else one.arrays
    elif opcode == "fusion" and (fused := _fused_scatter(module, one)) is not None:
        # TPU's all-reduce-scatter: every device keeps its part of an all-reduce.
        kind, holder, results = "reduce-scatter", fused, one.arrays
    else:
        return None
    groups = _groups(holder)
    size = _group_size(holder, groups)
    output = sum(array.bytes for array in results)
    wire = _wire_bytes(kind, output, size)
    return Collective(kind, asynchronous, output, wire, size, _crosses(groups, slice_of))


def _between_slices(one: Instruction, slice_of: tuple[int, ...] | None) -> Collective | None:
    """Returns the share of a device in a collective of slices; None for another send."""
    found = _BETWEEN_SLICES.search(one.attributes)
    if found is None:
        return None
    kind = found.group(1).lower().replace("_", "-")
    kind = kind if kind in KINDS else "collective-permute"
    size, output = len(set(slice_of or (0, 1))), one.arrays[0].bytes
    return Collective(kind, True, output, _wire_bytes(kind, output, size), size, True)


def _wire_bytes(kind: str, output: int, size: int) -> float:
    share = (size - 1) / size
    if kind == "all-gather" or kind.endswith("all-to-all"):
        return output * share
    if kind == "all-reduce":
        return 2 * output * share
    if kind == "reduce-scatter":
        return output * (size - 1)
    return output


def _results(home: Computation, one: Instruction) -> tuple[Array, ...]:
    """The results among the arrays of a -start operation, which holds its operands as well."""
    if one.opcode == "all-reduce-start":  # its shape is the result alone
        return one.arrays
    if one.opcode == "collective-permute-start":  # (operand, result, context, context)
        return one.arrays[1:2]
    count = sum(len(home.instructions[name].arrays) for name in one.operands)
    return one.arrays[count : 2 * count]


def _fused_scatter(module: Module, fusion: Instruction) -> Instruction | None:
    """The all-reduce of a fusion whose result is a slice of it, else None."""
    inner = module[fusion.called("calls")[0]]
    if inner.root.opcode != "dynamic-slice" or len(inner.instructions) > 64:
        return None
    reduces = [i for i in inner.instructions.values() if i.opcode == "all-reduce"]
    return reduces[0] if len(reduces) == 1 else None


def _groups(one: Instruction) -> np.ndarray | None:
    """Device numbers [groups, devices of each]; None where the text does not list them."""
    text = _groups_text(one)
    iota = _IOTA.match(text)
    if iota:
        shape, dims, order = (_numbers(part) for part in iota.groups())
        numbers = np.arange(math.prod(dims)).reshape(dims)
        if order:
            numbers = numbers.transpose(order)
        return numbers.reshape(shape)
    if text.startswith("mesh["):
        return _mesh_groups(text)
    listed = one.attribute("replica_groups") or one.attribute("source_target_pairs") or ""
    rows = [_numbers(row) for row in re.findall(r"\{([\d,]+)\}", listed)]
    if rows and len({len(row) for row in rows}) == 1:
        return np.array(rows)
    return None


def _groups_text(one: Instruction) -> str:
    found = re.search(r"(?:replica_groups|source_target_pairs)=", one.attributes)
    return one.attributes[found.end() :] if found else ""


def _mesh_groups(text: str) -> np.ndarray | None:
    """mesh['a'=16,'b'=4] {'a'}: groups along the axes in braces, devices counted row by row."""
    found = re.match(r"mesh\[([^\]]*)\](?:,? *device_ids=\(([^)]*)\))? *\{([^}]*)\}", text)
    if found is None or found.group(2):
        return None
    axes = {name: int(size) for name, size in _MESH_AXIS.findall(found.group(1))}
    wanted = re.findall(r"'([^']+)'", found.group(3))
    if any(name not in axes for name in wanted):  # a part of an axis, as 'a':(1)4
        return None
    numbers = np.arange(math.prod(axes.values())).reshape(tuple(axes.values()))
    names = list(axes)
    kept = [names.index(name) for name in wanted]
    rest = [at for at in range(len(names)) if at not in kept]
    size = math.prod(axes[name] for name in wanted)
    return numbers.transpose([*rest, *kept]).reshape(-1, size)


def _group_size(one: Instruction, groups: np.ndarray | None) -> int:
    if one.opcode.startswith("collective-permute"):
        return 2
    return 1 if groups is None else groups.shape[1]


def _crosses(groups: np.ndarray | None, slice_of: tuple[int, ...] | None) -> bool:
    if slice_of is None or groups is None:
        return False
    slices = np.asarray(slice_of)[groups]
    return bool((slices != slices[:, :1]).any())


def _numbers(text: str | None) -> tuple[int, ...]:
    return tuple(int(one) for one in text.split(",")) if text else ()
