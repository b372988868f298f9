"""One of two processes with two devices each; run by tests/test_fault_processes.py.

python -m tests.fault_process flip            a bit flips in process 1
python -m tests.fault_process full FOLDER     the disk of FOLDER fills, and is freed
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mt0_tpu import distributed, partitioning, run_folder
from mt0_tpu.checkpoints import CheckpointConfig, Checkpointer
from mt0_tpu.errors import UserError
from mt0_tpu.partitioning import MeshConfig
from mt0_tpu.replica_check import ReplicaCheck
from mt0_tpu.train_state import TrainState


def state_at(step: int, mesh) -> TrainState:
    """About 1 MiB, copied over `data` and cut over `fsdp`."""
    numbers = np.random.default_rng(step).normal(size=(4, 32, 1024)).astype(np.float32)
    cut = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))

    def placed(value, where):
        return jax.make_array_from_callback(value.shape, where, lambda part: value[part])

    whole = partitioning.replicated(mesh)
    return TrainState(
        placed(np.int32(step), whole), {"w": placed(numbers, cut)}, {"m": placed(-numbers, cut)}
    )


def flip(mesh) -> None:
    """Both processes have to say which device it was."""
    state = state_at(1, mesh)
    where = jax.tree.map(lambda leaf: leaf.sharding, state)
    check = ReplicaCheck(where, jax.eval_shape(lambda: state), mesh)
    check(state, 1)
    weights, parts = state.params["w"], []
    for shard in weights.addressable_shards:
        part = np.array(shard.data)
        if shard.device == jax.devices()[3]:
            part.view(np.uint32)[0, 0, 0] ^= 1
        parts.append(jax.device_put(part, shard.device))
    state.params["w"] = jax.make_array_from_single_device_arrays(
        weights.shape, weights.sharding, parts
    )
    check(state, 2)


def full(mesh, folder: Path) -> None:
    """Saves at 1, 2 and 3, the second over a full disk."""
    from tests.small_disk import fill

    said = []
    checkpointer = Checkpointer(str(folder / "run"), CheckpointConfig(keep_last=1), say=said.append)
    for step in (1, 2, 3):
        if step == 2 and jax.process_index() == 0:
            filler = fill(folder, leave=300 << 10)
        if step == 3 and jax.process_index() == 0:
            filler.unlink()
        distributed.barrier(f"before {step}")
        checkpointer.save(state_at(step, mesh), {"at": step}, last=step == 3)
        running = checkpointer._saver._running
        if running is not None:
            running.join()
        checkpointer.poll()
        distributed.barrier(f"after {step}")
        print("steps", step, run_folder.steps_of(folder / "run"), flush=True)
    checkpointer.close()
    print("said", said, flush=True)


def main() -> int:
    """Returns 3 where the check of replicas failed."""
    jax.config.update("jax_num_cpu_devices", 2)
    distributed.initialize()
    mesh = partitioning.make_mesh(MeshConfig(data=2, fsdp=2))
    jax.block_until_ready(jnp.zeros(1))
    try:
        flip(mesh) if sys.argv[1] == "flip" else full(mesh, Path(sys.argv[2]))
    except UserError as error:
        print(error, flush=True)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
