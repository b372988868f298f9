"""Whether `mt0 tasks stats` orders row lengths as a machine does: predicted and measured cost.

    python -m benchmarks.row_lengths --cache_dir CACHE [--mixture mini_multilingual]

For each pair of row lengths, packed rows of about the same number of real examples go through
mT5-small forward and backward (float32, this CPU). Its vocabulary is cut to mini-xP3's 4,096
pieces: the gradient of mT5's table costs the same at any length and would blur so small a batch.
Printed are CPU-seconds an example, and that relative to the first pair, beside what
network_cost.py counts; for the same reason no optimizer step is in them.
"""

import argparse
import dataclasses
import json
import resource
import time

import jax
import jax.numpy as jnp

from benchmarks.mt5_small import MT5_SMALL
from mt0_tpu import partitioning, train_state
from mt0_tpu import train_step as steps
from mt0_tpu.data.batches import Loader
from mt0_tpu.data.dataset_config import DatasetConfig
from mt0_tpu.data.sources import open_sources
from mt0_tpu.losses import LossConfig
from mt0_tpu.models.t5 import T5
from mt0_tpu.optimizers import Adafactor
from mt0_tpu.partitioning import MeshConfig
from mt0_tpu.tasks import row_lengths
from mt0_tpu.tasks.network_cost import network_size

VOCABULARY = 4096
LENGTHS = ((1024, 1024), (1024, 256), (512, 128), (256, 64), (128, 32))


def cpu_seconds() -> float:
    """Returns user + system seconds of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Prints a line of JSON for each pair of lengths."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mixture", default="mini_multilingual")
    parser.add_argument("--cache_dir", required=True)
    parser.add_argument("--examples", type=int, default=128)
    parser.add_argument("--steps", type=int, default=2)
    args = parser.parse_args()

    model = T5(dataclasses.replace(MT5_SMALL, vocab_size=VOCABULARY))
    mesh = partitioning.make_mesh(MeshConfig())
    params = train_state.init_state(model, Adafactor(), mesh, 0).params
    size = dataclasses.replace(network_size("small"), vocabulary=VOCABULARY)
    first = None
    for lengths in LENGTHS:
        config = DatasetConfig(
            args.mixture,
            dict(zip(("inputs", "targets"), lengths, strict=True)),
            cache_dir=args.cache_dir,
        )
        sources = open_sources(config)
        drawn = row_lengths.Drawn(sources, config)
        choice = row_lengths.weigh(drawn, lengths, True, 0.0, size)
        rows = max(round(args.examples * choice.rows_per_1000 / 1000), 1)
        loader = Loader(sources, dataclasses.replace(config, batch_size=rows), prefetch=0)
        batch = jax.tree.map(jnp.asarray, next(loader))

        @jax.jit
        def gradients(params, batch):
            return steps.gradients(
                params, batch, None, model=model, loss=LossConfig(), num_microbatches=1, mesh=mesh
            )

        jax.block_until_ready(gradients(params, batch))
        seconds = []
        for _ in range(args.steps):
            began = cpu_seconds()
            jax.block_until_ready(gradients(params, batch))
            seconds.append((cpu_seconds() - began) / loader.stats.examples)
        measured = min(seconds)
        first = first or (measured, choice.cost)
        print(json.dumps({
            "lengths": lengths, "rows": rows, "examples": loader.stats.examples,
            "cpu_s_per_example": round(measured, 4),
            "measured": round(measured / first[0], 3),
            "predicted": round(choice.cost / first[1], 3),
        }), flush=True)  # fmt: skip


if __name__ == "__main__":
    began = time.monotonic()
    main()
    print(f"{time.monotonic() - began:.0f} s")
