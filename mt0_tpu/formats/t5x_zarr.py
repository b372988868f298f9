"""One zarr v2 array of a T5X checkpoint: a folder, or keys in an OCDBT store.

Only `.zarray` is trusted for shape, dtype and chunks; T5X itself ignores what its tree says.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
from collections.abc import Callable, Set
from typing import Any

import numpy as np
import tensorstore

from mt0_tpu.errors import UserError
from mt0_tpu.formats import t5x_msgpack
from mt0_tpu.formats.weights import TensorInfo

HEADER = ".zarray"
# Beyond these a header is no T5X array's: chunks have 64 MiB there.
_MAX_CHUNKS = 1_000_000
_MAX_CHUNK_BYTES = 1 << 30
# Each is compressed by one core, and held twice meanwhile.
_CHUNKS_AT_ONCE = max(2, min(8, os.cpu_count() or 8))
# Slices of a stacked array come chunk by chunk: what is decoded serves the next layer too.
_CONTEXT = tensorstore.Context({"cache_pool": {"total_bytes_limit": 1 << 30}})


@dataclasses.dataclass(frozen=True)
class ZarrArray:
    """An array that can be read.

    Attributes:
      info: its shape and dtype.
      where: for people: the folder, or store and key.
      kvstore: tensorstore's spec of where its keys lie.
      fills: whether a chunk that is not there stands for the fill value.
    """

    info: TensorInfo
    where: str
    kvstore: Any
    fills: bool = False

    def read(self, index: tuple = ()) -> np.ndarray:
        """Returns the array, or with an index a part of it; UserError where it is damaged."""
        spec = {
            "driver": "zarr", "kvstore": self.kvstore, "fill_missing_data_reads": self.fills
        }  # fmt: skip
        try:
            if not index:
                return tensorstore.open(spec, open=True, read=True).result().read().result()
            # Without a bound on staleness, the decoded chunks are not asked for again.
            spec |= {"recheck_cached_data": "open"}
            opened = tensorstore.open(spec, open=True, read=True, context=_CONTEXT).result()
            return opened[index].read().result()
        except (ValueError, OSError) as error:
            raise UserError(
                f"{self.where} is damaged ({_first_line(error)}); copy the checkpoint again"
            ) from error


def inspect(header: bytes | None, keys: Set[str], where: str, kvstore: Any) -> ZarrArray:
    """Checks an array without reading it.

    Args:
      header: content of its `.zarray`, None where there is none.
      keys: names of its other files: the chunks.
      where: for people.
      kvstore: tensorstore's spec of the place.

    Raises:
      UserError: no header, one that is not zarr v2's, or a chunk is not there.
    """
    if header is None:
        raise UserError(
            f"{where} has no file {HEADER}, so it cannot be read; copy the checkpoint again with "
            "the files whose names begin with a dot"
        )
    try:
        fields = json.loads(header)
        shape, chunks = tuple(fields["shape"]), tuple(fields["chunks"])
        dtype = t5x_msgpack.dtype_named(fields["dtype"])
        if fields["zarr_format"] != 2 or len(shape) != len(chunks):
            raise ValueError(f"zarr_format {fields['zarr_format']}, chunks {chunks} of {shape}")
        # A chunk as large as its array is no surprise, whatever its size.
        chunk_bytes, array_bytes = (math.prod(s) * dtype.itemsize for s in (chunks, shape))
        if chunk_bytes > max(array_bytes, _MAX_CHUNK_BYTES):
            raise ValueError(f"chunks {chunks} of {shape}")
        needed = _chunk_keys(shape, chunks, fields.get("dimension_separator", "."))
    except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise UserError(
            f"{where}/{HEADER} is not zarr v2's ({type(error).__name__}: {error}); copy the "
            "checkpoint again"
        ) from error
    # With a fill value a chunk may be left out; T5X writes null, and then every chunk.
    fills = fields.get("fill_value") is not None
    absent = [] if fills else sorted(needed - keys)
    if absent:
        raise UserError(
            f"{where} lacks {len(absent)} of {len(needed)} chunks, such as {absent[0]}; copy the "
            "checkpoint again"
        )
    return ZarrArray(TensorInfo(shape, dtype.name), where, kvstore, fills)


def write(
    kvstore: tensorstore.KvStore,
    value: np.ndarray,
    chunks: tuple[int, ...],
    compressor: dict[str, Any],
    after_some: Callable[[], None] = lambda: None,
) -> None:
    """Writes an array as T5X does: C order, no fill value; called back after every few chunks.

    Raises:
      OSError: it cannot be written; tensorstore's own errors say so as ValueError.
    """
    dtype = "bfloat16" if value.dtype.name == "bfloat16" else value.dtype.str
    metadata = {
        "shape": list(value.shape), "chunks": list(chunks), "dtype": dtype,
        "compressor": compressor,
    }  # fmt: skip
    spec = {"driver": "zarr", "metadata": metadata}
    starts = (range(0, size, chunk) for size, chunk in zip(value.shape, chunks, strict=True))
    places = itertools.product(*starts)
    try:
        opened = tensorstore.open(spec, kvstore=kvstore, create=True).result()
        # Few at a time: what a write copies and compresses is held until it ends.
        while some := list(itertools.islice(places, _CHUNKS_AT_ONCE)):
            writes = []
            for place in some:
                part = tuple(slice(at, at + n) for at, n in zip(place, chunks, strict=True))
                # Chunks divide their dim, so no slice goes beyond it.
                writes.append(opened[part].write(value[part]))
            for write in writes:
                write.result()
            after_some()
    except ValueError as error:
        raise OSError(_first_line(error)) from error


def _chunk_keys(shape: tuple[int, ...], chunks: tuple[int, ...], separator: str) -> set[str]:
    counts = [-(-size // chunk) for size, chunk in zip(shape, chunks, strict=True)]
    if math.prod(counts) > _MAX_CHUNKS:
        raise ValueError(f"{math.prod(counts)} chunks")
    places = itertools.product(*(range(count) for count in counts))
    return {separator.join(map(str, place)) for place in places} if shape else {"0"}


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:300] if lines else type(error).__name__
