"""A PyTorch file of tensors (`pytorch_model.bin`), read without running what its pickle says.

A pickle may call any function of Python. This reader knows the handful that torch.save writes for
a dict of tensors, each replaced by one of its own that only notes what was asked for; any other
name ends the reading. Tensors are then read from their place in the file, one at a time.

Two layouts: a zip archive with NAME/data.pkl and one stored member NAME/data/KEY for each storage
(torch 1.6 on), and five pickles followed by the storages (before).
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import io
import math
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from mt0_tpu.errors import UserError
from mt0_tpu.formats.weights import TensorInfo

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_START = b"\x80\x02\x8a\n" + _LEGACY_MAGIC.to_bytes(10, "little") + b"."
_DTYPES = {
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "DoubleStorage": np.dtype("<f8"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("<i1"),
    "ByteStorage": np.dtype("<u1"),
    "BoolStorage": np.dtype("<b1"),
}
_MAX_PICKLE = 256 << 20  # bytes; a table of names and shapes is a few hundred KB
_PUTS = ("PUT", "BINPUT", "LONG_BINPUT")
_MAX_MEMO = 1 << 24
_LOCAL_HEADER = struct.Struct("<4s22xHH")


class _Sealed:
    """What a pickle made stays as it was checked: no opcode sets its fields afterwards."""

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("fields set on a tensor")


@dataclasses.dataclass(frozen=True)
class _Storage(_Sealed):
    key: str
    dtype: np.dtype
    count: int


@dataclasses.dataclass(frozen=True)
class _Tensor(_Sealed):
    storage: _Storage
    offset: int  # elements
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # elements

    def span(self) -> int:
        """Elements between the tensor's first and last one, both included."""
        if not math.prod(self.shape):
            return 0
        return 1 + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))


def looks_like(path: Path) -> bool:
    """Whether a file is one that torch.save wrote, of either layout."""
    with path.open("rb") as file:
        start = file.read(len(_LEGACY_START))
    if start == _LEGACY_START:
        return True
    if start[:4] != b"PK\x03\x04":
        return False
    with contextlib.suppress(zipfile.BadZipFile, OSError), zipfile.ZipFile(path) as archive:
        return any(name.split("/")[1:] == ["data.pkl"] for name in archive.namelist())
    return True  # a zip archive cut short, which has lost its list of members


class TorchFile:
    """The tensors of one file; UserError when it is damaged or its pickle would run something."""

    def __init__(self, path: Path):
        self.path = path
        self._storages: dict[str, _Storage] = {}
        self._places: dict[str, int] = {}  # the byte at which a storage begins
        self._ends: dict[str, int] = {}  # and the one where what the file has of it ends
        try:
            with path.open("rb") as file:
                legacy = file.read(len(_LEGACY_START)) == _LEGACY_START
            entries = self._legacy() if legacy else self._zipped()
        except (UserError, FileNotFoundError):
            raise
        # A damaged pickle ends in any kind of error; none of them is ours to let through.
        except Exception as error:
            raise UserError(
                f"{path} is cut short or no file of PyTorch tensors "
                f"({type(error).__name__}: {error}); fetch it again"
            ) from None
        self._tensors = self._checked(entries)

    def _zipped(self) -> Any:
        """The unpickled object; notes where the storages are."""
        with zipfile.ZipFile(self.path) as archive, self.path.open("rb") as file:
            members = {info.filename: info for info in archive.infolist()}
            [pickled] = [name for name in members if name.split("/")[1:] == ["data.pkl"]]
            folder = pickled.split("/")[0]
            order = members.get(f"{folder}/byteorder")
            if order and archive.read(order) != b"little":
                raise UserError(f"{self.path} is big endian: write it again on a usual machine")
            if members[pickled].file_size > _MAX_PICKLE:
                raise UserError(f"{self.path}: its pickle is too large for a table of tensors")
            entries = self._unpickle(io.BytesIO(archive.read(pickled)))
            for name, info in members.items():
                if name.startswith(f"{folder}/data/"):
                    if info.compress_type != zipfile.ZIP_STORED:
                        raise UserError(f"{self.path}: {name} is compressed, as torch never does")
                    key = name.split("/", 2)[2]
                    self._places[key] = _data_offset(file, info.header_offset)
                    self._ends[key] = self._places[key] + info.file_size
        return entries

    def _legacy(self) -> Any:
        """As `_zipped`, of the older layout."""
        with self.path.open("rb") as file:
            self._unpickle(file)  # the magic number
            self._unpickle(file)  # of the protocol
            if not self._unpickle(file)["little_endian"]:
                raise UserError(f"{self.path} is big endian: write it again on a usual machine")
            entries = self._unpickle(file)
            size = self.path.stat().st_size
            for key in self._unpickle(file):
                [count] = struct.unpack("<q", file.read(8))
                storage = self._storages[key]
                if count != storage.count:
                    raise ValueError(f"storage {key} has {count} elements, not {storage.count}")
                self._places[key] = file.tell()
                end = file.tell() + count * storage.dtype.itemsize
                self._ends[key] = min(size, end)
                file.seek(end)
        return entries

    def _unpickle(self, file: BinaryIO) -> Any:
        begin = file.tell()
        # The unpickler makes room up to the largest index: for 2**31, ten bytes, 32 GiB.
        for code, argument, _ in pickletools.genops(file):
            if code.name in _PUTS and argument > _MAX_MEMO:
                raise pickle.UnpicklingError(f"a memo at index {argument}")
        file.seek(begin)
        unpickler = _Restricted(file, self.path, self._storages)
        return unpickler.load()

    def _checked(self, entries: Any) -> dict[str, _Tensor]:
        """The tensors by name, every one of them inside the file."""
        if not isinstance(entries, dict):
            raise UserError(
                f"{self.path} holds no dict of tensors: save the model's state_dict() alone"
            )
        for name, tensor in entries.items():
            if not isinstance(name, str) or not isinstance(tensor, _Tensor):
                raise UserError(
                    f"{self.path}: {str(name)[:80]!r} is no tensor: save the model's state_dict() "
                    "alone"
                )
            storage = tensor.storage
            end = tensor.offset + tensor.span()
            if storage.key not in self._places:
                raise UserError(f"{self.path} lacks the numbers of {name}; fetch it again")
            held = (self._ends[storage.key] - self._places[storage.key]) // storage.dtype.itemsize
            if end > min(storage.count, held):
                raise UserError(
                    f"{self.path} is cut short: {name} needs {end} numbers, found {held}; fetch it "
                    "again"
                )
        return dict(entries)

    def tensors(self) -> dict[str, TensorInfo]:
        """{name: what it is}, as stored."""
        return {
            name: TensorInfo(tensor.shape, tensor.storage.dtype.name)
            for name, tensor in self._tensors.items()
        }

    def read(self, name: str) -> np.ndarray:
        """One tensor as stored, in memory of its own; a view of it where it was saved strided."""
        tensor = self._tensors[name]
        dtype = tensor.storage.dtype
        with self.path.open("rb") as file:
            file.seek(self._places[tensor.storage.key] + tensor.offset * dtype.itemsize)
            numbers = np.fromfile(file, dtype=dtype, count=tensor.span())
        if numbers.size != tensor.span():
            raise UserError(f"{self.path} is cut short in {name}; fetch it again")
        if numbers.size == math.prod(tensor.shape) and _c_strides(tensor.shape) == tensor.strides:
            return numbers.reshape(tensor.shape)
        strides = tuple(step * dtype.itemsize for step in tensor.strides)
        return np.lib.stride_tricks.as_strided(numbers, tensor.shape, strides, writeable=False)

    def same(self, name: str, other: str) -> bool:
        """Whether two names are one tensor of the file."""
        return self._tensors[name] == self._tensors[other]


def _c_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def _data_offset(file: BinaryIO, header: int) -> int:
    # The local header's extra field, by which torch aligns, may differ from the central one.
    file.seek(header)
    magic, name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    if magic != b"PK\x03\x04":
        raise zipfile.BadZipFile("a member is not where the list of members says")
    return header + _LOCAL_HEADER.size + name + extra


class _Restricted(pickle.Unpickler):
    """Unpickles dicts of tensors as descriptions; whatever else a pickle asks for is refused."""

    def __init__(self, file: BinaryIO, path: Path, storages: dict[str, _Storage]):
        super().__init__(file)
        self._path, self._storages = path, storages

    def find_class(self, module: str, name: str) -> Callable[..., Any] | str:
        """Ours for the name asked for. Made anew each time: a pickle can set attributes on it."""
        if (module, name) == ("collections", "OrderedDict"):
            return lambda *items: _Ordered(*items)
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda *arguments: _rebuild(*arguments)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module == "torch" and name in _DTYPES:
            return name
        shown = f"{module}.{name}"[:120]
        raise UserError(
            f"{self._path} asks for {shown!r} when it is loaded, which a file of weights has no "
            "use for: nothing of it was run or read; take the weights from a source you trust, "
            "best as safetensors"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        """The description of one storage: ('storage', type, key, location, count, …)."""
        kind, name, key, _, count, *view = pid
        if kind != "storage" or not isinstance(key, str) or any(part is not None for part in view):
            raise pickle.UnpicklingError("a storage of an unknown kind")
        storage = _Storage(key, _DTYPES[name], _size(count))
        if self._storages.setdefault(key, storage) != storage:
            raise pickle.UnpicklingError(f"storage {key} is described in two ways")
        return storage


class _Ordered(collections.OrderedDict):
    """A state_dict: a dict that takes the attributes torch sets on it and forgets them."""

    def __setstate__(self, state: Any) -> None:
        pass


def _rebuild(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    shape, strides = tuple(map(_size, shape)), tuple(map(_size, strides))
    if not isinstance(storage, _Storage) or len(shape) != len(strides):
        raise pickle.UnpicklingError("a tensor of an unknown kind")
    return _Tensor(storage, _size(offset), shape, strides)


def _size(number: Any) -> int:
    if type(number) is not int or not 0 <= number < 1 << 48:
        raise pickle.UnpicklingError(f"{number!r:.40} for a size")
    return number
