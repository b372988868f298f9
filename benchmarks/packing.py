"""Rows and examples per CPU-second of our packing, beside SeqIO's, on the mix of peers.md E.

    python benchmarks/packing.py [--seqio] [--decoder_only] [--seeds 1 2 3] [--examples 50000]

Ours starts at .bin/.idx on disk and ends at finished rows in memory, one thread's CPU time; SeqIO's
gets its examples from memory and ends at trim_and_pack_dataset's rows, all of its threads.
--decoder_only packs the same pairs as single spans into rows of 2048, BLOOMZ's, against the
one-dimensional lower bound; SeqIO's spans are one longer (a 0 before each).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from mt0_tpu.data.batches import Loader, open_sources
from mt0_tpu.data.dataset_config import DatasetConfig
from mt0_tpu.data.indexed import IndexedWriter
from mt0_tpu.data.packing import lower_bound, spans_lower_bound
from mt0_tpu.data.windows import positions_of

ROW = {"inputs": 1024, "targets": 256}
DECODER_ROW = {"decoder": 2048}


def lengths(seed: int, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns lengths of inputs and targets, both without EOS."""
    random = np.random.default_rng(seed)
    inputs = np.clip(random.lognormal(np.log(120), 1.0, num), 1, ROW["inputs"])
    targets = np.clip(random.lognormal(np.log(12), 1.2, num), 1, ROW["targets"])
    return inputs.astype(np.int64), targets.astype(np.int64)


def write_cache(root: Path, sides: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    """Writes a cache of random ids by hand, without EOS, so that the bound is that of E."""
    folder = root / "mix" / "train"
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    for name, sizes in zip(ROW, sides, strict=True):
        with IndexedWriter(folder / f"{name}_document", np.int32) as writer:
            writer.add_flat(random.integers(3, 250_000, int(sizes.sum())), sizes)
    info = {
        "version": 1, "kind": "pairs", "num_examples": len(sides[0]),
        "features": {name: {"eos_id": 1, "vocab_size": 250_100} for name in ROW},
        "append_eos": dict.fromkeys(ROW, False), "eos_after_trim": True, "draw_steps": [],
    }  # fmt: skip
    (folder / "info.json").write_text(json.dumps(info))
    mixture = {"name": "mix", "tasks": [{"name": "mix", "rate": 1.0, "splits": ["train"]}]}
    (root / "mix.mixture.json").write_text(json.dumps(mixture))


def ours(root: Path, row: dict[str, int], prefetch: int) -> tuple[int, int, float, float]:
    """Returns (rows, examples, CPU seconds, wall seconds) of one pass, opening included."""
    config = DatasetConfig("mix", row, batch_size=128, cache_dir=str(root))
    cpu, wall = time.process_time(), time.perf_counter()
    with Loader(open_sources(config), config, epochs=1, prefetch=prefetch) as loader:
        for _ in loader:
            pass
        stats = loader.stats
    seconds = time.process_time() - cpu, time.perf_counter() - wall
    return stats.rows, stats.examples, *seconds


def seqios(root: Path, row: dict[str, int]) -> tuple[int, int, float, float]:
    """Returns the same of seqio.trim_and_pack_dataset over the same examples."""
    import seqio
    import tensorflow as tf

    config = DatasetConfig("mix", ROW, cache_dir=str(root))
    inputs, targets = open_sources(config)[0].datasets
    examples = [
        {"inputs": inputs[i].copy(), "targets": targets[i].copy()} for i in range(len(inputs))
    ]
    if row == DECODER_ROW:
        examples = [{"decoder": np.concatenate([e["inputs"], e["targets"]])} for e in examples]
    spec = {name: tf.TensorSpec([None], tf.int32) for name in row}
    cpu, wall = time.process_time(), time.perf_counter()
    dataset = tf.data.Dataset.from_generator(lambda: iter(examples), output_signature=spec)
    rows = sum(1 for _ in seqio.utils.trim_and_pack_dataset(dataset, row))
    return rows, len(examples), time.process_time() - cpu, time.perf_counter() - wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[2001, 2002, 2003])
    parser.add_argument("--examples", type=int, default=50_000)
    parser.add_argument("--seqio", action="store_true", help="measure SeqIO's packer too")
    parser.add_argument("--decoder_only", action="store_true", help="BLOOMZ's rows, not mT0's")
    flags = parser.parse_args()
    row = DECODER_ROW if flags.decoder_only else ROW
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {flags.examples} examples")
    print(f"{'packer':8}{'seed':>6}{'rows':>8}{'of bound':>10}{'ex/CPU-s':>11}{'ex/s wall':>11}")
    for number, seed in enumerate(flags.seeds):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            sides = lengths(seed, flags.examples)
            write_cache(root, sides, seed)
            if not number:
                ours(root, row, 0)  # compile
            runs = [("ours", ours(root, row, 0))]
            if flags.seqio:
                runs.append(("SeqIO", seqios(root, row)))
            if flags.decoder_only:
                bound = spans_lower_bound(positions_of(*sides), row["decoder"])
            else:
                bound = lower_bound(*sides, (ROW["inputs"], ROW["targets"]))
            for name, (rows, examples, cpu, wall) in runs:
                print(
                    f"{name:8}{seed:6}{rows:8}{rows / bound:10.4f}"
                    f"{examples / cpu:11,.0f}{examples / wall:11,.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
