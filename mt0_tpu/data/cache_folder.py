"""How one split of one task gets to disk: shards, kept as they finish, then one whole folder.

A shard lies under CACHE_DIR/.partial-<task>-<split>-<fingerprint>/ until all are there, so that an
interrupted caching goes on where it was; the final folder appears by one rename. Nothing here holds
an array as long as a split: what grows with the examples waits in files.

Dims: N tokens, S sequences of a split, W of a window.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mt0_tpu.data.indexed import IndexedDataset, IndexedWriter, best_dtype
from mt0_tpu.data.length_counts import length_counts
from mt0_tpu.data.sources import INFO_VERSION, read_json, task_folder
from mt0_tpu.data.task_definition import TaskDefinition, short_hash
from mt0_tpu.data.tokenizing import Encoded
from mt0_tpu.errors import UserError

_MERGE_BLOCK = 1 << 16  # places in the source merged at a time
_ORDINALS = "ordinals.i64"
# What becomes of what a source holds, besides being cached; `dropped` by a step of the task.
LOSSES = ("dropped", "bad_lines", "empty")
_MOST_BAD_SHOWN = 3


def partial_folder(root: Path, task: str, split: str, fingerprint: Mapping[str, Any]) -> Path:
    """Returns where the shards of a split are kept until it is whole."""
    return root / f".partial-{task}-{split}-{short_hash(fingerprint)}"


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file under a temporary name, syncs it and renames it."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=1, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_shard(
    folder: Path,
    definition: TaskDefinition,
    batches: Iterable[Encoded],
    count: Callable[[int, int, int], None],
    keep_order: bool = False,
) -> None:
    """Writes a shard's examples to `folder`, which appears only when complete.

    Args:
        folder: where the shard goes.
        definition: its task.
        batches: its examples.
        count: called with (examples, tokens, bytes of the source) as they are written.
        keep_order: also write each example's place in the source, which merging shards needs
            unless they are ranges.
    """
    # Not by the process's number: on a shared disk two machines may have the same.
    temporary = folder.with_name(f"{folder.name}.tmp-{uuid.uuid4().hex[:12]}")
    temporary.mkdir(parents=True)
    writers = {
        name: IndexedWriter(temporary / f"{name}_document", _dtype(definition, name))
        for name in definition.features
    }
    answers, meta, losses, written = [], [], Losses(definition), {"examples": 0, "tokens": 0}
    order = (temporary / _ORDINALS).open("wb") if keep_order else None
    try:
        for batch in batches:
            for name, writer in writers.items():
                grouped = name == "choices"
                writer.add_flat(batch.flat[name], batch.sizes[name], end_document=not grouped)
                if grouped:
                    writer.end_documents(batch.groups)
            if order:
                order.write(np.asarray(batch.ordinals, np.int64).data)
            answers += batch.answers
            meta += batch.meta
            examples, tokens = len(batch.ordinals), sum(map(len, batch.flat.values()))
            written["examples"] += examples
            written["tokens"] += tokens
            count(examples, tokens, losses.add(batch.dropped))
        count(0, 0, losses.add(0))
        for writer in writers.values():
            writer.close()
        if order:
            order.close()
        if definition.kind == "rank":
            np.save(temporary / "answers.npy", np.asarray(answers, np.int32))
            with (temporary / "meta.jsonl").open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in meta)
        write_json(temporary / "shard.json", written | losses.as_json())
        _name(temporary, folder)
    except BaseException:
        for writer in writers.values():
            writer.abandon()
        if order:
            order.close()
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _name(temporary: Path, folder: Path) -> None:
    try:
        os.replace(temporary, folder)
    except OSError:
        if not folder.is_dir():
            raise
        # Another worker was given the same shard and was faster; its content is the same.
        shutil.rmtree(temporary, ignore_errors=True)


class Losses:
    """Counts what is not cached: dropped by steps, and, where a source tells, bad or empty."""

    def __init__(self, definition: TaskDefinition):
        self._take = getattr(definition.task.source, "take_tally", None)
        self._counts = dict.fromkeys(LOSSES, 0)
        self._first_bad: list[list] = []
        self.add(0)  # what the source counted before is not ours
        self._counts = dict.fromkeys(LOSSES, 0)
        self._first_bad = []

    def add(self, dropped: int) -> int:
        """Adds a batch's and returns the bytes that the source read for it."""
        self._counts["dropped"] += dropped
        if not self._take:
            return 0
        tally = self._take()
        self._counts["bad_lines"] += tally.bad
        self._counts["empty"] += tally.empty
        self._first_bad += [[file.url, *rest] for file, *rest in tally.first_bad]
        return tally.num_bytes

    def as_json(self) -> dict[str, Any]:
        """Returns the counts, and (file, byte, reason) of the first bad lines."""
        return {**self._counts, "first_bad": self._first_bad[:_MOST_BAD_SHOWN]}


def _dtype(definition: TaskDefinition, name: str) -> np.dtype:
    feature = definition.task.output_features.get(name)
    size = int(feature.vocabulary.vocab_size) if feature else 1
    return best_dtype(size) if size > 0 else np.dtype(np.int32)


def finish(
    root: Path,
    definition: TaskDefinition,
    split: str,
    fingerprint: Mapping[str, Any],
    shards: list[Path],
) -> dict[str, Any]:
    """Merges the shards of a split into its final folder and returns its info.json.

    An older folder under the same name is replaced: the caller asked for that.
    """
    whole = shards[0] if len(shards) == 1 else _join(shards, definition.features)
    losses = _lost(definition, split, [read_json(shard / "shard.json") for shard in shards])
    info = _info(definition, split, fingerprint, whole, losses)
    write_json(whole / "info.json", info)
    final = task_folder(root, definition.task.name, split)
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        shutil.rmtree(final)
    os.replace(whole, final)
    # A kill while info.json was written left its temporary in the one shard there is.
    for path in (final / _ORDINALS, final / "shard.json", *final.glob("*.tmp-*")):
        path.unlink(missing_ok=True)
    for leftover in root.glob(f".partial-{definition.task.name}-{split}-{'?' * 12}"):
        shutil.rmtree(leftover, ignore_errors=True)
    return info


def _join(shards: list[Path], features: Sequence[str]) -> Path:
    """Returns a new folder beside the shards with all their sequences."""
    # A name of its own: no two runs write into one folder.
    whole = shards[0].with_name(f"whole.tmp-{uuid.uuid4().hex[:12]}")
    whole.mkdir()
    merge = _merge if (shards[0] / _ORDINALS).exists() else _concatenate
    try:
        for name in features:
            merge(whole / f"{name}_document", [shard / f"{name}_document" for shard in shards])
    except BaseException:  # of a full disk above all
        shutil.rmtree(whole, ignore_errors=True)
        raise
    return whole


def _concatenate(prefix: Path, parts: list[Path]) -> None:
    """Writes the sequences of several sets one after the other."""
    with IndexedWriter(prefix, IndexedDataset(parts[0]).dtype) as writer:
        for part in parts:
            writer.append(part)


def _merge(prefix: Path, parts: list[Path]) -> None:
    """Writes the sequences of several sets in the order of their ordinals.

    So the cache does not depend on how many processes wrote it.
    """
    sets = [IndexedDataset(part) for part in parts]
    orders = [_order(part.parent / _ORDINALS) for part in parts]
    for data, order, part in zip(sets, orders, parts, strict=True):
        if len(data) != len(order):
            raise UserError(f"{part} holds {len(data)} sequences, expected {len(order)}")
    done = np.zeros(len(sets), np.int64)
    with IndexedWriter(prefix, sets[0].dtype) as writer:
        while any(left := [len(order) - at for order, at in zip(orders, done, strict=True)]):
            begin = min(order[at] for order, at, n in zip(orders, done, left, strict=True) if n)
            # No place occurs twice, so a window of so many places holds no more sequences.
            windows = [
                order[at : at + _MERGE_BLOCK] for order, at in zip(orders, done, strict=True)
            ]
            windows = [
                window[: np.searchsorted(window, begin + _MERGE_BLOCK)] for window in windows
            ]
            counts = np.array([len(window) for window in windows])
            owner_W = np.repeat(np.arange(len(sets)), counts)
            owner_W = owner_W[np.argsort(np.concatenate(windows), kind="stable")]
            writer.add_flat(*_interleaved(sets, done, owner_W))
            done += counts


def _order(path: Path) -> np.ndarray:
    """Returns the places of a shard's examples in the source, rising, memory-mapped."""
    if not path.stat().st_size:  # an empty file cannot be mapped
        return np.empty(0, np.int64)
    return np.memmap(path, np.int64, mode="r")


def _interleaved(sets, done, owner_W) -> tuple[np.ndarray, np.ndarray]:
    """Returns tokens and sizes of the next sequences of several sets, taken in turn by owner."""
    sizes_W = np.empty(len(owner_W), np.int64)
    for part, data in enumerate(sets):
        mine_W = owner_W == part
        sizes_W[mine_W] = data.sizes_S[done[part] : done[part] + mine_W.sum()]
    starts_W = np.cumsum(sizes_W) - sizes_W
    flat_N = np.empty(int(sizes_W.sum()), sets[0].dtype)
    for part, data in enumerate(sets):
        mine_W = owner_W == part
        _scatter(flat_N, data, int(done[part]), starts_W[mine_W], sizes_W[mine_W])
    return flat_N, sizes_W


def _scatter(flat_N, data, first, starts_W, sizes_W) -> None:
    """Copies the sequences first, first + 1, … of a set to the given places."""
    if not len(sizes_W):
        return
    begin = int(data.starts(np.array([first]))[0])
    read_W = np.cumsum(sizes_W) - sizes_W
    total = int(sizes_W.sum())
    places_N = np.repeat(starts_W - read_W, sizes_W) + np.arange(total)
    flat_N[places_N] = data.tokens_N[begin : begin + total]


def _lost(definition, split, shards: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the losses of all shards, the first bad lines with their line numbers."""
    losses = {key: sum(shard[key] for shard in shards) for key in LOSSES}
    first = list(itertools.chain(*(shard["first_bad"] for shard in shards)))[:_MOST_BAD_SHOWN]
    if first:
        where = definition.task.source.where
        losses["first_bad"] = [where(split, *place) for place in first]
    return losses


def _info(definition, split, fingerprint, folder: Path, losses) -> dict[str, Any]:
    outputs = definition.task.output_features
    features = {}
    for name in definition.features:
        feature = outputs.get(name)
        features[name] = {
            "add_eos": bool(feature and feature.add_eos),
            "vocab_size": int(feature.vocabulary.vocab_size) if feature else 0,
            "eos_id": feature.vocabulary.eos_id if feature else None,
            **length_counts(IndexedDataset(folder / f"{name}_document").sizes_S),
        }
    return {
        "version": INFO_VERSION,
        "task": definition.task.name,
        "split": split,
        "kind": definition.kind,
        "num_examples": features["inputs"]["sequences"],
        **losses,
        "features": features,
        "append_eos": dict(definition.append_eos),
        "eos_after_trim": definition.eos_after_trim,
        "draw_steps": list(definition.draw_steps),
        "fingerprint": dict(fingerprint),
    }
