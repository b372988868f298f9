"""From what a program does to how long it may take: a roofline, never a measurement.

An operation takes the longer of its products at the chip's peak and its traffic at HBM's
bandwidth; operations follow each other. Collectives that the compiled program starts and awaits
apart run beside them, and so does what goes to the host and back; the other collectives run in
between. Real steps are slower: no chip multiplies at its peak, and what the host computes is left
out.
"""

from __future__ import annotations

import dataclasses

from mt0_tpu.planning.chips import LINKS_OF_A_COLLECTIVE
from mt0_tpu.planning.hlo_costs import Costs, Rates
from mt0_tpu.planning.topologies import Topology


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds of one step, each resource alone, and together.

    Attributes:
      compute_s, hbm_s, ici_s, dcn_s, host_s: of each resource at its peak.
      step_s: as the file's head adds them up.
      overlapped_s: were everything hidden behind the slowest resource.
      mfu: the model's own products over the peak of step_s.
    """

    compute_s: float
    hbm_s: float
    ici_s: float
    dcn_s: float
    host_s: float
    step_s: float
    overlapped_s: float
    mfu: float


def rates(topology: Topology) -> Rates | None:
    """What one device can do in a second; None for a simulated one."""
    if topology.chip is None:
        return None
    share = topology.chips / topology.devices
    return Rates(topology.chip.flops_per_s * share, topology.chip.hbm_bytes_per_s * share)


def estimate(topology: Topology, costs: Costs, model_flops: float) -> Estimate | None:
    """Returns the estimate of a step; None for a simulated CPU, whose time says nothing.

    Args:
      costs: of one device, counted with `rates`.
      model_flops: of the whole step over all devices (model_flops.py).
    """
    speed = rates(topology)
    if speed is None:
        return None
    share = topology.chips / topology.devices
    ici = topology.chip.link_bytes_per_s * LINKS_OF_A_COLLECTIVE * share
    dcn = topology.chip.dcn_bytes_per_s * share

    def seconds(asynchronous: bool | None) -> float:
        within = costs.wire_bytes(crosses_slices=False, asynchronous=asynchronous)
        between = costs.wire_bytes(crosses_slices=True, asynchronous=asynchronous)
        return within / ici + between / dcn

    compute_s, hbm_s = costs.flops / speed.flops_per_s, costs.hbm_bytes / speed.hbm_bytes_per_s
    ici_s = costs.wire_bytes(crosses_slices=False) / ici
    dcn_s = costs.wire_bytes(crosses_slices=True) / dcn
    # Out going forward, back going backward: never both ways at a time.
    host_s = costs.host_bytes / (topology.chip.host_bytes_per_s * share)
    step_s = max(costs.op_seconds, seconds(True), host_s) + seconds(False)
    return Estimate(
        compute_s=compute_s,
        hbm_s=hbm_s,
        ici_s=ici_s,
        dcn_s=dcn_s,
        host_s=host_s,
        step_s=step_s,
        overlapped_s=max(compute_s, hbm_s, ici_s, dcn_s, host_s),
        mfu=model_flops / (topology.devices * speed.flops_per_s * step_s),
    )
