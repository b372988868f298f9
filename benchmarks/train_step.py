"""One training step of mT5-small on this machine: own CPU-seconds, wall seconds, peak memory.

    python -m benchmarks.train_step [--rows 4 --inputs 256 --targets 64 --dtype float32]

The shape of facts/peers.md A: random tokens, all real, unpacked; Adafactor, dropout 0.1,
z-loss 1e-4. CPU-seconds (user + system of this process) are the figure to compare; the wall
time means something on an idle machine only.
"""

import argparse
import dataclasses
import json
import resource
import time

import jax
import numpy as np

from benchmarks.mt5_small import MT5_SMALL
from mt0_tpu import partitioning, train_state
from mt0_tpu import train_step as steps
from mt0_tpu.losses import LossConfig
from mt0_tpu.models.t5 import T5
from mt0_tpu.optimizers import Adafactor
from mt0_tpu.partitioning import MeshConfig
from mt0_tpu.schedules import LearningRate


def cpu_seconds() -> float:
    """Returns user + system seconds of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Prints one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--inputs", type=int, default=256)
    parser.add_argument("--targets", type=int, default=64)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--block_mib", type=int, default=256)
    parser.add_argument("--remat", default="none")
    args = parser.parse_args()

    config = dataclasses.replace(
        MT5_SMALL, dropout_rate=0.1, dtype=args.dtype, remat_policy=args.remat
    )
    rng = np.random.default_rng(0)
    inputs = rng.integers(2, 250_000, (args.rows, args.inputs), dtype=np.int32)
    targets = rng.integers(2, 250_000, (args.rows, args.targets), dtype=np.int32)
    batch = {
        "encoder_input_tokens": inputs,
        "decoder_target_tokens": targets,
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_loss_weights": np.ones_like(targets),
    }
    model, optimizer = T5(config), Adafactor()
    mesh = partitioning.make_mesh(MeshConfig())
    shapes, axes = train_state.abstract_state(model, optimizer)
    where = partitioning.shardings(axes, shapes, mesh)
    step = steps.make_train_step(
        model, LossConfig(logits_block_mib=args.block_mib), optimizer, LearningRate(), axes.params,
        seed=0, mesh=mesh,
    )  # fmt: skip
    abstract = {n: jax.ShapeDtypeStruct(v.shape, v.dtype) for n, v in batch.items()}
    began = time.monotonic()
    compiled = steps.compile_train_step(step, where, shapes, abstract, mesh)
    compile_seconds = time.monotonic() - began
    state = train_state.init_state(model, optimizer, mesh, 0)
    placed = jax.device_put(batch, partitioning.batch_sharding(mesh))
    cpu, wall = [], []
    for _ in range(args.steps + 1):
        cpu_began, wall_began = cpu_seconds(), time.monotonic()
        state, metrics = compiled(state, placed)
        loss = float(metrics["loss"])
        jax.block_until_ready(state)
        cpu.append(cpu_seconds() - cpu_began)
        wall.append(time.monotonic() - wall_began)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    memory = compiled.memory_analysis()
    print(
        json.dumps(
            {
                "cpu_seconds_a_step": round(float(np.median(cpu[1:])), 2),
                "wall_seconds_a_step": round(float(np.median(wall[1:])), 2),
                "peak_rss_mb": round(peak_mb),
                "compile_seconds": round(compile_seconds, 1),
                "temp_mb": memory.temp_size_in_bytes >> 20,
                "loss": round(loss, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
