"""A checkpoint of any kind, opened for reading one tensor at a time, under unscanned names.

They are T5X's, and for BLOOM made like them (models/names.py).

Every reader of `formats` is a `Weights`; every writer takes one. So a conversion holds about one
tensor in memory, whatever the size of the network.
"""

from __future__ import annotations

import abc
import dataclasses

import numpy as np

from mt0_tpu.models.networks import NetworkConfig


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """What a tensor is before it is read: its shape, and its dtype's name as NumPy has it."""

    shape: tuple[int, ...]
    dtype: str


class Weights(abc.ABC):
    """Parameters, and where there are any Adafactor's statistics, of one network.

    Attributes:
      kind: for people: 'T5X', 'T5X Orbax', 'Hugging Face', 'Mesh TensorFlow', 'mt0_tpu'.
      path: where it lies.
      step: of training; None where the format does not say.
      config: the network, where the format says more of it than shapes do; else None.
    """

    kind: str
    path: str
    step: int | None = None
    config: NetworkConfig | None = None

    @abc.abstractmethod
    def tensors(self) -> dict[str, TensorInfo]:
        """{T5X name: what it is}, such as 'encoder.layers_0.attention.query.kernel', unscanned."""

    @abc.abstractmethod
    def read(self, name: str) -> np.ndarray:
        """One parameter, in the dtype it is stored in; UserError when it is damaged."""

    def state_tensors(self) -> dict[str, TensorInfo]:
        """{parameter name + '.v_row', '.v_col', '.v' or '.m': what it is}; empty without state."""
        return {}

    def read_state(self, name: str) -> np.ndarray:
        """One statistic of the optimizer, float32."""
        raise KeyError(name)
