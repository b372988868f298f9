"""What an inference job is asked: lines of a file or examples of a SeqIO task, as token ids.

Both are read in pieces, in order, so that any number of them fits in memory.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mt0_tpu.errors import UserError, did_you_mean
from mt0_tpu.eval_tasks import split_of
from mt0_tpu.input_lines import InputLines, where
from mt0_tpu.text_tasks import plain
from mt0_tpu.text_vocabulary import TextVocabulary


@dataclasses.dataclass(frozen=True)
class Request:
    """One input.

    Attributes:
      fields: what the output line repeats; 'inputs' is its text.
      inputs: token ids, cut to the row.
      targets: ids of what is scored: the target, or every choice.
      choices: the texts of the choices; None where a target is scored.
    """

    fields: dict[str, Any]
    inputs: list[int]
    targets: list[list[int]]
    choices: list[str] | None = None


class Requests(Protocol):
    """A numbered sequence of requests.

    Attributes:
      name: what the output file is called.
      identity: what tells these requests from others.
      num_cut: how many inputs and targets read so far were cut.
      eos_id: ends a prediction.
      largest_id: no token is larger.
    """

    name: str
    identity: dict[str, Any]
    num_cut: list[int]
    eos_id: int

    def __len__(self) -> int: ...

    def read(self, first: int, stop: int) -> list[Request]:
        """Returns requests first..stop-1; fast where they follow the last ones read."""

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of a prediction."""


@dataclasses.dataclass
class Cutting:
    """How what is longer than the row is treated, and how often that happened."""

    lengths: Mapping[str, int]
    overlong: str
    num_cut: list[int] = dataclasses.field(default_factory=lambda: [0, 0])

    def cut(self, ids: Sequence[int], feature: str, eos: Sequence[int], place: str) -> list[int]:
        """Returns ids and their EOS, cut as T5X's append_eos_after_trim: the EOS stays."""
        limit = self.lengths[feature]
        if len(ids) + len(eos) > limit:
            if self.overlong == "error":
                raise UserError(
                    f"{place}: its {feature} have {len(ids) + len(eos)} tokens and "
                    f"TASK_FEATURE_LENGTHS allows {limit}; raise it, or write infer.overlong = "
                    "'trim'"
                )
            self.num_cut[feature != "inputs"] += 1
        return [*ids[: limit - len(eos)], *eos]


class FileRequests:
    """The lines of a file, encoded by a vocabulary."""

    def __init__(self, lines: InputLines, words: TextVocabulary, cutting: Cutting, eos: bool):
        """`eos` says whether inputs end with EOS; targets do, choices as the vocabulary says."""
        self._lines, self._words, self._cutting = lines, words, cutting
        self._eos = [words.eos_id] if eos else []
        self.name = Path(lines.path).stem
        self.identity = {"inputs": str(lines.path), "inputs_sha256": lines.sha256}
        self.eos_id = words.eos_id
        self.num_cut = cutting.num_cut

    def __len__(self) -> int:
        return len(self._lines)

    def read(self, first: int, stop: int) -> list[Request]:
        """Returns requests first..stop-1."""
        numbered = enumerate(self._lines.read(first, stop), first)
        return [self._request(fields, where(self._lines.path, at)) for at, fields in numbered]

    def _request(self, fields: dict, place: str) -> Request:
        def ids(text: str, feature: str, eos: list[int]) -> list[int]:
            return self._cutting.cut(self._words.encode(text), feature, eos, place)

        choices = fields.get("choices") if self._lines.scored else None
        scored = (choices or [fields["targets"]]) if self._lines.scored else []
        before = self._words.target_prefix
        ends = [self.eos_id] if choices is None or self._words.choices_eos else []
        targets = [ids(before + text, "targets", ends) for text in scored]
        inputs = ids(fields["inputs"], "inputs", self._eos)
        if not inputs:
            raise UserError(
                f"{place}: its input has no tokens; leave the line out, or let inputs end with EOS "
                "(infer.inputs_eos = True) if they did in training"
            )
        return Request(fields, inputs, targets, choices)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of a prediction."""
        return self._words.decode(ids)


class TaskRequests:
    """The examples of one split of a SeqIO task, in its order.

    They are read once to be counted, then once more as they are needed.
    """

    def __init__(self, task: Any, split: str | None, cutting: Cutting, scored: bool, rows: int):
        chosen = split_of(task.splits, split)
        if chosen is None:
            there = sorted(task.splits)
            near = did_you_mean(str(split), there)
            raise UserError(f"task '{task.name}' has no split '{split}'; it has {there}.{near}")
        self._task, self._split, self._cutting, self._scored = task, chosen, cutting, scored
        features = task.output_features
        self._ranks = "choices" in features and features["choices"].rank == 2
        self._target = "choices" if self._ranks else "targets"
        for feature in ("inputs", self._target):
            if feature not in features:
                raise UserError(f"task '{task.name}' has no output feature '{feature}'")
        self.name = task.name
        self.eos_id = int(features[self._target].vocabulary.eos_id)
        self.num_cut = cutting.num_cut
        self._waiting: tuple[int, Iterator[dict]] = (-1, iter(()))
        digest, count, largest = hashlib.sha256(), 0, 0
        for example in self._examples(0):
            ids = np.asarray(example["inputs"], np.int32)
            digest.update(ids.tobytes() + b"|")
            largest, count = max(largest, int(ids.max(initial=0))), count + 1
        if not count:
            raise UserError(f"task '{task.name}' holds no example in split '{chosen}'")
        if largest >= rows:
            raise UserError(
                f"task '{task.name}' has token {largest}, but the model's embedding has only "
                f"{rows} rows (model.vocab_size); name a task of the model's vocabulary"
            )
        self._count = count
        self.identity = {
            "task": task.name,
            "split": chosen,
            "inputs_sha256": digest.hexdigest(),
        }

    def __len__(self) -> int:
        return self._count

    def _examples(self, first: int) -> Iterator[dict]:
        try:
            # Without lengths, and cut below: what is longer can be counted.
            dataset = self._task.get_dataset(
                sequence_length=None, split=self._split, use_cached=False, shuffle=False,
                num_epochs=1,
            )  # fmt: skip
        except ValueError as error:
            raise UserError(f"task '{self._task.name}': {error}") from error
        return iter(dataset.skip(first).as_numpy_iterator())

    def read(self, first: int, stop: int) -> list[Request]:
        """Returns requests first..stop-1; fast where they follow the last ones read."""
        at, examples = self._waiting
        if at != first:
            examples = self._examples(first)
        found = list(itertools.islice(examples, stop - first))
        if len(found) < stop - first:
            raise UserError(
                f"task '{self._task.name}' gave {self._count} examples when they were counted and "
                f"{first + len(found)} now; it must give the same each time it is read"
            )
        self._waiting = (stop, examples)
        return [self._request(example, first + at) for at, example in enumerate(found)]

    def _request(self, example: dict, number: int) -> Request:
        place = f"example {number} of task '{self._task.name}'"

        def cut(ids: Any, feature: str) -> list[int]:
            ids = np.asarray(ids).tolist()
            eos = [self.eos_id] if ids and ids[-1] == self.eos_id else []
            return self._cutting.cut(ids[: len(ids) - len(eos)], feature, eos, place)

        targets, choices = [], None
        if self._scored and self._ranks:
            found = example["choices"]
            # A ragged tensor's value, else an array.
            listed = found.to_list() if hasattr(found, "to_list") else list(found)
            targets = [cut(one, "targets") for one in listed]
            given = example.get("choices_pretokenized")
            choices = [self.decode(one) for one in listed] if given is None else plain(given)
        elif self._scored:
            targets = [cut(example["targets"], "targets")]
        fields = {"inputs": self._text(example, "inputs")}
        fields |= {
            name.removesuffix("_pretokenized"): plain(value)
            for name, value in example.items()
            if name not in self._task.output_features and name != "inputs_pretokenized"
        }
        return Request(fields, cut(example["inputs"], "inputs"), targets, choices)

    def _text(self, example: dict, feature: str) -> Any:
        given = example.get(f"{feature}_pretokenized")
        if given is not None:
            return plain(given)
        ids = [int(one) for one in example[feature]]
        return self._task.output_features[feature].vocabulary.decode(ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of a prediction."""
        vocabulary = self._task.output_features[self._target].vocabulary
        return vocabulary.decode([int(one) for one in ids])
