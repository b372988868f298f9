"""SeqIO data sources made of Python callables or JSON-lines files.

Both are ordinary `seqio.DataSource`s (tf.data reads them through `get_dataset`), and both give
their examples as plain dicts through `python_examples`, so that a cache can be written without
building a TensorFlow graph.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import seqio
import tensorflow as tf

from seqio_tasks import line_files
from seqio_tasks.line_files import LineFile, Piece, Tally

_MOST_BAD_SHOWN = 3

Example = dict[str, Any]


def _specification(value: Any, where: str) -> tf.TensorSpec:
    """The tensor that one value of an example becomes; ValueError for what has no tensor."""
    items = value if isinstance(value, list | tuple) else [value]
    shape = [None] if isinstance(value, list | tuple) else []
    # bool is an int in Python, so it is asked for first.
    kinds = [(bool, tf.bool), (str, tf.string), (int, tf.int32), (float, tf.float32)]
    for kind, dtype in kinds:
        if items and all(isinstance(item, kind) for item in items):
            return tf.TensorSpec(shape, dtype)
    raise ValueError(
        f"{where} holds {value!r}; write a string, a number or a non-empty list of one of them."
    )


class _ExampleSource(seqio.DataSource):
    """What the two sources share: everything follows from `_examples(split)`."""

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return True

    def list_shards(self, split: str) -> list[str]:
        """One shard's name: any other sharding is done by position."""
        self._check(split)
        return [split]

    def _check(self, split: str) -> None:
        if split not in self.splits:
            raise ValueError(f"There is no split '{split}'; write one of {list(self.splits)}.")

    def _examples(self, split: str) -> Iterable[Example]:
        raise NotImplementedError

    def _first(self, split: str) -> Example | None:
        return next(iter(self._examples(split)), None)

    def _sharded(self, split: str, index: int, count: int) -> Iterator[Example]:
        return self.python_examples(split, index, count)

    def python_examples(
        self, split: str, shard_index: int = 0, num_shards: int = 1
    ) -> Iterator[Example]:
        """The examples of a split as dicts, every `num_shards`-th from `shard_index`."""
        self._check(split)
        if not 0 <= shard_index < num_shards:
            raise ValueError(
                f"Shard {shard_index} of {num_shards} does not exist; "
                f"write an index from 0 to {num_shards - 1}."
            )
        return itertools.islice(iter(self._examples(split)), shard_index, None, num_shards)

    def num_input_examples(self, split: str) -> int:
        """How many examples a split has; counted once, by reading it, unless it was declared."""
        self._check(split)
        if self._num_input_examples is None:
            self._num_input_examples = {}
        if split not in self._num_input_examples:
            self._num_input_examples[split] = sum(1 for _ in self._examples(split))
        return self._num_input_examples[split]

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        *,
        sequence_length: Mapping[str, int] | None = None,
        use_cached: bool = False,
        num_epochs: int | None = 1,
    ) -> tf.data.Dataset:
        """The same examples for tf.data, in file order (SeqIO's own buffer shuffles them)."""
        shard = shard_info or seqio.ShardInfo(0, 1)
        self._check(split)
        # The type comes from the split's first example, not the shard's: a shard may be empty.
        first = self._first(split)
        if first is None:
            raise ValueError(f"Split '{split}' has no examples; give it one or drop the split.")
        signature = {
            key: _specification(value, f"Field '{key}' of split '{split}'")
            for key, value in first.items()
        }
        return tf.data.Dataset.from_generator(
            lambda: self._sharded(split, shard.index, shard.num_shards),
            output_signature=signature,
        )


class PythonDataSource(_ExampleSource):
    """Examples that a Python callable makes, one callable a split.

    Args:
      splits: split name -> callable without arguments that returns an iterable of dicts. It is
        called anew for every pass and must give the same examples each time.
      num_input_examples: split name -> count, where known; otherwise counted on demand.
      fingerprint: a string, or a callable giving one, that changes when the examples do. Without
        it the examples themselves are hashed, which reads every split once.
    """

    def __init__(
        self,
        splits: Mapping[str, Callable[[], Iterable[Example]]],
        num_input_examples: Mapping[str, int] | None = None,
        fingerprint: str | Callable[[], str] | None = None,
    ):
        if not splits or not all(callable(make) for make in splits.values()):
            raise ValueError(
                f"PythonDataSource was given splits {splits!r}; "
                "write {'train': function_without_arguments}."
            )
        self._callables = dict(splits)
        self._fingerprint = fingerprint
        super().__init__(splits=tuple(splits), num_input_examples=num_input_examples)

    def _examples(self, split: str) -> Iterable[Example]:
        return self._callables[split]()

    def fingerprint(self) -> str:
        """A hash that differs when the examples do."""
        if callable(self._fingerprint):
            self._fingerprint = self._fingerprint()
        if self._fingerprint is None:
            digest = hashlib.sha256()
            for split in self.splits:
                digest.update(split.encode())
                for example in self._examples(split):
                    digest.update(json.dumps(example, sort_keys=True).encode())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint


class JsonlDataSource(_ExampleSource):
    """One JSON object a line, in local files or any place fsspec reads (gs://, s3://, ...).

    Args:
      splits: split name -> path, list of paths, or a callable without arguments that returns such
        a list when the split is first read. A path may hold `*`; compressed files are recognised
        by their ending (.gz, .xz, .bz2, .zst), and `zip://MEMBER::ARCHIVE` reads out of a zip.
      fields: the keys to keep, which every line must have as strings; all keys by default, and
        then every line must have those of the first. An example whose demanded text is empty or
        blank teaches nothing: it is counted and left out.
      bad_lines: 'stop' raises ValueError at a line that is no example, 'skip' counts it and goes
        on; by default what $MT0_BAD_LINES says, else 'stop'.
      validation_one_in: holds this share of split 'train' out as split 'validation', by the
        CRC-32 of the line, so that copies of a line fall on the same side.

    Attributes:
      tally: what became of the lines read so far (see line_files.Tally).
      failure: what was said of the line that reading stopped at.
    """

    def __init__(
        self,
        splits: Mapping[str, str | list[str] | Callable[[], list[str]]],
        fields: Iterable[str] | None = None,
        *,
        bad_lines: str | None = None,
        validation_one_in: int | None = None,
    ):
        if not splits:
            raise ValueError("JsonlDataSource was given no split; write {'train': 'file.jsonl'}.")
        bad_lines = bad_lines or os.environ.get("MT0_BAD_LINES") or "stop"
        if bad_lines not in ("stop", "skip"):
            raise ValueError(f"bad_lines is {bad_lines!r}; write 'stop' or 'skip'.")
        names = tuple(splits)
        if validation_one_in is not None:
            if not isinstance(validation_one_in, int) or validation_one_in < 2:
                raise ValueError(
                    f"validation_one_in is {validation_one_in!r}; write a whole number from 2 on."
                )
            if "train" not in splits or "validation" in splits:
                raise ValueError(
                    f"validation_one_in takes split 'validation' out of 'train', and the splits "
                    f"are {list(splits)}; name 'train' alone of the two."
                )
            names += ("validation",)
        self._paths = dict(splits)
        self._fields = None if fields is None else tuple(fields)
        self._skip = bad_lines == "skip"
        self._one_in = validation_one_in
        self._found: dict[str, list[LineFile]] = {}
        self._keys: dict[str, tuple[str, ...]] = {}
        self.tally = Tally()
        self.failure: str | None = None
        super().__init__(splits=names)

    def files(self, split: str) -> list[LineFile]:
        """The files of a split; ValueError where one is missing."""
        self._check(split)
        split = "train" if self._held_out(split) else split
        if split not in self._found:
            paths = self._paths[split]
            paths = paths() if callable(paths) else paths
            paths = paths if isinstance(paths, list | tuple) else [paths]
            self._found[split] = line_files.find([str(path) for path in paths], split)
        return self._found[split]

    def ranges(self, split: str) -> list[tuple[Piece, ...]]:
        """The split's byte ranges: end to end they are the split, however many there are cores."""
        return line_files.ranges(self.files(split))

    def range_examples(self, split: str, index: int) -> Iterator[Example]:
        """The examples of one byte range."""
        return self._read(split, self.ranges(split)[index], self.tally)

    def num_input_bytes(self, split: str) -> int:
        """Bytes of a split's files, as stored: known without reading them."""
        return sum(file.size for file in self.files(split))

    def take_tally(self) -> Tally:
        """Returns what became of the lines read since the last call."""
        return self.tally.take()

    def where(self, split: str, url: str, offset: int, why: str) -> str:
        """Says which line begins at a byte of a file, and what is wrong with it."""
        for file in self.files(split):
            if file.url == url:
                return f"{line_files.place(file, offset)}: {why}"
        return f"{url}, byte {offset}: {why}"

    def list_shards(self, split: str) -> list[str]:
        """The byte ranges' names."""
        return ["+".join(map(str, pieces)) for pieces in self.ranges(split)]

    def num_input_examples(self, split: str) -> int:
        """How many examples a split has: reads and checks every line, so ask only when you must."""
        self._check(split)
        if self._num_input_examples is None:
            self._num_input_examples = {}
        if split not in self._num_input_examples:
            pieces = map(Piece, self.files(split))
            count = sum(1 for _ in self._read(split, pieces, Tally()))
            self._num_input_examples[split] = count
        return self._num_input_examples[split]

    def tell_num_input_examples(self, split: str, count: int) -> None:
        """Tells a split's number of examples to spare `num_input_examples` the reading."""
        self._num_input_examples = {**(self._num_input_examples or {}), split: count}

    def fingerprint(self) -> str:
        """What the examples depend on: a hash of the files, and the options by name."""
        parts = [(split, line_files.fingerprint(self.files(split))) for split in self._paths]
        digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
        options = f"bad_lines={'skip' if self._skip else 'stop'}"
        if self._one_in:
            options += f", validation_one_in={self._one_in}"
        return f"files {digest}, fields={self._fields}, {options}"

    def _examples(self, split: str) -> Iterator[Example]:
        return self._read(split, map(Piece, self.files(split)), self.tally)

    def _first(self, split: str) -> Example | None:
        files = self.files(split)
        if self._fields is not None:
            # Strings by demand: a split held out of a small file may well be empty.
            return dict.fromkeys(self._fields, "")
        return next(self._read(split, map(Piece, files), Tally()), None)

    def _sharded(self, split: str, index: int, count: int) -> Iterator[Example]:
        """Byte ranges where there are enough of them: a host then reads its own bytes alone."""
        ranges = self.ranges(split)
        if count > len(ranges):
            return self.python_examples(split, index, count)
        pieces = itertools.chain.from_iterable(ranges[index::count])
        return self._read(split, pieces, self.tally)

    def _held_out(self, split: str) -> bool:
        return split not in self._paths

    def _read(self, split: str, pieces: Iterable[Piece], tally: Tally) -> Iterator[Example]:
        held_out = self._held_out(split)
        for piece in pieces:
            for offset, line in line_files.lines(piece, tally):
                if not line or line.isspace():
                    continue
                if self._one_in and split in ("train", "validation"):
                    if (zlib.crc32(line) % self._one_in == 0) != held_out:
                        continue
                try:
                    example = self._parse(split, line)
                except ValueError as error:
                    if not self._skip:
                        where = line_files.place(piece.file, offset)
                        self.failure = (
                            f"{where}: {error}; or skip such lines with bad_lines='skip' "
                            "(`mt0 cache --bad_lines=skip`, MT0_BAD_LINES=skip)."
                        )
                        raise ValueError(self.failure) from None
                    tally.bad += 1
                    if len(tally.first_bad) < _MOST_BAD_SHOWN:
                        tally.first_bad.append((piece.file, offset, str(error)))
                    continue
                if example is None:
                    tally.empty += 1
                else:
                    yield example

    def _parse(self, split: str, line: bytes) -> Example | None:
        """Returns a line's example, None where a demanded text is empty; ValueError if bad."""
        example = line_files.parse(line)
        if self._fields is None:
            if example.keys() != set(self._first_keys(split, example)):
                raise ValueError(
                    f"its fields are {list(example)}, the first line's are "
                    f"{list(self._first_keys(split, example))}; give every line the same, or name "
                    "the ones to keep with fields="
                )
            return example
        kept, empty = {}, False
        for field in self._fields:
            kept[field] = value = example.get(field)
            if not isinstance(value, str):
                if field not in example:
                    raise ValueError(f"field '{field}' is missing; found {list(example)}; add it")
                raise ValueError(f"field '{field}' is {value!r:.80}, no string; write a string")
            empty = empty or not value or value.isspace()
        if b"\\u" in line:
            _check_unicode(kept)
        return None if empty else kept

    def _first_keys(self, split: str, example: Example) -> tuple[str, ...]:
        """The keys of a split's first object, so that no byte range has a rule of its own."""
        if split not in self._keys:
            self._keys[split] = tuple(example)
            for piece in map(Piece, self.files(split)):
                for _, line in line_files.lines(piece, Tally()):
                    with contextlib.suppress(ValueError):
                        self._keys[split] = tuple(line_files.parse(line))
                        return self._keys[split]
        return self._keys[split]


def _check_unicode(texts: Mapping[str, str]) -> None:
    for field, text in texts.items():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"field '{field}' holds half a surrogate pair at character {error.start + 1}; "
                "write whole characters"
            ) from None
