"""What a T5X checkpoint of either format is written from: tensors in T5X's names, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from mt0_tpu.errors import UserError
from mt0_tpu.formats import t5x_msgpack
from mt0_tpu.formats.byte_progress import ByteProgress
from mt0_tpu.formats.t5x_tree import SLOTS, STATISTICS, STEP, TARGET
from mt0_tpu.formats.weights import TensorInfo, Weights

DTYPES = ("float32", "bfloat16")
MAX_CHUNK_BYTES = 64 * 2**20
_UNUSED = np.zeros((1,), np.float32)


def arrays(
    weights: Weights, dtype: str, with_state: bool, say: Callable[[str], None]
) -> Iterator[tuple[str, np.ndarray]]:
    """Gives (dotted name, array) of all that a checkpoint holds, reading one at a time.

    Parameters come in `dtype`; the optimizer's statistics stay float32, with T5X's (1,)-zeros
    where a parameter has no such statistic. Lines of progress go to `say`.

    Raises:
      UserError: an unknown dtype, or state that is asked for and not there for every parameter.
    """
    if dtype not in DTYPES:
        raise UserError(f"a T5X checkpoint cannot be written as {dtype!r}; write float32 or "
                        "bfloat16")  # fmt: skip
    parameters = weights.tensors()
    statistics = _checked_state(weights, parameters) if with_state else {}
    sizes = [_num_bytes(info, dtype) for info in parameters.values()]
    sizes += [_num_bytes(info, "float32") for info in statistics.values()]
    progress = ByteProgress(sum(sizes), say)
    yield STEP, np.asarray(weights.step or 0, np.int32)
    for name, info in parameters.items():
        # Nothing here keeps the array: the caller has the only one when the next is read.
        yield TARGET + name, _cast(weights.read(name), dtype)
        progress.add(_num_bytes(info, dtype))
    for name in parameters if with_state else ():
        for slot in SLOTS:
            key = f"{name}.{slot}"
            if key not in statistics:
                yield STATISTICS + key, _UNUSED
                continue
            yield STATISTICS + key, _cast(weights.read_state(key), "float32")
            progress.add(_num_bytes(statistics[key], "float32"))


def chunk_shape(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Returns T5X's chunks: the largest dim goes to its next smaller divisor until 64 MiB fit."""
    chunks = list(shape)
    while np.prod(chunks, dtype=np.int64) * itemsize > MAX_CHUNK_BYTES:
        dim = int(np.argmax(chunks))
        chunks[dim] = next(n for n in range(chunks[dim] - 1, 0, -1) if shape[dim] % n == 0)
    return tuple(chunks)


def _cast(value: np.ndarray, dtype: str) -> np.ndarray:
    return np.asarray(value).astype(t5x_msgpack.dtype_named(dtype), copy=False)


def _checked_state(weights: Weights, parameters: dict[str, TensorInfo]) -> dict[str, TensorInfo]:
    statistics = weights.state_tensors()
    without = [
        name
        for name in parameters
        if f"{name}.v" not in statistics
        and not statistics.keys() >= {f"{name}.v_row", f"{name}.v_col"}
    ]
    if without:
        raise UserError(
            f"{weights.path} ({weights.kind}) has no Adafactor statistics of {len(without)} of "
            f"{len(parameters)} parameters, such as {without[0]}; convert without optimizer state"
        )
    return statistics


def _num_bytes(info: TensorInfo, dtype: str) -> int:
    return int(np.prod(info.shape, dtype=np.int64)) * t5x_msgpack.dtype_named(dtype).itemsize
