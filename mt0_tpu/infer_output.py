"""The output file of an inference job: whole lines in order, so that a killed job goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from mt0_tpu.errors import UserError
from mt0_tpu.redaction import redact_all
from mt0_tpu.whole_file import write_whole


class OutputFile:
    """Lines appended in order, whole or not at all; the final name appears when all are there."""

    def __init__(self, path: Path, job: Mapping, num_lines: int):
        self.path = path
        self._job = redact_all(json.loads(json.dumps(job)))
        self._num_lines = num_lines
        self._partial = path.with_name(f"{path.name}.partial")
        self._partial_job = path.with_name(f"{path.name}.partial.job")
        self._completed = path.with_name(f"{path.name}.COMPLETED")

    def is_complete(self) -> bool:
        """Tells whether this very job has finished; UserError where another one has."""
        if self._completed.is_file() and self.path.exists():
            self._check_job(self._completed)
            return True
        if self.path.exists() and not self._partial_job.exists():
            raise UserError(
                f"{self.path} exists and was not written by `mt0 infer`; name another "
                "INFER_OUTPUT_DIR or move the file away"
            )
        return False

    def lines_done(self) -> int:
        """Returns how many lines an earlier process of this job has written whole."""
        if self.path.exists():
            # Killed between the two names: all lines are there.
            self._check_job(self._partial_job)
            return self._num_lines
        if not self._partial.is_file():
            return 0
        self._check_job(self._partial_job)
        count = _whole_lines(self._partial)[0]
        if count > self._num_lines:
            raise UserError(
                f"{self._partial} has {count} lines for {self._num_lines} inputs; delete it"
            )
        return count

    def start(self) -> None:
        """Cuts a line that a kill left half written."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            return
        if self._partial.is_file():
            with self._partial.open("r+b") as file:
                file.truncate(_whole_lines(self._partial)[1])
        else:
            write_whole(self._partial_job, json.dumps(self._job, indent=1) + "\n")
            self._partial.touch()

    def append(self, lines: Sequence[Mapping]) -> None:
        """Adds lines; they are on disk when the call returns."""
        with self._partial.open("ab") as file:
            for line in lines:
                file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def complete(self) -> None:
        """Gives the file its name and leaves .COMPLETED beside it."""
        if not self.path.exists():
            os.replace(self._partial, self.path)
        os.replace(self._partial_job, self._completed)

    def _check_job(self, path: Path) -> None:
        try:
            found = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} cannot be read ({error}), so what {self.path.parent} holds is unknown; "
                "name another INFER_OUTPUT_DIR or delete it"
            ) from None
        for name, value in self._job.items():
            if found.get(name) != value:
                raise UserError(
                    f"{path} was written with {name} {found.get(name)!r} and this job has "
                    f"{value!r}; name another INFER_OUTPUT_DIR, or delete the earlier output"
                )


def _whole_lines(path: Path) -> tuple[int, int]:
    """Returns (number of lines that end with a newline, their bytes)."""
    count = size = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            count, size = count + 1, size + len(line)
    return count, size
