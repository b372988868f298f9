"""A tiny training run over a cache written by hand; also a script, so that tests can kill it.

python -m tests.tiny_run MODEL_DIR CACHE_DIR [STEPS]
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np

from mt0_tpu.checkpoints import CheckpointConfig
from mt0_tpu.data.dataset_config import DatasetConfig
from mt0_tpu.losses import LossConfig
from mt0_tpu.train import TrainSummary, train
from tests.data.conftest import write_cache
from tests.tiny import TINY

ONE_LAYER = dataclasses.replace(
    TINY, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=32, dropout_rate=0.1,
    num_encoder_layers=1, num_decoder_layers=1,
)  # fmt: skip


def write_tiny_cache(root: Path, num_examples: int = 60) -> None:
    """Two tasks of short random examples, vocabulary 500."""
    rng = np.random.default_rng(0)

    def examples():
        return [
            (rng.integers(2, 500, rng.integers(1, 9)), rng.integers(2, 500, rng.integers(1, 5)))
            for _ in range(num_examples)
        ]

    write_cache(root, {"one": examples(), "two": examples()})
    write_cache(root, {"held": examples()[:8]}, mixture="held", split="validation")
    for info in root.glob("*/*/info.json"):
        info.write_text(info.read_text().replace("250100", "512"))


def dataset(cache_dir: str, **changes) -> DatasetConfig:
    """Rows of 24/12, small windows, so that a few steps cross several."""
    settings = {
        "mixture_or_task_name": "mix",
        "task_feature_lengths": {"inputs": 24, "targets": 12},
        "batch_size": 8,
        "use_cached": True,
        "cache_dir": str(cache_dir),
        "window_examples": 40,
    }
    return DatasetConfig(**(settings | changes))


def run(model_dir: str, cache_dir: str, total_steps: int = 12, **changes) -> TrainSummary:
    """Saves every 3 steps and logs every 2, so that a save falls between two log lines."""
    settings = {
        "model_dir": str(model_dir),
        "model": ONE_LAYER,
        "train_dataset": dataset(cache_dir),
        "total_steps": total_steps,
        "from_scratch": True,
        "loss": LossConfig(loss_normalizing_factor="AVERAGE_PER_SEQUENCE"),
        "checkpoint": CheckpointConfig(save_every_steps=3, keep_last=2),
        "log_every_steps": 2,
    }
    return train(**(settings | changes))


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], *(int(argument) for argument in sys.argv[3:]))
