"""One file of Flax parameters (`flax_model.msgpack`), read a tensor at a time.

Flax writes nested maps whose leaves are arrays, as T5X does; a name here is the keys joined by '/'.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mt0_tpu.errors import UserError
from mt0_tpu.formats import t5x_msgpack
from mt0_tpu.formats.weights import TensorInfo

_DTYPES = ("float64", "float32", "float16", "bfloat16")


def looks_like(path: Path) -> bool:
    """Whether a file begins as a msgpack map whose first key is text."""
    return bool(t5x_msgpack.first_key(path))


class FlaxFile:
    """The arrays of one file; UserError when it is cut short or damaged."""

    def __init__(self, path: Path):
        self.path = path
        try:
            tree = t5x_msgpack.load(path)
        except UserError as error:
            raise UserError(
                f"{path} is cut short or no file of Flax parameters ({error.__cause__}); fetch it "
                "again"
            ) from None
        self._arrays = dict(_leaves(tree, "", path))

    def tensors(self) -> dict[str, TensorInfo]:
        """{name: what it is}, as stored."""
        return {name: TensorInfo(array.shape, array.dtype) for name, array in self._arrays.items()}

    def read(self, name: str) -> np.ndarray:
        """One array as stored, in memory of its own."""
        return t5x_msgpack.read(self.path, self._arrays[name])

    def same(self, name: str, other: str) -> bool:
        """Whether two names are one piece of the file: Flax never writes that."""
        return name == other


def _leaves(tree: Any, name: str, path: Path) -> Iterator[tuple[str, t5x_msgpack.InlineArray]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(value, f"{name}/{key}" if name else key, path)
    elif isinstance(tree, t5x_msgpack.InlineArray) and tree.dtype in _DTYPES:
        yield name, tree
    else:
        found = tree.dtype if isinstance(tree, t5x_msgpack.InlineArray) else type(tree).__name__
        raise UserError(
            f"{path}: {name or 'the file'} is {found}, where arrays of {', '.join(_DTYPES)} are "
            "read: save the model's params alone"
        )
