"""Rank scoring of mT5-small with random parameters: CPU-seconds a choice and peak memory.

    JAX_PLATFORMS=cpu python benchmarks/scoring.py

48 inputs of 128 tokens, 3 or 4 choices of 2 to 8 tokens each, EOS included. T5X with a gather
embedding, scoring every (input, choice) pair as a row, needs 0.21 CPU-s a choice on this shape.
"""

from __future__ import annotations

import resource
import time

import jax
import numpy as np

from benchmarks.mt5_small import MT5_SMALL
from mt0_tpu import scoring, train_state
from mt0_tpu.models.t5 import T5


def examples(seed: int = 0, count: int = 48) -> list[tuple[list[int], list[list[int]]]]:
    """Returns random inputs with their choices."""
    rng = np.random.default_rng(seed)

    def ids(length: int) -> list[int]:
        return rng.integers(3, 250000, length).tolist()

    return [
        (ids(128), [[*ids(rng.integers(1, 8)), 1] for _ in range(rng.integers(3, 5))])
        for _ in range(count)
    ]


def main() -> None:
    """Prints one line a repetition."""
    params = jax.jit(lambda: train_state.init_params(T5(MT5_SMALL), 0))()
    jax.block_until_ready(params)
    given = examples()
    choices = sum(len(its) for _, its in given)
    for name in ("compile", "warm", "warm"):
        wall, own = time.perf_counter(), time.process_time()
        scores = scoring.score_choices(params, MT5_SMALL, given, batch_size=16)
        wall, own = time.perf_counter() - wall, time.process_time() - own
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{name} {own / choices:.4f} CPU-s a choice ({choices}), {own:.2f} CPU-s "
            f"{wall:.2f} wall-s peak {peak:.2f} GiB sum {sum(map(np.sum, scores)):.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
