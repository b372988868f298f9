"""An evaluation and an inference job as one of several processes; a script for tests.

python -m tests.eval_pair OUT CACHE_DIR INPUTS
"""

from __future__ import annotations

import sys

import jax

from mt0_tpu import distributed, evaluate, infer, partitioning
from mt0_tpu.partitioning import MeshConfig
from tests.tiny import TINY


def run(out: str, cache_dir: str, inputs: str) -> None:
    """Evaluates a drawn network on the mixture 'quizzes' and answers a file of inputs."""
    distributed.initialize()
    told = distributed.leader_says("greeting", "step 3" if jax.process_index() == 0 else None)
    assert told == "step 3"
    evaluate.evaluate(
        f"{out}/eval", TINY, untrained=True, cache_dir=cache_dir,
        mixture_or_task_name="quizzes", batch_size=8,
    )  # fmt: skip
    mesh = partitioning.make_mesh(MeshConfig())
    params = evaluate.drawn_parameters(TINY, 0, mesh)
    for mode in ("predict", "score"):
        infer.infer(
            f"{out}/infer", TINY, "drawn", inputs, {"inputs": 24, "targets": 6}, "byt5",
            params=params, batch_size=4, checkpoint_period=1, mode=mode,
        )  # fmt: skip


if __name__ == "__main__":
    run(*sys.argv[1:])
