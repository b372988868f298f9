"""Rendered examples on their way to a file: kept on disk, chosen and ordered by small indices.

Of 500,000 rendered examples 100,000 may be kept. Holding them would take gigabytes; so they go to
a scratch file as they are made, and only where each begins and how long it is stays in memory, 20
bytes an example, and a number each while they are put in order.
"""

from __future__ import annotations

import array
import functools
import hashlib
import json
import mmap
import os
import random
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ORDERS = ("shortest", "sample", "alphabetical")


class ScratchExamples:
    """A growing set of (inputs, targets) on disk; a context manager that removes its file."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder)
        self._starts = array.array("Q")
        self._input_bytes, self._target_bytes = array.array("I"), array.array("I")
        self._input_chars = array.array("I")
        self._end = 0

    def __enter__(self) -> ScratchExamples:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._starts)

    def append(self, inputs: str, targets: str) -> None:
        """Adds one; UnicodeEncodeError for text that UTF-8 has no bytes for."""
        first, second = inputs.encode(), targets.encode()
        self._file.write(first)
        self._file.write(second)
        self._starts.append(self._end)
        self._input_bytes.append(len(first))
        self._target_bytes.append(len(second))
        self._input_chars.append(len(inputs))
        self._end += len(first) + len(second)

    def chosen(self, order: str, most: int, seed: str) -> list[int]:
        """Numbers of at most `most` examples in the order they are to be written in.

        Args:
          order: 'shortest' by the characters of the input, 'sample' by chance; both in a drawn
            order. 'alphabetical' by the input's code points, in that order.
          seed: of every draw.
        """
        numbers = list(range(len(self)))
        if order == "alphabetical":
            return self._alphabetical(numbers)[:most]
        random.Random(f"{seed} order").shuffle(numbers)
        if order == "shortest" and len(numbers) > most:
            # A stable sort: among equally long ones the drawn order decides.
            kept = set(sorted(numbers, key=self._input_chars.__getitem__)[:most])
            return [number for number in numbers if number in kept]
        return numbers[:most]

    def _alphabetical(self, numbers: list[int]) -> list[int]:
        if not self._end:
            return numbers
        self._file.flush()
        with mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) as text:

            def input_of(number: int, most: int) -> bytes:
                start = self._starts[number]
                return text[start : start + min(self._input_bytes[number], most)]

            def compare(a: int, b: int) -> int:
                # Most differ early: the rest of a long input is read only where they do not.
                for most in (256, 1 << 62):
                    first = text[
                        self._starts[a] : self._starts[a] + min(self._input_bytes[a], most)
                    ]
                    other = text[
                        self._starts[b] : self._starts[b] + min(self._input_bytes[b], most)
                    ]
                    if first != other:
                        return -1 if first < other else 1
                return 0

            return sorted(numbers, key=functools.cmp_to_key(compare))

    def texts(self, numbers: Iterable[int]) -> Iterator[tuple[str, str]]:
        """(inputs, targets) of the examples of these numbers."""
        self._file.flush()
        for number in numbers:
            self._file.seek(self._starts[number])
            first = self._file.read(self._input_bytes[number])
            yield first.decode(), self._file.read(self._target_bytes[number]).decode()


def json_line(fields: dict[str, Any]) -> bytes:
    """One line of a released file: no blanks between, every letter as itself."""
    return (json.dumps(fields, ensure_ascii=False, separators=(",", ":")) + "\n").encode()


def write_lines(path: Path, lines: Iterable[bytes]) -> tuple[int, int]:
    """Writes a file whole or not at all; returns its lines and bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name[:200]}.tmp-{os.getpid()}")
    count = size = 0
    try:
        with temporary.open("wb", buffering=1 << 20) as file:
            for line in lines:
                file.write(line)
                count, size = count + 1, size + len(line)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return count, size


# A line held for merging costs its bytes and, in Python, about three times a short line's more.
_OVERHEAD = 4
_MOST_BUCKETS = 256


def merge(parts: list[Path], path: Path, seed: int, memory_mib: int) -> dict[str, int]:
    """Writes the lines of all parts to `path`, each once, in a drawn order.

    The order is that of a keyed hash of each line: as good as a shuffle, the same whatever the
    order of the parts, and equal lines meet. Lines go to buckets by their hash first, so that no
    more than `memory_mib` of them is held.

    Returns:
      {"lines", "bytes", "duplicates"}.
    """
    key = seed.to_bytes(8, "little", signed=True)
    total = sum(part.stat().st_size for part in parts)
    count = max(1, min(_MOST_BUCKETS, -(-total * _OVERHEAD // (memory_mib << 20))))
    read = 0

    def digest(line: bytes) -> bytes:
        return hashlib.blake2b(line, digest_size=16, key=key).digest()

    def lines() -> Iterator[bytes]:
        for part in parts:
            with part.open("rb") as file:
                for line in file:
                    yield line if line.endswith(b"\n") else line + b"\n"

    def merged() -> Iterator[bytes]:
        nonlocal read
        if count == 1:
            buckets: Iterable[Iterable[bytes]] = [lines()]
        else:
            buckets = _buckets(lines(), digest, count, path.parent)
        for bucket in buckets:
            once = {}
            for line in bucket:
                read += 1
                once[digest(line)] = line
            yield from (once[mark] for mark in sorted(once))

    path.parent.mkdir(parents=True, exist_ok=True)
    written, size = write_lines(path, merged())
    return {"lines": written, "bytes": size, "duplicates": read - written}


def _buckets(lines: Iterable[bytes], digest, count: int, folder: Path) -> Iterator[Iterator[bytes]]:
    with tempfile.TemporaryDirectory(dir=folder, prefix=".merging-") as place:
        paths = [Path(place) / str(number) for number in range(count)]
        files = [path.open("wb", buffering=1 << 16) for path in paths]
        try:
            for line in lines:
                files[int.from_bytes(digest(line)[:8], "big") * count >> 64].write(line)
        finally:
            for file in files:
                file.close()
        for path in paths:
            with path.open("rb") as file:
                yield iter(file)
            path.unlink()
