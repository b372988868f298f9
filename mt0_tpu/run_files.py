"""What a run writes of itself: config.gin and model-info.txt."""

from __future__ import annotations

import math
from pathlib import Path

import jax

from mt0_tpu import partitioning
from mt0_tpu.whole_file import write_whole


def write(model_dir: str, config_text: str, shapes, axes, where, step: int) -> None:
    """Writes config.gin and model-info.txt; an older, other config.gin is kept beside it."""
    folder = Path(model_dir)
    config = folder / "config.gin"
    if config.exists() and config.read_text(encoding="utf-8") != config_text:
        config.rename(folder / f"config-until-step-{step}.gin")
    write_whole(config, config_text)
    rows = []
    total = 0
    leaves = jax.tree_util.tree_leaves_with_path(shapes.params)
    names = jax.tree.leaves(axes.params, is_leaf=partitioning.is_axes)
    places = jax.tree.leaves(where.params)
    for (path, leaf), axis_names, place in zip(leaves, names, places, strict=True):
        name = "/".join(str(key.key) for key in path)
        size = math.prod(leaf.shape)
        total += size
        shape = ", ".join(f"{n}={s}" for n, s in zip(axis_names, leaf.shape, strict=True))
        rows.append(f"{name:<70} {size:>14,} ({shape}) {place.spec}")
    text = "\n".join([*rows, f"total parameters: {total:,}", ""])
    write_whole(folder / "model-info.txt", text)
