"""An evaluation that follows a run, as one of several processes; a script for tests.

python -m tests.follow_pair OUT CACHE_DIR MODEL_DIR

Step 6 cannot be read at first by the second process, and step 9 by none of its tries.
"""

from __future__ import annotations

import sys

import jax

from mt0_tpu import distributed, evaluate
from tests.tiny_run import ONE_LAYER


def run(out: str, cache_dir: str, model_dir: str) -> None:
    """Follows MODEL_DIR on the mixture 'quiz'."""
    distributed.initialize()
    whole, failures = evaluate.restore_params, {"6": 1, "9": 99}

    def restore(path: str, **places):
        step = path.rpartition("/")[2]
        if jax.process_index() == 1 and failures.get(step):
            failures[step] -= 1
            raise ValueError("half an array")
        return whole(path, **places)

    evaluate.restore_params = restore
    evaluate.evaluate(
        out, ONE_LAYER, model_dir, "quiz", cache_dir=cache_dir, batch_size=8,
        checkpoints="follow", follow_poll_seconds=0.1, follow_timeout_minutes=2.0,
    )  # fmt: skip


if __name__ == "__main__":
    run(*sys.argv[1:])
