"""Caches written by hand, so that reading is tested without SeqIO."""

import json

import numpy as np
import pytest

from mt0_tpu.data.indexed import IndexedWriter


def write_cache(
    root,
    tasks,
    mixture="mix",
    split="train",
    rates=None,
    append_eos=(True, True),
    eos_after_trim=True,
    draw_steps=(),
):
    """Writes tasks {name: [(inputs, targets), ...]} and a mixture of them."""
    for name, pairs in tasks.items():
        folder = root / name / split
        folder.mkdir(parents=True)
        for side, feature in enumerate(("inputs", "targets")):
            with IndexedWriter(folder / f"{feature}_document", np.int32) as writer:
                for pair in pairs:
                    writer.add(np.asarray(pair[side], np.int32))
        info = {
            "version": 1,
            "kind": "pairs",
            "num_examples": len(pairs),
            "features": {f: {"eos_id": 1, "vocab_size": 250100} for f in ("inputs", "targets")},
            "append_eos": dict(zip(("inputs", "targets"), append_eos, strict=True)),
            "eos_after_trim": eos_after_trim,
            "draw_steps": list(draw_steps),
        }
        (folder / "info.json").write_text(json.dumps(info))
    entries = [
        {"name": name, "rate": (rates or {}).get(name, 1.0), "splits": [split]} for name in tasks
    ]
    (root / f"{mixture}.mixture.json").write_text(json.dumps({"name": mixture, "tasks": entries}))


@pytest.fixture(scope="session")
def cache_writer():
    return write_cache
