"""Which evaluation examples share passages with training examples.

The evaluation side is held as sorted 64-bit keys (see text_keys) with the examples each belongs
to: up to 32 bytes a key, and the texts themselves for showing samples. The training side streams
by and costs a batch.

What the examples of a prompt have in common is no overlap. Of an evaluation task, prompt by prompt
where the examples say theirs,

* three words in a row that more than 20 % of at least three examples have are template, and a
  window must have half of its words, a short sentence three words and fifteen letters, outside;
* a window or sentence that more than ten and more than 5 % of the examples have, or more than half
  of at least three, is ignored in all examples of the task.

An evaluation example is touched where one training example has a window of it, or sentences and
whole texts that make up a quarter of its words outside the template. Less ("She was happy." of a
long story) is counted apart, as weak.

Dims: E evaluation examples, K keys of the evaluation side, H matches.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mt0_tpu.tasks.text_keys import Keyer, units

_BATCH = 2000  # examples keyed at a time
_COMMON_SHARE, _COMMON_LEAST = 0.05, 10
_TEMPLATE_SHARE = 0.2
_TOUCHED_SHARE = 0.25
_MOST_SAMPLES = 3  # kept of each pair of tasks
_FILTER_BITS = 22


@dataclasses.dataclass(frozen=True)
class Texts:
    """One example: its texts, and for evaluation examples the prompt they were rendered with."""

    texts: tuple[str, ...]
    prompt: str = ""


@dataclasses.dataclass
class Sample:
    """A pair of examples that share a passage."""

    strength: int
    passage: str
    training: str
    evaluation: str


@dataclasses.dataclass
class TaskPair:
    """What a training task shares with an evaluation task.

    Attributes:
        training_examples: how many training examples match.
        evaluation_examples: which evaluation examples they match, by number.
        samples: the pairs with most keys in common.
    """

    training_examples: int = 0
    evaluation_examples: set[int] = dataclasses.field(default_factory=set)
    samples: list[Sample] = dataclasses.field(default_factory=list)


class EvaluationIndex:
    """The evaluation examples to look for. Add tasks, then `close`, then `match`.

    Attributes:
        sizes: examples of each task.
        ignored: keys of each task that were left out as boilerplate.
        unkeyed: examples of each task that are too short to be looked for.
        by_window, by_whole, weak: bool [E], what matched so far; by number of example.
        pairs: by (training task, evaluation task).
    """

    def __init__(self):
        self._keyer = Keyer()
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._examples: list[Texts] = []
        self._first: dict[str, int] = {}
        self.sizes: dict[str, int] = {}
        self.ignored: dict[str, int] = {}
        self.unkeyed: dict[str, int] = {}
        self.pairs: dict[tuple[str, str], TaskPair] = collections.defaultdict(TaskPair)

    def add(self, task: str, examples: Iterable[Texts]) -> None:
        """Adds the examples of an evaluation task."""
        first = len(self._examples)
        self._examples += examples
        by_prompt: dict[str, list[int]] = collections.defaultdict(list)
        for number in range(first, len(self._examples)):
            by_prompt[self._examples[number].prompt].append(number)
        parts, common = [], [np.empty(0, np.uint64)]
        for numbers in by_prompt.values():
            keys, *rest = self._of_prompt(np.array(numbers))
            parts.append((keys, *rest))
            same, counts = np.unique(keys, return_counts=True)
            common.append(same[_is_common(counts, len(numbers))])
        size = len(self._examples) - first
        self._first[task], self.sizes[task] = first, size
        keys, owners, shares = _columns(parts)
        common = np.unique(np.concatenate(common))
        kept = ~np.isin(keys, common)
        self.ignored[task] = len(common)
        self.unkeyed[task] = size - len(np.unique(owners[kept]))
        self._parts.append((keys[kept], owners[kept], shares[kept]))

    def _of_prompt(self, numbers: np.ndarray) -> tuple[np.ndarray, ...]:
        """Returns (key, example, share) of the examples of one prompt, without its template."""
        examples = [self._examples[number] for number in numbers]
        template = self._template(examples)
        parts, done = [], 0
        for batch in _batches(examples):
            keys, owners, shares = self._unique(batch, template)
            parts.append((keys, numbers[done + owners].astype(np.int32), shares))
            done += len(batch)
        return _columns(parts)

    def _template(self, examples: Sequence[Texts]) -> np.ndarray:
        """Returns the shingles that a good share of a prompt's examples have, sorted."""
        if len(examples) < 3:
            return np.empty(0, np.uint64)
        # A sample says what is common as well as all of them do.
        some = examples[:: -(-len(examples) // _BATCH)]
        shingles, texts = self._keyer.shingles([t for e in some for t in e.texts])
        owners = _owners(some)[texts]
        order = np.lexsort((shingles, owners))
        kept = _first_of_each(shingles[order], owners[order])
        same, counts = np.unique(shingles[order][kept], return_counts=True)
        return same[(counts > _TEMPLATE_SHARE * len(some)) & (counts >= 3)]

    def _unique(self, batch: Sequence[Texts], template: np.ndarray) -> tuple[np.ndarray, ...]:
        """Returns (key, example, share in its example), each key once an example."""
        found = self._keyer([text for example in batch for text in example.texts], template)
        owners_T = _owners(batch)
        totals = np.bincount(owners_T, found.weights_T, len(batch))
        owners = owners_T[found.texts_K]
        shares = found.shares_K * found.weights_T[found.texts_K] / np.maximum(totals[owners], 1)
        order = np.lexsort((-shares, found.keys_K, owners))
        order = order[_first_of_each(found.keys_K[order], owners[order])]
        return found.keys_K[order], owners[order], shares[order].astype(np.float32)

    def close(self) -> None:
        """Sorts what was added; `match` may follow."""
        keys, owners, shares = _columns(self._parts)
        self._parts.clear()
        order = np.argsort(keys, kind="stable")
        keys, self._owners, self._shares = keys[order], owners[order], shares[order]
        self._begin = np.flatnonzero(np.diff(keys, prepend=~keys[:1]))
        self._keys = keys[self._begin]
        self._end = np.append(self._begin[1:], len(keys))
        # Most training keys are in nobody's evaluation: a table of bits says so cheaply.
        self._filter = np.zeros(1 << max(_FILTER_BITS, len(self._keys).bit_length() + 3), bool)
        self._filter[self._place(self._keys)] = True
        self._names = list(self._first)
        self._starts = np.array([self._first[name] for name in self._names], np.int64)
        self.by_window, self.by_whole, self.weak = (
            np.zeros(len(self._examples), bool) for _ in range(3)
        )

    def _place(self, keys: np.ndarray) -> np.ndarray:
        bits = len(self._filter).bit_length() - 1
        return (keys >> np.uint64(64 - bits)).astype(np.int64)

    @property
    def num_keys(self) -> int:
        return len(self._keys)

    def touched(self, task: str) -> tuple[int, int, int]:
        """Returns how many examples of a task are touched, by a window, and only weakly."""
        part = slice(self._first[task], self._first[task] + self.sizes[task])
        either = self.by_window[part] | self.by_whole[part]
        weak = self.weak[part] & ~either
        return int(either.sum()), int(self.by_window[part].sum()), int(weak.sum())

    def match(self, training_task: str, examples: Iterable[Texts]) -> int:
        """Looks for the evaluation examples in training examples; returns how many were read."""
        read = 0
        for batch in _batches(examples):
            read += len(batch)
            self._match_batch(training_task, batch)
        return read

    def _match_batch(self, training_task: str, batch: Sequence[Texts]) -> None:
        found = self._keyer([text for example in batch for text in example.texts])
        maybe = self._filter[self._place(found.keys_K)]
        keys, owners = found.keys_K[maybe], _owners(batch)[found.texts_K[maybe]]
        order = np.lexsort((keys, owners))
        order = order[_first_of_each(keys[order], owners[order])]
        keys, owners, whole = keys[order], owners[order], found.whole_K[maybe][order]
        places = np.minimum(np.searchsorted(self._keys, keys), max(len(self._keys) - 1, 0))
        hit = self._keys[places] == keys if len(self._keys) else np.zeros(len(keys), bool)
        if not hit.any():
            return
        places, owners, whole = places[hit], owners[hit], whole[hit]
        counts = self._end[places] - self._begin[places]
        which = np.repeat(np.arange(len(places)), counts)
        within = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        entries = self._begin[places][which] + within
        evaluated_H, trained_H = self._owners[entries].astype(np.int64), owners[which]
        whole_H = whole[which]
        _, pairs_H = np.unique(trained_H * len(self._examples) + evaluated_H, return_inverse=True)
        shares = np.bincount(pairs_H, self._shares[entries] * whole_H)
        windows = np.bincount(pairs_H, ~whole_H)
        enough_H = ((shares >= _TOUCHED_SHARE) | (windows > 0))[pairs_H]
        self.weak[evaluated_H[~enough_H]] = True
        evaluated_H, trained_H, whole_H = (
            evaluated_H[enough_H],
            trained_H[enough_H],
            whole_H[enough_H],
        )
        self.by_whole[evaluated_H[whole_H]] = True
        self.by_window[evaluated_H[~whole_H]] = True
        tasks_H = np.searchsorted(self._starts, evaluated_H, "right") - 1
        for number in np.unique(tasks_H):
            mine = tasks_H == number
            pair = self.pairs[training_task, self._names[number]]
            pair.training_examples += len(np.unique(trained_H[mine]))
            pair.evaluation_examples.update(np.unique(evaluated_H[mine]).tolist())
            self._sample(pair, batch, trained_H[mine], evaluated_H[mine])

    def _sample(self, pair: TaskPair, batch, trained_H, evaluated_H) -> None:
        size = len(self._examples)
        both, counts = np.unique(trained_H * size + evaluated_H, return_counts=True)
        weakest = min((s.strength for s in pair.samples), default=0)
        for at in np.argsort(-counts, kind="stable")[:_MOST_SAMPLES]:
            if len(pair.samples) == _MOST_SAMPLES and counts[at] <= weakest:
                break
            training, evaluation = batch[both[at] // size], self._examples[both[at] % size]
            if any(_shown(evaluation) == s.evaluation for s in pair.samples):
                continue
            passage = self._shared(training, evaluation)
            sample = Sample(int(counts[at]), passage, _shown(training), _shown(evaluation))
            pair.samples = sorted([*pair.samples, sample], key=lambda s: -s.strength)
            del pair.samples[_MOST_SAMPLES:]

    def _shared(self, training: Texts, evaluation: Texts) -> str:
        """Returns the longest passage that two examples share and that counts."""
        wanted = self._keyer(training.texts).keys_K
        found = self._keyer(evaluation.texts)
        counted = np.isin(found.keys_K, wanted) & np.isin(found.keys_K, self._keys)
        passages = []
        for text in np.unique(found.texts_K[counted]):
            words = [unit for unit in units(evaluation.texts[text]) if unit != "\0"]
            spans = found.spans_K[counted & (found.texts_K == text)]
            passages += [words[begin:end] for begin, end in _joined(spans)]
        longest = max(passages, key=len, default=[])
        return "".join(f" {word}" if len(word) > 1 else word for word in longest).strip()


def _joined(spans: np.ndarray) -> list[tuple[int, int]]:
    """Returns overlapping spans as one."""
    joined: list[tuple[int, int]] = []
    for begin, end in sorted(map(tuple, spans.tolist())):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((begin, end))
    return joined


def _shown(example: Texts) -> str:
    return " ⇥ ".join(text for text in example.texts if text)


def _owners(examples: Sequence[Texts]) -> np.ndarray:
    """Returns the example of each text."""
    return np.repeat(np.arange(len(examples)), [len(example.texts) for example in examples])


def _first_of_each(keys: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """Returns which of sorted (owner, key) differ from the one before."""
    first = np.ones(len(keys), bool)
    first[1:] = (keys[1:] != keys[:-1]) | (owners[1:] != owners[:-1])
    return first


def _columns(parts: Sequence[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    """Returns (key, example, share) of all parts end to end."""
    empty = (np.empty(0, np.uint64), np.empty(0, np.int32), np.empty(0, np.float32))
    return tuple(np.concatenate(column) for column in zip(empty, *parts, strict=True))


def _is_common(counts: np.ndarray, size: int) -> np.ndarray:
    many = counts > max(_COMMON_LEAST, _COMMON_SHARE * size)
    return many | ((2 * counts > size) & (size >= 3))


def _batches(examples: Iterable[Any]) -> Iterable[list[Any]]:
    batch: list[Any] = []
    for example in examples:
        batch.append(example)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
