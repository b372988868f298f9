"""A task's examples as token ids: in plain Python where its steps allow, else through tf.data.

Dims: N tokens, S sequences.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mt0_tpu.data.task_definition import TaskDefinition, is_tokenize, name_of
from mt0_tpu.errors import UserError

# What a batch holds at most. Its token ids are Python integers for a moment, some 40 bytes each, so
# a batch of long texts must hold fewer of them.
_BATCH, _BATCH_CHARACTERS = 2048, 1 << 21
_BYTE_OFFSET = 3  # ByteVocabulary: pad, eos, unk come before the bytes


@dataclasses.dataclass
class Encoded:
    """Consecutive examples of a task.

    Attributes:
        ordinals: the place of each example in the source, for merging shards that are no ranges.
        flat: by feature, int64 token ids end to end.
        sizes: by feature, the length of each sequence; of choices, of each choice.
        groups: choices of each example (rank tasks).
        answers: index of the right choice (rank tasks).
        meta: the other plain fields of each example (rank tasks).
        dropped: examples that a step gave up.
    """

    ordinals: np.ndarray
    flat: dict[str, np.ndarray]
    sizes: dict[str, np.ndarray]
    groups: list[int]
    answers: list[int]
    meta: list[dict[str, Any]]
    dropped: int


def encoded(
    definition: TaskDefinition,
    split: str,
    shard: int = 0,
    shards: int = 1,
    threads: int = 1,
    ranged: bool = False,
) -> Iterator[Encoded]:
    """Gives a shard of a split in batches.

    Args:
        definition: the task.
        split: the split.
        shard, shards: every shards-th example from shard on (files, where a source has files).
        threads: threads of a tokeniser.
        ranged: the shard is one of the source's own ranges (its `ranges`), whole and in order.

    Raises UserError: what the source holds is no example, or cannot be tokenised.
    """
    if definition.plain:
        batches = _plain(definition, split, shard, shards, threads, ranged)
    else:
        batches = _through_tf_data(definition, split, shard, shards)
    try:
        for ordinals, examples, dropped in batches:
            yield _flatten(definition, np.asarray(ordinals, np.int64), examples, dropped)
    except UserError:
        raise
    except ValueError as error:  # a source's own words
        raise UserError(f"task '{definition.task.name}': {error}") from error


def can_shard(definition: TaskDefinition, split: str, shards: int) -> bool:
    """Whether reading a shard costs less than reading the whole split."""
    if definition.kind == "rank":
        return False  # small, and its choices stay in the source's order
    source = definition.task.source
    return definition.plain or source.supports_arbitrary_sharding or (
        len(source.list_shards(split)) >= shards
    )  # fmt: skip


def _plain(definition, split, shard, shards, threads, ranged):
    source = definition.task.source
    examples = (
        source.range_examples(split, shard)
        if ranged
        else source.python_examples(split, shard, shards)
    )
    numbered = zip(itertools.count(shard, shards), examples, strict=False)
    while batch := _batch(numbered):
        ordinals = [ordinal for ordinal, _ in batch]
        examples = [dict(example) for _, example in batch]
        for step in definition.before:
            if is_tokenize(step):
                _tokenize(definition, examples, threads)
            else:
                mapped = [step.numpy_map(example) for example in examples]
                ordinals = [o for o, e in zip(ordinals, mapped, strict=True) if e is not None]
                examples = [example for example in mapped if example is not None]
        yield ordinals, examples, len(batch) - len(examples)


def _batch(numbered: Iterator[tuple[int, dict]]) -> list[tuple[int, dict]]:
    """Returns the next examples: as many as a batch takes, fewer where their texts are long."""
    batch, characters = [], 0
    for ordinal, example in numbered:
        batch.append((ordinal, example))
        characters += sum(len(text) for text in example.values() if isinstance(text, str))
        if len(batch) >= _BATCH or characters >= _BATCH_CHARACTERS:
            break
    return batch


def _tokenize(definition: TaskDefinition, examples: list[dict], threads: int) -> None:
    """Replaces the text of every output feature by its ids, as seqio.preprocessors.tokenize."""
    for name, feature in definition.task.output_features.items():
        holders = [example for example in examples if example.get(name) is not None]
        values = [example[name] for example in holders]
        try:
            if feature.rank == 2:
                ids = iter(encode(feature.vocabulary, list(itertools.chain(*values)), threads))
                lists = [list(itertools.islice(ids, len(value))) for value in values]
            else:
                lists = encode(feature.vocabulary, values, threads)
        except (TypeError, AttributeError, RuntimeError, UnicodeError) as error:
            raise UserError(
                f"task '{definition.task.name}': field '{name}' cannot be tokenised by "
                f"{name_of(feature.vocabulary)} ({error}); the first one is {values[0]!r:.80}"
            ) from error
        for example, ids in zip(holders, lists, strict=True):
            example[name] = ids


def encode(vocabulary: Any, values: Sequence[Any], threads: int = 1) -> list[Sequence[int]]:
    """Returns the ids of each text, as vocabulary.encode gives them."""
    kinds = {kind.__name__ for kind in type(vocabulary).__mro__}
    if "SentencePieceVocabulary" in kinds:
        # numpy-free lists are as fast; seqio's own call takes one text at a time.
        return vocabulary.tokenizer.encode(list(values), out_type=int, num_threads=threads)
    if "TokenizersVocabulary" in kinds:
        return vocabulary.encode_all(values, threads)
    if type(vocabulary).__name__ == "ByteVocabulary":
        return [
            np.frombuffer(value.encode(), np.uint8).astype(np.int64) + _BYTE_OFFSET
            for value in values
        ]
    return [vocabulary.encode(value) for value in values]


def _through_tf_data(definition, split, shard, shards):
    """Runs the steps before the placeholder as SeqIO does, over the unshuffled source."""
    import seqio

    task = definition.task
    info = seqio.ShardInfo(shard, shards) if shards > 1 else None
    dataset = task.source.get_dataset(split=split, shuffle=False, seed=None, shard_info=info)
    # Fixed seeds: caching twice gives the same cache.
    with seqio.utils.map_seed_manager(0):
        dataset = task._preprocess_dataset(dataset, definition.before)
    examples = iter(dataset.prefetch(16).as_numpy_iterator())
    count = itertools.count(shard, shards)
    while batch := _next_batch(task, examples):
        yield [next(count) for _ in batch], batch, 0


def _next_batch(task: Any, examples: Iterator[dict]) -> list[dict]:
    import tensorflow as tf

    try:
        return list(itertools.islice(examples, _BATCH))
    except tf.errors.OpError as error:
        # tf.data wraps what a source raises in a page of its own; the source's words are enough.
        said = getattr(task.source, "failure", None)
        if said is None:
            raise
        raise UserError(f"task '{task.name}': {said}") from error


def _flatten(definition, ordinals, examples, dropped) -> Encoded:
    result = Encoded(ordinals, {}, {}, [], [], [], dropped)
    for name in definition.features:
        sequences = [_sequence(example.get(name)) for example in examples]
        if name == "choices":
            result.groups = [len(choices) for choices in sequences]
            sequences = [_sequence(choice) for choices in sequences for choice in choices]
        sizes = np.fromiter(map(len, sequences), np.int64, len(sequences))
        values = itertools.chain.from_iterable(sequences)
        result.flat[name] = np.fromiter(values, np.int64, int(sizes.sum()))
        result.sizes[name] = sizes
        _check_ids(definition, name, result.flat[name])
    if definition.kind == "rank":
        _add_answers(definition, examples, result)
    return result


def _sequence(value: Any) -> Sequence:
    if value is None:
        return ()
    if hasattr(value, "to_list"):  # a ragged tensor's value
        return value.to_list()
    return value.tolist() if isinstance(value, np.ndarray) else value


def _check_ids(definition: TaskDefinition, name: str, flat_N: np.ndarray) -> None:
    feature = definition.task.output_features.get(name)
    if feature is None or not len(flat_N):
        return
    size = int(feature.vocabulary.vocab_size)
    if flat_N.min() < 0 or flat_N.max() >= (size if size > 0 else 2**31):
        raise UserError(
            f"task '{definition.task.name}': feature '{name}' holds ids {flat_N.min()} to "
            f"{flat_N.max()}, and its vocabulary has {size}"
        )


def _add_answers(definition: TaskDefinition, examples: list[dict], result: Encoded) -> None:
    stored = {*definition.features, "answer", "targets"}
    for example, choices in zip(examples, result.groups, strict=True):
        answer = example.get("answer")
        answer = np.asarray(-1 if answer is None else answer).reshape(-1)
        if len(answer) != 1 or not 0 <= int(answer[0]) < choices:
            raise UserError(
                f"task '{definition.task.name}': found answer {answer.tolist()} among {choices} "
                "choices; write the index of the right one"
            )
        result.answers.append(int(answer[0]))
        plain = {
            key: _plain_value(value)
            for key, value in example.items()
            if key not in stored and not key.endswith("_pretokenized")
        }
        result.meta.append({key: value for key, value in plain.items() if value is not None})


def _plain_value(value: Any) -> Any:
    """Returns a scalar as JSON holds it, or None for anything else."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.item() if value.size == 1 else None
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, bool | int | float | str) else None
