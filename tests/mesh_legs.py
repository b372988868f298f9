"""One of several processes that train the tiny run on one mesh after another; a script for tests.

python -m tests.mesh_legs CACHE_DIR LEGS, where LEGS is JSON: [[model_dir, steps, mesh], ...]

Each leg appends to MODEL_DIR.batches-<process> a line a batch: its place in the stream.
"""

from __future__ import annotations

import json
import sys

import jax

from mt0_tpu import distributed
from mt0_tpu.data import batches
from mt0_tpu.partitioning import MeshConfig
from tests import tiny_run


def run(cache_dir: str, legs: list) -> None:
    """Runs the legs in turn, in the same processes."""
    distributed.initialize()
    give = batches.Loader.__next__
    for model_dir, steps, mesh in legs:
        places = f"{model_dir}.batches-{jax.process_index()}"

        def written(self, places=places):
            with open(places, "a") as file:
                file.write(f"{self.state.window} {self.state.row}\n")
            return give(self)

        batches.Loader.__next__ = written
        sizes = {name: tuple(v) if isinstance(v, list) else v for name, v in mesh.items()}
        tiny_run.run(
            model_dir, cache_dir, steps, mesh=MeshConfig(**sizes),
            train_dataset=tiny_run.dataset(cache_dir, batch_size=16),
        )  # fmt: skip


if __name__ == "__main__":
    run(sys.argv[1], json.loads(sys.argv[2]))
