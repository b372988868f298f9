"""The texts of a task's examples, read from its source: all of them, or a seeded sample.

Texts are as before tokenising. Sources of token ids are decoded, where a vocabulary is at hand.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mt0_tpu.errors import UserError
from mt0_tpu.tasks.overlap import Texts

# Answer choices are no passage to look for: many are names that anything may mention.
_FIELDS = ("inputs", "targets")
_PROMPT_FIELDS = ("prompt", "template")
_SAMPLED_BYTES = 1 << 18  # of a large file, read at one random place
_LINES_A_PLACE, _LINES_A_REMOTE_PLACE = 20, 1000  # opening a remote file costs more than reading on


class Decoder(Protocol):
    """What reads ids."""

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ids."""


def read(
    task: Any, split: str, count: int | None, seed: int, decoder: Decoder | None = None
) -> Iterator[Texts]:
    """Gives the texts of a split's examples.

    Args:
        task: a seqio.Task.
        split: the split.
        count: None reads everything; a number takes a sample of about as many, and of large files
            of JSON lines reads only the places it takes.
        seed: decides the sample.
        decoder: reads token ids; without one they count as no text.

    Raises UserError: data that is missing or no data.
    """
    try:
        for example in _examples(task, split, count, seed):
            yield texts_of(example, decoder)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"task '{task.name}', split '{split}': {error}") from error


def decoder_of(task: Any, given: Decoder | None) -> tuple[bool, Decoder | None]:
    """Returns whether a task's examples can be read as text, and what decodes their ids if need be.

    Args:
        task: a seqio.Task.
        given: reads the ids of tasks whose own vocabulary only passes them through.
    """
    if not hasattr(task.source, "megatron_prefixes"):
        return True, None
    vocabulary = next(iter(task.output_features.values())).vocabulary
    if type(vocabulary).__name__ != "PassThroughVocabulary":
        return True, vocabulary
    return given is not None, given


def read_file(path: str) -> Iterator[Texts]:
    """Gives the texts of a file of JSON lines: inputs and targets, or all strings.

    Raises UserError: no such file, or a line that is no object or holds no text.
    """
    if not Path(path).is_file():
        raise UserError(f"{path} is no file; --against takes a task, a mixture or a .jsonl file")
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                content = json.loads(line)
            except ValueError as error:
                raise UserError(
                    f"{path}, line {number}: {error}; write one object a line"
                ) from None
            example = texts_of(content) if isinstance(content, dict) else Texts(())
            if not example.texts:
                raise UserError(f'{path}, line {number} holds no text; write {{"inputs": …}}')
            yield example


def texts_of(example: Mapping[str, Any], decoder: Decoder | None = None) -> Texts:
    """Returns an example's inputs and targets; where it has neither, every string in it."""
    fields = [field for field in _FIELDS if field in example] or list(example)
    texts: list[str] = []
    for field in fields:
        texts += _strings(example[field], decoder)
    prompts = [_strings(example.get(field), None) for field in _PROMPT_FIELDS]
    return Texts(tuple(texts), next((prompt[0] for prompt in prompts if prompt), ""))


def _strings(value: Any, decoder: Decoder | None) -> list[str]:
    if isinstance(value, str):
        return [value] if value.strip() else []
    if isinstance(value, bytes):
        return _strings(value.decode("utf-8", "replace"), None)
    if isinstance(value, np.ndarray) and value.dtype.kind in "iu" and value.ndim == 1:
        return [] if decoder is None else _strings(decoder.decode(value.tolist()), None)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return list(itertools.chain.from_iterable(_strings(item, None) for item in value))
    return []


def _examples(task: Any, split: str, count: int | None, seed: int) -> Iterator[Mapping[str, Any]]:
    source = task.source
    draw = random.Random(f"{seed} {task.name} {split}")  # str seeds do not change from run to run
    if count is not None and hasattr(source, "python_example"):
        size = source.num_input_examples(split)
        for index in sorted(draw.sample(range(size), min(count, size))):
            yield source.python_example(split, index)
        return
    if count is not None and hasattr(source, "files"):
        files = source.files(split)
        lines = _LINES_A_PLACE if all(file.local for file in files) else _LINES_A_REMOTE_PLACE
        places = _places(files, -(-count // lines), draw)
        if places is not None:
            yield from _lines(places, lines, count)
            return
    if hasattr(source, "python_examples"):
        examples = source.python_examples(split)
    else:
        examples = source.get_dataset(split=split, shuffle=False).as_numpy_iterator()
    yield from examples if count is None else _reservoir(examples, count, draw)


def _reservoir(examples: Iterator, count: int, draw: random.Random) -> list:
    """Returns `count` examples of a stream, each as likely as any other."""
    kept = list(itertools.islice(examples, count))
    for seen, example in enumerate(examples, start=count + 1):
        place = draw.randrange(seen)
        if place < count:
            kept[place] = example
    return kept


def _places(files: Sequence[Any], wanted: int, draw: random.Random) -> list | None:
    """Returns random places of large files; None where reading all of them is as cheap."""
    from seqio_tasks import line_files

    if any(file.compression or file.whole for file in files):
        return None
    size = sum(file.size for file in files)
    if size <= 2 * wanted * _SAMPLED_BYTES:
        return None
    cumulated = list(itertools.accumulate(file.size for file in files))
    places = []
    for at in sorted(draw.randrange(size) for _ in range(wanted)):
        number = next(i for i, end in enumerate(cumulated) if at < end)
        begin = at - (cumulated[number] - files[number].size)
        places.append(line_files.Piece(files[number], begin, files[number].size))
    return places


def _lines(places: Sequence[Any], each: int, count: int) -> Iterator[Mapping[str, Any]]:
    from seqio_tasks import line_files

    left = count
    for piece in places:
        lines = line_files.lines(piece, line_files.Tally())
        for offset, line in itertools.islice(lines, min(each, left)):
            if line.strip():
                left -= 1
                try:
                    yield line_files.parse(line)
                except ValueError as error:
                    where = line_files.place(piece.file, offset)
                    raise ValueError(f"{where}: {error}") from None
