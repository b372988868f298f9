"""Devices to compile for: those of a TPU slice that is not here, by libtpu, or simulated ones.

`prepare` must run before JAX is imported: libtpu looks for a TPU when it is loaded and says at
length that there is none.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from typing import Any

from mt0_tpu.errors import UserError
from mt0_tpu.planning.topologies import Topology

# What keeps libtpu from asking the metadata server, taking its lock file, and printing.
_QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
_COUNT_FLAG = "--xla_force_host_platform_device_count"


def prepare(topology: Topology) -> None:
    """Sets the environment that JAX and libtpu read when they are imported.

    Raises UserError where libtpu is needed and not installed.
    """
    # A plan never touches an accelerator that is here.
    os.environ["JAX_PLATFORMS"] = "cpu"
    if topology.tpu is None:
        flags = os.environ.get("XLA_FLAGS", "")
        if _COUNT_FLAG not in flags:
            os.environ["XLA_FLAGS"] = f"{flags} {_COUNT_FLAG}={topology.devices}".strip()
        return
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"compiling for {topology.name} needs libtpu, which is not installed (no TPU is "
            "needed): pip install 'mt0_tpu[tpu]'; or try the plan on --topology=cpu-8"
        )
    os.environ.update(_QUIET)


def devices(topology: Topology) -> Sequence[Any]:
    """Returns the devices of all slices, in the order jax.devices() has there.

    Raises UserError where this process was started with fewer simulated devices than asked for.
    """
    import jax

    if topology.tpu is None:
        found = jax.devices("cpu")
        if len(found) < topology.devices:
            raise UserError(
                f"{topology.name} wants {topology.devices} simulated devices, but this process "
                f"has {len(found)}: leave {_COUNT_FLAG} out of XLA_FLAGS, or set it higher"
            )
        return found[: topology.devices]
    from jax.experimental import topologies

    options: dict[str, Any] = {}
    if topology.chip.config:
        options["chip_config_name"] = topology.chip.config
    sides = topology.tpu.shape
    # Of a host: 2x2 chips, or the whole of a smaller slice. libtpu's own default is v5e's 2x4.
    bounds = [min(side, 2) for side in sides[:2]] + [1] * (3 - len(sides[:2]))
    if topology.tpu.generation.name not in ("v2", "v3"):
        options["chips_per_host_bounds"] = tuple(bounds)
    if topology.slices > 1:
        options["num_slices"] = topology.slices
    description = topologies.get_topology_desc(
        platform="tpu", topology_name=topology.compiler_name, **options
    )
    return description.devices
