"""Weights made in memory, for tests of what reads and writes them."""

from __future__ import annotations

import numpy as np

from mt0_tpu.formats.weights import TensorInfo, Weights
from mt0_tpu.models import names
from mt0_tpu.models.config import T5Config


class Made(Weights):
    """Arrays under T5X names."""

    kind, path, step = "made", "nowhere", None

    def __init__(self, arrays: dict[str, np.ndarray], state: dict[str, np.ndarray] | None = None):
        self.arrays, self.state = arrays, state or {}

    def tensors(self):
        return {n: TensorInfo(tuple(a.shape), a.dtype.name) for n, a in self.arrays.items()}

    def read(self, name):
        return self.arrays[name]

    def state_tensors(self):
        return {n: TensorInfo(tuple(a.shape), a.dtype.name) for n, a in self.state.items()}

    def read_state(self, name):
        return self.state[name]


def made(config: T5Config, **changes) -> Made:
    """Zeros in the shapes of a network, which take no memory until they are written."""
    arrays = {n: np.zeros(leaf.shape, np.float32) for n, leaf in names.expected(config).items()}
    return Made(arrays | changes)
