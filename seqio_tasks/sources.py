"""SeqIO data sources made of Python callables or JSON-lines files.

Both are ordinary `seqio.DataSource`s (tf.data reads them through `get_dataset`), and both give
their examples as plain dicts through `python_examples`, so that a cache can be written without
building a TensorFlow graph.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import seqio
import tensorflow as tf

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
        first = next(self.python_examples(split), None)
        if first is None:
            raise ValueError(f"Split '{split}' has no examples; give it one or drop the split.")
        signature = {
            key: _specification(value, f"Field '{key}' of split '{split}'")
            for key, value in first.items()
        }
        return tf.data.Dataset.from_generator(
            lambda: self.python_examples(split, shard.index, shard.num_shards),
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
      splits: split name -> path, or list of paths. A path may hold `*`; compressed files are
        recognised by their ending (.gz, .xz, .bz2, .zst).
      fields: the keys to keep; all of them by default.
    """

    def __init__(self, splits: Mapping[str, str | list[str]], fields: Iterable[str] | None = None):
        if not splits:
            raise ValueError("JsonlDataSource was given no split; write {'train': 'file.jsonl'}.")
        self._paths = {
            name: [str(path) for path in (paths if isinstance(paths, list | tuple) else [paths])]
            for name, paths in splits.items()
        }
        self._fields = None if fields is None else tuple(fields)
        super().__init__(splits=tuple(splits))

    def _files(self, split: str) -> list:
        """The open-able files of a split, sorted, so that order never depends on the listing."""
        import fsspec

        files = []
        for path in self._paths[split]:
            try:
                found = fsspec.open_files(
                    path, mode="rt", encoding="utf-8", compression="infer", expand=True
                )
            except FileNotFoundError:
                found = []
            if not found or not all(file.fs.exists(file.path) for file in found):
                raise ValueError(f"Split '{split}' names {path}, and there is no such file.")
            files += sorted(found, key=lambda file: file.path)
        return files

    def _examples(self, split: str) -> Iterator[Example]:
        for file in self._files(split):
            with file as lines:
                for number, line in enumerate(lines, start=1):
                    if line.strip():
                        yield self._parse(line, f"{file.path}, line {number}")

    def _parse(self, line: str, where: str) -> Example:
        try:
            example = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: not JSON ({error}); write one object a line.") from None
        if not isinstance(example, dict):
            raise ValueError(f"{where}: {line.strip()[:80]!r} is not an object; write {{...}}.")
        if self._fields is None:
            return example
        missing = [field for field in self._fields if field not in example]
        if missing:
            raise ValueError(f"{where}: field '{missing[0]}' is missing; found {list(example)}.")
        return {field: example[field] for field in self._fields}

    def fingerprint(self) -> str:
        """A hash of the files' names, sizes and times (or the store's own checksums)."""
        digest = hashlib.sha256(repr(self._fields).encode())
        for split in self.splits:
            for file in self._files(split):
                info = file.fs.info(file.path)
                marks = [info.get(key) for key in ("size", "mtime", "etag", "ETag", "md5Hash")]
                digest.update(repr((split, file.path, marks)).encode())
        return digest.hexdigest()
