"""Which Python and data files define a mixture, and whether they changed.

Asked without importing the ones or reading the others.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import site
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mt0_tpu.data.task_definition import name_of

_MOST_DATA_FILES = 20_000
# Rooms that score what a model writes; no example depends on them.
_SCORING = {
    f"seqio_tasks.{room}"
    for room in ("code_execution", "code_isolation", "code_metrics", "generation_metrics")
}


def of_tasks(provider: Any, tasks: Sequence[Any], module: str | None) -> dict[str, str]:
    """Returns {module: sha256} of the loaded files of every package that takes part in a mixture.

    Packages that only come installed (SeqIO, TensorFlow) are left out; seqio_tasks never is, but
    for its rooms of metrics alone.
    """
    packages = {"seqio_tasks"}
    if module:
        packages.add(Path(module).stem if module.endswith(".py") else module.split(".")[0])
    for task in tasks:
        packages.add(type(task.source).__module__.split(".")[0])
        for step in (*task.preprocessors, getattr(task.source, "_dataset_fn", None)):
            if step is not None:
                packages.add(name_of(step).split(".")[0])
    found = {}
    for name, loaded in list(sys.modules.items()):
        file = getattr(loaded, "__file__", None)
        if name in _SCORING:
            continue
        if name.split(".")[0] in packages and file and file.endswith(".py"):
            if name.startswith("seqio_tasks") or not _installed(file):
                found[name] = _hash(Path(file))
    return found


def changed(files: Mapping[str, str], module: str | None) -> list[str]:
    """Returns the modules whose files differ from their hashes.

    A module that is not on this machine is taken as unchanged: a cache can be trained on where
    its tasks cannot be run.
    """
    return [
        name
        for name, expected in files.items()
        if name not in _SCORING  # caches of before this was so list them
        and (path := _locate(name, module)) is not None
        and _hash(path) != expected
    ]


def data_files(tasks: Sequence[Any]) -> dict[str, list[int]]:
    """Returns {path: [size, modification time in ns]} of the local files that tasks read.

    Empty where they are so many that asking for each would delay a training's start.
    """
    found: dict[str, list[int]] = {}
    for task in tasks:
        # A source whose files are not its lines one by one has them watched under another name.
        files = getattr(task.source, "watched_files", getattr(task.source, "files", None))
        for split in task.splits if files else ():
            for file in files(split):
                if file.local:
                    found[file.url] = [file.size, *file.marks]
        if len(found) > _MOST_DATA_FILES:
            return {}
    return found


def changed_data(files: Mapping[str, Sequence[int]]) -> list[str]:
    """Returns the files that are here with another size or time; one that is not here is not."""
    changed = []
    for path, marks in files.items():
        try:
            status = os.stat(path)
        except OSError:
            continue
        if [status.st_size, status.st_mtime_ns] != list(marks):
            changed.append(path)
    return changed


def environment(tasks: Sequence[Any]) -> dict[str, str]:
    """Returns the variables that the tasks' sources depend on, by their word; '' if not set."""
    names = {name for task in tasks for name in getattr(task.source, "environment", ())}
    return {name: os.environ.get(name, "") for name in sorted(names)}


def changed_environment(values: Mapping[str, str]) -> list[str]:
    """Returns the variables that are set to another value now; one that is not set is not."""
    return [f"${name}" for name, value in values.items() if os.environ.get(name, value) != value]


def _locate(name: str, module: str | None) -> Path | None:
    """Returns a module's file without importing its packages."""
    if module and module.endswith(".py") and Path(module).stem == name:
        return Path(module) if Path(module).is_file() else None
    top, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # ValueError: __main__ has no spec
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin and Path(spec.origin).is_file() else None
    for folder in spec.submodule_search_locations or ():
        path = Path(folder, *rest)
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return file
    return None


@functools.cache
def _folders() -> tuple[str, ...]:
    paths = [*site.getsitepackages(), site.getusersitepackages()]
    return tuple({*paths, *(sysconfig.get_path(key) for key in ("stdlib", "purelib", "platlib"))})


def _installed(file: str) -> bool:
    return str(Path(file)).startswith(_folders())


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
