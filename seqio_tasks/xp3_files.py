"""Where the files of the xP3 family lie: a local folder, a remote one, or the Hub itself.

$MT0_DATA_DIR (by default ~/.cache/mt0_tpu/data) holds a folder a collection, named as it or as
its repository (`xp3` or `xP3`), laid out as the repository is. It may be any address that fsspec
reads (gs://BUCKET/xp3-family), or `hf://`: the repositories, file by file, kept by huggingface_hub.
$MT0_HUB_REVISIONS pins commits: `xp3=COMMIT,xp3mt=COMMIT`.

Listings of remote folders are kept in $MT0_LISTINGS_DIR (~/.cache/mt0_tpu/listings), so that
registering a task needs no network the second time; MT0_REFRESH_LISTINGS=1 asks anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import zipfile
from pathlib import Path

from seqio_tasks import hub
from seqio_tasks.near_names import did_you_mean
from seqio_tasks.xp3_tables import Collection

HUB = "hf://"


@dataclasses.dataclass(frozen=True)
class Listing:
    """What one folder holds.

    Attributes:
      files: name in the folder -> bytes, sorted.
      folders: names, sorted.
      commit: of a Hub repository; '' elsewhere.
    """

    files: dict[str, int]
    folders: tuple[str, ...]
    commit: str = ""


@dataclasses.dataclass(frozen=True)
class Store:
    """The folder of one collection.

    Attributes:
      root: a local path, an fsspec address, or `hf://` and a repository.
      revision: of a repository; None for its main branch.
    """

    root: str
    revision: str | None = None

    @property
    def on_hub(self) -> bool:
        return self.root.startswith(HUB)

    @property
    def repository(self) -> str:
        return self.root.removeprefix(HUB)

    @property
    def local(self) -> bool:
        return "://" not in self.root

    def __str__(self) -> str:
        return f"the Hub's {self.repository}" if self.on_hub else self.root

    def join(self, *parts: str) -> str:
        """The address of something in the collection."""
        return "/".join([self.root.rstrip("/"), *(part for part in parts if part)])

    def list(self, folder: str = "", refresh: bool = False) -> Listing:
        """Lists a folder; an absent one is empty."""
        if self.local:
            return _local_listing(self.join(folder))
        refresh = refresh or bool(os.environ.get("MT0_REFRESH_LISTINGS"))
        kept = _kept_path(self, folder)
        if kept.is_file() and not refresh:
            return _read_kept(kept)
        listing = _remote_listing(self, folder)
        if listing.files or listing.folders:  # an empty one may be a bucket still being filled
            _keep(kept, f"{self.join(folder)} {self.revision or ''}", listing)
        return listing

    def open_paths(self, folder: str, names: list[str]) -> list[str]:
        """Paths that can be opened; files of the Hub are downloaded now."""
        if not self.on_hub:
            return [self.join(folder, name) for name in names]
        commit = self.list(folder).commit
        paths = ["/".join(filter(None, (folder, name))) for name in names]
        return [hub.download(self.repository, path, commit) for path in paths]


def data_dir() -> str:
    """The folder of all collections: $MT0_DATA_DIR, else ~/.cache/mt0_tpu/data."""
    chosen = os.environ.get("MT0_DATA_DIR") or "~/.cache/mt0_tpu/data"
    return chosen if "://" in chosen else str(Path(chosen).expanduser().absolute())


def hub_store(collection: Collection, revision: str | None = None) -> Store:
    """The collection's own repository."""
    return Store(HUB + collection.repository, revision or _revisions().get(collection.name))


def find_store(collection: Collection, root: str | None = None) -> Store | None:
    """Where a collection lies, or None where it is not at hand.

    Args:
      root: the folder of all collections; `data_dir()` by default.

    Raises:
      ValueError: two folders could be the collection.
    """
    root = root or data_dir()
    if root == HUB:
        return hub_store(collection)
    wanted = {collection.name.lower(), collection.repository.rpartition("/")[2].lower()} - {""}
    try:
        names = [n for n in Store(root).list().folders if n.lower() in wanted]
        if not names and "://" in root:  # the listing kept may be older than the folder
            names = [n for n in Store(root).list(refresh=True).folders if n.lower() in wanted]
    # ValueError: a protocol that fsspec does not know; ImportError: one whose package is missing.
    except (OSError, ImportError, ValueError) as error:
        raise ValueError(f"MT0_DATA_DIR is {root}, which cannot be read: {error}") from error
    if len(names) > 1:
        raise ValueError(
            f"{root} holds {len(names)} folders of one collection: {', '.join(names)}; "
            "keep one of them, or move the other elsewhere."
        )
    return Store(Store(root).join(names[0])) if names else None


def store(collection: Collection) -> Store:
    """Where a collection lies.

    Raises:
      ValueError: it is not at hand; says where it was looked for and how to get it.
    """
    found = find_store(collection)
    if found is None:
        root = data_dir()
        set_by = "MT0_DATA_DIR" if os.environ.get("MT0_DATA_DIR") else "the default MT0_DATA_DIR"
        near = did_you_mean(collection.name, Store(root).list().folders)
        raise ValueError(
            f"There is no folder '{collection.name}' in {root} ({set_by}); point MT0_DATA_DIR at "
            f"the folder that holds it, write MT0_DATA_DIR=hf:// to read the Hub, or download it: "
            f"mt0 tasks fetch {collection.name}.{near}"
        )
    return found


def zip_members(address: str) -> list[str]:
    """The .jsonl members of a zip archive as paths that fsspec opens, without unpacking it.

    Raises:
      ValueError: it is no whole archive, or holds no such member.
    """
    import fsspec

    try:
        with fsspec.open(address, "rb") as file, zipfile.ZipFile(file) as archive:
            names = sorted(archive.namelist())
    except zipfile.BadZipFile as error:
        raise ValueError(f"{address} is no whole zip archive ({error}); fetch it again.") from None
    members = [f"zip://{name}::{address}" for name in names if name.endswith(".jsonl")]
    if not members:
        raise ValueError(
            f"{address} holds no .jsonl file, but {len(names)} others ({', '.join(names[:3])}); "
            "unpack it and put the examples beside it as JSON lines."
        )
    return members


def _local_listing(path: str) -> Listing:
    files, folders = {}, []
    if not os.path.isdir(path):
        return Listing({}, ())
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith("."):  # .cache of huggingface_hub, .git, halves of files
                continue
            if entry.is_symlink() and not os.path.exists(entry.path):
                raise ValueError(f"{entry.path} is a link to nothing; mend or remove it.")
            if entry.is_dir():
                folders.append(entry.name)
            else:
                files[entry.name] = entry.stat().st_size
    return Listing(dict(sorted(files.items())), tuple(sorted(folders)))


def _remote_listing(store: Store, folder: str) -> Listing:
    if store.on_hub:
        found = hub.list_folder(store.repository, folder, store.revision)
        return Listing(
            {path.rpartition("/")[2]: size for path, size in found.files.items()},
            tuple(path.rpartition("/")[2] for path in found.folders),
            found.commit,
        )
    import fsspec

    files, folders = {}, []
    filesystem, path = fsspec.core.url_to_fs(store.join(folder))
    try:
        entries = filesystem.ls(path, detail=True)
    except FileNotFoundError:
        return Listing({}, ())
    for entry in entries:
        name = entry["name"].rstrip("/").rpartition("/")[2]
        if entry["type"] == "directory":
            folders.append(name)
        else:
            files[name] = int(entry.get("size") or 0)
    return Listing(dict(sorted(files.items())), tuple(sorted(folders)))


def _revisions() -> dict[str, str]:
    text = os.environ.get("MT0_HUB_REVISIONS", "")
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    for name, equals, revision in pairs:
        if not equals or not revision.strip():
            raise ValueError(
                f"MT0_HUB_REVISIONS is '{text}', where '{name}' names no revision; "
                "write COLLECTION=COMMIT,COLLECTION=COMMIT."
            )
    return {name.strip(): revision.strip() for name, _, revision in pairs}


# listings that are kept


def _kept_path(store: Store, folder: str) -> Path:
    root = Path(os.environ.get("MT0_LISTINGS_DIR") or "~/.cache/mt0_tpu/listings").expanduser()
    what = f"{store.join(folder)} {store.revision or ''}"
    return root / f"{hashlib.sha256(what.encode()).hexdigest()[:24]}.tsv"


def _keep(path: Path, what: str, listing: Listing) -> None:
    lines = [f"# {what}", f"# commit\t{listing.commit}"]
    lines += [f"{name}\t{size}" for name, size in listing.files.items()]
    lines += [f"{name}/\t" for name in listing.folders]
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    half.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(half, path)


def _read_kept(path: Path) -> Listing:
    files, folders, commit = {}, [], ""
    for line in path.read_text(encoding="utf-8").split("\n"):
        name, _, value = line.partition("\t")
        if name == "# commit":
            commit = value
        elif name.endswith("/"):
            folders.append(name[:-1])
        elif name and not name.startswith("# "):
            files[name] = int(value)
    return Listing(files, tuple(folders), commit)
