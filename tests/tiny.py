"""The one tiny model all tests share: the widths of golden/t5_tiny."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mt0_tpu.models import names
from mt0_tpu.models.t5 import T5Config

TINY = T5Config(
    vocab_size=512,
    emb_dim=64,
    num_heads=4,
    head_dim=16,
    mlp_dim=128,
    num_encoder_layers=2,
    num_decoder_layers=2,
    dropout_rate=0.0,
    dtype="float32",
)


def load_params(golden: Path) -> Any:
    """Returns golden t5_tiny/params.npz as our stacked tree of jax arrays."""
    with np.load(golden / "t5_tiny" / "params.npz") as archive:
        flat = {name: archive[name] for name in archive.files}
    return jax.tree.map(jnp.asarray, names.stack(flat, TINY))


def load_batch(golden: Path, name: str) -> dict[str, np.ndarray]:
    """Returns a batch of golden t5_tiny/batches.npz: unpacked, packed, packed_1, long, decode."""
    with np.load(golden / "t5_tiny" / "batches.npz") as archive:
        return {
            key.split(".", 1)[1]: archive[key]
            for key in archive.files
            if key.split(".", 1)[0] == name
        }
