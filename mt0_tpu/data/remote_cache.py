"""Caches in remote folders (gs://, s3://, …): copied to local disk whole before they are read.

A task's split is a folder whose info.json comes last, there and here: without it the folder is
an upload or a download that has not finished, and goes on where it was. checksums.json beside it
holds bytes and SHA-256 of each file. Every host keeps its own copy, under $MT0_LOCAL_CACHE_DIR or
~/.cache/mt0_tpu/remote.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any, BinaryIO

from mt0_tpu.data.dataset_config import FEATURES
from mt0_tpu.data.indexed import IndexedDataset
from mt0_tpu.data.remote_files import CopyProgress, RemoteFiles, open_address
from mt0_tpu.data.sources import mixture_file, read_info, task_folder
from mt0_tpu.errors import UserError, did_you_mean
from mt0_tpu.retrying import retrying
from mt0_tpu.whole_file import write_whole

_CHECKSUMS, _INFO = "checksums.json", "info.json"
_BLOCK = 8 << 20  # bytes copied at a time
_THREADS = 8  # folders copied at a time: small files wait for the network, not for the disk


def local_root(url: str) -> Path:
    """Returns the local folder that copies of a remote cache folder live in."""
    url = url.rstrip("/")
    base = os.environ.get("MT0_LOCAL_CACHE_DIR") or "~/.cache/mt0_tpu/remote"
    name = f"{url.rsplit('/', 1)[-1]}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
    return Path(base).expanduser() / name


def fetch(
    url: str,
    mixture: str,
    splits: Sequence[str] | None = None,
    root: Path | None = None,
    say: Callable[[str], None] = print,
    required: bool = True,
) -> Path:
    """Copies a mixture's finished splits from a remote cache folder, if they are not here yet.

    Args:
        url: the remote cache folder.
        mixture: a mixture or task cached there.
        splits: which splits; None takes those that are there.
        root: the local cache folder; local_root(url) by default.
        say: receives lines of progress.
        required: whether every task must have the splits named, whole.

    Returns the local cache folder.

    Raises UserError: no such mixture there, a split that is not whole, files that differ from
    their checksums, an address that cannot be read.
    """
    url, root = url.rstrip("/"), root or local_root(url)
    files = open_address(url)
    described = files.read(mixture_file(Path(), mixture).name)
    if described is None:
        ending = ".mixture.json"
        known = [name.removesuffix(ending) for name in files.sizes() if name.endswith(ending)]
        raise UserError(
            f"'{mixture}' is not cached in {url}; run `mt0 cache --mixture {mixture} --cache_dir "
            f"{url}`.{did_you_mean(mixture, known)}"
        )
    jobs = [
        (entry["name"], split)
        for entry in _parsed(described, f"{url}/{mixture}.mixture.json")["tasks"]
        for split in entry["splits"]
        if splits is None or split in splits
    ]
    with _one_at_a_time(root):
        _fetch_folders(files, jobs, root, required and splits is not None, say)
        write_whole(mixture_file(root, mixture), described.decode())
    return root


def there(url: str, mixture: str) -> bool:
    """Whether a remote cache folder says what a mixture is."""
    return open_address(url.rstrip("/")).read(mixture_file(Path(), mixture).name) is not None


def publish(
    local: str | os.PathLike,
    url: str,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Copies one file, or the finished folder of a task's split, to a remote place.

    Files of a folder that an earlier, interrupted call copied whole are not copied again. A split
    that is linked to Megatron's files takes them along.

    Args:
        local: a file such as MIXTURE.mixture.json, or a folder with an info.json.
        url: where it goes: the file's or the folder's own address.
        overwrite: whether a finished folder that differs is replaced.
        say: receives lines of progress.

    Raises UserError: the folder is not finished, another one is there, or the address cannot be
    written.
    """
    local, url = Path(local), url.rstrip("/")
    if local.is_file():
        parent, _, name = url.rpartition("/")
        open_address(parent).write(name, local.read_bytes())
        return
    info = read_info(local)
    content = {p.name: p for p in sorted(local.iterdir()) if p.name not in (_INFO, _CHECKSUMS)}
    final = (local / _INFO).read_bytes()
    if "files" in info:
        content = {
            f"{feature}_document.{end}": Path(f"{info['files'][feature]}.{end}")
            for feature in FEATURES
            for end in ("bin", "idx")
        }
        final = json.dumps(_unlinked(info), indent=1, ensure_ascii=False).encode()
    files = open_address(url)
    found = files.read(_INFO)
    if found == final:
        return
    if found is not None:
        if not overwrite:
            raise UserError(
                f"{url} holds another cache of task '{local.parent.name}', split '{local.name}'; "
                "cache it with --overwrite to replace it, or choose another folder"
            )
        files.remove(_INFO)  # from here on it is not whole
    total = sum(path.stat().st_size for path in content.values())
    _upload(files, content, CopyProgress(say, "to", url, total))
    files.write(_INFO, final)


def _unlinked(info: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an info.json as it is where Megatron's files lie in the folder itself."""
    return {key: value for key, value in info.items() if key not in ("files", "originals")}


def _upload(files: RemoteFiles, content: Mapping[str, Path], progress: CopyProgress) -> None:
    """Copies files, noting each in the remote checksums.json once it is whole."""
    known = _parsed(files.read(_CHECKSUMS) or b"{}", f"{files.url}/{_CHECKSUMS}")
    sizes = files.sizes()
    done: dict[str, Any] = {}
    for name, path in content.items():
        mark = known.get(name)
        if mark and mark["bytes"] == path.stat().st_size == sizes.get(name):
            with path.open("rb") as stream:
                if _digest(stream).hexdigest() == mark["sha256"]:
                    done[name] = mark
                    progress.add(mark["bytes"])
                    continue
        sha256 = _again_from(files, name, progress, functools.partial(_send, files, name, path))
        done[name] = {"bytes": path.stat().st_size, "sha256": sha256}
        files.write(_CHECKSUMS, json.dumps(done, indent=1).encode())
    files.write(_CHECKSUMS, json.dumps(done, indent=1).encode())


def _send(files: RemoteFiles, name: str, path: Path, count: Callable[[int], None]) -> str:
    """Copies a file there; returns its SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as source, files.open(name, "wb") as target:
        while block := source.read(_BLOCK):
            digest.update(block)
            target.write(block)
            count(len(block))
    return digest.hexdigest()


def _again_from(files: RemoteFiles, name: str, progress: CopyProgress, copy: Callable) -> Any:
    """Runs copy(count), again after errors that may pass; bytes copied twice count once."""

    def attempt():
        counted = [0]

        def count(num_bytes: int) -> None:
            counted[0] += num_bytes
            progress.add(num_bytes)

        try:
            return copy(count)
        except BaseException:
            progress.add(-counted[0])
            raise

    return retrying(attempt, f"{files.url}/{name}")


def _fetch_folders(files: RemoteFiles, jobs, root: Path, required: bool, say) -> None:
    """Copies the folders of (task, split) that are whole there and not the same here."""
    remote = files.read_many([f"{task}/{split}/{_INFO}" for task, split in jobs])
    todo = []
    for task, split in jobs:
        info = remote.get(f"{task}/{split}/{_INFO}")
        if info is None:
            if required:
                raise UserError(
                    f"split '{split}' of task '{task}' is not whole in {files.url} (no info.json): "
                    f"its upload has not finished; run `mt0 cache --mixture {task} --split "
                    f"{split} --cache_dir {files.url}` again"
                )
            continue
        if not _is_here(task_folder(root, task, split), info):
            todo.append((task, split, info))
    if not todo:
        return
    progress = CopyProgress(say, "from", files.url, None)
    with futures.ThreadPoolExecutor(_THREADS) as pool:
        listed = list(pool.map(lambda job: _contents(files, *job[:2]), todo))
        progress.expect(sum(mark["bytes"] for marks in listed for mark in marks.values()))
        running = [
            pool.submit(_fetch_folder, files, root, *job, marks, progress)
            for job, marks in zip(todo, listed, strict=True)
        ]
        try:
            for future in futures.as_completed(running):
                future.result()
        except BaseException:
            progress.stopped.set()
            pool.shutdown(cancel_futures=True)
            raise
    progress.end(len(todo))


def _is_here(folder: Path, info: bytes) -> bool:
    path = folder / _INFO
    if not path.is_file():
        return False
    here = path.read_bytes()
    # What is linked here may have been published from here.
    return here == info or _unlinked(_parsed(here, str(path))) == _parsed(info, str(path))


def _contents(files: RemoteFiles, task: str, split: str) -> dict[str, dict[str, Any]]:
    """Returns {file: {"bytes", "sha256" where it is known}} of a finished remote folder."""
    inside = files.below(f"{task}/{split}")
    sizes = inside.sizes()
    sums = inside.read(_CHECKSUMS)
    if sums is None:  # copied there by other means
        return {
            name: {"bytes": size}
            for name, size in sizes.items()
            if name.rsplit(".", 1)[-1] in ("bin", "idx", "npy", "jsonl")
        }
    marks = _parsed(sums, f"{inside.url}/{_CHECKSUMS}")
    for name, mark in marks.items():
        if sizes.get(name) != mark["bytes"]:
            raise UserError(
                f"{inside.url}/{name} has {sizes.get(name, 'no')} bytes, expected "
                f"{mark['bytes']}; delete {inside.url}/{_INFO} and upload the cache again"
            )
    return marks


def _fetch_folder(files, root, task, split, info, marks, progress) -> None:
    inside = files.below(f"{task}/{split}")
    mark = hashlib.sha256(info).hexdigest()[:12]  # another upload is not mixed with this one
    partial = root / f".partial-fetched-{task}-{split}-{mark}"
    partial.mkdir(parents=True, exist_ok=True)
    for name, expected in marks.items():
        get = functools.partial(_download, inside, name, partial / name, expected, progress.stopped)
        _again_from(inside, name, progress, get)
    kind = _parsed(info, f"{inside.url}/{_INFO}").get("kind")
    for feature in ("inputs", "choices" if kind == "rank" else "targets"):
        try:
            IndexedDataset(partial / f"{feature}_document")
        except UserError as error:
            shutil.rmtree(partial)
            raise UserError(f"the cache in {inside.url} cannot be used: {error}") from error
    (partial / _INFO).write_bytes(info)
    final = task_folder(root, task, split)
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        shutil.rmtree(final)
    os.replace(partial, final)


def _download(
    inside: RemoteFiles,
    name: str,
    path: Path,
    expected: Mapping,
    stopped: threading.Event,
    count: Callable[[int], None],
) -> None:
    """Copies a file, going on where an earlier call was cut off."""
    if path.is_file():  # whole: it got its name after its checksum agreed
        count(expected["bytes"])
        return
    part = path.with_name(f"{path.name}.part")
    if part.is_file() and part.stat().st_size > expected["bytes"]:
        part.unlink()
    with part.open("a+b") as target, inside.open(name, "rb") as source:
        have = target.tell()
        target.seek(0)
        digest = _digest(target)
        count(have)
        source.seek(have)
        while block := source.read(_BLOCK):
            if stopped.is_set():
                return
            digest.update(block)
            target.write(block)
            count(len(block))
        target.flush()
        os.fsync(target.fileno())
    found = part.stat().st_size
    wrong = found != expected["bytes"] and "size"
    if not wrong and digest.hexdigest() != expected.get("sha256", digest.hexdigest()):
        wrong = "SHA-256"
    if wrong:
        part.unlink()
        raise UserError(
            f"{inside.url}/{name} arrived with another {wrong} than its upload noted; fetch it "
            "again, and if that happens twice upload the cache again"
        )
    os.replace(part, path)


def _digest(stream: BinaryIO) -> Any:
    digest = hashlib.sha256()
    while block := stream.read(_BLOCK):
        digest.update(block)
    return digest


def _parsed(content: bytes, where: str) -> dict[str, Any]:
    try:
        return dict(json.loads(content))
    except (ValueError, TypeError) as error:
        raise UserError(f"{where} is damaged ({error}); upload the cache again") from None


@contextlib.contextmanager
def _one_at_a_time(root: Path) -> Iterator[None]:
    """Lets one process at a time fetch into a folder; the others then find everything there."""
    import fcntl

    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
