"""One safetensors file: read a tensor at a time, and written a tensor at a time.

The file is a little-endian uint64 N, N bytes of JSON {name: {dtype, shape, data_offsets}}, then
the tensors end to end, C order, little endian. The safetensors library's writer wants every tensor
in memory at once, so the writer is our own.
"""

from __future__ import annotations

import json
import math
import operator
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mt0_tpu.errors import UserError
from mt0_tpu.formats.weights import TensorInfo

_DTYPES = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}  # fmt: skip
_CODES = {dtype.name: code for code, dtype in _DTYPES.items()}
_MAX_HEADER = 100_000_000  # bytes, the format's own limit
_BLOCK = 64 << 20  # bytes written at a time


def looks_like(path: Path) -> bool:
    """Whether a file begins as a safetensors file does."""
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and 2 <= _length(start) <= _MAX_HEADER and start[8:] == b"{"


def _length(start: bytes) -> int:
    return struct.unpack("<Q", start[:8])[0]


class SafetensorsFile:
    """The tensors of one file; UserError when it is cut short or damaged.

    Attributes:
        metadata: {str: str} as the file's writer left it.
    """

    def __init__(self, path: Path):
        self.path = path
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = _length(start) if len(start) == 8 else _MAX_HEADER + 1
            if length > min(_MAX_HEADER, size - 8):
                raise UserError(
                    f"{path} is cut short or no safetensors file: found {size} bytes, which do not "
                    "hold its header; fetch or write it again"
                )
            text = file.read(length)
        try:
            header = dict(json.loads(text))
            self.metadata: dict[str, str] = header.pop("__metadata__", {})
            self._start = 8 + length
            self._entries = {name: self._entry(entry) for name, entry in header.items()}
            self._check_apart()
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} is no safetensors file: its header is damaged ({error}); fetch or write "
                "it again"
            ) from None
        end = max((end for _, _, end in self._entries.values()), default=0)
        if self._start + end > size:
            raise UserError(
                f"{path} is cut short: found {size} bytes, expected {self._start + end} by its "
                "header; fetch or write it again"
            )

    @staticmethod
    def _entry(entry: dict[str, Any]) -> tuple[TensorInfo, int, int]:
        if entry["dtype"] not in _DTYPES:
            known = ", ".join(_DTYPES)
            raise ValueError(f"or of quantized weights: dtype {entry['dtype']}, none of {known}")
        dtype = _DTYPES[entry["dtype"]]
        shape = tuple(operator.index(n) for n in entry["shape"])
        start, end = (operator.index(n) for n in entry["data_offsets"])
        if min(shape, default=0) < 0 or start < 0:
            raise ValueError("a negative size")
        if end - start != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{end - start} bytes for {shape} of {dtype.name}")
        return TensorInfo(shape, dtype.name), start, end

    def _check_apart(self) -> None:
        """Each tensor has bytes of its own, by the format; ValueError names two that do not."""
        before, taken = "", 0
        for name, (_, start, end) in sorted(self._entries.items(), key=lambda item: item[1][1:]):
            if start < taken and end > start:
                raise ValueError(f"{before} and {name} overlap")
            before, taken = name, max(taken, end)

    def tensors(self) -> dict[str, TensorInfo]:
        """{name: what it is}, as stored."""
        return {name: info for name, (info, _, _) in self._entries.items()}

    def read(self, name: str) -> np.ndarray:
        """One tensor as stored, in memory of its own."""
        info, start, _ = self._entries[name]
        return read_array(self.path, self._start + start, info)

    def same(self, name: str, other: str) -> bool:
        """Whether two names are one piece of the file: they never are."""
        return name == other


def read_array(path: Path, offset: int, info: TensorInfo) -> np.ndarray:
    """Reads a C-ordered little-endian array at a byte offset; UserError where the file ends.

    Read, not mapped: what was read of a mapped file counts as memory of this process.
    """
    count = math.prod(info.shape)
    with path.open("rb") as file:
        file.seek(offset)
        array = np.fromfile(file, dtype=_DTYPES[_CODES[info.dtype]], count=count)
    if array.size != count:
        raise UserError(
            f"{path} is cut short: a tensor of {info.shape} at byte {offset} is not whole; fetch "
            "it again"
        )
    return array.reshape(info.shape)


class SafetensorsWriter:
    """Writes a file whose tensors are known by shape first and come one by one, in that order.

    Args:
        path: the file, made here.
        tensors: {name: what it is}, in the order they will be put.
        metadata: {str: str} for the header.
    """

    def __init__(self, path: Path, tensors: dict[str, TensorInfo], metadata: dict[str, str]):
        self._waiting = list(tensors.items())[::-1]
        header: dict[str, Any] = {"__metadata__": metadata}
        offset = 0
        for name, info in tensors.items():
            end = offset + num_bytes(info)
            header[name] = {
                "dtype": _CODES[info.dtype],
                "shape": list(info.shape),
                "data_offsets": [offset, end],
            }
            offset = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # so that the tensors are aligned
        self._file = path.open("xb")
        self._file.write(struct.pack("<Q", len(text)) + text)

    def put(self, name: str, blocks: Iterable[np.ndarray]) -> None:
        """Writes the next tensor, given as arrays that follow each other in C order."""
        expected, info = self._waiting.pop()
        dtype = _DTYPES[_CODES[info.dtype]]
        count = 0
        for block in blocks:
            assert block.dtype == dtype, f"{name}: {block.dtype} for {dtype}"
            self._file.write(np.ascontiguousarray(block).reshape(-1).view(np.uint8))
            count += block.size
        assert name == expected and count == math.prod(info.shape), f"{name} for {expected}"

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        """Puts the file on disk; all its tensors must be there, unless an error is on its way."""
        with self._file:
            if kind is None:
                assert not self._waiting, f"{len(self._waiting)} tensors are missing"
                self._file.flush()
                os.fsync(self._file.fileno())


def num_bytes(info: TensorInfo) -> int:
    """Bytes of a tensor in a file."""
    return math.prod(info.shape) * _DTYPES[_CODES[info.dtype]].itemsize


def row_blocks(array: np.ndarray, block_bytes: int = _BLOCK) -> Iterable[np.ndarray]:
    """Yields an array's rows, some at a time, so that a transposed or cast copy is never whole."""
    if array.ndim < 2:
        yield array
        return
    rows = max(1, block_bytes // max(1, array[:1].size * 4))
    for start in range(0, array.shape[0], rows):
        yield array[start : start + rows]
