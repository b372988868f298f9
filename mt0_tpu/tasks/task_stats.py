"""What a cached mixture holds: lengths, examples, shares of languages and clusters.

Reads the caches' indexes alone, through memory maps and in blocks; needs neither SeqIO nor
TensorFlow. Lengths count the EOS that is appended when an example is drawn.

Dims: S cached sequences, L lengths in tokens (0, 1, …).
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mt0_tpu.data import sources
from mt0_tpu.data.indexed import IndexedDataset
from mt0_tpu.data.providers import facts_of
from mt0_tpu.errors import UserError, did_you_mean

_BLOCK = 1 << 22  # sequences counted at a time
SHARES = ("examples", "tokens", "drawn", "drawn tokens")


@dataclasses.dataclass(frozen=True)
class Lengths:
    """How many sequences have each length; weights where they are drawn by rate.

    Attributes:
        counts_L: number (or weight) of sequences of 0, 1, 2, … tokens.
    """

    counts_L: np.ndarray

    @property
    def sequences(self) -> float:
        return float(self.counts_L.sum())

    @property
    def tokens(self) -> float:
        return float(self.counts_L @ np.arange(len(self.counts_L)))

    @property
    def mean(self) -> float:
        return self.tokens / max(self.sequences, 1e-300)

    @property
    def longest(self) -> int:
        there = np.flatnonzero(self.counts_L)
        return int(there[-1]) if len(there) else 0

    def percentile(self, percent: float) -> int:
        """Returns the least length that `percent` of the sequences do not exceed."""
        if not self.sequences:
            return 0
        share_L = np.cumsum(self.counts_L) / self.sequences
        # Rounding of the sums must not push a percentile to the next length.
        return int(np.searchsorted(share_L, percent / 100 - 1e-12))

    def share_above(self, limit: int) -> float:
        """Returns the share of the sequences that are longer than `limit`."""
        return float(self.counts_L[limit + 1 :].sum()) / max(self.sequences, 1e-300)

    def bins(self, fine: bool = False) -> list[tuple[int, float]]:
        """Returns (greatest length, share) of bins up to 0, 1, 2, 4, 8, … tokens.

        Empty bins at both ends are left out. `fine` puts another edge between every two: 3, 6, 12.
        """
        edges = [0, 1, 2]
        while edges[-1] < len(self.counts_L) - 1:
            edges += [edges[-1] * 3 // 2, 2 * edges[-1]] if fine else [2 * edges[-1]]
        ends = [0, *(edge + 1 for edge in edges)]
        total = max(self.sequences, 1e-300)
        shares = [
            float(self.counts_L[a:b].sum()) / total for a, b in zip(ends, ends[1:], strict=False)
        ]
        filled = np.flatnonzero(shares)
        first, last = (filled[0], filled[-1]) if len(filled) else (0, -1)
        return list(zip(edges, shares, strict=True))[first : last + 1]


@dataclasses.dataclass(frozen=True)
class TaskStats:
    """One cached split of one task.

    Attributes:
        name: the task.
        kind: 'pairs', 'rank' or 'span' (texts that span corruption turns into pairs).
        rate: its share in the mixture, any scale.
        examples: how many, or texts.
        dropped: examples that a step gave up at caching.
        lengths: by feature: (tokens with EOS, mean, 50th, 99th percentile, longest).
        facts: what is known of it, such as its language and cluster.
    """

    name: str
    kind: str
    rate: float
    examples: int
    dropped: int
    lengths: Mapping[str, tuple[int, float, int, int, int]]
    facts: Mapping[str, str]

    @property
    def tokens(self) -> int:
        return sum(figures[0] for figures in self.lengths.values())


@dataclasses.dataclass(frozen=True)
class Share:
    """A part of a mixture: a language, a cluster or a task; shares are 0..1.

    Attributes:
        name: which.
        tasks, examples, tokens: how many.
        of: the shares named in SHARES: of the cached examples and tokens, and of the examples
            and tokens that are drawn by rate.
        passes: times that a million drawn examples go through its examples.
    """

    name: str
    tasks: int
    examples: int
    tokens: int
    of: Mapping[str, float]
    passes: float


@dataclasses.dataclass(frozen=True)
class MixtureStats:
    """What one split of a mixture holds.

    Attributes:
        name, split, root: which, and the folder of caches.
        tasks: in the mixture's order, empty ones too.
        drawn: by feature, lengths as drawn by rate (of tasks that have the feature).
        trained: the opened tasks that can be trained on and are drawn.
        module: the module that registers it, if it is not one of ours.
    """

    name: str
    split: str
    root: Path
    tasks: tuple[TaskStats, ...]
    drawn: Mapping[str, Lengths]
    trained: tuple[sources.CachedTask, ...] = ()
    module: str | None = None

    @property
    def examples(self) -> int:
        return sum(task.examples for task in self.tasks)

    @property
    def tokens(self) -> int:
        return sum(task.tokens for task in self.tasks)

    @property
    def kinds(self) -> set[str]:
        return {task.kind for task in self.tasks}

    def shares(self, by: str) -> list[Share]:
        """Returns its parts by a fact ('language', 'cluster', …) or 'task', most drawn first."""
        groups: dict[str, list[TaskStats]] = {}
        for task in self.tasks:
            key = task.name if by == "task" else task.facts.get(by) or "(unknown)"
            groups.setdefault(str(key), []).append(task)
        shares = [self._share(name, tasks) for name, tasks in groups.items()]
        return sorted(shares, key=lambda share: (-share.of["drawn"], -share.tokens, share.name))

    def _share(self, name: str, tasks: Sequence[TaskStats]) -> Share:
        def drawn(some):
            return sum(task.rate for task in some if task.examples)

        def drawn_tokens(some):
            return sum(task.rate * task.tokens / task.examples for task in some if task.examples)

        examples, tokens = (sum(getattr(t, f) for t in tasks) for f in ("examples", "tokens"))
        of = {
            "examples": examples / max(self.examples, 1),
            "tokens": tokens / max(self.tokens, 1),
            "drawn": drawn(tasks) / (drawn(self.tasks) or 1),
            "drawn tokens": drawn_tokens(tasks) / (drawn_tokens(self.tasks) or 1),
        }
        passes = 1e6 * of["drawn"] / examples if examples else 0.0
        return Share(name, len(tasks), examples, tokens, of, passes)


def read_stats(root: Path, name: str, split: str) -> MixtureStats:
    """Returns what a cached mixture, or a single cached task, holds.

    Raises UserError: not cached, no such split, a damaged cache.
    """
    entries, module = _entries(root, name, split)
    there = [entry for entry in entries if split in entry["splits"]]
    if not there:
        splits = sorted({one for entry in entries for one in entry["splits"]})
        near = did_you_mean(split, splits)
        raise UserError(f"'{name}' has no split '{split}'; it has {', '.join(splits)}.{near}")
    weights = sum(entry["rate"] for entry in there) or 1.0
    tasks, drawn, trained = [], {}, []
    for entry in there:
        folder = sources.task_folder(root, entry["name"], split)
        info = sources.read_info(folder)
        if info["kind"] == "rank":
            counted = _count_ranked(folder, info)
        else:
            opened = sources.open_task(folder, entry["name"], entry["rate"])
            counted = _count_pairs(opened)
            if entry["rate"] > 0 and len(opened.datasets[1]):
                trained.append(opened)
        tasks.append(_task_stats(entry, info, counted))
        for feature, lengths in counted.items():
            if lengths.sequences:
                weight = entry["rate"] / weights / lengths.sequences
                drawn[feature] = _added(drawn.get(feature), weight * lengths.counts_L)
    features = {feature: Lengths(counts_L) for feature, counts_L in drawn.items()}
    return MixtureStats(name, split, root, tuple(tasks), features, tuple(trained), module)


def cached_splits(root: Path, task: str) -> list[str]:
    """Returns the splits of a task that lie in a folder of caches."""
    return sorted(path.parent.name for path in (root / task).glob("*/info.json"))


def _entries(root: Path, name: str, split: str) -> tuple[list[dict[str, Any]], str | None]:
    path = sources.mixture_file(root, name)
    if path.is_file():
        mixture = sources.read_json(path)
        return mixture["tasks"], mixture.get("module")
    # A task that was cached as part of a mixture has no file of its own.
    if splits := cached_splits(root, name):
        return [{"name": name, "rate": 1.0, "splits": splits}], None
    ending = ".mixture.json"
    known = [p.name.removesuffix(ending) for p in root.glob(f"*{ending}")] if root.is_dir() else []
    known += [entry["name"] for one in known for entry in _tasks_of(root, one)]
    raise UserError(
        f"'{name}' is not cached in {root}; run `mt0 cache --mixture {name} --cache_dir {root}`."
        + did_you_mean(name, dict.fromkeys(known))
    )


def _tasks_of(root: Path, mixture: str) -> list[dict[str, Any]]:
    try:
        return sources.read_json(sources.mixture_file(root, mixture))["tasks"]
    except (UserError, KeyError):
        return []


def _count_pairs(task: sources.CachedTask) -> dict[str, Lengths]:
    """Returns the lengths of inputs and targets, or of the texts that span corruption cuts up."""
    inputs, targets = task.datasets
    if task.step:  # EOS comes after the corruption
        return {"texts": Lengths(count_lengths(targets, False))}
    return {
        "inputs": Lengths(count_lengths(inputs, task.append_eos[0])),
        "targets": Lengths(count_lengths(targets, task.append_eos[1])),
    }


def _count_ranked(folder: Path, info: Mapping[str, Any]) -> dict[str, Lengths]:
    return {
        f: Lengths(count_lengths(IndexedDataset(folder / f"{f}_document"), info["append_eos"][f]))
        for f in ("inputs", "choices")
    }


def count_lengths(data: IndexedDataset, eos: bool) -> np.ndarray:
    """Returns int64 [L]: how many sequences have each length, read in blocks."""
    counts_L = np.zeros(1, np.int64)
    for begin in range(0, len(data), _BLOCK):
        sizes_S = np.asarray(data.sizes_S[begin : begin + _BLOCK], np.int64) + int(eos)
        counts_L = _added(counts_L, np.bincount(sizes_S))
    return counts_L


def _added(first_L: np.ndarray | None, second_L: np.ndarray) -> np.ndarray:
    """Returns the sum of two counts, the shorter filled with zeros."""
    if first_L is None:
        return second_L
    if len(first_L) < len(second_L):
        first_L, second_L = second_L, first_L
    total_L = first_L.copy()
    total_L[: len(second_L)] += second_L
    return total_L


def _task_stats(entry: Mapping, info: Mapping, counted: Mapping[str, Lengths]) -> TaskStats:
    figures = {
        feature: (
            int(lengths.tokens), lengths.mean, lengths.percentile(50), lengths.percentile(99),
            lengths.longest,
        )
        for feature, lengths in counted.items()
    }  # fmt: skip
    return TaskStats(
        name=entry["name"],
        kind="span" if info["draw_steps"] else info["kind"],
        rate=float(entry["rate"]),
        examples=int(info["num_examples"]),
        dropped=int(info.get("dropped", 0)),
        lengths=figures,
        facts=entry.get("facts") or facts_of(entry["name"]),
    )


def load_facts(module: str) -> None:
    """Imports a user's module, so that the facts it registers are known."""
    try:
        importlib.import_module("seqio_tasks").load(module)
    except ValueError as error:
        raise UserError(str(error)) from error
