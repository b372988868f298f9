"""TPU types by their public names: v4-128, v5e-64, v5p-128, v6e-16. Plain facts; no JAX.

`mt0 plan` compiles for them, launch/ creates them. What was read where:
  names, chips, hosts   docs.cloud.google.com/tpu/docs/{v2,v3,v4,v5e,v5p,v6e}
  runtime versions      docs.cloud.google.com/tpu/docs/runtimes
  GKE's labels          docs.cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus
  zones                 docs.cloud.google.com/tpu/docs/regions-zones, 2026 (those outside the United
                        States UNVERIFIED); they change, and what `gcloud compute tpus
                        accelerator-types list` says counts for more
Names, topologies, hosts and labels of v4, v5e, v5p and v6e from 16 chips on agree with xpk 1.16.
None of it was tried on a TPU of ours.
"""

from __future__ import annotations

import dataclasses
import math
import re
import shlex
import sys

from mt0_tpu.errors import UserError, did_you_mean


@dataclasses.dataclass(frozen=True)
class Generation:
    """What the types of one generation have in common.

    Attributes:
      name: as in the names of types: 'v4', 'v5e'.
      api_name: its spelling in Google's API where that differs: 'v5litepod'.
      cores_per_chip: tensor cores; a name of v2 to v4 and v5p counts these, else chips.
      name_counts_cores: whether it does.
      devices_per_chip: that JAX shows; from v4 on the cores of a chip are one device.
      runtime_version: of the TPU VM's image.
      gke_accelerator: GKE's label of a slice of it; None: not in GKE.
      gke_machine: GKE's machine type, with {} for the chips of a host.
      topologies: chips along each axis, as GKE and libtpu want them, smallest first.
      zones: where there are some; of v2 and v3 not every size in each.
    """

    name: str
    cores_per_chip: int
    name_counts_cores: bool
    devices_per_chip: int
    runtime_version: str
    gke_accelerator: str | None
    gke_machine: str | None
    topologies: tuple[str, ...]
    zones: tuple[str, ...]
    api_name: str = ""

    def types(self) -> tuple[TpuType, ...]:
        return tuple(TpuType(self, topology) for topology in self.topologies)


@dataclasses.dataclass(frozen=True)
class TpuType:
    """One slice that can be asked for.

    Attributes:
      generation: what it shares with its sisters.
      topology: chips along each axis: '4x4x8'.
    """

    generation: Generation
    topology: str

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """The topology as numbers: (4, 4, 8)."""
        return tuple(int(size) for size in self.topology.split("x"))

    @property
    def number(self) -> int:
        """The one in its name: cores or chips."""
        return self.chips * (self.cores if self.generation.name_counts_cores else 1)

    @property
    def cores(self) -> int:
        """Of a chip."""
        return self.generation.cores_per_chip

    @property
    def name(self) -> str:
        """As people write it, and this project: 'v4-128', 'v5e-64'."""
        return f"{self.generation.name}-{self.number}"

    @property
    def api_name(self) -> str:
        """As --accelerator-type wants it: 'v5litepod-64'."""
        return f"{self.generation.api_name or self.generation.name}-{self.number}"

    @property
    def chips_per_host(self) -> int:
        """Four, but of v5e and v6e one host has up to eight where it is the whole slice."""
        return self.chips if self.chips <= 8 and len(self.shape) == 2 else 4

    @property
    def hosts(self) -> int:
        """VMs of the slice; each runs one process."""
        return self.chips // self.chips_per_host

    @property
    def devices(self) -> int:
        """That JAX shows over all hosts."""
        return self.chips * self.generation.devices_per_chip

    @property
    def gke_accelerator(self) -> str | None:
        """The label cloud.google.com/gke-tpu-accelerator; None: not in GKE."""
        if self.name == "v3-8":  # the one whose single host has a label of its own
            return "tpu-v3-device"
        return self.generation.gke_accelerator

    @property
    def gke_machine(self) -> str | None:
        if self.name == "v3-8":
            return "ct3-hightpu-4t"
        machine = self.generation.gke_machine
        return machine and machine.format(self.chips_per_host)


# Of v4 and v5p: the smallest ones, then whole cubes of 4x4x4.
_THREE_AXES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x4x12", "4x8x8", "8x8x8",
               "8x8x12", "8x8x16", "8x16x16")  # fmt: skip
_TWO_AXES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")

GENERATIONS = (
    Generation(
        "v2", 2, True, 2, "tpu-ubuntu2204-base", None, None,
        ("2x2", "4x4", "8x8", "8x16", "16x16"),
        ("us-central1-a", "us-central1-b", "us-central1-c", "europe-west4-a", "asia-east1-c"),
    ),
    Generation(
        "v3", 2, True, 2, "tpu-ubuntu2204-base", "tpu-v3-slice", "ct3p-hightpu-{}t",
        ("2x2", "4x4", "4x8", "8x8", "8x16", "16x16", "16x32", "32x32"),
        ("us-central1-a", "us-central1-b", "europe-west4-a"),
    ),
    Generation(
        "v4", 2, True, 1, "tpu-ubuntu2204-base", "tpu-v4-podslice", "ct4p-hightpu-{}t",
        _THREE_AXES, ("us-central2-b",),
    ),
    Generation(
        "v5e", 1, False, 1, "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice", "ct5lp-hightpu-{}t",
        _TWO_AXES,
        ("us-central1-a", "us-south1-a", "us-west1-c", "us-west4-a", "europe-west4-b"),
        api_name="v5litepod",
    ),
    Generation(
        "v5p", 2, True, 1, "v2-alpha-tpuv5", "tpu-v5p-slice", "ct5p-hightpu-{}t",
        (*_THREE_AXES, "16x16x16", "16x16x24"),
        ("us-central1-a", "us-east5-a", "europe-west4-b"),
    ),
    Generation(
        "v6e", 1, False, 1, "v2-alpha-tpuv6e", "tpu-v6e-slice", "ct6e-standard-{}t",
        _TWO_AXES,
        ("us-central1-b", "us-east1-d", "us-east5-a", "us-east5-b", "europe-west4-a",
         "asia-northeast1-b", "southamerica-west1-a"),
    ),
)  # fmt: skip
TYPES = {one.name: one for generation in GENERATIONS for one in generation.types()}
_BY_API_NAME = {one.api_name: one for one in TYPES.values()}


def tpu_type(name: str) -> TpuType:
    """Looks a type up by the name people use or Google's API does (v5e-16, v5litepod-16).

    Raises:
      UserError: there is none of that name; says the nearest, and for a size that there is not
        the next smaller and larger.
    """
    found = TYPES.get(name) or _BY_API_NAME.get(name)
    if found:
        return found
    match = re.fullmatch(r"(v[\da-z]+)-(\d+)", name)
    sizes = match and [
        one for one in TYPES.values() if match[1] in (one.generation.name, one.generation.api_name)
    ]
    if sizes:
        number = int(match[2])
        unit = "cores" if sizes[0].generation.name_counts_cores else "chips"
        near = [one.name for one in sizes if one.number < number][-1:]
        near += [one.name for one in sizes if one.number > number][:1]
        raise UserError(
            f"there is no TPU type '{name}' (the number counts {unit}); the nearest in size: "
            f"{' and '.join(near)}"
        )
    hint = did_you_mean(name, TYPES)
    generations = ", ".join(generation.name for generation in GENERATIONS)
    raise UserError(
        f"there is no TPU type '{name}'.{hint} A type is a generation ({generations}) and a size, "
        "as v4-128"
    )


def main(names: list[str]) -> int:
    """For the scripts of launch/: a type's facts as a shell reads them, or the list of all."""
    if not names:
        for one in TYPES.values():
            print(f"{one.name:10} {one.chips:5} chips {one.hosts:4} hosts  {one.topology}")
        return 0
    try:
        found = tpu_type(names[0])
    except UserError as error:
        print(f"mt0: error: {error}", file=sys.stderr)
        return 2
    facts = {
        "api_name": found.api_name,
        "runtime_version": found.generation.runtime_version,
        "chips": found.chips,
        "hosts": found.hosts,
        "zones": " ".join(found.generation.zones),
    }
    for name, value in facts.items():
        print(f"{name}={shlex.quote(str(value))}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
