"""Megatron's memory-mapped indexed data set (.bin/.idx): reader and writer, numpy alone.

`.bin` is token ids end to end. `.idx`, little endian: magic, uint64 version, uint8 dtype code,
uint64 sequences S, uint64 D = documents + 1, int32 sizes[S] in tokens, int64 pointers[S] in bytes,
int64 document_index[D].

Dims: S sequences, D documents + 1, N tokens.
"""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mt0_tpu.errors import UserError

_MAGIC = b"MMIDIDX\x00\x00"
_VERSION = 1
_HEADER = struct.Struct("<9sQBQQ")
_DTYPE_OF_CODE = {
    1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64,
    6: np.float64, 7: np.float64, 8: np.uint16,
}  # fmt: skip
_CODE_OF_DTYPE = {np.dtype(t): code for code, t in _DTYPE_OF_CODE.items() if code != 7}
_SPOOL_BYTES = 1 << 23  # of sizes or documents kept in memory by a writer
_LARGE = 4 << 30  # bytes
_CHECK_BLOCK = 1 << 22  # sequences checked at a time, so that a huge index costs little memory


def best_dtype(vocab_size: int) -> np.dtype:
    """Returns the token type Megatron picks: uint16 below 65,500 ids, else int32."""
    return np.dtype(np.uint16 if vocab_size < 65_500 else np.int32)


class IndexedDataset:
    """The sequences of one `.bin`/`.idx` pair, memory-mapped read-only.

    Attributes:
        sizes_S: int32, tokens in each sequence.
        pointers_S: int64, byte offset of each sequence in `.bin`.
        documents_D: int64, first sequence of each document, then S.
        tokens_N: the whole `.bin`.
    """

    def __init__(self, prefix: str | os.PathLike, check_index: bool = True):
        """Opens PREFIX.idx and PREFIX.bin; UserError when either is missing or damaged.

        Args:
            prefix: the files' path without their endings.
            check_index: whether every size and pointer is read and compared. Without it only the
                header and the ends are: for files that were checked whole before and have not
                changed since, as 30 million sequences are 600 MB of index.
        """
        self.prefix = Path(prefix)
        index = Path(f"{self.prefix}.idx")
        tokens = Path(f"{self.prefix}.bin")
        for path in (index, tokens):
            if not path.is_file():
                raise UserError(f"{path} is missing: an indexed data set is a .bin and an .idx")
        self.dtype, self.sizes_S, self.pointers_S, self.documents_D = _read_index(index)
        if check_index:
            _check_pointers(index, self.sizes_S, self.pointers_S, self.documents_D, self.dtype)
        found, expected = tokens.stat().st_size, self._num_bytes()
        if found != expected:
            raise UserError(
                f"{tokens} is damaged: found {found} bytes, expected {expected} by its .idx; "
                "write it again"
            )
        # An empty file cannot be mapped.
        self._mapped = np.memmap(tokens, dtype=self.dtype, mode="r") if found else None
        self.tokens_N = np.asarray(self._mapped) if found else np.empty(0, self.dtype)

    def _num_bytes(self) -> int:
        if not len(self.sizes_S):
            return 0
        return int(self.pointers_S[-1]) + int(self.sizes_S[-1]) * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self.sizes_S)

    def __getitem__(self, index: int) -> np.ndarray:
        """Returns the token ids of sequence `index`, a read-only view."""
        start = int(self.pointers_S[index]) // self.dtype.itemsize
        return self.tokens_N[start : start + int(self.sizes_S[index])]

    def starts(self, indices: np.ndarray) -> np.ndarray:
        """Returns int64 token offsets into `tokens_N` of the sequences `indices`."""
        return self.pointers_S[indices] // self.dtype.itemsize

    def expect_random_reads(self) -> None:
        """Tells the kernel not to read ahead in a `.bin` too large to stay in memory.

        A shuffled job takes about a kilobyte here and there; reading ahead fetches up to
        megabytes around each and throws out what was read before.
        """
        advice = getattr(mmap, "MADV_RANDOM", None)
        if advice is not None and self.tokens_N.nbytes > _LARGE:
            self._mapped._mmap.madvise(advice)

    def document(self, index: int) -> list[np.ndarray]:
        """Returns the sequences of document `index`."""
        return [self[i] for i in range(self.documents_D[index], self.documents_D[index + 1])]

    @property
    def num_documents(self) -> int:
        return len(self.documents_D) - 1


def _read_index(path: Path) -> tuple[np.dtype, np.ndarray, np.ndarray, np.ndarray]:
    """Returns (dtype, sizes_S, pointers_S, documents_D), memory-mapped."""
    found = path.stat().st_size
    if found < _HEADER.size:
        raise UserError(
            f"{path} is truncated: found {found} bytes, expected a header of {_HEADER.size}"
        )
    with path.open("rb") as file:
        magic, version, code, num_sequences, num_documents = _HEADER.unpack(file.read(_HEADER.size))
    if magic != _MAGIC:
        raise UserError(f"{path} is no indexed data set: it begins {magic!r}, expected {_MAGIC!r}")
    if version != _VERSION:
        raise UserError(f"{path} has format version {version}, expected {_VERSION}")
    if code not in _DTYPE_OF_CODE:
        raise UserError(f"{path} has dtype code {code}, expected one of {sorted(_DTYPE_OF_CODE)}")
    expected = _HEADER.size + 12 * num_sequences + 8 * num_documents
    if found != expected:
        raise UserError(
            f"{path} is damaged: found {found} bytes, expected {expected} for "
            f"{num_sequences} sequences in {num_documents - 1} documents"
        )
    # The 34-byte header leaves the arrays unaligned; numpy reads that, at no measurable cost.
    raw = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
    middle = _HEADER.size + 4 * num_sequences
    end = middle + 8 * num_sequences
    return (
        np.dtype(_DTYPE_OF_CODE[code]),
        raw[_HEADER.size : middle].view("<i4"),
        raw[middle:end].view("<i8"),
        raw[end:].view("<i8"),
    )


def _check_pointers(path, sizes_S, pointers_S, documents_D, dtype) -> None:
    expected = 0
    for begin in range(0, len(sizes_S), _CHECK_BLOCK):
        sizes = sizes_S[begin : begin + _CHECK_BLOCK].astype(np.int64)
        pointers = pointers_S[begin : begin + _CHECK_BLOCK]
        ends = expected + np.cumsum(sizes) * dtype.itemsize
        wrong = np.flatnonzero((pointers != ends - sizes * dtype.itemsize) | (sizes < 0))
        if len(wrong):
            at = wrong[0]
            raise UserError(
                f"{path} is damaged: sizes and pointers disagree at sequence {begin + at}: found "
                f"pointer {pointers[at]} and size {sizes[at]}, expected pointer "
                f"{ends[at] - sizes[at] * dtype.itemsize}"
            )
        expected = int(ends[-1])
    ordered = len(documents_D) and bool(np.all(documents_D[1:] >= documents_D[:-1]))
    if not ordered or documents_D[0] != 0 or documents_D[-1] != len(sizes_S):
        raise UserError(
            f"{path} is damaged: its document index must rise from 0 to {len(sizes_S)}, found "
            f"{documents_D[:1].tolist()} to {documents_D[-1:].tolist()}"
        )


class IndexedWriter:
    """Writes PREFIX.bin and PREFIX.idx; they appear under their names only when `close` succeeds.

    As a context manager it closes on success and removes what it wrote on an exception. Memory
    does not grow with the number of sequences: sizes and documents wait in nameless files.
    """

    def __init__(self, prefix: str | os.PathLike, dtype: np.dtype | type):
        """Starts a pair; UserError when it exists already or the dtype has no code."""
        self._dtype = np.dtype(dtype)
        if self._dtype not in _CODE_OF_DTYPE:
            known = sorted(str(t) for t in _CODE_OF_DTYPE)
            raise UserError(f"indexed data sets cannot hold {self._dtype}; use one of {known}")
        self._final = [Path(f"{prefix}.bin"), Path(f"{prefix}.idx")]
        for path in self._final:
            if path.exists():
                raise UserError(f"{path} exists already; delete it to write it again")
        self._temporary = [p.with_name(f"{p.name}.tmp-{os.getpid()}") for p in self._final]
        folder = self._final[0].parent
        self._sizes = tempfile.SpooledTemporaryFile(_SPOOL_BYTES, dir=folder)
        self._documents = tempfile.SpooledTemporaryFile(_SPOOL_BYTES, dir=folder)
        self._num_sequences = self._num_documents = 0
        self._file = self._temporary[0].open("wb")
        self._end_at(np.zeros(1, np.int64))

    def add(self, tokens: np.ndarray, end_document: bool = True) -> None:
        """Appends one sequence, and ends its document unless told otherwise."""
        self.add_flat(np.asarray(tokens), np.array([len(tokens)]), end_document)

    def add_flat(
        self, tokens_N: np.ndarray, sizes_S: np.ndarray, end_document: bool = True
    ) -> None:
        """Appends sequences given end to end, each a document (or none of them ending one)."""
        self._file.write(np.ascontiguousarray(tokens_N, self._dtype).data)
        self._sizes.write(np.asarray(sizes_S, "<i4").data)
        if end_document:
            first = self._num_sequences + 1
            self._end_at(np.arange(first, first + len(sizes_S)))
        self._num_sequences += len(sizes_S)

    def end_document(self) -> None:
        """Ends the document of the sequences added since the last end."""
        self._end_at(np.array([self._num_sequences]))

    def end_documents(self, groups: Sequence[int]) -> None:
        """Ends documents of groups[0], groups[1], … sequences, the last ones added."""
        ends = np.cumsum(np.asarray(groups, np.int64))
        if len(ends):
            self._end_at(ends + (self._num_sequences - ends[-1]))

    def _end_at(self, documents_D: np.ndarray) -> None:
        self._documents.write(np.asarray(documents_D, "<i8").data)
        self._num_documents += len(documents_D)

    def append(self, prefix: str | os.PathLike) -> None:
        """Appends a whole indexed data set of the same dtype, documents included."""
        other = IndexedDataset(prefix)
        if other.dtype != self._dtype:
            raise UserError(f"{prefix}.bin holds {other.dtype}, expected {self._dtype}")
        with Path(f"{prefix}.bin").open("rb") as file:
            shutil.copyfileobj(file, self._file, 1 << 20)
        for begin in range(0, len(other), _CHECK_BLOCK):
            self._sizes.write(other.sizes_S[begin : begin + _CHECK_BLOCK].tobytes())
        for begin in range(1, len(other.documents_D), _CHECK_BLOCK):
            self._end_at(other.documents_D[begin : begin + _CHECK_BLOCK] + self._num_sequences)
        self._num_sequences += len(other)

    def close(self) -> None:
        """Writes the index and gives both files their names, the index last."""
        self._file.close()
        with self._temporary[1].open("wb") as file:
            code = _CODE_OF_DTYPE[self._dtype]
            counts = self._num_sequences, self._num_documents
            file.write(_HEADER.pack(_MAGIC, _VERSION, code, *counts))
            self._sizes.seek(0)
            shutil.copyfileobj(self._sizes, file, 1 << 20)
            self._sizes.seek(0)
            at = 0
            while block := self._sizes.read(4 * _CHECK_BLOCK):
                bytes_S = np.frombuffer(block, "<i4").astype("<i8") * self._dtype.itemsize
                ends_S = at + np.cumsum(bytes_S)
                file.write((ends_S - bytes_S).data)
                at = int(ends_S[-1])
            self._documents.seek(0)
            shutil.copyfileobj(self._documents, file, 1 << 20)
        self._sizes.close()
        self._documents.close()
        for temporary, final in zip(self._temporary, self._final, strict=True):
            os.replace(temporary, final)

    def abandon(self) -> None:
        """Removes what was written."""
        for file in (self._file, self._sizes, self._documents):
            file.close()
        for path in self._temporary:
            path.unlink(missing_ok=True)

    def __enter__(self) -> IndexedWriter:
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is not None:
            self.abandon()
            return
        try:
            self.close()
        except BaseException:
            self.abandon()
            raise
