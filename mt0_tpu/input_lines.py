"""A file of inputs, a line each: JSON with a field 'inputs', or plain text."""

from __future__ import annotations

import array
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mt0_tpu.errors import UserError, did_you_mean

_JSON_ENDINGS = (".jsonl", ".json")
DUPLICATE_IDS = ("error", "keep")


@dataclasses.dataclass(frozen=True)
class InputLines:
    """The lines of a file, checked and found by number without holding them in memory.

    Attributes:
      scored: whether a line must hold 'targets' or 'choices' besides.
      starts: int64 byte offset of each line, then the size of the file.
      sha256: of the whole file.
    """

    path: Path
    is_json: bool
    scored: bool
    starts: np.ndarray
    sha256: str

    def __len__(self) -> int:
        return len(self.starts) - 1

    def read(self, first: int, stop: int) -> list[dict]:
        """Returns lines first..stop-1 as objects with a text field 'inputs'."""
        with self.path.open("rb") as file:
            file.seek(int(self.starts[first]))
            block = file.read(int(self.starts[stop] - self.starts[first]))
        bounds = self.starts[first : stop + 1] - self.starts[first]
        return [
            _parse(block[bounds[at] : bounds[at + 1]], self.is_json, self.scored,
                   where(self.path, first + at))
            for at in range(stop - first)
        ]  # fmt: skip


def open_inputs(path: str, scored: bool = False, duplicate_ids: str = "error") -> InputLines:
    """Reads the file once and checks every line, so that no error waits at its end.

    Files named .jsonl or .json hold JSON, all others text.

    Args:
      scored: every line must have a text 'targets', or a list of texts 'choices'.
      duplicate_ids: 'error' where two lines have the same 'id', or 'keep'.

    Raises:
      UserError: with the number of the line that is wrong.
    """
    if duplicate_ids not in DUPLICATE_IDS:
        near = did_you_mean(str(duplicate_ids), DUPLICATE_IDS)
        raise UserError(f"duplicate_ids is {duplicate_ids!r}; write 'error' or 'keep'.{near}")
    given = Path(path)
    if not given.is_file():
        known = [one.name for one in given.parent.glob("*")] if given.parent.is_dir() else []
        raise UserError(
            f"there is no file of inputs {path}; name a .jsonl file with a field 'inputs' in every "
            f"line, or a text file of one input a line.{did_you_mean(given.name, known)}"
        )
    is_json = given.suffix in _JSON_ENDINGS
    if scored and not is_json:
        raise UserError(
            f"{path} is plain text, which has nothing to score; give a .jsonl file whose lines "
            'have "inputs" and "targets", or "inputs" and "choices"'
        )
    digest, sizes, ids = hashlib.sha256(), array.array("q", [0]), array.array("Q")
    with given.open("rb") as file:
        for number, line in enumerate(file):
            fields = _parse(line, is_json, scored, where(given, number))
            digest.update(line)
            sizes.append(len(line))
            ids.append(_short_hash(fields["id"]) if "id" in fields else 0)
    if len(sizes) == 1:
        raise UserError(f"{path} is empty; write one input a line")
    lines = InputLines(
        given, is_json, scored, np.cumsum(np.array(sizes, np.int64)), digest.hexdigest()
    )
    if duplicate_ids == "error":
        _check_ids(lines, np.array(ids, np.uint64))
    return lines


def where(path: Path, number: int) -> str:
    """Names a line, counted from 0, as an editor counts it."""
    return f"{path}, line {number + 1}"


def _short_hash(value: Any) -> int:
    """Returns 8 bytes of an id, never 0: ids of a long file need not stay in memory."""
    text = json.dumps(value, sort_keys=True)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") or 1


def _check_ids(lines: InputLines, ids_N: np.ndarray) -> None:
    order = np.argsort(ids_N, kind="stable")
    ordered = ids_N[order]
    again = np.flatnonzero((ordered[1:] == ordered[:-1]) & (ordered[1:] != 0))
    for at in again.tolist():
        first, second = int(order[at]), int(order[at + 1])
        found = [lines.read(number, number + 1)[0]["id"] for number in (first, second)]
        if found[0] == found[1]:  # else two ids of one hash
            raise UserError(
                f"{lines.path}: lines {first + 1} and {second + 1} have the same id, {found[0]!r}; "
                "make ids unique, or write infer.duplicate_ids = 'keep' to answer both"
            )


def _parse(line: bytes, is_json: bool, scored: bool, place: str) -> dict:
    try:
        text = line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: not UTF-8 ({error.reason} at byte {error.start})") from None
    if not is_json:
        return {"inputs": text}
    shown = repr(text[:60])
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise UserError(
            f"{place}: {shown} is not JSON ({error}); write one object a line"
        ) from None
    if not isinstance(fields, dict) or not isinstance(fields.get("inputs"), str):
        near = did_you_mean("inputs", fields) if isinstance(fields, dict) else ""
        raise UserError(f"{place}: {shown} has no text field 'inputs'.{near}")
    if scored:
        check_scored(fields, place)
    return fields


def check_scored(fields: dict, place: str) -> None:
    """Raises UserError unless a line says what to score: 'choices', else 'targets'."""
    choices = fields.get("choices")
    if choices is None:
        if not isinstance(fields.get("targets"), str) or not fields["targets"]:
            near = did_you_mean("targets", fields) or did_you_mean("choices", fields)
            raise UserError(
                f"{place}: there is nothing to score; write a text 'targets' or a list of texts "
                f"'choices' beside 'inputs'.{near}"
            )
        return
    check_choices(choices, place)
    answer = fields.get("answer")
    known = isinstance(answer, int) and not isinstance(answer, bool)
    if answer is not None and not (known and 0 <= answer < len(choices)):
        raise UserError(
            f"{place}: the answer is {answer!r}, and its {len(choices)} choices have the indices 0 "
            f"to {len(choices) - 1}; write the index of the right one, or leave it out"
        )


def check_choices(choices: Sequence[Any], place: str) -> None:
    """Raises UserError unless there are two or more choices, each a text that is not empty."""
    if not isinstance(choices, list) or not all(isinstance(one, str) for one in choices):
        raise UserError(f"{place}: 'choices' is {choices!r:.80}; write a list of texts")
    if len(choices) < 2:
        raise UserError(
            f"{place}: there is {len(choices) or 'no'} choice, and ranking compares two or more; "
            "write a single text as 'targets'"
        )
    if "" in choices:
        raise UserError(f"{place}: choice {choices.index('')} is empty; write its text")
