"""One way to join the processes of a job: TPU VM, GKE, SLURM or explicit, or a plain machine."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping

import jax

from mt0_tpu.errors import UserError

# Compilation on one host may take long; gloo alone gives up after 30 s of skew.
BARRIER_TIMEOUT_MS = 30 * 60 * 1000


@dataclasses.dataclass(frozen=True)
class Settings:
    """Arguments of jax.distributed.initialize; None leaves a value to its detection."""

    coordinator_address: str | None
    num_processes: int | None
    process_id: int | None


def settings(environment: Mapping[str, str]) -> Settings | None:
    """Returns how to join, a pure function of the environment; None on a plain machine.

    MT0_COORDINATOR, MT0_NUM_PROCESSES and MT0_PROCESS_ID win; SLURM with more than one task
    and TPU pods with more than one worker are left to JAX's own detection.
    """
    explicit = [environment.get(f"MT0_{n}") for n in ("COORDINATOR", "NUM_PROCESSES", "PROCESS_ID")]
    if any(value is not None for value in explicit):
        if None in explicit:
            raise UserError(
                "MT0_COORDINATOR, MT0_NUM_PROCESSES and MT0_PROCESS_ID go together; "
                f"found {explicit}; set all three or none"
            )
        try:
            return Settings(explicit[0], int(explicit[1]), int(explicit[2]))
        except ValueError:
            raise UserError(
                f"MT0_NUM_PROCESSES={explicit[1]} and MT0_PROCESS_ID={explicit[2]} must be numbers"
            ) from None
    if int(environment.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in environment:
        return Settings(None, None, None)
    if len(environment.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1:
        return Settings(None, None, None)
    return None


def initialize() -> None:
    """Joins the other processes where there are any; before any device is touched."""
    found = settings(os.environ)
    if found is None or jax.distributed.is_initialized():
        return
    if os.environ.get("JAX_PLATFORMS", "") == "cpu":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        coordinator_address=found.coordinator_address,
        num_processes=found.num_processes,
        process_id=found.process_id,
    )


def barrier(name: str) -> None:
    """Waits until every process is here, without a device collective.

    Compiling takes each host a different time, and gloo's first collective gives up after
    30 s: hosts meet here, over the coordinator, before they start to compute.
    """
    if jax.process_count() == 1:
        return
    from jax._src import distributed  # no public spelling of this barrier exists yet

    distributed.global_state.client.wait_at_barrier(name, BARRIER_TIMEOUT_MS)
