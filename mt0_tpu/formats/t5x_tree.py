"""What both of T5X's formats hold: the leaves of {target, state}, as Weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from mt0_tpu.errors import UserError
from mt0_tpu.formats import t5x_scanned
from mt0_tpu.formats.weights import TensorInfo, Weights

TARGET, STATISTICS, STEP = "target.", "state.param_states.", "state.step"
SLOTS = ("v_row", "v_col", "v", "m")
_PLACEHOLDER = (1,)
_PARAMETER_DTYPES = ("float32", "bfloat16", "float16", "float64")


class Leaf(Protocol):
    """An array that is not read yet."""

    info: TensorInfo

    def read(self, index: tuple = ()) -> np.ndarray:
        """Returns the array, or a part of it."""
        ...


class T5XWeights(Weights):
    """A T5X checkpoint, its names as they are stored.

    Adafactor's placeholders of shape (1,) are left out; the state of other optimizers is not
    known here and counts as none.

    Args:
      kind: 'T5X' or 'T5X Orbax'.
      path: where it lies.
      leaves: {dotted name from the root, such as 'target.token_embedder.embedding': leaf}.

    Raises:
      UserError: no parameters, or leaves that are none.
    """

    def __init__(self, kind: str, path: str, leaves: Mapping[str, Leaf]):
        self.kind, self.path, self._leaves = kind, path, leaves
        self._parameters = {
            name.removeprefix(TARGET): leaf.info
            for name, leaf in leaves.items()
            if name.startswith(TARGET)
        }
        if not self._parameters:
            raise UserError(f"{path} holds no parameters: nothing lies under 'target'; give a "
                            "checkpoint that a T5X training run wrote")  # fmt: skip
        for name, info in self._parameters.items():
            if info.dtype not in _PARAMETER_DTYPES:
                raise UserError(
                    f"{path}: the parameter {name} is {info.dtype}; expected one of "
                    f"{', '.join(_PARAMETER_DTYPES)}"
                )
        self.step = _step(path, leaves[STEP]) if STEP in leaves else None

    def tensors(self) -> dict[str, TensorInfo]:
        return dict(self._parameters)

    def read(self, name: str, index: tuple = ()) -> np.ndarray:
        return self._leaves[TARGET + name].read(index)

    def state_tensors(self) -> dict[str, TensorInfo]:
        found = {}
        for name, leaf in self._leaves.items():
            parameter, _, slot = name.removeprefix(STATISTICS).rpartition(".")
            shape = getattr(self._parameters.get(parameter), "shape", None)
            known = name.startswith(STATISTICS) and slot in SLOTS and shape is not None
            if known and (leaf.info.shape != _PLACEHOLDER or shape == _PLACEHOLDER):
                found[f"{parameter}.{slot}"] = leaf.info
        return found

    def read_state(self, name: str, index: tuple = ()) -> np.ndarray:
        return self._leaves[STATISTICS + name].read(index)


def _step(path: str, leaf: Leaf) -> int:
    """A step fits int32, as T5X and Orbax keep it."""
    value = leaf.read()
    if value.size != 1 or value.dtype.kind not in "iu" or not 0 <= value.item() < 2**31:
        shown = f"{value.item()}" if value.size == 1 else f"an array of {value.shape}"
        raise UserError(f"{path}: {STEP} is {shown}, expected a whole number from 0 to "
                        f"{2**31 - 1}; copy the checkpoint again")  # fmt: skip
    return int(value.item())


def weights_of(kind: str, path: str, leaves: Mapping[str, Leaf]) -> Weights:
    """Returns the leaves as Weights under unscanned names; UserError where that is impossible."""
    weights = T5XWeights(kind, path, leaves)
    scanned = t5x_scanned.is_scanned(weights.tensors())
    return t5x_scanned.UnscannedWeights(weights) if scanned else weights
