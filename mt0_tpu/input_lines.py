"""A file of inputs, a line each: JSON with a field 'inputs', or plain text."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np

from mt0_tpu.errors import UserError, did_you_mean

_JSON_ENDINGS = (".jsonl", ".json")


@dataclasses.dataclass(frozen=True)
class InputLines:
    """The lines of a file, checked and found by number without holding them in memory.

    Attributes:
      starts: int64 byte offset of each line, then the size of the file.
      sha256: of the whole file.
    """

    path: Path
    is_json: bool
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
            _parse(block[bounds[at] : bounds[at + 1]], self.is_json, self.path, first + at + 1)
            for at in range(stop - first)
        ]


def open_inputs(path: str) -> InputLines:
    """Reads the file once and checks every line, so that no error waits at its end.

    Files named .jsonl or .json hold JSON, all others text. Raises UserError with the number of
    the line that is wrong.
    """
    given = Path(path)
    if not given.is_file():
        known = [one.name for one in given.parent.glob("*")] if given.parent.is_dir() else []
        raise UserError(
            f"there is no file of inputs {path}; name a .jsonl file with a field 'inputs' in every "
            f"line, or a text file of one input a line.{did_you_mean(given.name, known)}"
        )
    is_json = given.suffix in _JSON_ENDINGS
    digest, sizes = hashlib.sha256(), [0]
    with given.open("rb") as file:
        for number, line in enumerate(file, start=1):
            _parse(line, is_json, given, number)
            digest.update(line)
            sizes.append(len(line))
    if len(sizes) == 1:
        raise UserError(f"{path} is empty; write one input a line")
    return InputLines(given, is_json, np.cumsum(np.array(sizes, np.int64)), digest.hexdigest())


def _parse(line: bytes, is_json: bool, path: Path, number: int) -> dict:
    where = f"{path}, line {number}"
    try:
        text = line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 ({error.reason} at byte {error.start})") from None
    if not is_json:
        return {"inputs": text}
    shown = repr(text[:60])
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise UserError(
            f"{where}: {shown} is not JSON ({error}); write one object a line"
        ) from None
    if not isinstance(fields, dict) or not isinstance(fields.get("inputs"), str):
        near = did_you_mean("inputs", fields) if isinstance(fields, dict) else ""
        raise UserError(f"{where}: {shown} has no text field 'inputs'.{near}")
    return fields
