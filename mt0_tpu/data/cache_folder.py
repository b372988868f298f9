"""How one split of one task gets to disk: shards, kept as they finish, then one whole folder.

A shard lies under CACHE_DIR/.partial-<task>-<split>-<fingerprint>/ until all are there, so that an
interrupted caching goes on where it was; the final folder appears by one rename.

Dims: N tokens, S sequences.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mt0_tpu.data.indexed import IndexedDataset, IndexedWriter, best_dtype
from mt0_tpu.data.sources import INFO_VERSION, task_folder
from mt0_tpu.data.task_definition import TaskDefinition, short_hash
from mt0_tpu.data.tokenizing import Encoded
from mt0_tpu.errors import UserError

_MERGE_BLOCK = 1 << 16  # sequences merged at a time


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
    count: Callable[[int, int], None],
) -> None:
    """Writes a shard's examples to `folder`, which appears only when complete.

    Args:
        folder: where the shard goes.
        definition: its task.
        batches: its examples.
        count: called with (examples, tokens) as they are written.
    """
    temporary = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    writers = {
        name: IndexedWriter(temporary / f"{name}_document", _dtype(definition, name))
        for name in definition.features
    }
    ordinals, answers, meta, dropped = [np.empty(0, np.int64)], [], [], 0
    try:
        for batch in batches:
            for name, writer in writers.items():
                grouped = name == "choices"
                writer.add_flat(batch.flat[name], batch.sizes[name], end_document=not grouped)
                if grouped:
                    writer.end_documents(batch.groups)
            ordinals.append(batch.ordinals)
            answers += batch.answers
            meta += batch.meta
            dropped += batch.dropped
            count(len(batch.ordinals), sum(len(flat) for flat in batch.flat.values()))
        for writer in writers.values():
            writer.close()
        np.save(temporary / "ordinals.npy", np.concatenate(ordinals))
        if definition.kind == "rank":
            np.save(temporary / "answers.npy", np.asarray(answers, np.int32))
            with (temporary / "meta.jsonl").open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in meta)
        write_json(temporary / "shard.json", {"dropped": dropped})
        os.replace(temporary, folder)
    except BaseException:
        for writer in writers.values():
            writer.abandon()
        shutil.rmtree(temporary, ignore_errors=True)
        raise


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
    partial = partial_folder(root, definition.task.name, split, fingerprint)
    whole = partial / "whole"
    if len(shards) == 1:
        whole = shards[0]
    else:
        shutil.rmtree(whole, ignore_errors=True)
        whole.mkdir()
        orders = [np.load(shard / "ordinals.npy") for shard in shards]
        for name in definition.features:
            _merge(whole / f"{name}_document", [s / f"{name}_document" for s in shards], orders)
    dropped = sum(json.loads((s / "shard.json").read_text())["dropped"] for s in shards)
    info = _info(definition, split, fingerprint, whole, dropped)
    write_json(whole / "info.json", info)
    final = task_folder(root, definition.task.name, split)
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        shutil.rmtree(final)
    os.replace(whole, final)
    for name in ("ordinals.npy", "shard.json"):
        (final / name).unlink(missing_ok=True)
    for leftover in root.glob(f".partial-{definition.task.name}-{split}-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    return info


def _merge(prefix: Path, parts: list[Path], orders: list[np.ndarray]) -> None:
    """Writes the sequences of several sets in the order of their ordinals.

    So the cache does not depend on how many processes wrote it.
    """
    sets = [IndexedDataset(part) for part in parts]
    for data, order, part in zip(sets, orders, parts, strict=True):
        if len(data) != len(order):
            raise UserError(f"{part} holds {len(data)} sequences, expected {len(order)}")
    owner_S = np.repeat(np.arange(len(sets)), [len(order) for order in orders])
    owner_S = owner_S[np.argsort(np.concatenate(orders), kind="stable")]
    done = np.zeros(len(sets), np.int64)
    with IndexedWriter(prefix, sets[0].dtype) as writer:
        for begin in range(0, len(owner_S), _MERGE_BLOCK):
            block = owner_S[begin : begin + _MERGE_BLOCK]
            sizes_S = np.empty(len(block), np.int64)
            for part, data in enumerate(sets):
                mine = block == part
                sizes_S[mine] = data.sizes_S[done[part] : done[part] + mine.sum()]
            starts_S = np.cumsum(sizes_S) - sizes_S
            flat_N = np.empty(int(sizes_S.sum()), sets[0].dtype)
            for part, data in enumerate(sets):
                mine = block == part
                _scatter(flat_N, data, int(done[part]), starts_S[mine], sizes_S[mine])
                done[part] += mine.sum()
            writer.add_flat(flat_N, sizes_S)


def _scatter(flat_N, data, first, starts_S, sizes_S) -> None:
    """Copies the sequences first, first + 1, … of a set to the given places."""
    if not len(sizes_S):
        return
    begin = int(data.starts(np.array([first]))[0])
    read_S = np.cumsum(sizes_S) - sizes_S
    total = int(sizes_S.sum())
    places_N = np.repeat(starts_S - read_S, sizes_S) + np.arange(total)
    flat_N[places_N] = data.tokens_N[begin : begin + total]


def _info(definition, split, fingerprint, folder: Path, dropped: int) -> dict[str, Any]:
    outputs = definition.task.output_features
    features = {}
    for name in definition.features:
        sizes_S = IndexedDataset(folder / f"{name}_document").sizes_S
        feature = outputs.get(name)
        features[name] = {
            "add_eos": bool(feature and feature.add_eos),
            "vocab_size": int(feature.vocabulary.vocab_size) if feature else 0,
            "eos_id": feature.vocabulary.eos_id if feature else None,
            "sequences": len(sizes_S),
            "tokens": int(sizes_S.sum(dtype=np.int64)),
            "longest": int(sizes_S.max(initial=0)),
            "length_histogram": _histogram(sizes_S),
        }
    return {
        "version": INFO_VERSION,
        "task": definition.task.name,
        "split": split,
        "kind": definition.kind,
        "num_examples": features["inputs"]["sequences"],
        "dropped": dropped,
        "features": features,
        "append_eos": dict(definition.append_eos),
        "eos_after_trim": definition.eos_after_trim,
        "draw_steps": list(definition.draw_steps),
        "fingerprint": dict(fingerprint),
    }


def _histogram(sizes_S: np.ndarray) -> dict[str, list[int]]:
    """Returns counts of sequences of up to 0, 1, 2, 3, 4, 6, 8, 12, 16, … tokens."""
    top = max(int(sizes_S.max(initial=1)), 1).bit_length()
    edges = [0, 1, *(edge for j in range(1, top + 1) for edge in (1 << j, 3 << (j - 1)))]
    counts = np.bincount(np.searchsorted(edges, sizes_S), minlength=len(edges))
    return {"up_to": edges, "counts": counts.tolist()}
