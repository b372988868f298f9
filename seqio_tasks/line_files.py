"""Files of one JSON object a line, cut into byte ranges that different processes can read.

A range holds the lines that begin in it, so ranges end to end are the file, whatever their size.
Compressed files cannot be entered in the middle: each is one range.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

# Fixed, not a share of the cores: what a killed job has done must fit the job that goes on.
RANGE_BYTES = 32 << 20
_WILDCARDS = "*?["
_COMPRESSED = {".gz": "gzip", ".xz": "xz", ".bz2": "bz2", ".zst": "zstd"}
# What else a file may be that was said to be JSON lines, by its first bytes.
_OTHER_KINDS = {
    b"\x1f\x8b": "gzip data; name the file with the ending .gz",
    b"PAR1": "a parquet file; write it as JSON lines, one object a line",
    b"PK\x03\x04": "a zip archive; write zip://MEMBER::PATH",
    b"\x28\xb5\x2f\xfd": "zstandard data; name the file with the ending .zst",
    b"\xfd7zXZ": "xz data; name the file with the ending .xz",
    b"BZh": "bzip2 data; name the file with the ending .bz2",
    b"version https://git-lfs": "a git-lfs pointer, not the data; fetch it with `git lfs pull`",
}
# What stores call a file's checksum and, where they have none, its time.
_CHECKSUMS = ("md5Hash", "etag", "ETag", "blob_id", "CRC")
_TIMES = ("mtime", "updated", "LastModified", "last_modified", "created")
_BOM = b"\xef\xbb\xbf"
_SAMPLES, _SAMPLE_BYTES = 16, 1 << 16  # of a large file's content, for its fingerprint
_BLOCK = 1 << 20
_decode = json.JSONDecoder().decode
_LONGEST_BYTES = 64 << 20  # of a line: a file without line ends must not fill the memory


@dataclasses.dataclass(frozen=True)
class LineFile:
    """One file: local, or anywhere fsspec reads.

    Attributes:
        url: its path, or its address with protocol.
        size: bytes as stored.
        marks: what a store says of its content: modification time, checksum.
        local: whether `url` is a path of this machine.
    """

    url: str
    size: int
    marks: tuple
    local: bool

    @property
    def compression(self) -> str | None:
        return _COMPRESSED.get(os.path.splitext(self.url.split("::")[0])[1])

    @property
    def whole(self) -> bool:
        """Whether it can only be read from its beginning."""
        return self.compression is not None or "::" in self.url

    @property
    def name(self) -> str:
        """Its last part: the same wherever the folder lies."""
        return os.path.basename(self.url.split("::")[0])

    def open(self) -> contextlib.AbstractContextManager[BinaryIO]:
        """Opens it for reading bytes, decompressed, in a `with` statement."""
        if self.local and not self.compression:
            return open(self.url, "rb")
        import fsspec

        # Not .open() of it: a zip archive closes once nothing refers to what opened it.
        return fsspec.open(self.url, "rb", compression=self.compression)


@dataclasses.dataclass(frozen=True)
class Piece:
    """The lines of a file that begin at bytes begin <= b < end; end None is the file's."""

    file: LineFile
    begin: int = 0
    end: int | None = None

    @property
    def num_bytes(self) -> int:
        return (self.file.size if self.end is None else self.end) - self.begin

    def __str__(self) -> str:
        return self.file.url if self.end is None else f"{self.file.url}[{self.begin}:{self.end}]"


@dataclasses.dataclass
class Tally:
    """What became of the lines read.

    Attributes:
        num_bytes: bytes read, of compressed files as stored.
        bad: lines that are no example.
        empty: examples with a demanded text that is empty or blank.
        first_bad: the first few bad lines: (file, byte where it begins, what is wrong).
    """

    num_bytes: int = 0
    bad: int = 0
    empty: int = 0
    first_bad: list[tuple[LineFile, int, str]] = dataclasses.field(default_factory=list)

    def take(self) -> Tally:
        """Returns the counts so far and begins anew; whoever holds the tally goes on with it."""
        taken = dataclasses.replace(self)
        self.__init__()
        return taken


def find(paths: Iterable[str], split: str) -> list[LineFile]:
    """Returns the files that paths name, those of a `*` sorted; ValueError where there is none."""
    files = []
    for path in paths:
        found = _find_local(path) if "://" not in path else _find_remote(path)
        if not found:
            raise ValueError(
                f"Split '{split}' names {path}, and there is no such file; "
                "mend the path or fetch the data."
            )
        files += sorted(found, key=lambda file: file.url)
    return files


def _find_local(path: str) -> list[LineFile]:
    path = os.path.expanduser(path)
    # A name that exists is meant as it stands, brackets and all.
    wild = any(sign in path for sign in _WILDCARDS) and not os.path.exists(path)
    names = glob.glob(path, recursive=True) if wild else [path]
    files = []
    for name in names:
        if os.path.isfile(name):
            status = os.stat(name)
            files.append(LineFile(name, status.st_size, (status.st_mtime_ns,), True))
    return files


def _find_remote(url: str) -> list[LineFile]:
    import fsspec

    files, (inner, chain, outer) = [], url.partition("::")
    try:
        for file in fsspec.open_files(url, "rb", expand=True):
            info = file.fs.info(file.path)
            sums = [str(info[key]) for key in _CHECKSUMS if info.get(key)]
            marks = sums[:1] or [str(info[key]) for key in _TIMES if info.get(key)][:1]
            # Of zip://member::archive the member's path alone has no meaning.
            full = f"{inner.partition('://')[0]}://{file.path}" if chain else file.full_name
            size = int(info["size"] or 0)
            files.append(LineFile(full + chain + outer, size, tuple(marks), False))
    except (FileNotFoundError, KeyError):  # KeyError: no such member of an archive
        return []
    return files


def ranges(files: Iterable[LineFile], range_bytes: int | None = None) -> list[tuple[Piece, ...]]:
    """Cuts files into ranges of about as many bytes; small files share one."""
    most = range_bytes or RANGE_BYTES
    found: list[tuple[Piece, ...]] = []
    load = 0
    for file in files:
        if file.whole or file.size <= most:
            pieces = [Piece(file)]
        else:
            count = -(-file.size // most)
            edges = [file.size * i // count for i in range(count + 1)]
            pieces = [Piece(file, *edge) for edge in zip(edges, edges[1:], strict=False)]
        for piece in pieces:
            if found and load + piece.num_bytes <= most:
                found[-1] += (piece,)
                load += piece.num_bytes
            else:
                found.append((piece,))
                load = piece.num_bytes
    return found


def lines(piece: Piece, tally: Tally) -> Iterator[tuple[int, bytes]]:
    """Gives (byte where it begins, line without its end) of a piece; ValueError for other data.

    Offsets in a compressed file count decompressed bytes.
    """
    file = piece.file
    try:
        with file.open() as stream:
            at, end, whole = _enter(stream, piece), piece.end, file.whole
            for line in iter(lambda: stream.readline(_LONGEST_BYTES + 1), b""):
                if end is not None and at >= end:
                    break
                begin, at = at, at + len(line)
                if begin == 0:
                    _check_kind(file, line)
                    line = line.removeprefix(_BOM)
                if len(line) > _LONGEST_BYTES:
                    raise ValueError(
                        f"{file.url} has a line of more than {_LONGEST_BYTES >> 20} MiB at byte "
                        f"{begin}: it is no JSON lines; write one object a line."
                    )
                if not whole:
                    tally.num_bytes += at - begin
                yield begin, line.rstrip(b"\r\n")
            if whole:
                tally.num_bytes += file.size
    except (OSError, EOFError, zlib.error) as error:
        # What the disk or the network did has a number; what a decompressor found has none.
        if file.compression is None or getattr(error, "errno", None):
            raise
        raise ValueError(
            f"{file.url} cannot be decompressed as {file.compression} ({error}); its ending says "
            "what it is: mend the file or its name."
        ) from error


def _enter(stream: BinaryIO, piece: Piece) -> int:
    """Moves to the first line that begins in a piece and returns the byte where it begins."""
    if not piece.begin:
        return 0
    if piece.file.local:
        _check_kind(piece.file, stream.read(32))
    at = piece.begin - 1
    stream.seek(at)
    # The line that runs into this piece belongs to the piece before.
    while block := stream.readline(_BLOCK):
        at += len(block)
        if block.endswith(b"\n"):
            break
    return at


def _check_kind(file: LineFile, head: bytes) -> None:
    for magic, kind in _OTHER_KINDS.items():
        if head.startswith(magic):
            raise ValueError(f"{file.url} was given as JSON lines and is {kind}.")


def place(file: LineFile, offset: int) -> str:
    """Says 'FILE, line N' of the line that begins at a byte, by counting the lines before it."""
    number = 1
    with file.open() as stream:
        while offset > 0 and (block := stream.read(min(_BLOCK, offset))):
            number += block.count(b"\n")
            offset -= len(block)
    return f"{file.url}, line {number}"


def parse(line: bytes) -> dict[str, Any]:
    """Returns a line's object; ValueError saying what it is instead."""
    try:
        example = _decode(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"not UTF-8 ({error.reason} at byte {error.start + 1}); write the file in UTF-8"
        ) from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not JSON ({error}); write one object a line") from None
    if not isinstance(example, dict):
        raise ValueError(f"{line.decode()[:80]!r} is not an object; write {{...}}")
    return example


def fingerprint(files: Iterable[LineFile]) -> str:
    """Returns a hash of names, sizes and content; it stays when a folder moves.

    Of a local file of more than a MiB, sixteen parts are read; elsewhere the store's own marks
    (checksum, else time) stand for the content.
    """
    digest = hashlib.sha256()
    for file in files:
        digest.update(repr((file.name, file.size)).encode())
        if not file.local:
            digest.update(repr(file.marks).encode())
            continue
        with open(file.url, "rb") as stream:
            for number in range(_SAMPLES):
                if file.size > _SAMPLES * _SAMPLE_BYTES:
                    stream.seek((file.size - _SAMPLE_BYTES) * number // (_SAMPLES - 1))
                digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:32]
