"""Where the evaluation's rows lie, and their rows as templates expect them.

$MT0_EVAL_DIR names folders, or lists of files in TOML (`raw_lists`), with the system's path
separator between them; by default it is the folder `evaluation` in $MT0_DATA_DIR. A data set is
looked for in each, and in the folders directly below it:

  DATASET[/CONFIG]/SPLIT.jsonl   as the Hub calls them; or .json, .parquet, .tsv, .csv, also .gz
  COPA/val.jsonl, …              as its original release calls it (`evaluation_releases.RELEASES`)

What lies nowhere is read from the Hub through the `datasets` library. Nothing is looked at before
rows are read, and neither SeqIO nor TensorFlow is needed.
"""

from __future__ import annotations

import dataclasses
import functools
import glob
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seqio_tasks import evaluation_releases, raw_lists, xp3_files
from seqio_tasks.evaluation_tables import EvaluationTask
from seqio_tasks.line_files import LineFile
from seqio_tasks.raw_rows import OnBad, RawSplit, Row

VARIABLE = "MT0_EVAL_DIR"
# Split, shard, ending.
_FILE = re.compile(r"(.+?)(-\d+-of-\d+)?\.((?:jsonl|json|parquet|tsv|csv)(?:\.(?:gz|xz|bz2))?)")


def places() -> list[str]:
    """The folders and lists that are searched, in order; there or not."""
    named = os.environ.get(VARIABLE)
    if named:
        return [os.path.expanduser(place) for place in named.split(os.pathsep) if place]
    data_dir = xp3_files.data_dir()
    return [] if "://" in data_dir else [os.path.join(data_dir, "evaluation")]


def find(task: EvaluationTask) -> RawSplit | None:
    """The local files of a task's split; None where there are none.

    Raises:
      ValueError: a place that $MT0_EVAL_DIR names is not there, or two files could be the split.
    """
    for place in places():
        if place.endswith(".toml"):
            found = _listed(place, task)
        else:
            if os.environ.get(VARIABLE) and not os.path.isdir(place):
                raise ValueError(f"${VARIABLE} names {place}, and there is no such folder.")
            found = _in_folder(place, task) or _below(place, task)
        if found:
            return found
    return None


def _listed(path: str, task: EvaluationTask) -> RawSplit | None:
    for split in _read_list(path, _changed(path)):
        same = split.dataset in (task.dataset, task.short) and split.split == task.split
        if same and split.subset in (task.hub_config, task.config):
            return split
    return None


@functools.lru_cache(maxsize=8)
def _read_list(path: str, changed: int) -> list[RawSplit]:
    return raw_lists.read_list(path)


def _changed(path: str) -> int:
    return os.stat(path).st_mtime_ns if os.path.exists(path) else 0


def _in_folder(folder: str, task: EvaluationTask) -> RawSplit | None:
    for name in dict.fromkeys((task.dataset, task.short)):
        # ANLI's rounds are splits on the Hub; the table has them as configs too.
        for config in dict.fromkeys((task.hub_config, task.config)):
            if paths := _files_of(os.path.join(folder, name, config or ""), task):
                return _split(task, paths)
    for pattern in evaluation_releases.patterns(task.reported_as, task.config):
        if paths := sorted(glob.glob(os.path.join(glob.escape(folder), pattern))):
            columns = evaluation_releases.RELEASES[task.reported_as].columns
            return _split(task, [_only(task, paths)], columns)
    return None


def _files_of(folder: str, task: EvaluationTask) -> list[str]:
    """The split's one file in a folder, or its shards."""
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    found = [match for name in names if (match := _FILE.fullmatch(name)) and match[1] == task.split]
    paths = [os.path.join(folder, match[0]) for match in found]
    shards = len({match[3] for match in found}) == 1 and all(match[2] for match in found)
    return paths if shards or not paths else [_only(task, paths)]


def _below(folder: str, task: EvaluationTask) -> RawSplit | None:
    inside = [_in_folder(below, task) for below in _folders(folder)]
    found = [split for split in inside if split]
    if len(found) > 1:
        _only(task, [path for split in found for path in split.files])
    return found[0] if found else None


def _folders(folder: str) -> list[str]:
    if not os.path.isdir(folder):
        return []
    return sorted(entry.path for entry in os.scandir(folder) if entry.is_dir())


def _only(task: EvaluationTask, paths: list[str]) -> str:
    if len(paths) == 1:
        return paths[0]
    raise ValueError(
        f"{task.name}: {len(paths)} files could be its rows: {', '.join(paths)}; name the folder "
        f"of the right one in ${VARIABLE}."
    )


def _split(task: EvaluationTask, paths: list[str], columns: tuple[str, ...] = ()) -> RawSplit:
    files = tuple(glob.escape(path) for path in paths)
    return RawSplit(task.dataset, task.hub_config, task.split, files=files, columns=columns)


@dataclasses.dataclass(frozen=True)
class EvaluationRows(RawSplit):
    """The rows of a task in the Hub's columns, from its files, else from the Hub.

    Where they lie is looked up when they are read. ValueError, with file and row, for a row that
    lacks a column or whose answer is none, and for two rows of one id.
    """

    task: EvaluationTask | None = None

    def found(self) -> RawSplit:
        """The local split, else the Hub's."""
        task = self.task
        return find(task) or RawSplit(task.dataset, task.hub_config, task.split)

    def paths(self) -> list[Path]:
        found = self.found()
        return [] if found.on_hub else found.paths()

    def line_files(self) -> list[LineFile]:
        """The local files with sizes and times, for a cache to see that they changed."""
        status = [(path, path.stat()) for path in self.paths()]
        return [LineFile(str(p), s.st_size, (s.st_mtime_ns,), True) for p, s in status]

    def fingerprint(self) -> str:
        return self.found().fingerprint()

    def rows(self, on_bad: OnBad | None = None) -> Iterator[Row]:
        found, seen, count = self.found(), {}, 0
        where = f"{self.task.name}: {_where(found)}"
        for number, raw in enumerate(_read(self.task, found, on_bad), start=1):
            try:
                row = evaluation_releases.to_columns(self.task.reported_as, self.task.config, raw)
                if row is not None:
                    _check_new(row, number, seen)
            except ValueError as error:
                raise ValueError(f"{where}, row {number}: {error}.") from None
            if row is not None:
                count += 1
                yield row
        if not count:
            config = f" of '{self.task.config}'" if self.task.config else ""
            raise ValueError(f"{where} has no row{config}; name files that have, in ${VARIABLE}.")


def _read(task: EvaluationTask, found: RawSplit, on_bad: OnBad | None) -> Iterator[Row]:
    if not found.on_hub:
        return found.rows(on_bad)
    try:
        return _with_first(found.rows())
    except ValueError as error:
        looked = ", ".join(places()) or "no local folder"
        raise ValueError(
            f"{task.name}: no file of {found.name} in {looked} (${VARIABLE}), and {error}"
        ) from None


def _with_first(rows: Iterator[Row]) -> Iterator[Row]:
    """The same rows, the first read now: that is when the Hub is asked."""
    first = next(rows, None)

    def everything() -> Iterator[Row]:
        if first is not None:
            yield first
            yield from rows

    return everything()


def _where(found: RawSplit) -> str:
    if found.on_hub:
        return f"the Hub's {found.name}"
    return ", ".join(str(path) for path in found.paths())


def _check_new(row: Row, number: int, seen: dict[Any, int]) -> None:
    """ValueError for a row whose id another row has."""
    name = next((name for name in evaluation_releases.IDS if name in row), None)
    if name is None:
        return
    mark = json.dumps(row[name], sort_keys=True, default=str)
    if mark in seen:
        raise ValueError(f"its {name} {mark} is that of row {seen[mark]} too; leave one out")
    seen[mark] = number


def rows_of(task: EvaluationTask) -> EvaluationRows:
    """The rows of a task; nothing is looked for before they are read."""
    return EvaluationRows(task.dataset, task.hub_config, task.split, task=task)
