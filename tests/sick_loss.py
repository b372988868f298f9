"""A loss that turns sick wherever one of two examples is in the batch, for tests."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from mt0_tpu import train_step
from tests.data.conftest import write_cache

# Tokens in the targets of one example each, and nowhere else: what turns NaN with them.
MARKS = {"loss": 507, "gradient": 508}
# The examples' places in task 'two', by mark.
PLACES = {"loss": 7, "gradient": 0}


def write_marked_cache(root: Path, num_examples: int = 60) -> None:
    """Two tasks; two examples of the second carry the marks."""
    rng = np.random.default_rng(1)

    def examples():
        return [
            (rng.integers(2, 500, rng.integers(1, 9)), rng.integers(2, 500, rng.integers(1, 5)))
            for _ in range(num_examples)
        ]

    one, two = examples(), examples()
    for kind, place in PLACES.items():
        two[place] = (two[place][0], np.array([MARKS[kind]]))
    write_cache(root, {"one": one, "two": two})
    for info in root.glob("*/*/info.json"):
        info.write_text(info.read_text().replace("250100", "512"))


def sicken(monkeypatch) -> None:
    """Makes the loss NaN of every batch with its mark, and the gradient alone with the other."""
    healthy = train_step.batch_sums

    def batch_sums(params, batch, *rest, **more):
        sums = healthy(params, batch, *rest, **more)
        marked = {k: jnp.any(batch["decoder_target_tokens"] == m) for k, m in MARKS.items()}
        # The root is 0 at the mark and its slope infinite, times 0.
        weight = params["decoder"]["decoder_norm"]["scale"][0]
        root = jnp.sqrt(jnp.where(marked["gradient"], 0.0 * weight, 1.0))
        root -= jnp.where(marked["gradient"], 0.0, 1.0)
        return sums._replace(loss=sums.loss * jnp.where(marked["loss"], jnp.nan, 1.0) + root)

    monkeypatch.setattr(train_step, "batch_sums", batch_sums)
