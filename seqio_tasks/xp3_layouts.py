"""Which files of a folder a collection is read from, layout by layout, without SeqIO."""

from __future__ import annotations

import logging

from seqio_tasks import xp3_files
from seqio_tasks.xp3_files import Listing, Store
from seqio_tasks.xp3_tables import Collection

_ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".jsonl.xz", ".jsonl.bz2")

log = logging.getLogger(__name__)


def merged_files(store: Store, collection: Collection, language: str) -> list[str]:
    """Names of the files of a language in the merged layout.

    Raises:
      ValueError: the folder is missing or holds neither the merged file nor the prompts'.
    """
    listing = store.list(language)
    merged = [f"merged_{language}{ending}" for ending in _ENDINGS]
    found = [name for name in merged if name in listing.files]
    if len(found) > 1:
        raise ValueError(f"{store.join(language)} holds {' and '.join(found)}; keep one.")
    if not found:
        found = [name for name in listing.files if name.startswith("xp3_") and is_jsonl(name)]
    if not found:
        raise ValueError(
            nothing_usable(store, language, listing, f"merged_{language}.jsonl")
            + f" Get it with `mt0 tasks fetch {collection.name}_{language}`, or leave the "
            f"language out: xp3.add_mixture('my_mixture', '{collection.name}', languages=[…])."
        )
    return found


def nothing_usable(store: Store, folder: str, listing: Listing, wanted: str) -> str:
    """A sentence that says what a folder holds in place of what was wanted."""
    where = store.join(folder)
    if not listing.files and not listing.folders:
        return f"There is no folder {where}, or nothing in it; it should hold {wanted}."
    kinds = sorted({name.rpartition(".")[2] for name in listing.files})
    return (
        f"{where} holds no {wanted}, but {len(listing.files)} files of kind "
        f"{', '.join(kinds) or '-'}; it should hold JSON lines."
    )


def is_jsonl(name: str) -> bool:
    """Whether a file's name says that it holds JSON lines, compressed or not."""
    return name.endswith(_ENDINGS)


def stem_of(name: str) -> str:
    """A file's name without its ending."""
    return name.partition(".jsonl")[0]


def p3_files(store: Store, split: str) -> list[str]:
    """Names of P3's files of a split: unpacked where the user unpacked them, else the archive.

    Raises:
      ValueError: none of them is there.
    """
    listing = store.list()
    stem = f"p31t0_{split}"
    found = [name for name in listing.files if is_jsonl(name) and stem_of(name) == stem][:1]
    if not found and stem in listing.folders:
        inside = store.list(stem).files
        found = [f"{stem}/{name}" for name in inside if is_jsonl(name)]
    if not found and f"{stem}.zip" in listing.files:
        found = [f"{stem}.zip"]
    if not found:
        wanted = f"{stem}.zip or {stem}.jsonl" if split == "train" else f"{stem}.jsonl"
        raise ValueError(
            nothing_usable(store, "", listing, wanted) + " Get it with `mt0 tasks fetch p3`."
        )
    return found


def p3_paths(store: Store, split: str) -> list[str]:
    """What `p3_files` names, as paths that fsspec opens."""
    paths = []
    for path in store.open_paths("", p3_files(store, split)):
        paths += xp3_files.zip_members(path) if path.endswith(".zip") else [path]
    return paths


def megatron_files(language: str) -> list[str]:
    """The four files of a language of xP3megds."""
    return [
        f"xp3_{language}_{side}_document.{half}"
        for side in ("inputs", "targets")
        for half in ("bin", "idx")
    ]


def not_empty(names: list[str], listing: Listing, where: str) -> list[str]:
    """The names without empty files; a warning counts those."""
    empty = [name for name in names if not listing.files[name]]
    if empty:
        log.warning("%s: %d empty files are left out (%s)", where, len(empty), empty[0])
    return [name for name in names if listing.files[name]]


def check_no_doubles(names: list[str], where: str) -> None:
    """Refuses a file that lies there twice, compressed and not; ValueError."""
    stems: dict[str, str] = {}
    for name in names:
        if stem_of(name) in stems:
            raise ValueError(
                f"{where} holds {stems[stem_of(name)]} and {name}, which would count every example "
                "twice; keep one of them."
            )
        stems[stem_of(name)] = name
