"""Megatron's .bin/.idx pairs as a SeqIO data source: the layout that xP3megds ships in.

Token ids come out as they lie in the files; nothing is tokenised and nothing is copied. Sequence
i of the inputs goes with sequence i of the targets.

`.idx`, little endian: 9 bytes of magic, uint64 version 1, uint8 type code, uint64 sequences S,
uint64 documents + 1, int32 sizes[S] in tokens, int64 pointers[S] in bytes, int64 documents.
"""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

FEATURES = ("inputs", "targets")
_HEADER = struct.Struct("<9sQBQQ")
_MAGIC = b"MMIDIDX\x00\x00"
# Of the format's eight codes those that hold token ids; 6 and 7 are floating point.
_TOKEN_TYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}

Prefix = str | Path | Callable[[], str | Path]


@dataclasses.dataclass(frozen=True)
class Pair:
    """One PREFIX.bin and PREFIX.idx, memory-mapped.

    Attributes:
      sizes: tokens in each sequence.
      pointers: byte offset of each sequence in the `.bin`.
      tokens: all of the `.bin`.
    """

    sizes: np.ndarray
    pointers: np.ndarray
    tokens: np.ndarray

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> np.ndarray:
        """The ids of a sequence, int32, a copy."""
        start = int(self.pointers[index]) // self.tokens.dtype.itemsize
        return self.tokens[start : start + int(self.sizes[index])].astype(np.int32)


def num_sequences(prefix: str | Path) -> int:
    """The number of sequences of a pair, from its header alone."""
    return _header(Path(f"{prefix}.idx"))[1]


def open_pair(prefix: str | Path) -> Pair:
    """Maps a pair into memory.

    Raises:
      ValueError: a half is missing, is no such file, or is not as long as its header says.
    """
    index, tokens = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
    code, sequences, documents = _header(index)
    if not tokens.is_file():
        raise ValueError(f"{tokens} is missing; a Megatron data set is a .bin and an .idx.")
    if code not in _TOKEN_TYPES:
        raise ValueError(
            f"{index} has type code {code}, which holds no token ids; expected one of "
            f"{sorted(_TOKEN_TYPES)}."
        )
    expected = _HEADER.size + 12 * sequences + 8 * documents
    if index.stat().st_size != expected:
        raise ValueError(
            f"{index} has {index.stat().st_size} bytes, expected {expected} for {sequences} "
            "sequences; download it again."
        )
    raw = np.memmap(index, np.uint8, "r")
    middle = _HEADER.size + 4 * sequences
    sizes = raw[_HEADER.size : middle].view("<i4")
    pointers = raw[middle : middle + 8 * sequences].view("<i8")
    dtype = np.dtype(_TOKEN_TYPES[code])
    end = int(pointers[-1]) + int(sizes[-1]) * dtype.itemsize if sequences else 0
    if tokens.stat().st_size != end:
        raise ValueError(
            f"{tokens} has {tokens.stat().st_size} bytes, expected {end} by its .idx; "
            "download it again."
        )
    return Pair(sizes, pointers, np.memmap(tokens, dtype, "r") if end else np.empty(0, dtype))


def _header(index: Path) -> tuple[int, int, int]:
    """(type code, sequences, documents + 1) of an index file."""
    if not index.is_file():
        raise ValueError(f"{index} is missing; a Megatron data set is a .bin and an .idx.")
    with index.open("rb") as file:
        head = file.read(_HEADER.size)
    if len(head) < _HEADER.size or not head.startswith(_MAGIC):
        raise ValueError(f"{index} is no Megatron index: it begins {head[:9]!r}.")
    _, version, code, sequences, documents = _HEADER.unpack(head)
    if version != 1:
        raise ValueError(f"{index} has format version {version}, expected 1.")
    return code, sequences, documents


class MegatronPairs(seqio.DataSource):
    """Examples `{"inputs": ids, "targets": ids}` from existing .bin/.idx pairs.

    `mt0 cache` does not copy such a task: its cache names the files. Give the task output
    features with `seqio.PassThroughVocabulary(size, eos_id)`, no tokenise step, and
    `add_eos=False` where the targets end in EOS already, as those of xP3megds do.

    Args:
      splits: split -> {"inputs": prefix, "targets": prefix}; a prefix is a local path without
        `.bin`, or a callable that returns one when the data is read.
    """

    def __init__(self, splits: Mapping[str, Mapping[str, Prefix]]):
        example = "{'train': {'inputs': 'xp3_sw_inputs_document', 'targets': '…'}}"
        if not splits:
            raise ValueError(f"MegatronPairs was given no split; write {example}.")
        for split, prefixes in splits.items():
            if not isinstance(prefixes, Mapping) or set(prefixes) != set(FEATURES):
                raise ValueError(
                    f"Split '{split}' of MegatronPairs is {prefixes!r}; write {example}."
                )
        self._prefixes = {split: dict(prefixes) for split, prefixes in splits.items()}
        self._open: dict[str, tuple[Pair, Pair]] = {}
        super().__init__(splits=tuple(splits))

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

    def megatron_prefixes(self, split: str) -> dict[str, str]:
        """The absolute prefixes of a split's files, by feature; they need not exist."""
        self._check(split)
        found = {}
        for feature, prefix in self._prefixes[split].items():
            prefix = str(prefix() if callable(prefix) else prefix)
            if "://" in prefix:
                raise ValueError(
                    f"{prefix} is remote, and Megatron files are memory-mapped; copy them to "
                    "local disk and name that folder."
                )
            path = Path(prefix).expanduser().absolute()
            found[feature] = str(path.with_suffix("") if path.suffix in (".bin", ".idx") else path)
        return found

    def _pairs(self, split: str) -> tuple[Pair, Pair]:
        """The split's inputs and targets; ValueError when their counts differ."""
        if split not in self._open:
            prefixes = self.megatron_prefixes(split)
            inputs, targets = (open_pair(prefixes[feature]) for feature in FEATURES)
            _check_counts(prefixes, len(inputs), len(targets))
            self._open[split] = (inputs, targets)
        return self._open[split]

    def __getstate__(self) -> dict[str, Any]:
        # A worker process maps the files anew.
        return {**self.__dict__, "_open": {}}

    def num_input_examples(self, split: str) -> int:
        """How many pairs a split has, from the files' headers."""
        prefixes = self.megatron_prefixes(split)
        inputs, targets = (num_sequences(prefixes[feature]) for feature in FEATURES)
        _check_counts(prefixes, inputs, targets)
        return inputs

    def python_example(self, split: str, index: int) -> dict[str, np.ndarray]:
        """Pair `index` of a split, int32 ids by feature."""
        return {f: pair[index] for f, pair in zip(FEATURES, self._pairs(split), strict=True)}

    def python_examples(
        self, split: str, shard_index: int = 0, num_shards: int = 1
    ) -> Iterator[dict[str, np.ndarray]]:
        """The pairs of a split as int32 ids, every `num_shards`-th from `shard_index`."""
        if not 0 <= shard_index < num_shards:
            raise ValueError(
                f"Shard {shard_index} of {num_shards} does not exist; "
                f"write an index from 0 to {num_shards - 1}."
            )
        count = len(self._pairs(split)[0])
        return (self.python_example(split, i) for i in range(shard_index, count, num_shards))

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
        """The same pairs for tf.data, in file order (SeqIO's own buffer shuffles them)."""
        shard = shard_info or seqio.ShardInfo(0, 1)
        self._pairs(split)
        return tf.data.Dataset.from_generator(
            lambda: self.python_examples(split, shard.index, shard.num_shards),
            output_signature={f: tf.TensorSpec([None], tf.int32) for f in FEATURES},
        )

    def fingerprint(self) -> str:
        """A hash of the files' paths, sizes and times, readable in front: how many pairs."""
        digest = hashlib.sha256()
        counts = []
        for split in self.splits:
            for feature, prefix in sorted(self.megatron_prefixes(split).items()):
                for ending in ("bin", "idx"):
                    path = Path(f"{prefix}.{ending}")
                    if not path.is_file():
                        raise ValueError(f"{path} is missing; split '{split}' reads it.")
                    stat = path.stat()
                    marks = (split, feature, str(path), stat.st_size, stat.st_mtime_ns)
                    digest.update(repr(marks).encode())
            counts.append(f"{split} {self.num_input_examples(split)}")
        return f"{', '.join(counts)} pairs, {digest.hexdigest()[:16]}"


def _check_counts(prefixes: Mapping[str, str], inputs: int, targets: int) -> None:
    if inputs != targets:
        raise ValueError(
            f"{prefixes['inputs']} has {inputs} sequences and {prefixes['targets']} has {targets}; "
            "give the two files of one data set, which pair one to one."
        )
