"""Checkpoints elsewhere: buckets by fsspec, Hugging Face's Hub by name, copied to disk first.

A copy lies under $MT0_CHECKPOINTS_DIR (~/.cache/mt0_tpu/checkpoints) and is made once; a folder
appears there only when it is whole.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from mt0_tpu.errors import UserError
from mt0_tpu.formats.hf_names import TOKENIZER_FILES
from mt0_tpu.retrying import retrying

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w.-]+)?")
# One form of the weights is enough: safetensors, else torch's, else flax's.
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "flax_model*.msgpack")
_BESIDE = (
    "config.json", "generation_config.json", "*.index.json", "spiece.model", *TOKENIZER_FILES,
)  # fmt: skip


def bring(path: str, say: Callable[[str], None] = lambda text: None) -> str:
    """Returns a local path for a checkpoint's: itself, or a copy of what it names.

    Args:
      path: a local path, an address fsspec reads (gs://…), or NAME/NAME[@REVISION] on the Hub
        where nothing local is called so.
      say: takes lines of progress.

    Raises:
      UserError: it cannot be reached, or a library that reads it is missing.
    """
    if "://" in path:
        return str(_from_bucket(path.rstrip("/"), say))
    # A folder of this name beside us says that a local path was meant.
    if _HUB_NAME.fullmatch(path) and not os.path.exists(path.partition("/")[0]):
        return _from_hub(path, say)
    return path


def _folder(address: str) -> Path:
    root = os.environ.get("MT0_CHECKPOINTS_DIR") or "~/.cache/mt0_tpu/checkpoints"
    name = f"{address.rpartition('/')[2]}-{hashlib.sha256(address.encode()).hexdigest()[:12]}"
    # The last part stays the name: T5X's and Mesh TensorFlow's say the step in it.
    return Path(root).expanduser() / name / address.rpartition("/")[2]


def _from_bucket(address: str, say: Callable[[str], None]) -> Path:
    import fsspec

    try:
        files, root = fsspec.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise UserError(
            f"{address} cannot be read ({error}); for gs:// `pip install mt0_tpu[gcs]`, or copy it "
            "to local disk"
        ) from None
    final = _folder(address)
    if final.exists() or final.with_name(f"{final.name}.index").exists():
        return final
    try:
        found = retrying(lambda: files.find(root, detail=True), address)
        sizes = {name: info["size"] for name, info in found.items()}
    except Exception as error:
        raise UserError(
            f"{address} cannot be listed ({type(error).__name__}: {_first_line(error)}); look at "
            "its spelling, your access to it and the network, or copy it to local disk"
        ) from None
    if not sizes:
        # TensorFlow names a checkpoint by a prefix of its files.
        sizes = {n: files.info(n)["size"] for n in files.glob(f"{root}.*")}
        if not sizes:
            raise UserError(f"no checkpoint at {address}: there is nothing")
        return _download(files, sizes, root.rpartition("/")[0], final.parent, say) / final.name
    return _download(files, sizes, root, final, say)


def _download(files, sizes: dict[str, int], root: str, final: Path, say) -> Path:
    """Copies files below `root` to the folder `final`, which appears when all are there."""
    if None in sizes.values():
        raise UserError(
            f"{root} is a page of links and no bucket; write NAME/NAME for what is on the Hub, or "
            "copy the checkpoint to local disk"
        )
    if outside := [name for name in sizes if ".." in name.removeprefix(root).split("/")]:
        raise UserError(f"{outside[0]} would be copied to another folder; copy it by hand")
    total, done = sum(sizes.values()), 0
    partial = final.with_name(f"{final.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(partial).free
    if total > free:
        raise UserError(
            f"{root} has {total / 2**30:.1f} GiB and {partial.parent} {free / 2**30:.1f} GiB free; "
            "make room, or name another disk in MT0_CHECKPOINTS_DIR"
        )
    for name, size in sizes.items():
        there = partial / name.removeprefix(root).lstrip("/")
        if not (there.is_file() and there.stat().st_size == size):
            there.parent.mkdir(parents=True, exist_ok=True)
            _fetch(files, name, there.with_name(f"{there.name}.part"))
            os.replace(there.with_name(f"{there.name}.part"), there)
        done += size
        say(f"fetching {final.name}: {done / 2**30:.2f} of {total / 2**30:.2f} GiB")
    if final.is_dir():  # a prefix's folder, of another checkpoint beside it
        for file in partial.iterdir():
            os.replace(file, final / file.name)
        partial.rmdir()
    else:
        os.replace(partial, final)
    return final


def _fetch(files, name: str, part: Path) -> None:
    try:
        retrying(lambda: files.get_file(name, str(part)), name)
    except Exception as error:  # each kind of bucket has errors of its own
        raise UserError(
            f"{name} could not be fetched ({type(error).__name__}: {_first_line(error)}); run the "
            "same command again: what was fetched stays"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _from_hub(name: str, say: Callable[[str], None]) -> str:
    from huggingface_hub import HfApi, snapshot_download

    repository, _, revision = name.partition("@")
    try:
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
            return snapshot_download(repository, revision=revision or None)
        listed = HfApi().list_repo_files(repository, revision=revision or None)
        kind = next((k for k in _WEIGHTS if fnmatch.filter(listed, k)), None)
        if kind is None:
            raise UserError(f"{name} on the Hub holds no weights of transformers")
        say(f"fetching {name} from the Hub ({kind})")
        patterns = [kind, *_BESIDE]
        return snapshot_download(repository, revision=revision or None, allow_patterns=patterns)
    except UserError:
        raise
    except Exception as error:  # of its own, of HTTP, of the line: none is a mistake of ours
        raise UserError(
            f"no checkpoint at {name}: no such local folder, and {_why_not(error)}"
        ) from None


def _why_not(error: Exception) -> str:
    """What an error of the Hub's library means, and what helps."""
    from huggingface_hub import errors

    if isinstance(error, errors.RevisionNotFoundError):
        return "the Hub has no such revision of it; leave @REVISION out, or name a branch or commit"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the Hub has no such name, or shows it only after `hf auth login`"
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        return (
            "HF_HUB_OFFLINE is set and the Hub's cache has no copy of it; unset it, or give a "
            "local folder"
        )
    return (
        f"the Hub cannot be asked ({type(error).__name__}: {_first_line(error)}); give a local "
        "folder, or try again where there is a network"
    )
