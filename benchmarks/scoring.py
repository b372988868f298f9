"""Rank scoring with random parameters: CPU-seconds a choice and peak memory.

    JAX_PLATFORMS=cpu python -m benchmarks.scoring         # mT5-small
    JAX_PLATFORMS=cpu python -m benchmarks.scoring bloom   # a small BLOOM

48 inputs of 128 tokens, 3 or 4 choices of 2 to 8 tokens each, EOS included. T5X with a gather
embedding, scoring every (input, choice) pair as a row, needs 0.21 CPU-s a choice on this shape.
BLOOM stands beside itself with each choice after an input of its own.
"""

from __future__ import annotations

import resource
import sys
import time

import jax
import numpy as np

from benchmarks.mt5_small import MT5_SMALL
from mt0_tpu import scoring, train_state
from mt0_tpu.models.networks import BloomConfig, NetworkConfig, network

# BLOOM's vocabulary, mT5-small's width and one of its towers' depth.
SMALL_BLOOM = BloomConfig(
    vocab_size=250880, emb_dim=512, num_heads=8, num_layers=8, dtype="float32"
)

Examples = list[tuple[list[int], list[list[int]]]]


def examples(seed: int = 0, count: int = 48) -> Examples:
    """Returns random inputs with their choices."""
    rng = np.random.default_rng(seed)

    def ids(length: int) -> list[int]:
        return rng.integers(3, 250000, length).tolist()

    return [
        (ids(128), [[*ids(rng.integers(1, 8)), 1] for _ in range(rng.integers(3, 5))])
        for _ in range(count)
    ]


def timed(name: str, params, config: NetworkConfig, given: Examples) -> None:
    """Prints one line a repetition, the first with compiling."""
    choices = sum(len(its) for _, its in given)
    for run in ("compile", "warm", "warm"):
        wall, own = time.perf_counter(), time.process_time()
        scores = scoring.score_choices(params, config, given, batch_size=16, min_choices=1)
        wall, own = time.perf_counter() - wall, time.process_time() - own
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{name}{run} {own / choices:.4f} CPU-s a choice ({choices}), {own:.2f} CPU-s "
            f"{wall:.2f} wall-s peak {peak:.2f} GiB sum {sum(map(np.sum, scores)):.1f}",
            flush=True,
        )


def main(which: str) -> None:
    """Scores with mT5-small, or with BLOOM in both ways."""
    config = {"mt5": MT5_SMALL, "bloom": SMALL_BLOOM}[which]
    params = jax.jit(lambda: train_state.init_params(network(config), 0))()
    jax.block_until_ready(params)
    given = examples()
    if which == "mt5":
        timed("", params, config, given)
        return
    timed("prefix shared, ", params, config, given)
    timed("each alone, ", params, config, [(ids, [one]) for ids, its in given for one in its])


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "mt5")
