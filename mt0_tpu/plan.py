"""The planning job: a run compiled for hardware that is not here, and what it would take.

Nothing here touches data, a checkpoint or an accelerator; TensorFlow is not needed.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from mt0_tpu.planning import compile_devices, hlo_costs, model_flops, programs, roofline
from mt0_tpu.planning.programs import Memory, OutOfMemory
from mt0_tpu.planning.roofline import Estimate
from mt0_tpu.planning.topologies import Topology

_STEP_OF_CHECKPOINT = re.compile(r"(?:checkpoint_|/)(\d+)/?$")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one step of a job needs on a topology.

    Attributes:
      job, topology: what was compiled for which.
      mesh: ways of each axis.
      rows, input_length, target_length: of a batch over all devices.
      num_microbatches, remat_policy: of training.
      fits: whether a device has room; None where its memory is not known (cpu-N).
      limit_bytes: of one device that a program may use; None on cpu-N.
      memory: by kind on one device; None where it does not fit.
      out_of_memory: what the compiler said where it does not.
      flops: matrix products of one device and step, as compiled.
      model_flops: of all devices, by the network's formula.
      hbm_bytes: read and written by one device and step; an estimate.
      collectives: kind -> bytes of the results on one device and step.
      host_bytes: to and from the host's memory.
      dcn_bytes: that one device sends to other slices.
      unknown_loops: loops whose trips the data decide; counted for full rows.
      estimate: roofline; None on cpu-N and where it does not fit.
      steps: of the recipe; None where it says none.
      compile_seconds, compile_cpu_seconds: here.
    """

    job: str
    topology: Topology
    mesh: dict[str, int]
    rows: int
    input_length: int
    target_length: int
    num_microbatches: int
    remat_policy: str
    fits: bool | None
    limit_bytes: int | None
    memory: Memory | None
    out_of_memory: OutOfMemory | None
    flops: float
    model_flops: float
    hbm_bytes: float
    host_bytes: float
    collectives: dict[str, float]
    dcn_bytes: float
    unknown_loops: tuple[str, ...]
    estimate: Estimate | None
    steps: int | None
    compile_seconds: float
    compile_cpu_seconds: float

    @property
    def short_bytes(self) -> int:
        """By how much a device is too small; negative is room to spare, 0 where not known."""
        if self.out_of_memory:
            return self.out_of_memory.needed - self.out_of_memory.available
        return self.memory.reserved - self.limit_bytes if self.limit_bytes else 0

    @property
    def collective_bytes(self) -> float:
        return sum(self.collectives.values())

    @property
    def tokens_per_s(self) -> float | None:
        """Positions of rows, padding included."""
        if self.estimate is None:
            return None
        return self.rows * (self.input_length + self.target_length) / self.estimate.step_s

    @property
    def hours(self) -> float | None:
        """Of the recipe's steps."""
        if self.estimate is None or self.steps is None:
            return None
        return self.steps * self.estimate.step_s / 3600

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        kept = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("topology", "memory", "out_of_memory", "estimate")
        }
        for name in ("memory", "out_of_memory", "estimate"):
            value = getattr(self, name)
            kept[name] = None if value is None else dataclasses.asdict(value)
        if self.memory:
            kept["memory"]["reserved"] = self.memory.reserved
        top = self.topology
        kept["topology"] = {
            "name": top.name, "slices": top.slices, "chips": top.chips, "devices": top.devices,
        }  # fmt: skip
        kept |= {
            "short_bytes": self.short_bytes, "collective_bytes": self.collective_bytes,
            "tokens_per_s": self.tokens_per_s, "hours": self.hours,
            "chip_hours": None if self.hours is None else self.hours * top.chips,
        }  # fmt: skip
        return kept


def plan(job: str, arguments: Mapping[str, Any], topology: Topology) -> Plan:
    """Compiles one step of a job for a topology, and counts it.

    Args:
      job: one of programs.JOBS.
      arguments: of the resolved run.
      topology: compile_devices.prepare has been called for it.

    Raises:
      UserError: what the job itself would refuse, such as a mesh that does not divide.
    """
    devices = compile_devices.devices(topology)
    program = programs.compile_job(job, arguments, devices)
    config = arguments["model"]
    costs = hlo_costs.Costs()
    if program.text:
        costs = hlo_costs.count(
            program.text,
            unknown_trips=program.unknown_trips,
            slice_of=_slices(program.mesh, topology),
            rates=roofline.rates(topology),
        )
    lengths = (program.input_length, program.target_length)
    formula = model_flops.decode_flops if job == "decode" else model_flops.forward_flops
    needed = formula(config, program.rows, *lengths) * (3 if job == "train" else 1)
    limit = topology.usable_hbm_gib and int(topology.usable_hbm_gib * 2**30)
    fits = None
    if program.memory is None:
        fits = False
    elif limit:
        fits = program.memory.reserved <= limit
    kinds: dict[str, float] = {}
    for (kind, _, _), (_, output, _) in costs.collectives.items():
        kinds[kind] = kinds.get(kind, 0.0) + output
    return Plan(
        job=job,
        topology=topology,
        mesh={axis: int(ways) for axis, ways in program.mesh.shape.items()},
        rows=program.rows,
        input_length=program.input_length,
        target_length=program.target_length,
        num_microbatches=(arguments.get("num_microbatches") or 1) if job == "train" else 1,
        remat_policy=config.remat_policy,
        fits=fits,
        limit_bytes=limit,
        memory=program.memory,
        out_of_memory=program.out_of_memory,
        flops=costs.flops,
        model_flops=needed,
        hbm_bytes=costs.hbm_bytes,
        host_bytes=costs.host_bytes,
        collectives=kinds,
        dcn_bytes=costs.wire_bytes(crosses_slices=True),
        unknown_loops=tuple(sorted(set(costs.unknown_loops))),
        estimate=roofline.estimate(topology, costs, needed) if program.text else None,
        steps=steps_of(arguments) if job == "train" else None,
        compile_seconds=program.compile_seconds,
        compile_cpu_seconds=program.compile_cpu_seconds,
    )


def steps_of(arguments: Mapping[str, Any]) -> int | None:
    """Steps that a training run takes, as far as its configuration tells.

    The step of the first checkpoint is read off its path, as in …/checkpoint_1000000.
    """
    relative = arguments.get("relative_steps")
    if relative is not None:
        return relative
    total = arguments.get("total_steps")
    start = _STEP_OF_CHECKPOINT.search(str(arguments.get("initial_checkpoint_path") or ""))
    if total is None:
        return None
    return total - int(start.group(1)) if start and int(start.group(1)) <= total else total


def _slices(mesh, topology: Topology) -> tuple[int, ...] | None:
    """The slice of each device in the program's order."""
    if topology.slices == 1:
        return None
    if topology.tpu is None:  # simulated devices have no slices: runs of consecutive ones
        return tuple(device.id // topology.devices_per_slice for device in mesh.devices.flat)
    return tuple(device.slice_index for device in mesh.devices.flat)
