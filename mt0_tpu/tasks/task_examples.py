"""Examples as the model is given them, straight from a task's source, without a cache.

Every step of the task is run as caching and the trainer run it; only first examples are read.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mt0_tpu.data import mixing
from mt0_tpu.data.dataset_config import FEATURES
from mt0_tpu.data.denoising import draw_step
from mt0_tpu.data.providers import find_provider, tasks_of
from mt0_tpu.data.task_definition import TaskDefinition, define, is_tokenize
from mt0_tpu.data.tokenizing import encode
from mt0_tpu.errors import UserError, did_you_mean
from mt0_tpu.tasks.token_text import TokenText

DEFAULT_LENGTHS = {"inputs": 1024, "targets": 1024}
# With a seed, examples of a source are picked among this many first ones: it is read as a stream.
_AMONG = 1000


@dataclasses.dataclass(frozen=True)
class Part:
    """One feature of an example, or one of its choices.

    Attributes:
        name: 'inputs', 'targets', 'choice 1', …
        ids: what the model is given, EOS included.
        source: the text that was tokenised, where it is known.
        vocabulary: to read the ids with.
        cut_from: tokens it had before it was trimmed to the row; None where it was not.
        right: whether it is the right one of several choices.
    """

    name: str
    ids: list[int]
    source: str | None
    vocabulary: TokenText
    cut_from: int | None = None
    right: bool = False


@dataclasses.dataclass(frozen=True)
class Example:
    """An example of a task; `fields` are its plain ones, such as language and prompt."""

    task: str
    split: str
    fields: Mapping[str, Any]
    parts: tuple[Part, ...]


def from_source(
    name: str,
    split: str,
    num_examples: int,
    *,
    module: str | None = None,
    seed: int | None = None,
    lengths: Mapping[str, int] | None = None,
) -> list[Example]:
    """Returns examples of a task, or of a mixture's tasks in turn, without a cache.

    Args:
        name: a registered task or mixture.
        split: which split.
        num_examples: how many.
        module: the module that registers it, where it is not one of ours.
        seed: None gives the first ones; a seed draws tasks by rate, and examples among the
            first thousand of each, and says where span corruption falls.
        lengths: row lengths to trim to; None trims nothing.

    Raises UserError: no such task or split, a source that cannot be read.
    """
    provider = find_provider(name, module)
    tasks = [task for task in tasks_of(provider) if split in task.splits]
    if not tasks:
        splits = sorted({one for task in tasks_of(provider) for one in task.splits})
        near = did_you_mean(split, splits)
        raise UserError(f"'{name}' has no split '{split}'; it has {', '.join(splits)}.{near}")
    if seed is None:
        streams = [_rendered(task, split, lengths, 0) for task in tasks[:num_examples]]
        return list(itertools.islice(_in_turn(streams), num_examples))
    random = np.random.default_rng(seed)
    wanted = random.multinomial(num_examples, _shares(provider, tasks))
    return [
        example
        for task, count in zip(tasks, wanted, strict=True)
        if count
        for example in _picked(_rendered(task, split, lengths, seed), int(count), random)
    ]


def _shares(provider: Any, tasks: Sequence[Any]) -> np.ndarray:
    """Returns each task's share of a mixture where its rates are numbers, else equal shares.

    Rates by function may count the examples of a source, which would read all of it.
    """
    rates = [getattr(provider, "rate_per_task_name", {}).get(task.name) for task in tasks]
    if any(rate is None or callable(rate) for rate in rates) or not sum(map(float, rates)):
        rates = [1.0] * len(tasks)
    shares = np.array(rates, np.float64)
    return shares / shares.sum()


def _picked(stream: Iterator[Example], count: int, random: np.random.Generator) -> list[Example]:
    first = list(itertools.islice(stream, _AMONG))
    return [first[i] for i in random.permutation(len(first))[:count]]


def _in_turn(streams: Sequence[Iterator]) -> Iterator:
    streams = list(streams)
    while streams:
        for stream in list(streams):
            try:
                yield next(stream)
            except StopIteration:
                streams.remove(stream)


def _rendered(task: Any, split: str, lengths, seed: int) -> Iterator[Example]:
    """Gives a task's examples one by one, every step run as cache and trainer would."""
    definition = define(task)
    try:
        for at, (fields, texts, ids) in enumerate(_tokenized(definition, split)):
            parts = _parts(definition, texts, ids, lengths, seed, at)
            answer = np.asarray(fields.get("answer", -1)).reshape(-1)
            if definition.kind == "rank" and len(answer):
                place = len(parts) - len(ids["choices"]) + int(answer[0])
                parts[place] = dataclasses.replace(parts[place], right=True)
            yield Example(task.name, split, _plain(fields, definition), tuple(parts))
    except UserError:
        raise
    except ValueError as error:  # a source's own words
        raise UserError(f"task '{task.name}': {error}") from error


def _tokenized(definition: TaskDefinition, split: str) -> Iterator[tuple[dict, dict, dict]]:
    """Gives (all fields, texts by feature, ids by feature) after the steps that run once."""
    if not definition.plain:
        yield from _through_tf_data(definition, split)
        return
    for example in definition.task.source.python_examples(split):
        fields, texts = dict(example), {}
        for step in definition.before:
            if not is_tokenize(step):
                fields = step.numpy_map(fields)
                if fields is None:
                    break
                continue
            for name, feature in definition.task.output_features.items():
                if fields.get(name) is None:
                    continue
                texts[name] = fields[name]
                values = fields[name] if feature.rank == 2 else [fields[name]]
                encoded = [[int(i) for i in ids] for ids in _encode(definition, name, values)]
                fields[name] = encoded if feature.rank == 2 else encoded[0]
        if fields is not None:
            yield fields, texts, {name: _ids(fields.get(name)) for name in definition.features}


def _encode(definition: TaskDefinition, name: str, values: Sequence[Any]) -> list[Sequence[int]]:
    try:
        return encode(definition.task.output_features[name].vocabulary, values)
    except (TypeError, AttributeError, RuntimeError, UnicodeError) as error:
        raise UserError(
            f"task '{definition.task.name}': field '{name}' cannot be tokenised ({error}); it is "
            f"{values[0]!r:.80}"
        ) from error


def _through_tf_data(definition: TaskDefinition, split: str) -> Iterator[tuple[dict, dict, dict]]:
    import seqio

    task = definition.task
    dataset = task.source.get_dataset(split=split, shuffle=False, seed=None, shard_info=None)
    with seqio.utils.map_seed_manager(0):
        dataset = task._preprocess_dataset(dataset, definition.before)
    for fields in dataset.as_numpy_iterator():
        ending = "_pretokenized"
        texts = {
            key.removesuffix(ending): _text(value)
            for key, value in fields.items()
            if key.endswith(ending)
        }
        yield fields, texts, {name: _ids(fields.get(name)) for name in definition.features}


def _ids(value: Any) -> list:
    if value is None:
        return []
    if hasattr(value, "to_list"):  # a ragged tensor's value
        return value.to_list()
    return value.tolist() if isinstance(value, np.ndarray) else list(value)


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray):
        return _text(value.tolist())
    return [_text(item) for item in value] if isinstance(value, list) else value


def _plain(fields: Mapping[str, Any], definition: TaskDefinition) -> dict[str, Any]:
    """Returns the fields that are neither features nor their texts, as plain values."""
    stored = {*definition.features, *definition.task.output_features, "answer"}
    kept = {}
    for key, value in fields.items():
        value = _text(value.item() if isinstance(value, np.generic) else value)
        if key not in stored and not key.endswith("_pretokenized"):
            if isinstance(value, bool | int | float | str):
                kept[key] = value
    return kept


def _parts(definition, texts, ids, lengths, seed: int, at: int) -> list[Part]:
    """Returns an example's features after the steps that run at drawing."""
    rooms = lengths or {}
    if definition.draw_steps:
        return _corrupted(definition, ids["targets"], rooms or DEFAULT_LENGTHS, seed, at)
    parts = []
    for name in definition.features:
        several = name == "choices"
        names = [f"choice {i + 1}" for i in range(len(ids[name]))] if several else [name]
        rows = ids[name] if several else [ids[name]]
        sources = texts.get(name) if several else [texts.get(name)]
        for title, row, source in zip(names, rows, sources or [None] * len(rows), strict=True):
            room = rooms.get("targets" if several else name)
            parts.append(_ended(definition, name, title, row, source, room))
    return parts


def _ended(definition, feature: str, title: str, ids, source, room: int | None) -> Part:
    """Returns a part with its EOS, trimmed as T5X does where it is longer than the row."""
    vocabulary = definition.task.output_features[feature].vocabulary
    end = [vocabulary.eos_id] if definition.append_eos.get(feature) else []
    whole = [*map(int, ids), *end]
    cut_from = None
    if room is not None and len(whole) > room:
        cut_from = len(whole)
        kept = whole[:-1][: room - 1] + end if end and definition.eos_after_trim else whole[:room]
        whole = kept
    return Part(title, whole, source, TokenText(vocabulary), cut_from)


def _corrupted(definition, ids: list[int], rooms, seed: int, at: int) -> list[Part]:
    """Returns inputs and targets of one draw of a text, of as much of it as fits the row."""
    step = draw_step(definition.draw_steps[0])
    room = step.longest(*(rooms[name] - definition.append_eos[name] for name in FEATURES))
    chunk = np.asarray(ids[:room], np.int64)
    key = mixing.draw_keys(np.array([mixing.stable_key(seed, definition.task.name)]), [at])[0]
    sides = step.apply(chunk, int(key))
    parts = [
        _ended(definition, name, name, side, None, None)
        for name, side in zip(FEATURES, sides, strict=True)
    ]
    if len(ids) > room:
        parts[0] = dataclasses.replace(parts[0], cut_from=len(ids))
    return parts
