"""Files below a remote address (gs://, s3://, …), through fsspec, and the progress of copying.

fsspec is imported when an address is opened, so that jobs on local caches do without it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from mt0_tpu.errors import UserError
from mt0_tpu.retrying import retrying

_EVERY_S = 5.0
# Which of our extras brings what fsspec needs for a kind of address.
_EXTRAS = {"gs": "gcs", "gcs": "gcs"}


class RemoteFiles:
    """The files below one remote address.

    Attributes:
        url: the address.
    """

    def __init__(self, system: Any, path: str, url: str):
        self._system, self._path, self.url = system, path, url

    def below(self, name: str) -> RemoteFiles:
        """Returns the files of a folder."""
        return RemoteFiles(self._system, f"{self._path}/{name}", f"{self.url}/{name}")

    def open(self, name: str, mode: str) -> Any:
        """Opens a file for 'rb' or 'wb', making its folder where there are folders."""
        if mode == "wb":
            self._system.makedirs(self._path, exist_ok=True)
        return self._system.open(f"{self._path}/{name}", mode)

    def read(self, name: str) -> bytes | None:
        """Returns a small file's content, None where there is no such file.

        Raises UserError when the address cannot be read: every kind of store has its own errors.
        """
        try:
            path = f"{self._path}/{name}"
            return retrying(lambda: self._system.cat_file(path), f"{self.url}/{name}")
        except FileNotFoundError:
            return None
        except Exception as error:
            raise UserError(
                f"{self.url} cannot be read ({type(error).__name__}: {error}); check the address, "
                "the network and your credentials"
            ) from error

    def read_many(self, names: Sequence[str]) -> dict[str, bytes]:
        """Returns the contents of the files that are there, asked for at once."""
        paths = {f"{self._path}/{name}": name for name in names}
        if not paths:
            return {}
        found = retrying(lambda: self._system.cat(list(paths), on_error="return"), self.url)
        content = {}
        for path, one in found.items():
            if path in paths and not isinstance(one, FileNotFoundError):
                # One that did not come is asked for by itself.
                name = paths[path]
                content[name] = one if isinstance(one, bytes) else self.read(name)
        return {name: one for name, one in content.items() if one is not None}

    def write(self, name: str, content: bytes) -> None:
        """Writes a small file."""

        def write():
            with self.open(name, "wb") as stream:
                stream.write(content)

        retrying(write, f"{self.url}/{name}")

    def remove(self, name: str) -> None:
        """Deletes a file."""
        retrying(lambda: self._system.rm_file(f"{self._path}/{name}"), f"{self.url}/{name}")

    def sizes(self) -> dict[str, int]:
        """Returns {name: bytes} of the files directly here."""
        self._system.invalidate_cache()
        try:
            listed = retrying(lambda: self._system.ls(self._path, detail=True), self.url)
        except FileNotFoundError:
            return {}
        return {
            entry["name"].rstrip("/").rsplit("/", 1)[-1]: int(entry["size"])
            for entry in listed
            if entry["type"] == "file"
        }


def open_address(url: str) -> RemoteFiles:
    """Returns the files below an address; UserError where fsspec cannot go there."""
    import fsspec

    protocol = url.partition("://")[0]
    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        advice = f"`pip install mt0_tpu[{extra}]`" if extra else f"see: {error}"
        raise UserError(f"{url} needs a package that is not installed; {advice}") from None
    except ValueError as error:
        raise UserError(f"{url} is no address that can be read ({error})") from None
    return RemoteFiles(system, path.rstrip("/"), url)


class CopyProgress:
    """Lines of how much was copied, how fast and how long it will take; safe among threads.

    Args:
        say: receives the lines.
        way: 'from' or 'to'.
        url: the remote side.
        num_bytes: how many bytes there are in all, where it is known.

    Attributes:
        stopped: set when the other threads should stop copying.
    """

    def __init__(self, say: Callable[[str], None], way: str, url: str, num_bytes: int | None):
        self._say, self._where, self._total = say, f"{way} {url}", num_bytes
        self._done, self._lock = 0, threading.Lock()
        self._begin = self._said = time.monotonic()
        self.stopped = threading.Event()

    def expect(self, num_bytes: int) -> None:
        """Says how many bytes there are in all."""
        self._total = num_bytes

    def add(self, num_bytes: int) -> None:
        """Counts what was copied, and says so if the last line is old enough."""
        with self._lock:
            self._done += num_bytes
            now = time.monotonic()
            if now - self._said < _EVERY_S:
                return
            self._said = now
            speed = self._done / (now - self._begin)
            left = (self._total - self._done) / max(speed, 1.0)
            self._say(
                f"cache: copied {self._done >> 20:,} of {self._total >> 20:,} MiB {self._where}, "
                f"{speed / 2**20:,.0f} MiB/s, {left:,.0f} s left"
            )

    def end(self, folders: int) -> None:
        """Says what was copied in all."""
        mib, seconds = self._done / 2**20, time.monotonic() - self._begin
        self._say(f"cache: {folders} splits, {mib:,.1f} MiB {self._where} in {seconds:,.0f} s")
