"""A list of raw data in a TOML file: which files are which split of which data set.

    [[data]]
    dataset = "xcopa"
    subset = ["id", "sw"]             # a list stands for an entry each
    split = "validation"
    files = "$DATA/xcopa/{subset}/val.{subset}.jsonl"

`{subset}` is the subset, `{0}` and `{1}` its parts around '-', '_' or '.'. `files` is a path, a
list of paths, or, for line-aligned text files, {field = "path"}. Paths are relative to the list;
$NAME and * are filled in. Further keys are those of `raw_rows.RawSplit`: columns, header,
constants, prompts, language.
"""

from __future__ import annotations

import dataclasses
import os
import re
import tomllib
from pathlib import Path
from typing import Any

from seqio_tasks.near_names import did_you_mean
from seqio_tasks.raw_rows import RawSplit

_KEYS = tuple(field.name for field in dataclasses.fields(RawSplit))


def read_list(path: str | Path) -> list[RawSplit]:
    """The splits that a list names; ValueError for what is not such a list."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"There is no list of data at {path}; write a TOML file of [[data]].")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no TOML: {error}.") from None
    entries = content.get("data")
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path} has no [[data]]; write one with dataset, split and files.")
    splits = []
    for number, entry in enumerate(entries, start=1):
        where = f"{path}, [[data]] {number}"
        for key in entry:
            if key not in _KEYS:
                raise ValueError(f"{where}: there is no '{key}'.{did_you_mean(key, _KEYS)}")
        subsets = entry.get("subset")
        for subset in subsets if isinstance(subsets, list) else [subsets]:
            splits.append(_split({**entry, "subset": subset}, where, path.parent))
    return splits


def _split(entry: dict[str, Any], where: str, folder: Path) -> RawSplit:
    filled = _filled(entry, entry["subset"], where)
    files = filled.get("files")
    if not files:
        raise ValueError(f"{where}: files is {files!r}; write a path.")

    def placed(path: str) -> str:
        full = os.path.expandvars(os.path.expanduser(path))
        unset = re.search(r"\$\{?(\w+)", full)
        if unset:
            raise ValueError(f"{where}: '{path}' needs ${unset[1]}, which is not set.")
        return str(folder / full)

    if isinstance(files, dict):
        files = {field: placed(path) for field, path in files.items()}
    else:
        files = tuple(placed(path) for path in ([files] if isinstance(files, str) else files))
    try:
        return RawSplit(**{**filled, "files": files, "columns": tuple(filled.get("columns", ()))})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None


def _filled(value: Any, subset: str | None, where: str) -> Any:
    """The value with {subset}, {0}, {1} filled in wherever they stand."""
    if isinstance(value, dict):
        return {key: _filled(item, subset, where) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, subset, where) for item in value]
    if isinstance(value, str) and subset:
        parts = re.split(r"[-_.]", subset)
        try:
            return re.sub(
                r"\{(subset|\d)\}",
                lambda found: subset if found[1] == "subset" else parts[int(found[1])],
                value,
            )
        except IndexError:
            raise ValueError(f"{where}: '{value}' asks for a part that '{subset}' lacks.") from None
    return value
