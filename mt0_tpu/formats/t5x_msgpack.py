"""T5X's msgpack file: nested maps with arrays in them, read without loading the arrays.

A single-file checkpoint is as large as its network, so the reader walks the file and notes where
each array lies. The format of arrays is Flax's: extension 1 (array) and 3 (scalar), each holding
[shape, dtype name, bytes]; above 2**30 bytes a map of flat pieces.
"""

from __future__ import annotations

import dataclasses
import math
import mmap
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import msgpack
import numpy as np

from mt0_tpu.errors import UserError

_ARRAY, _SCALAR = 1, 3
_CHUNKED = "__msgpack_chunked_array__"
_MAX_INLINE_BYTES = 2**30
_MAX_DEPTH = 100
# Code: (struct format of the length, its bytes, what it is the length of).
_SIZED = {
    0xC4: (">B", "bin"), 0xC5: (">H", "bin"), 0xC6: (">I", "bin"),
    0xC7: (">B", "ext"), 0xC8: (">H", "ext"), 0xC9: (">I", "ext"),
    0xD9: (">B", "str"), 0xDA: (">H", "str"), 0xDB: (">I", "str"),
    0xDC: (">H", "array"), 0xDD: (">I", "array"), 0xDE: (">H", "map"), 0xDF: (">I", "map"),
}  # fmt: skip
_FIXED_EXT_BYTES = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
_NUMBERS = {
    0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q",
    0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q",
}  # fmt: skip
# NumPy's letters; V is ml_dtypes' bfloat16.
_NUMBER_KINDS = "biufcV"
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}


@dataclasses.dataclass(frozen=True)
class InlineArray:
    """An array inside the file.

    Attributes:
      shape, dtype: of the array, the dtype as NumPy names it.
      pieces: (offset, bytes) of its flat pieces in the file, in order.
    """

    shape: tuple[int, ...]
    dtype: str
    pieces: tuple[tuple[int, int], ...]


class _Damaged(Exception):
    """What is wrong, in words."""


def dtype_named(name: str) -> np.dtype:
    """Returns the dtype of a name, bfloat16 included; TypeError for a name that is none."""
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def load(path: Path) -> Any:
    """Returns the tree of a file, arrays as InlineArray.

    Raises:
      UserError: the file cannot be read, is cut off or is not msgpack.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            walker = _Walker(data)
            tree = walker.value()
            if walker.at != len(data):
                raise _Damaged(f"{len(data) - walker.at} bytes too many at its end")
            return tree
    except (_Damaged, UnicodeDecodeError, OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read as T5X's msgpack file ({error}); copy the checkpoint again"
        ) from error


def read(path: Path, array: InlineArray) -> np.ndarray:
    """Returns an inline array, copied out of the file."""
    dtype = dtype_named(array.dtype)
    parts = []
    for offset, num_bytes in array.pieces:
        part = np.fromfile(path, np.uint8, num_bytes, offset=offset)
        if len(part) != num_bytes:
            raise UserError(f"{path} became shorter while it was read; copy the checkpoint again")
        parts.append(part)
    flat = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return flat.view(dtype).reshape(array.shape)


def first_key(path: Path) -> str | None:
    """Returns the first key of the map a file begins with, None where there is no such thing."""
    try:
        with path.open("rb") as file:
            walker = _Walker(file.read(64))
        return walker.first_key()
    except (_Damaged, UnicodeDecodeError, OSError):
        return None


def pack(tree: Any) -> bytes:
    """Returns the file's bytes of nested dicts with NumPy arrays and specs as leaves."""
    return msgpack.packb(tree, default=_pack_array, strict_types=True, use_bin_type=True)


def _pack_array(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{type(value).__name__} has no place in a T5X checkpoint")
    if value.nbytes <= _MAX_INLINE_BYTES:
        data = msgpack.packb((value.shape, value.dtype.name, value.tobytes()), use_bin_type=True)
        return msgpack.ExtType(_ARRAY, data)
    flat, size = value.reshape(-1), _MAX_INLINE_BYTES // value.itemsize
    pieces = [flat[at : at + size] for at in range(0, flat.size, size)]
    return {
        _CHUNKED: True,
        "shape": {str(i): n for i, n in enumerate(value.shape)},
        "chunks": {str(i): piece for i, piece in enumerate(pieces)},
    }


class _Walker:
    """A position in msgpack bytes; `value` returns what lies there and moves past it."""

    def __init__(self, data: bytes | mmap.mmap):
        self._data, self.at, self._depth = data, 0, 0

    def first_key(self) -> str | None:
        code = self._number(">B")
        if 0x81 <= code <= 0x8F:
            key = self.value()
        elif _SIZED.get(code, ("", ""))[1] == "map" and self._number(_SIZED[code][0]):
            key = self.value()
        else:
            return None
        return key if isinstance(key, str) else None

    def value(self) -> Any:
        code = self._number(">B")
        if code <= 0x7F:
            return code
        if code >= 0xE0:
            return code - 0x100
        if code in _CONSTANTS:
            return _CONSTANTS[code]
        if code in _NUMBERS:
            return self._number(_NUMBERS[code])
        if code in _FIXED_EXT_BYTES:
            return self._sized("ext", _FIXED_EXT_BYTES[code])
        if code in _SIZED:
            how, what = _SIZED[code]
            return self._sized(what, self._number(how))
        if code <= 0x8F:
            return self._sized("map", code & 0x0F)
        if code <= 0x9F:
            return self._sized("array", code & 0x0F)
        if code <= 0xBF:
            return self._sized("str", code & 0x1F)
        raise _Damaged(f"no msgpack at byte {self.at - 1}")

    def _sized(self, what: str, length: int) -> Any:
        if what == "str":
            return bytes(self._bytes(length)).decode("utf-8")
        if what == "bin":
            # Only where the bytes lie: they may be an array of a gigabyte.
            begin = self.at
            self._skip(length)
            return begin, length
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _Damaged("nested too deep")
        if what == "ext":
            found: Any = self._ext(length)
        elif what == "array":
            found = [self.value() for _ in range(length)]
        else:
            found = self._map(length)
        self._depth -= 1
        return found

    def _map(self, length: int) -> Any:
        found = {}
        for _ in range(length):
            key = self.value()
            if not isinstance(key, str):
                raise _Damaged(f"a key that is no text before byte {self.at}")
            found[key] = self.value()
        return _joined(found) if _CHUNKED in found else found

    def _ext(self, length: int) -> InlineArray:
        code, end = self._number(">b"), self.at + length
        if end > len(self._data):
            raise _Damaged(f"it ends at byte {len(self._data)}, in the middle of an array")
        if code not in (_ARRAY, _SCALAR):
            raise _Damaged(f"an extension of the unknown kind {code} before byte {self.at}")
        content = self.value()
        if self.at != end or not isinstance(content, list) or len(content) != 3:
            raise _Damaged(f"an array that is not [shape, dtype, bytes] before byte {end}")
        shape, dtype, piece = content
        if not isinstance(shape, list) or not isinstance(dtype, str) or type(piece) is not tuple:
            raise _Damaged(f"an array that is not [shape, dtype, bytes] before byte {end}")
        return _checked(InlineArray(tuple(shape), dtype, (piece,)))

    def _number(self, how: str) -> Any:
        return struct.unpack(how, self._bytes(struct.calcsize(how)))[0]

    def _bytes(self, length: int) -> bytes:
        begin = self.at
        self._skip(length)
        return self._data[begin : self.at]

    def _skip(self, length: int) -> None:
        self.at += length
        if self.at > len(self._data):
            raise _Damaged(f"it ends at byte {len(self._data)}, in the middle of a value")


def _joined(chunked: dict[str, Any]) -> InlineArray:
    try:
        shape = tuple(chunked["shape"][str(i)] for i in range(len(chunked["shape"])))
        pieces = [chunked["chunks"][str(i)] for i in range(len(chunked["chunks"]))]
        places = tuple(place for piece in pieces for place in piece.pieces)
        return _checked(InlineArray(shape, pieces[0].dtype, places))
    except (KeyError, IndexError, AttributeError, TypeError):
        raise _Damaged("an array in pieces that lacks some") from None


def _checked(array: InlineArray) -> InlineArray:
    dtype = dtype_named(array.dtype)
    if dtype.kind not in _NUMBER_KINDS or dtype.names:
        raise _Damaged(f"an array of {array.dtype!r}, which are no numbers")
    if any(type(size) is not int or size < 0 for size in array.shape):
        raise _Damaged(f"an array of the shape {array.shape}")
    expected = math.prod(array.shape) * dtype.itemsize
    found = sum(num_bytes for _, num_bytes in array.pieces)
    if found != expected:
        raise _Damaged(f"an array of {array.shape} {array.dtype} that has {found} bytes")
    return array
