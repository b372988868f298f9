"""`mt0 tasks fetch`: released files of the xP3 family, from the Hub to a local folder.

Neither SeqIO nor TensorFlow is needed.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from mt0_tpu.countdown import Countdown
from mt0_tpu.errors import UserError, did_you_mean
from mt0_tpu.progress import ProgressLine

_MIB = 1 << 20
_EVERY_SECONDS = 5.0
_ROOM = 64 * _MIB  # left free on the disk


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A file of a repository.

    Attributes:
        repository: on the Hub.
        commit: of the listing.
        path: in the repository.
        num_bytes: its size.
        folder: the local folder of its collection; None for huggingface_hub's cache.
    """

    repository: str
    commit: str
    path: str
    num_bytes: int
    folder: Path | None

    @property
    def is_there(self) -> bool:
        """Whether it lies there whole; a half is kept under another name."""
        if self.folder is None:
            from seqio_tasks import hub

            return hub.cached(self.repository, self.path, self.commit) is not None
        target = self.folder / self.path
        return target.is_file() and target.stat().st_size == self.num_bytes


def fetch(
    names: Sequence[str],
    data_dir: str | None = None,
    *,
    revision: str | None = None,
    refresh: bool = False,
    dry_run: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Downloads what names stand for; what is there is kept, what was broken off goes on.

    Args:
        names: collections, languages, clusters or tasks: 'xp3', 'xp3_sw', 'xp3mt_cluster_…'.
        data_dir: where the collections' folders go; $MT0_DATA_DIR by default. 'hf://' leaves them
            in huggingface_hub's cache.
        revision: branch, tag or commit of the repository; names must be of one collection.
        refresh: lists the repository anew instead of as it was listed before.
        dry_run: only says how much it is.
        say: receives lines of text.

    Raises UserError: unknown names, no such repository, offline, a disk too small.
    """
    from seqio_tasks import xp3_files

    root = data_dir or xp3_files.data_dir()
    if "://" in root and root != xp3_files.HUB:
        raise UserError(
            f"the data folder is {root}, and files are fetched to a local disk; name a local "
            "--data_dir and copy it there afterwards"
        )
    if refresh:
        os.environ["MT0_REFRESH_LISTINGS"] = "1"
    try:
        wanted = _wanted(names, None if root == xp3_files.HUB else Path(root), revision, say)
        missing = [file for file in wanted if not file.is_there]
        _say_sizes(wanted, missing, root, say)
        if missing and not dry_run:
            if root != xp3_files.HUB:
                _check_room(Path(root), missing)
            _download(wanted, missing)
    except ValueError as error:
        raise error if isinstance(error, UserError) else UserError(str(error)) from error
    finally:
        if refresh:
            del os.environ["MT0_REFRESH_LISTINGS"]
    if not dry_run and root not in (xp3_files.HUB, xp3_files.data_dir()):
        say(f"fetch: done; set MT0_DATA_DIR={root} to train on it")


def _wanted(names, root: Path | None, revision: str | None, say) -> list[Wanted]:
    """The files that names stand for, each once."""
    from seqio_tasks import xp3_files, xp3_names, xp3_tables

    released = xp3_tables.collections()
    parts = [xp3_names.collection_of(name) for name in names]
    for name, (collection, _) in zip(names, parts, strict=True):
        if not collection:
            raise UserError(
                f"'{name}' is of no released collection; there are {', '.join(released)}."
                f"{did_you_mean(name, released)}"
            )
    if revision and len({collection for collection, _ in parts}) > 1:
        raise UserError("--revision is of one repository; fetch each collection by itself")
    found: dict[tuple[str, str], Wanted] = {}
    for name, (own, rest) in zip(names, parts, strict=True):
        collection = released[own]
        store = xp3_files.hub_store(collection, revision)
        say(f"fetch: listing {store} for '{name}'")
        folder = None if root is None else _folder(root, collection)
        for file in _files(collection, store, rest, folder):
            found[file.repository, file.path] = file
    return list(found.values())


def _folder(root: Path, collection) -> Path:
    """The collection's folder: the one that is there, else one of its name."""
    from seqio_tasks import xp3_files

    store = xp3_files.find_store(collection, str(root))
    return Path(store.root) if store else root / collection.name


def _files(collection, store, rest: str, folder: Path | None) -> list[Wanted]:
    from seqio_tasks import xp3_layouts, xp3_plan

    found = []
    for plan in xp3_plan.named_plans(collection, store, rest):
        if collection.layout == "merged":
            names = xp3_layouts.merged_files(store, collection, plan.language)
        elif collection.layout == "p3":
            names = [n for split in plan.splits for n in xp3_layouts.p3_files(store, split)]
        else:
            names = [name for files in plan.splits.values() for name in files]
        listing = store.list(plan.folder)
        for name in names:
            path = f"{plan.folder}/{name}" if plan.folder else name
            size = listing.files[name]
            found.append(Wanted(store.repository, listing.commit, path, size, folder))
    return found


def _say_sizes(wanted, missing, root: str, say) -> None:
    total, left = (sum(file.num_bytes for file in files) for files in (wanted, missing))
    say(
        f"fetch: {len(wanted)} files, {total / _MIB:,.0f} MiB; "
        f"{len(missing)} files, {left / _MIB:,.0f} MiB are not yet in {root}"
    )


def _check_room(root: Path, missing: Sequence[Wanted]) -> None:
    there = root
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    needed = sum(file.num_bytes for file in missing) + _ROOM
    if free < needed:
        raise UserError(
            f"the disk of {root} has {free // _MIB:,} MiB left and {needed // _MIB:,} MiB are "
            "needed; make room, name another --data_dir, or fetch fewer languages"
        )


def _download(wanted: Sequence[Wanted], missing: Sequence[Wanted]) -> None:
    from seqio_tasks import hub

    total = sum(file.num_bytes for file in wanted)
    done = total - sum(file.num_bytes for file in missing)
    countdown = Countdown(
        "fetch", total // _MIB, "MiB", done // _MIB, ProgressLine(every_seconds=_EVERY_SECONDS)
    )
    for file in missing:
        arrived = 0

        def report(num_bytes: int) -> None:
            nonlocal arrived
            arrived += num_bytes
            countdown.update((done + arrived) // _MIB)  # noqa: B023  (called within the round)

        hub.download(
            file.repository,
            file.path,
            file.commit,
            local_dir=None if file.folder is None else str(file.folder),
            report=report,
        )
        done += file.num_bytes
    countdown.finish(total // _MIB)
