"""Where a plan runs: slices of a TPU type, or this machine with simulated devices (cpu-8).

Neither jax nor libtpu is needed to read a name.
"""

from __future__ import annotations

import dataclasses
import re

from mt0_tpu.errors import UserError, did_you_mean
from mt0_tpu.planning.chips import CHIPS, Chip
from mt0_tpu.tpu_types import TYPES, TpuType, tpu_type

_SIMULATED = re.compile(r"^cpu-(\d+)$")
_MOST_SIMULATED = 512


@dataclasses.dataclass(frozen=True)
class Topology:
    """One or more slices of one type; `tpu` is None for simulated CPU devices.

    Attributes:
      name: of the type, as v4-128 or cpu-8.
      slices: how many, joined by the data-centre network.
      devices_per_slice: JAX devices.
    """

    name: str
    tpu: TpuType | None
    devices_per_slice: int
    slices: int = 1

    @property
    def devices(self) -> int:
        """JAX devices of all slices."""
        return self.devices_per_slice * self.slices

    @property
    def chips(self) -> int:
        """Chips of all slices; of a CPU its simulated devices."""
        return self.tpu.chips * self.slices if self.tpu else self.devices

    @property
    def chip(self) -> Chip | None:
        """What a chip can do; None for a CPU, of which nothing is estimated."""
        return CHIPS[self.tpu.generation.name] if self.tpu else None

    @property
    def usable_hbm_gib(self) -> float | None:
        """Of one device."""
        return self.chip.usable_hbm_gib if self.chip else None

    @property
    def compiler_name(self) -> str:
        """What libtpu calls one slice, such as v4:4x4x4."""
        return f"{self.tpu.generation.name}:{self.tpu.topology}"

    def __str__(self) -> str:
        slices = f"{self.slices} slices of " if self.slices > 1 else ""
        if self.tpu is None:
            return f"{slices}{self.name}: {self.devices} simulated devices"
        text = f"{slices}{self.name} ({self.tpu.topology}): {self.chips} chips"
        return text if self.devices == self.chips else f"{text}, {self.devices} devices"


def topology(name: str, slices: int = 1) -> Topology:
    """Returns the slices that a name means: v4-128, v5litepod-16, v6e-256 or cpu-8.

    Raises UserError for a name or a size that there is not, with the nearest.
    """
    if slices < 1:
        raise UserError(f"--slices is {slices}; write 1 or more")
    name = name.strip().lower()
    simulated = _SIMULATED.match(name)
    if simulated:
        devices = int(simulated.group(1))
        if not 1 <= devices <= _MOST_SIMULATED:
            raise UserError(f"topology {name}: write cpu-1 to cpu-{_MOST_SIMULATED}, as cpu-8")
        return Topology(name, None, devices, slices)
    if not name.startswith("v"):
        hint = did_you_mean(name, [*TYPES, "cpu-1", "cpu-2", "cpu-4", "cpu-8", "cpu-16"])
        raise UserError(
            f"there is no topology '{name}'.{hint} A topology is a TPU type, as v4-128 or v5e-16, "
            "or cpu-N, this machine with N simulated devices"
        )
    found = tpu_type(name)
    return Topology(found.name, found, found.devices, slices)


def of_same_generation(name: str) -> list[str]:
    """Returns the types of the same generation, smallest first; of a CPU none."""
    found = TYPES.get(name)
    return [one.name for one in found.generation.types()] if found else []
