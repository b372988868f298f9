"""Rows of raw data sets as plain dicts: local files of the usual kinds, or the Hub.

Local: .jsonl, .json (a list, one object a line, or SQuAD's nested form), .parquet, .tsv, .csv,
.txt (a line a row), each also compressed (.gz, .xz, .bz2). The Hub through the `datasets` library
where it is installed (`pip install .[hf]`); loader scripts are never run. Rows are read one after
the other; a parquet file is read batch by batch, a .json list whole.
"""

from __future__ import annotations

import bz2
import contextlib
import csv
import dataclasses
import glob
import gzip
import hashlib
import io
import json
import lzma
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

Row = dict[str, Any]
# Told of a row that cannot be read: where, and why.
OnBad = Callable[[str, str], None]
FORMATS = ("jsonl", "json", "parquet", "tsv", "csv", "txt")
_OPENERS = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
_MAGIC = {b"PAR1": "a parquet file", b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}
_TYPES = {"str": str, "int": int, "float": float}
_BATCH_ROWS = 1024


@dataclasses.dataclass(frozen=True)
class RawSplit:
    """One split of a data set, where it lies and how it is read.

    Attributes:
      dataset: name as on the Hub, such as 'GEM/wiki_lingua'.
      subset: its config, or None.
      split: the split's own name.
      files: paths, each may hold `*`; none for the Hub. Line-aligned text files, one a field, are
        written {field: path}.
      columns: names of a table's columns, 'label:int' for numbers; a table without them has them
        in its first line.
      header: whether a table given `columns` still has a first line of names, to be left out.
      constants: fields that every row gets.
      prompts: key of the templates, where it is not the recipe's.
      language: language folder, where it is not the recipe's.
    """

    dataset: str
    subset: str | None
    split: str
    files: tuple[str, ...] | Mapping[str, str] = ()
    columns: tuple[str, ...] = ()
    header: bool = False
    constants: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    prompts: str | None = None
    language: str | None = None

    def __post_init__(self):
        if not self.dataset or not self.split:
            raise ValueError(f"{self.name} lacks a dataset or a split; write both.")
        for column in self.columns:
            _column(column)

    @property
    def name(self) -> str:
        """'xcopa/id validation', for messages."""
        return f"{'/'.join(filter(None, (self.dataset, self.subset)))} {self.split}"

    @property
    def on_hub(self) -> bool:
        return not self.files

    def paths(self) -> list[Path]:
        """The local files, sorted within each pattern; ValueError where there is none."""
        patterns = self.files.values() if isinstance(self.files, Mapping) else self.files
        found = []
        for pattern in patterns:
            matches = sorted(glob.glob(os.path.expandvars(os.path.expanduser(pattern))))
            if not matches:
                raise ValueError(f"{self.name}: there is no file {pattern}.")
            found += map(Path, matches)
        return found

    def fingerprint(self) -> str:
        """Changes when the files or the way of reading them do; the Hub's data set by its name."""
        marks = [] if self.on_hub else [(path.name, *_mark(path)) for path in self.paths()]
        told = dataclasses.asdict(dataclasses.replace(self, files=()))
        text = json.dumps([told, marks], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def rows(self, on_bad: OnBad | None = None) -> Iterator[Row]:
        """The rows in order. A bad one is told to `on_bad` and left out; without it, ValueError."""
        if self.on_hub:
            rows = _hub_rows(self)
        elif isinstance(self.files, Mapping):
            rows = _parallel_rows(dict(zip(self.files, self.paths(), strict=True)), self.name)
        else:
            rows = (row for path in self.paths() for row in _file_rows(path, self, on_bad))
        constants = dict(self.constants)
        return ({**row, **constants} for row in rows) if constants else rows


def _mark(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _column(text: str) -> tuple[str, type]:
    name, _, kind = text.partition(":")
    if not name or (kind or "str") not in _TYPES:
        raise ValueError(f"Column '{text}' is unknown; write NAME, NAME:int or NAME:float.")
    return name, _TYPES[kind or "str"]


def _format(path: Path) -> tuple[str, str]:
    """(kind of file, compression's ending or '')."""
    endings = path.suffixes[-2:]
    packed = endings.pop() if endings and endings[-1] in _OPENERS else ""
    kind = endings[-1].lstrip(".") if endings else ""
    if kind not in FORMATS:
        raise ValueError(
            f"{path} ends in '{path.suffix}'; write one of .{', .'.join(FORMATS)}, "
            "with .gz, .xz or .bz2 behind it where it is compressed."
        )
    return kind, packed


@contextlib.contextmanager
def _text(path: Path, packed: str) -> Iterator[io.TextIOBase]:
    with path.open("rb") as file:
        start = file.read(8)
    for magic, what in _MAGIC.items():
        if start.startswith(magic) and not packed:
            raise ValueError(f"{path} is {what} by its first bytes; give it the ending of one.")
    opened = (_OPENERS.get(packed) or open)(path, "rt", encoding="utf-8-sig", newline="")
    with opened as lines:
        try:
            yield lines
        except (UnicodeDecodeError, EOFError, OSError, lzma.LZMAError) as error:
            raise ValueError(f"{path} cannot be read: {error}.") from None


def _file_rows(path: Path, split: RawSplit, on_bad: OnBad | None) -> Iterator[Row]:
    kind, packed = _format(path)

    def bad(where: str, reason: str) -> None:
        if on_bad is None:
            raise ValueError(f"{where}: {reason}.")
        on_bad(where, reason)

    if kind == "parquet":
        yield from _parquet_rows(path)
        return
    with _text(path, packed) as lines:
        if kind == "txt":
            names = [_column(text)[0] for text in split.columns] or ["text"]
            yield from ({names[0]: line.rstrip("\r\n")} for line in lines)
        elif kind in ("tsv", "csv"):
            yield from _table_rows(lines, kind, split, str(path), bad)
        elif kind == "jsonl":
            yield from _json_lines(lines, str(path), bad)
        else:
            yield from _json_rows(lines, path, packed, bad)


def _json_lines(lines: io.TextIOBase, where: str, bad: OnBad) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            bad(f"{where}, line {number}", f"not JSON ({error})")
            continue
        if isinstance(row, dict):
            yield row
        else:
            bad(f"{where}, line {number}", f"{line.strip()[:60]!r} is no object")


def _json_rows(lines: io.TextIOBase, path: Path, packed: str, bad: OnBad) -> Iterator[Row]:
    try:
        content = json.load(lines)
    except json.JSONDecodeError:
        # Many a .json holds one object a line.
        with _text(path, packed) as again:
            yield from _json_lines(again, str(path), bad)
        return
    if isinstance(content, dict) and isinstance(content.get("data"), list):
        content = content["data"]
    if not isinstance(content, list):
        content = [content]
    for number, row in enumerate(content):
        if isinstance(row, dict) and isinstance(row.get("paragraphs"), list):
            yield from _squad_rows(row)
        elif isinstance(row, dict):
            yield row
        else:
            bad(f"{path}, item {number}", f"{str(row)[:60]!r} is no object")


def _squad_rows(article: Row) -> Iterator[Row]:
    """SQuAD's nested form, flat as the Hub has it: one row a question."""
    for paragraph in article["paragraphs"]:
        for asked in paragraph.get("qas", ()):
            answers = asked.get("answers", ())
            yield {
                "id": asked.get("id"),
                "title": article.get("title", ""),
                "context": paragraph["context"],
                "question": asked["question"],
                "answers": {
                    "text": [answer["text"] for answer in answers],
                    "answer_start": [answer.get("answer_start", -1) for answer in answers],
                },
            }


def _table_rows(
    lines: io.TextIOBase, kind: str, split: RawSplit, where: str, bad: OnBad
) -> Iterator[Row]:
    csv.field_size_limit(1 << 30)
    if kind == "tsv":
        # Nothing is quoted in a .tsv: a lone quotation mark is a letter like any other.
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(lines)
    columns = [_column(text) for text in split.columns]
    if not columns or split.header:
        first = next(reader, None)
        columns = columns or [(name, str) for name in first or ()]
    for cells in reader:
        if not cells:
            continue
        place = f"{where}, line {reader.line_num}"
        if len(cells) != len(columns):
            bad(place, f"{len(cells)} cells where there are {len(columns)} columns")
            continue
        try:
            yield {name: kind(cell) for (name, kind), cell in zip(columns, cells, strict=True)}
        except ValueError as error:
            bad(place, str(error))


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is no parquet file: {error}.") from None
    with file:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS):
            yield from batch.to_pylist()


def _parallel_rows(files: Mapping[str, Path], name: str) -> Iterator[Row]:
    """Line-aligned text files; ValueError where one ends before the others."""
    with contextlib.ExitStack() as stack:
        opened = []
        for path in files.values():
            packed = path.suffix if path.suffix in _OPENERS else ""
            opened.append(stack.enter_context(_text(path, packed)))
        missing = object()
        for number in range(1, 1 << 62):
            lines = [next(file, missing) for file in opened]
            if all(line is missing for line in lines):
                return
            if any(line is missing for line in lines):
                raise ValueError(f"{name}: {[str(path) for path in files.values()]} differ in "
                                 f"length: one ends before line {number}.")  # fmt: skip
            yield {key: line.rstrip("\r\n") for key, line in zip(files, lines, strict=True)}


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise ValueError(
            "The Hub's data sets need the `datasets` library: pip install .[hf], or name local "
            "files."
        ) from None
    return datasets


def _hub_rows(split: RawSplit) -> Iterator[Row]:
    library = _datasets()
    try:
        found = library.load_dataset(split.dataset, split.subset, split=split.split)
    # Whatever the library raises: no such data set, no network, a loader script.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{split.name} cannot be had from the Hub ({type(error).__name__}: {reason}); "
            "download it as jsonl or parquet and name the files."
        ) from None
    yield from found


def hub_splits(dataset: str, subset: str | None) -> list[str]:
    """Names of the Hub's splits of a data set; ValueError where they cannot be had."""
    library = _datasets()
    try:
        return list(library.get_dataset_split_names(dataset, subset))
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        name = "/".join(filter(None, (dataset, subset)))
        raise ValueError(f"The Hub does not list {name} ({reason}).") from None


_SHARD = re.compile(r"-\d{5}-of-\d{5}$")


def find_local(root: str | Path, known: tuple[str, ...] = ()) -> list[RawSplit]:
    """Every split in a folder laid out as ROOT/DATASET[/SUBSET]/SPLIT.jsonl (or another kind).

    Args:
      root: the folder.
      known: names of data sets that hold a '/', so that 'GEM/xlsum/hindi' is read rightly.
    Raises:
      ValueError: there is no such folder, or nothing in it.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise ValueError(f"There is no folder of raw data at {root}.")
    splits: dict[tuple[str, str | None, str], list[str]] = {}
    for path in sorted(root.rglob("*")):
        kind = next((end.lstrip(".") for end in path.suffixes[-2:] if end[1:] in FORMATS), None)
        if not path.is_file() or kind is None:
            continue
        folder = path.parent.relative_to(root).as_posix()
        dataset = next(
            (name for name in sorted(known, key=len, reverse=True)
             if folder == name or folder.startswith(f"{name}/")), folder.split("/")[0]
        )  # fmt: skip
        subset = folder[len(dataset) + 1 :] or None
        name = path.name
        for ending in path.suffixes[::-1]:
            if ending.lstrip(".") in FORMATS or ending in _OPENERS:
                name = name.removesuffix(ending)
        if dataset != ".":
            splits.setdefault((dataset, subset, _SHARD.sub("", name)), []).append(str(path))
    if not splits:
        raise ValueError(f"{root} holds no data; lay it out as DATASET/SUBSET/SPLIT.jsonl.")
    return [RawSplit(*key, files=tuple(files)) for key, files in splits.items()]
