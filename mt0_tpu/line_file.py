"""A file that lines are added to, where a disk that is full for a while loses none of them."""

from __future__ import annotations

import io
import os
from pathlib import Path


class LineFile:
    """Adds lines to the end of a file.

    A line that cannot be written is kept, and written before the next one; half of it is cut off
    again, so that the file is whole lines whenever it can be read.
    """

    def __init__(self, path: str | Path):
        self._path = Path(path)
        self._file: io.FileIO | None = None
        self._whole_bytes = 0
        self._waiting: list[bytes] = []

    @property
    def waiting(self) -> int:
        """How many lines are not on disk."""
        return len(self._waiting)

    def add(self, line: str) -> None:
        """Writes a line, and those that wait; OSError where they have to wait on."""
        self._waiting.append(line.encode() + b"\n")
        self.flush()

    def flush(self) -> None:
        """Writes the lines that wait; OSError where they have to wait on."""
        if not self._waiting:
            return
        try:
            file = self._opened()
            file.truncate(self._whole_bytes)
            file.seek(self._whole_bytes)
            left = memoryview(b"".join(self._waiting))
            size = len(left)
            while left:  # the system may take a part
                left = left[file.write(left) :]
        except OSError:
            self.close()
            raise
        self._whole_bytes += size
        self._waiting.clear()

    def _opened(self) -> io.FileIO:
        # A file that was deleted takes lines that nobody will see.
        if self._file is not None and not os.fstat(self._file.fileno()).st_nlink:
            self.close()
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            exists = self._path.exists()
            self._file = io.FileIO(self._path, "r+" if exists else "w")
            size = os.fstat(self._file.fileno()).st_size
            # Of a file of our own what lies beyond the last whole line is half a line.
            self._whole_bytes = min(size, self._whole_bytes) if self._whole_bytes else size
        return self._file

    def close(self) -> None:
        """Lets go of the file; lines that wait stay with this object."""
        if self._file is not None:
            self._file.close()
            self._file = None
