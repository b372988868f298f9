"""A local copy of the small files of a run in a bucket, which cannot append to or rename a file.

Whole files go up, and which content went up is remembered beside them: so at the next start it is
known of each file whether the copy here or the one in the bucket is newer.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from mt0_tpu.errors import UserError
from mt0_tpu.place import BUCKET, is_bucket, place, spelt
from mt0_tpu.retrying import retrying
from mt0_tpu.run_folder import FOLDER
from mt0_tpu.whole_file import write_whole

VARIABLE = "MT0_RUNS_DIR"
# {name: MD5, as the bucket writes it} of what was last sent or fetched.
_RECORD = ".in-bucket.json"
# Not small: what Orbax writes there by itself.
_LEFT_OUT = frozenset({FOLDER})


def mirror_folder(address: str, use: str = "") -> Path:
    """Returns where the small files of a run are kept on this machine, for each use its own."""
    root = os.environ.get(VARIABLE) or "~/.cache/mt0_tpu/runs"
    address = spelt(address)
    name = f"{address.rpartition('/')[2]}-{hashlib.sha256(address.encode()).hexdigest()[:12]}"
    return Path(root).expanduser() / (f"{name}-{use}" if use else name)


class BucketMirror:
    """The copy of one run's small files.

    Args:
      address: of the run, gs://….
      folder: the copy.
    """

    def __init__(self, address: str, folder: Path):
        import fsspec

        place(address)  # says what is missing
        self.folder = folder
        self._root = spelt(address).removeprefix(BUCKET)
        self._files = fsspec.filesystem("gcs", use_listings_cache=False)
        self._seen: dict[str, tuple[int, int]] = {}
        self._sent = self._read_record()

    def bring(self, wanted: Callable[[str], bool] = lambda name: True) -> None:
        """Makes the copy what the bucket holds, but for files of it that are newer here.

        Where the bucket holds nothing of the run, neither does the copy afterwards.

        Raises UserError for a name that leads out of the folder, and where the bucket cannot be
        read, after several tries.
        """
        try:
            self._bring(wanted)
        except UserError:
            raise
        except Exception as error:  # of HTTP, of the line, of the login: many libraries' own
            said = (str(error).splitlines() or [""])[0][:200]
            raise UserError(
                f"files of {BUCKET}{self._root} cannot be brought to {self.folder} "
                f"({type(error).__name__}: {said}); look at your access to both, and run the same "
                "command again"
            ) from None

    def _bring(self, wanted: Callable[[str], bool]) -> None:
        found = retrying(self._listed, f"{BUCKET}{self._root}")
        there = {name: md5 for name, md5 in found.items() if wanted(name)}
        if not there and not self._files.exists(f"{self._root}/{FOLDER}"):
            shutil.rmtree(self.folder, ignore_errors=True)
            self._sent = {}
        for name, md5 in there.items():
            here = self.folder / name
            if here.is_file() and md5 and self._sent.get(name) == md5:
                continue  # nobody else has written it since: what lies here is it, or newer
            self._fetch(name, here)
            self._sent[name] = md5
        for name in [name for name in self._sent if name not in there]:
            (self.folder / name).unlink(missing_ok=True)
            del self._sent[name]
        self._write_record()

    def send(self) -> int:
        """Sends the files that have changed; returns how many.

        Raises what the bucket raises; the next call goes on from there. The library tries each
        request six times, over half a minute.
        """
        changed = 0
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if path.name == _RECORD or ".tmp-" in path.name or not path.is_file():
                continue
            changed += self._send(name, path)
        return changed

    def _send(self, name: str, path: Path) -> bool:
        # Looked at before it is read: what is added meanwhile is seen the next time.
        stat = path.stat()
        now = (stat.st_size, stat.st_mtime_ns)
        if self._seen.get(name) == now:
            return False
        content = path.read_bytes()
        md5 = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
        changed = self._sent.get(name) != md5
        if changed:
            self._files.pipe_file(f"{self._root}/{name}", content)
            self._sent[name] = md5
            # At once: should the next file be refused, it is still known what went up.
            self._write_record()
        self._seen[name] = now
        return changed

    def _listed(self) -> dict[str, str]:
        """{name below the run: MD5, or '' where the bucket tells none} of its small files."""
        found: dict[str, str] = {}
        folders = [self._root]
        while folders:
            folder = folders.pop()
            for info in self._ls(folder):
                if info["name"].rstrip("/") == folder:  # an empty object that stands for it
                    continue
                name = info["name"].removeprefix(self._root).strip("/")
                if info["type"] == "directory":
                    if name not in _LEFT_OUT:
                        folders.append(info["name"].rstrip("/"))
                elif name and not name.startswith(".writable-"):
                    if ".." in PurePosixPath(name).parts:
                        raise UserError(
                            f"{BUCKET}{self._root} holds a file called {name}, which would be "
                            "copied to another folder; delete it there"
                        )
                    found[name] = info.get("md5Hash") or ""
        return found

    def _ls(self, folder: str) -> list[dict[str, Any]]:
        try:
            return self._files.ls(folder, detail=True)
        except FileNotFoundError:  # nothing lies below it
            return []

    def _fetch(self, name: str, here: Path) -> None:
        address = f"{self._root}/{name}"
        content = retrying(lambda: self._files.cat_file(address), f"{BUCKET}{address}")
        here.parent.mkdir(parents=True, exist_ok=True)
        part = here.with_name(f"{here.name}.tmp-{os.getpid()}")
        part.write_bytes(content)
        os.replace(part, here)

    def _read_record(self) -> dict[str, str]:
        try:
            return dict(json.loads((self.folder / _RECORD).read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return {}

    def _write_record(self) -> None:
        write_whole(self.folder / _RECORD, json.dumps(self._sent, indent=1))


def bring_files(path: str) -> str:
    """Returns a local folder with the small files of a run: itself, or a bucket's copy.

    The copy is none that a run on this machine may be writing to.

    Raises UserError where the bucket holds none, or cannot be read.
    """
    if not is_bucket(path):
        return path
    address = spelt(path)
    mirror = BucketMirror(address, mirror_folder(address, "read") / address.rpartition("/")[2])
    mirror.bring()
    if not any(one.name != _RECORD for one in mirror.folder.rglob("*")):
        raise UserError(f"{path} holds no files of a run; look at its spelling")
    return str(mirror.folder)
