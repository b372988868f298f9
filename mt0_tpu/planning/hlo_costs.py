"""Matrix products, collectives and memory traffic of a compiled program, loops counted in full.

XLA's own `cost_analysis` counts a loop's body once, whatever the trip count, which is useless for
a scan over layers. Here every computation is walked as often as it runs: bodies of loops times
their trip counts, of the branches of a conditional the dearest.

Products are counted as 2 x multiply-adds, `dot` and (as TPU's compiler writes them)
`convolution` alike; padding that a convolution multiplies by is left out. Memory traffic is an
estimate: what each operation outside a fusion reads from and writes to HBM, once.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re

from mt0_tpu.planning.hlo_collectives import Collective, collective_of
from mt0_tpu.planning.hlo_loops import trip_count
from mt0_tpu.planning.hlo_text import Computation, Instruction, Module, parse

# Operations that move nothing by themselves.
_FREE = frozenset({
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id",
    "replica-id", "opt-barrier", "optimization-barrier", "copy-done", "async-done", "async-update",
    "slice-done", "while", "conditional", "call", "all-gather-done", "all-reduce-done",
    "collective-permute-done", "send-done", "recv-done", "domain",
})  # fmt: skip
_SLICES = ("dynamic-slice", "slice", "gather")
_HOST = 5  # the memory space of the host, in layouts
_WINDOW = re.compile(r"(\w+)=([^ }]+)")


@dataclasses.dataclass
class Costs:
    """What one run of a program costs one device.

    Attributes:
      flops: of matrix products.
      hbm_bytes: read and written, estimated.
      host_bytes: to and from the host's memory, by what remat policy 'minimal_offload' puts there.
      op_seconds: sum over operations of the longer of products and traffic, where rates are given.
      collectives: (kind, asynchronous, crosses_slices) -> [count, output bytes, wire bytes].
      by_op: JAX's path of an operation -> [flops, collective output bytes].
      unknown_loops: paths of loops whose trips the data decide.
      opaque: custom calls that may hold products nobody can see here -> how often.
    """

    flops: float = 0.0
    hbm_bytes: float = 0.0
    host_bytes: float = 0.0
    op_seconds: float = 0.0
    collectives: dict[tuple[str, bool, bool], list[float]] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(lambda: [0.0, 0.0, 0.0])
    )
    by_op: dict[str, list[float]] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(lambda: [0.0, 0.0])
    )
    unknown_loops: list[str] = dataclasses.field(default_factory=list)
    opaque: dict[str, float] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(float)
    )

    def collective_bytes(self, kind: str | None = None) -> float:
        """Output bytes of all collectives, or of one kind."""
        return sum(v[1] for (k, _, _), v in self.collectives.items() if kind in (None, k))

    def wire_bytes(self, *, crosses_slices: bool, asynchronous: bool | None = None) -> float:
        """Bytes a device sends within its slice, or between slices."""
        return sum(
            value[2]
            for (_, started, crosses), value in self.collectives.items()
            if crosses == crosses_slices and asynchronous in (None, started)
        )

    def add(self, other: Costs, times: float) -> None:
        """Adds another's costs, run `times` times."""
        self.flops += times * other.flops
        self.hbm_bytes += times * other.hbm_bytes
        self.host_bytes += times * other.host_bytes
        self.op_seconds += times * other.op_seconds
        for mine, theirs in ((self.collectives, other.collectives), (self.by_op, other.by_op)):
            for key, values in theirs.items():
                mine[key] = [a + times * b for a, b in zip(mine[key], values, strict=True)]
        for key, count in other.opaque.items():
            self.opaque[key] += times * count
        self.unknown_loops += other.unknown_loops


@dataclasses.dataclass(frozen=True)
class Rates:
    """What a device can do in a second, for Costs.op_seconds."""

    flops_per_s: float
    hbm_bytes_per_s: float


def count(
    text: str,
    *,
    unknown_trips: int = 1,
    slice_of: tuple[int, ...] | None = None,
    rates: Rates | None = None,
) -> Costs:
    """Counts a compiled program's text.

    Args:
      unknown_trips: how often a loop runs whose trips only the data decide.
      slice_of: the slice of each device, in the order of the program; None: one for all.
      rates: of the device; without them op_seconds stays 0.
    """
    module = parse(text)
    counter = _Counter(module, unknown_trips, slice_of, rates)
    return counter.computation(module[module.entry])


class _Counter:
    def __init__(self, module: Module, unknown_trips: int, slice_of, rates):
        self._module, self._unknown = module, unknown_trips
        self._slice_of, self._rates = slice_of, rates
        self._done: dict[str, Costs] = {}

    def computation(self, home: Computation) -> Costs:
        """Costs of one run of a computation that is no fusion."""
        if home.name not in self._done:
            total = Costs()
            for one in home.instructions.values():
                self._instruction(total, home, one)
            self._done[home.name] = total
        return self._done[home.name]

    def _instruction(self, total: Costs, home: Computation, one: Instruction) -> None:
        if one.opcode == "while":
            self._loop(total, home, one)
            return
        if one.opcode == "conditional":
            names = one.called("branch_computations") or (
                *one.called("true_computation"), *one.called("false_computation"),
            )  # fmt: skip
            branches = [self.computation(self._module[name]) for name in names]
            total.add(max(branches, key=lambda c: (c.flops, c.hbm_bytes)), 1)
            return
        if one.opcode == "call":
            total.add(self.computation(self._module[one.called("to_apply")[0]]), 1)
            return
        moved = collective_of(self._module, home, one, self._slice_of)
        if moved is not None:
            self._collective(total, one, moved)
            return
        if one.opcode == "custom-call":
            total.opaque[one.attribute("custom_call_target") or "?"] += 1
        flops = self._flops(home, one)
        moved_bytes = self._traffic(home, one)
        total.flops += flops
        total.hbm_bytes += moved_bytes
        total.host_bytes += _to_or_from_host(one)
        if flops:
            total.by_op[one.op_name][0] += flops
        if self._rates:
            total.op_seconds += max(
                flops / self._rates.flops_per_s, moved_bytes / self._rates.hbm_bytes_per_s
            )

    def _loop(self, total: Costs, home: Computation, one: Instruction) -> None:
        trips = trip_count(self._module, home, one)
        if trips is None:
            trips = self._unknown
            total.unknown_loops.append(one.op_name)
        for part in ("body", "condition"):
            total.add(self.computation(self._module[one.called(part)[0]]), trips)

    def _collective(self, total: Costs, one: Instruction, moved: Collective) -> None:
        key = (moved.kind, moved.asynchronous, moved.crosses_slices)
        values = total.collectives[key]
        values[0] += 1
        values[1] += moved.output_bytes
        values[2] += moved.wire_bytes
        total.by_op[one.op_name][1] += moved.output_bytes

    def _flops(self, home: Computation, one: Instruction) -> float:
        """Products of an instruction, those inside a fusion or an async call included."""
        if one.opcode == "dot":
            return dot_flops(home, one)
        if one.opcode == "convolution":
            return convolution_flops(home, one)
        if one.opcode in ("fusion", "async-start"):
            inner = self._module[one.called("calls")[0]]
            return sum(self._flops(inner, each) for each in inner.instructions.values())
        return 0.0

    def _traffic(self, home: Computation, one: Instruction) -> float:
        """HBM bytes read and written by an operation; on-chip memory spaces are left out."""
        if one.opcode in _FREE:
            return 0.0
        operands = [home.instructions[name] for name in one.operands]
        if one.opcode in _SLICES:  # reads what it gives
            return 2 * _in_hbm(one)
        if one.opcode == "dynamic-update-slice":
            return 2 * _in_hbm(operands[1])
        if one.opcode == "fusion":
            return self._fusion_traffic(one, operands)
        if one.opcode == "slice-start":  # ((operand), result, context): reads what it gives
            return one.arrays[1].bytes + (one.arrays[1].bytes if one.arrays[1].space == 0 else 0)
        if one.opcode.endswith("-start"):  # its shape holds the operands as well
            return _in_hbm(one)
        return _in_hbm(one) + sum(_in_hbm(operand) for operand in operands)

    def _fusion_traffic(self, one: Instruction, operands: list[Instruction]) -> float:
        inner = self._module[one.called("calls")[0]]
        users = collections.defaultdict(list)
        for each in inner.instructions.values():
            for at, name in enumerate(each.operands):
                users[name].append((each, at))
        total = 0.0
        for number, operand in enumerate(operands):
            parameter = inner.parameters.get(number)
            uses = users[parameter.name] if parameter else []
            if uses and all(use.opcode in _SLICES and at == 0 for use, at in uses):
                total += min(_in_hbm(operand), sum(use.bytes for use, _ in uses))
            elif uses and all(use.opcode == "dynamic-update-slice" and at == 0 for use, at in uses):
                continue  # written in place
            else:
                total += _in_hbm(operand)
        root = inner.root
        if root.opcode == "dynamic-update-slice":
            return total + inner.instructions[root.operands[1]].bytes
        return total + _in_hbm(one)


def _in_hbm(one: Instruction) -> int:
    return sum(array.bytes for array in one.arrays if array.space == 0)


def _to_or_from_host(one: Instruction) -> int:
    """Bytes of the slice or copy that an operation starts to move; 0 where the host has no part."""
    if not one.opcode.endswith("-start") or all(array.space != _HOST for array in one.arrays):
        return 0
    return max((array.bytes for array in one.arrays if array.space != _HOST), default=0)


def dot_flops(home: Computation, one: Instruction) -> float:
    """2 x elements of the result x length of what is summed over."""
    left = home.instructions[one.operands[0]].arrays[0]
    dims = re.findall(r"\d+", one.attribute("lhs_contracting_dims") or "")
    return 2.0 * one.arrays[0].size * math.prod(left.dims[int(dim)] for dim in dims)


def convolution_flops(home: Computation, one: Instruction) -> float:
    """2 x multiply-adds that meet an element of the input, not its padding or its holes."""
    left, right = (home.instructions[name].arrays[0].dims for name in one.operands[:2])
    result = one.arrays[0].dims
    labels = one.attribute("dim_labels")
    left_labels, right_labels, result_labels = re.split(r"_|->", labels)
    window = dict(_WINDOW.findall((one.attribute("window") or "{}").strip("{}")))
    positions = 1
    for number in range(len(left_labels) - 2):
        axis = str(number)
        positions *= _valid_positions(
            left[left_labels.index(axis)],
            right[right_labels.index(axis)],
            result[result_labels.index(axis)],
            {name: value.split("x")[number] for name, value in window.items()},
        )
    groups = int(one.attribute("batch_group_count") or 1)
    batch = left[left_labels.index("b")] // groups
    features = result[result_labels.index("f")]
    return 2.0 * batch * features * right[right_labels.index("i")] * positions


def _valid_positions(inputs: int, kernel: int, outputs: int, window: dict[str, str]) -> int:
    """Pairs (output, kernel position) of one dimension that fall on an input element."""
    stride = int(window.get("stride", 1))
    hole, spread = int(window.get("lhs_dilate", 1)), int(window.get("rhs_dilate", 1))
    low = int(window.get("pad", "0_0").split("_")[0])
    found = 0
    for tap in range(kernel):
        # position = output * stride + tap * spread - low must be a multiple of `hole` inside.
        offset = tap * spread - low
        last = hole * (inputs - 1)
        if stride == 1 and hole == 1:
            found += max(0, min(outputs - 1, last - offset) - max(0, -offset) + 1)
            continue
        for output in range(outputs):
            position = output * stride + offset
            found += 0 <= position <= last and position % hole == 0
    return found
