"""Cached tasks opened for reading: which tasks a mixture has, and what each example costs a row.

Nothing here imports SeqIO or TensorFlow.

Dims: n examples, S cached sequences.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mt0_tpu.data.dataset_config import FEATURES, DatasetConfig, remote_url
from mt0_tpu.data.denoising import SpanCorruption, draw_step
from mt0_tpu.data.indexed import IndexedDataset
from mt0_tpu.data.mixing import stable_key
from mt0_tpu.errors import UserError, did_you_mean

INFO_VERSION = 1
# The published vocabulary of the one and embedding of the other.
_MT5_IDS, _BLOOM_ROWS = 250_100, 250_880


@dataclasses.dataclass(frozen=True)
class CachedTask:
    """One split of one task on disk.

    Attributes:
        name: the task.
        rate: its share in the mixture, any scale.
        info: what info.json says.
        datasets: inputs and targets.
        append_eos: whether an EOS follows inputs, targets.
        eos_ids: that EOS.
        eos_after_trim: whether an overlong example keeps its EOS (T5X's append_eos_after_trim).
        step: what runs when an example is drawn, if anything.
    """

    name: str
    rate: float
    info: dict[str, Any]
    datasets: tuple[IndexedDataset, IndexedDataset]
    append_eos: tuple[bool, bool]
    eos_ids: tuple[int, int]
    eos_after_trim: bool
    step: SpanCorruption | None

    @property
    def key(self) -> int:
        return stable_key("task", self.name)


def task_folder(cache_path: Path, task: str, split: str) -> Path:
    """Returns where the cache of one split of one task lives."""
    return cache_path / task / split


def mixture_file(cache_path: Path, name: str) -> Path:
    """Returns the file that says which tasks a mixture has, at which rates."""
    return cache_path / f"{name}.mixture.json"


def read_json(path: Path) -> dict[str, Any]:
    """Returns the file's object; UserError when it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); delete it and cache again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: found no object; delete it and cache again")
    return content


def open_sources(config: DatasetConfig) -> tuple[CachedTask, ...]:
    """Opens the cached tasks of a mixture that have the split, in the mixture's order.

    Of a remote cache folder it first copies what is not here yet.

    Raises UserError when the cache is missing or damaged.
    """
    name, root = config.mixture_or_task_name, config.cache_path
    url = remote_url(config.cache_dir)
    if url:
        from mt0_tpu.data import remote_cache

        remote_cache.fetch(url, name, [config.split])
    path = mixture_file(root, name)
    if not path.is_file():
        ending = ".mixture.json"
        known = [p.name[: -len(ending)] for p in root.glob(f"*{ending}")] if root.is_dir() else []
        raise UserError(
            f"'{name}' is not cached in {root}; run `mt0 cache --mixture {name} --cache_dir "
            f"{root}`.{did_you_mean(name, known)}"
        )
    entries = read_json(path)["tasks"]
    sources = []
    for entry in entries:
        if config.split in entry["splits"] and entry["rate"] > 0:
            folder = task_folder(root, entry["name"], config.split)
            sources.append(open_task(folder, entry["name"], entry["rate"]))
    if not sources:
        splits = sorted({split for entry in entries for split in entry["splits"]})
        near = did_you_mean(config.split, splits)
        raise UserError(f"'{name}' has no split '{config.split}'; it has {splits}.{near}")
    filled = tuple(source for source in sources if len(source.datasets[1]))
    if not filled:
        raise UserError(f"split '{config.split}' of '{name}' holds no example in any task")
    return filled


def check_vocabulary(sources: Sequence[CachedTask], vocab_size: int) -> None:
    """Raises UserError where ids are beyond the embedding's rows, or mT5's for BLOOM."""
    for source in sources:
        for name, feature in source.info["features"].items():
            if feature["vocab_size"] > vocab_size:
                raise UserError(
                    f"task '{source.name}' was cached with a vocabulary of "
                    f"{feature['vocab_size']} ids in '{name}', but the model has {vocab_size} "
                    "embedding rows (network.T5Config.vocab_size; mT5's 250,100 pieces take "
                    "250,112 rows); use the model gin that fits the task's vocabulary"
                )
            # mT5's would fit BLOOM's rows, and every word be another.
            if (feature["vocab_size"], vocab_size) == (_MT5_IDS, _BLOOM_ROWS):
                raise UserError(
                    f"task '{source.name}' was cached with mT5's vocabulary ({_MT5_IDS:,} ids) and "
                    f"the model has BLOOM's {_BLOOM_ROWS:,} rows: set MT0_VOCABULARY to BLOOM's "
                    "tokenizer.json, and cache into another folder"
                )


def read_info(folder: Path) -> dict[str, Any]:
    """Returns the info.json of one cached split; UserError when missing or of another version."""
    path = folder / "info.json"
    if not path.is_file():
        raise UserError(f"{path} is missing: the task is not cached; run `mt0 cache`")
    info = read_json(path)
    if info.get("version") != INFO_VERSION:
        raise UserError(
            f"{path} has version {info.get('version')!r}, expected {INFO_VERSION}; "
            "delete its folder and cache again"
        )
    return info


def open_task(folder: Path, name: str, rate: float = 1.0) -> CachedTask:
    """Opens one cached split; UserError when it is missing, damaged or a rank task."""
    info = read_info(folder)
    if info["kind"] != "pairs":
        raise UserError(
            f"task '{name}' ranks answer choices: `mt0 eval` scores it, nothing trains on it"
        )
    inputs, targets = _open_pair(folder, info)
    if not len(inputs) == len(targets) == info["num_examples"]:
        raise UserError(
            f"{folder} is damaged: found {len(inputs)} inputs and {len(targets)} targets, "
            f"expected {info['num_examples']}; delete it and cache again"
        )
    for data in (inputs, targets):
        data.expect_random_reads()
    steps = [draw_step(description) for description in info["draw_steps"]]
    features = info["features"]
    return CachedTask(
        name=name,
        rate=rate,
        info=info,
        datasets=(inputs, targets),
        append_eos=tuple(bool(info["append_eos"][f]) for f in FEATURES),
        eos_ids=tuple(int(features[f]["eos_id"] or 0) for f in FEATURES),
        eos_after_trim=info["eos_after_trim"],
        step=steps[0] if steps else None,
    )


def _open_pair(folder: Path, info: dict[str, Any]) -> tuple[IndexedDataset, IndexedDataset]:
    if "files" in info:
        from mt0_tpu.data import linked

        return linked.open_linked(folder, info)
    return tuple(IndexedDataset(folder / f"{feature}_document") for feature in FEATURES)


@dataclasses.dataclass(frozen=True)
class Measured:
    """What examples take of a row.

    Attributes:
        copied: tokens taken from the cache, (inputs int64 [n], targets int64 [n]).
        totals: the same with EOS.
        trimmed_n, overlong_n, empty_n: bool; overlong and empty ones are left out.
    """

    copied: tuple[np.ndarray, np.ndarray]
    totals: tuple[np.ndarray, np.ndarray]
    trimmed_n: np.ndarray
    overlong_n: np.ndarray
    empty_n: np.ndarray


class TaskExamples:
    """A cached task cut to a job's row lengths: example i is a sequence pair, or a chunk of one."""

    def __init__(self, task: CachedTask, config: DatasetConfig):
        self.task = task
        self._config = config
        self._limits = None
        if not config.decoder_only or "decoder" not in config.task_feature_lengths:
            self._limits = (config.inputs_length, config.targets_length)
        self._drop = config.overlong == "drop"
        self._chunk = None
        self._chunk_ends_S = None
        self.size = len(task.datasets[1])
        if task.step:
            if self._limits is None:
                raise UserError(
                    f"task '{task.name}' cuts spans out of texts when it is read, and needs a "
                    "length for either side: write TASK_FEATURE_LENGTHS = {'inputs': 512, "
                    "'targets': 128}, whose sum is the row"
                )
            rooms = [limit - eos for limit, eos in zip(self._limits, task.append_eos, strict=True)]
            self._chunk = task.step.longest(*rooms)
            sizes_S = task.datasets[1].sizes_S
            if sizes_S.max() > self._chunk:
                self._chunk_ends_S = np.cumsum(np.maximum(-(-sizes_S // self._chunk), 1))
                self.size = int(self._chunk_ends_S[-1])

    def spans(self, side: int, indices_n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (start, length) of cached tokens: inputs (side 0) or targets (side 1)."""
        data = self.task.datasets[side]
        if self._chunk_ends_S is None:
            return data.starts(indices_n), data.sizes_S[indices_n].astype(np.int64)
        documents_n = np.searchsorted(self._chunk_ends_S, indices_n, "right")
        # Chunks fill a row; a document's last one keeps what is left.
        before_n = np.where(documents_n > 0, self._chunk_ends_S[documents_n - 1], 0)
        offsets_n = (indices_n - before_n) * self._chunk
        left_n = data.sizes_S[documents_n] - offsets_n
        return data.starts(documents_n) + offsets_n, np.minimum(left_n, self._chunk)

    def measure(self, indices_n: np.ndarray) -> Measured:
        """Returns what these examples take of a row, and which are trimmed or left out.

        Trimming is T5X's: with append_eos_after_trim the EOS stays and the text gives way, else
        the text and its EOS are simply cut. An example with an empty side, EOS counted, is left
        out: without targets it teaches nothing, without inputs its cross-attention would fall on
        the other examples of its row. In a decoder-only row inputs may be empty: that is a text
        to learn, from its second token on.
        """
        task = self.task
        if task.step:
            _, lengths_n = self.spans(1, indices_n)
            sides = task.step.lengths(lengths_n)
        else:
            sides = tuple(data.sizes_S[indices_n].astype(np.int64) for data in task.datasets)
        copied, totals, long_n = [], [], np.zeros(len(indices_n), bool)
        empty_n = sides[1] < 1 if task.step else np.zeros(len(indices_n), bool)
        limits = self._limits or self._shares(*sides)
        for lengths_n, eos, limit in zip(sides, task.append_eos, limits, strict=True):
            long_n |= lengths_n + eos > limit
            totals_n = np.minimum(lengths_n + eos, limit)
            kept_eos = eos if task.eos_after_trim else 0
            copied.append(np.minimum(lengths_n, limit - kept_eos))
            totals.append(totals_n)
            if not self._config.decoder_only:
                empty_n |= totals_n == 0
        if self._config.decoder_only:
            empty_n |= (totals[1] == 0) | (totals[0] + totals[1] < 2)
        none_n = np.zeros(len(indices_n), bool)
        trimmed_n, overlong_n = (none_n, long_n) if self._drop else (long_n, none_n)
        return Measured(tuple(copied), tuple(totals), trimmed_n & ~empty_n, overlong_n, empty_n)

    def _shares(self, inputs_n: np.ndarray, targets_n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns what inputs and targets may take of a decoder-only row, each [n].

        The targets come first: without their end a text teaches not to stop. One input token
        stays, from which the first target is predicted; the last target is not fed, so a row of
        N positions holds N + 1 tokens.
        """
        room = self._config.decoder_length + 1
        inputs_n, targets_n = (
            lengths_n + eos
            for lengths_n, eos in zip((inputs_n, targets_n), self.task.append_eos, strict=True)
        )
        targets_limit_n = room - np.minimum(inputs_n, 1)
        return room - np.minimum(targets_n, targets_limit_n), targets_limit_n
