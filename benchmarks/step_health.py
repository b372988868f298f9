"""What it costs to skip steps that are not finite, and to compare replicas: mT5-small here.

    python -m benchmarks.step_health [--rounds 6 --rows 4 --devices 2]

Steps with and without `skip_nonfinite` by turns, from states of their own, in one process; then
the check of replicas over simulated devices, each with a copy of the whole state. The figure is
CPU-seconds (user + system of this process), and its ratio to a step; medians of the rounds. One
line of JSON. Predicted: the choice reads what the update reads anyway, so nothing; the check
reads the state once, on every device.
"""

import argparse
import dataclasses
import json
import time

import jax
import numpy as np

from benchmarks.mt5_small import MT5_SMALL
from benchmarks.train_step import cpu_seconds
from mt0_tpu import partitioning, train_state
from mt0_tpu import train_step as steps
from mt0_tpu.losses import LossConfig
from mt0_tpu.models import networks
from mt0_tpu.optimizers import Adafactor
from mt0_tpu.partitioning import MeshConfig
from mt0_tpu.replica_check import ReplicaCheck
from mt0_tpu.schedules import LearningRate

INPUTS, TARGETS = 256, 64


def drawn_batch(rows: int, vocab_size: int) -> dict[str, np.ndarray]:
    """Random tokens, all real, as in benchmarks.train_step."""
    rng = np.random.default_rng(0)
    targets = rng.integers(2, vocab_size, (rows, TARGETS), dtype=np.int32)
    return {
        "encoder_input_tokens": rng.integers(2, vocab_size, (rows, INPUTS), dtype=np.int32),
        "decoder_target_tokens": targets,
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_loss_weights": np.ones_like(targets),
    }


def main() -> None:
    """Prints one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--layers", type=int, help="of each tower, for a smaller network")
    parser.add_argument("--vocab_size", type=int, default=MT5_SMALL.vocab_size)
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", args.devices)

    layers = args.layers or MT5_SMALL.num_encoder_layers
    config = dataclasses.replace(
        MT5_SMALL, dropout_rate=0.1, vocab_size=args.vocab_size, num_encoder_layers=layers,
        num_decoder_layers=layers,
    )  # fmt: skip
    model = networks.network(config)
    optimizer, batch = Adafactor(), drawn_batch(args.rows, args.vocab_size)
    # One device for the steps: the simulated ones would share the cores.
    alone = partitioning.make_mesh(MeshConfig(data=1), jax.devices()[:1])
    shapes, axes = train_state.abstract_state(model, optimizer)
    where = partitioning.shardings(axes, shapes, alone)
    abstract = {n: jax.ShapeDtypeStruct(v.shape, v.dtype) for n, v in batch.items()}
    placed = jax.device_put(batch, partitioning.batch_sharding(alone))
    compiled, states = {}, {}
    for skip in (False, True):
        step = steps.make_train_step(
            model, LossConfig(), optimizer, LearningRate(), axes.params, seed=0, mesh=alone,
            skip_nonfinite=skip,
        )  # fmt: skip
        compiled[skip] = steps.compile_train_step(step, where, shapes, abstract, alone)
        states[skip] = train_state.init_state(model, optimizer, alone, 0)
    cpu = {False: [], True: []}
    for turn in range(args.rounds + 1):
        for skip in (False, True) if turn % 2 else (True, False):
            began = cpu_seconds()
            states[skip], _ = jax.block_until_ready(compiled[skip](states[skip], placed))
            cpu[skip].append(cpu_seconds() - began)
    stop_s, skip_s = (float(np.median(cpu[skip][1:])) for skip in (False, True))
    temp = {skip: compiled[skip].memory_analysis().temp_size_in_bytes for skip in compiled}

    states.clear()
    mesh = partitioning.make_mesh(MeshConfig())
    copies = partitioning.shardings(axes, shapes, mesh)
    state = train_state.init_state(model, optimizer, mesh, 0)
    check = ReplicaCheck(copies, shapes, mesh)
    cpu_check, wall_check = [], []
    for _ in range(args.rounds):
        began, clock = cpu_seconds(), time.monotonic()
        check(state, 0)
        cpu_check.append(cpu_seconds() - began)
        wall_check.append(time.monotonic() - clock)
    check_s = float(np.median(cpu_check)) / args.devices
    gib = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes)) / 2**30
    found = {
        "step_cpu_s": round(stop_s, 2),
        "step_with_skip_cpu_s": round(skip_s, 2),
        "skip_ratio": round(skip_s / stop_s, 3),
        "temp_mib": [temp[False] >> 20, temp[True] >> 20],
        "check_cpu_s_a_device": round(check_s, 2),
        "check_wall_s": round(float(np.median(wall_check)), 2),
        "check_ratio_to_a_step": round(check_s / stop_s, 3),
        "state_gib_a_device": round(gib, 2),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
