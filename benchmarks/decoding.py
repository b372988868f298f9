"""Greedy decoding of mT5-small with random parameters: CPU-seconds and peak memory.

    JAX_PLATFORMS=cpu python benchmarks/decoding.py

4 inputs of 128 tokens, 32 tokens each; no id counts as EOS, so that no row ends early. T5X needs
7.9 CPU-s for this (2.65 with a gather embedding), Hugging Face 4.5.
"""

from __future__ import annotations

import resource
import time

import jax
import numpy as np

from benchmarks.mt5_small import MT5_SMALL
from mt0_tpu import decoding, train_state
from mt0_tpu.models.t5 import T5


def main() -> None:
    """Prints one line a repetition."""
    params = jax.jit(lambda: train_state.init_params(T5(MT5_SMALL), 0))()
    jax.block_until_ready(params)
    tokens_BT = np.random.default_rng(0).integers(3, 250000, (4, 128)).astype(np.int32)
    for name in ("compile", "warm", "warm", "warm"):
        wall, own = time.perf_counter(), time.process_time()
        ids = np.asarray(decoding.greedy_decode(params, MT5_SMALL, tokens_BT, 32, eos_id=-1))
        wall, own = time.perf_counter() - wall, time.process_time() - own
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{name} {own:.2f} CPU-s {wall:.2f} wall-s peak {peak:.2f} GiB ids {ids.sum()}")


if __name__ == "__main__":
    main()
