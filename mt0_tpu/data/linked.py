"""Existing Megatron .bin/.idx pairs as a cache, without copying a token.

The cache folder of such a task holds info.json alone. It names the files by absolute path and
says how large and how old each was, so that a file that was moved or changed since is noticed.

Dims: S sequences, N tokens.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mt0_tpu.data.dataset_config import FEATURES
from mt0_tpu.data.indexed import IndexedDataset
from mt0_tpu.data.length_counts import length_counts
from mt0_tpu.data.sources import INFO_VERSION, task_folder
from mt0_tpu.errors import UserError
from mt0_tpu.whole_file import write_whole

_ENDINGS = ("bin", "idx")
_BLOCK = 1 << 22  # tokens looked at a time
# Ids are all looked at in files of up to 1 GiB or so, else in this many blocks spread evenly.
_MOST_BLOCKS = 64


def link(root: Path, definition: Any, split: str, fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """Makes a split of a task whose source has `megatron_prefixes` readable as a cache.

    Reads the two indices whole, and the token ids where they are few, else a sample of them.

    Args:
        root: the cache folder.
        definition: the task, a task_definition.TaskDefinition.
        split: the split.
        fingerprint: what the task is made of, kept in info.json.

    Returns the info.json written to root/<task>/<split>; an older folder there is replaced.

    Raises UserError: files missing, damaged, of different counts, of a type that holds no token
    ids, with several sequences a document, or with ids beyond the vocabulary.
    """
    task = definition.task
    if definition.kind != "pairs" or definition.before:
        raise UserError(
            f"task '{task.name}' reads Megatron files, whose tokens are used as they are: give it "
            "the features inputs and targets and no step before CacheDatasetPlaceholder"
        )
    try:
        prefixes = task.source.megatron_prefixes(split)
    except ValueError as error:
        raise UserError(f"task '{task.name}': {error}") from error
    originals = [Path(f"{prefixes[f]}.{end}") for f in FEATURES for end in _ENDINGS]
    marks = [_marks(path) for path in originals if path.is_file()]
    datasets = {feature: IndexedDataset(prefixes[feature]) for feature in FEATURES}
    counts = {feature: len(data) for feature, data in datasets.items()}
    if len(set(counts.values())) > 1:
        raise UserError(
            f"task '{task.name}': {prefixes['inputs']} has {counts['inputs']} sequences and "
            f"{prefixes['targets']} has {counts['targets']}; name the two files of one data set, "
            "which pair one to one"
        )
    info = {
        "version": INFO_VERSION,
        "task": task.name,
        "split": split,
        "kind": definition.kind,
        "num_examples": counts["inputs"],
        "dropped": 0,
        "bad_lines": 0,
        "empty": 0,
        "features": {name: _feature(task, name, data) for name, data in datasets.items()},
        "append_eos": dict(definition.append_eos),
        "eos_after_trim": definition.eos_after_trim,
        "draw_steps": list(definition.draw_steps),
        "fingerprint": dict(fingerprint),
        "files": {feature: str(prefixes[feature]) for feature in FEATURES},
        "originals": marks,
    }
    _write_info(root, info)
    return info


def _feature(task: Any, name: str, data: IndexedDataset) -> dict[str, Any]:
    """Returns what info.json says of one side; UserError for ids that cannot be right."""
    feature = task.output_features[name]
    vocab_size = int(feature.vocabulary.vocab_size)
    return {
        "add_eos": bool(feature.add_eos),
        "vocab_size": vocab_size,
        "eos_id": feature.vocabulary.eos_id,
        "ids_checked": _check_tokens(data, vocab_size, task.name),
        **length_counts(data.sizes_S),
    }


def _write_info(root: Path, info: Mapping[str, Any]) -> None:
    folder = task_folder(root, info["task"], info["split"])
    temporary = root / f".partial-{info['task']}-{info['split']}-linked-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    write_whole(temporary / "info.json", json.dumps(info, indent=1, ensure_ascii=False))
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(temporary, folder)


def open_linked(folder: Path, info: Mapping[str, Any]) -> tuple[IndexedDataset, IndexedDataset]:
    """Opens the (inputs, targets) that a linked cache names, its index not read again.

    Raises UserError when a file is gone, or differs in size or time from when it was linked.
    """
    advice = (
        f"put it back, or link the task again: `mt0 cache --mixture {info['task']} --cache_dir "
        f"{folder.parent.parent} --overwrite`"
    )
    for was in info["originals"]:
        path = Path(was["path"])
        if not path.is_file():
            raise UserError(
                f"{path} is gone: split '{info['split']}' of task '{info['task']}' is linked to "
                f"it, not copied; {advice}"
            )
        now = _marks(path)
        if now != was:
            what = "bytes" if now["bytes"] != was["bytes"] else "mtime_ns"
            raise UserError(
                f"{path} changed since task '{info['task']}' was linked to it: {what} was "
                f"{was[what]}, is {now[what]}; {advice}"
            )
    return tuple(IndexedDataset(info["files"][f], check_index=False) for f in FEATURES)


def _marks(path: Path) -> dict[str, Any]:
    stat = path.stat()
    return {"path": str(path), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _check_tokens(data: IndexedDataset, vocab_size: int, task: str) -> str:
    """Returns 'all' or 'sample': which ids were looked at; UserError for wrong ones."""
    file = f"{data.prefix}.bin"
    if data.dtype.kind not in "iu":
        raise UserError(
            f"task '{task}': {file} holds {data.dtype}, expected token ids (int32 or uint16)"
        )
    if data.num_documents != len(data):
        raise UserError(
            f"task '{task}': {data.prefix}.idx has {len(data)} sequences in {data.num_documents} "
            "documents; pairs need one sequence a document, as Megatron's preprocessing writes "
            "without --split-sentences"
        )
    blocks = np.arange(0, len(data.tokens_N), _BLOCK)
    sampled = len(blocks) > _MOST_BLOCKS
    if sampled:
        blocks = blocks[np.linspace(0, len(blocks) - 1, _MOST_BLOCKS).astype(np.int64)]
    for begin in blocks:
        tokens_N = data.tokens_N[begin : begin + _BLOCK]
        low, high = int(tokens_N.min()), int(tokens_N.max())
        if low < 0 or (vocab_size > 0 and high >= vocab_size):
            raise UserError(
                f"task '{task}': {file} holds ids {low} to {high}, and its vocabulary has "
                f"{vocab_size}; name the vocabulary that the files were tokenised with"
            )
    return "sample" if sampled else "all"
