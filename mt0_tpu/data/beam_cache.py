"""The same shards written by Apache Beam, for a collection that has outgrown one machine.

Workers put shards into a folder that all of them reach: the cache folder itself where it lies on a
shared file system, else the remote folder (gs://…), from which the caller fetches them to merge.
A worker needs mt0_tpu, SeqIO and the module of the task, by a dotted name, and must reach the
source files and the vocabulary.

apache_beam is imported by what runs a pipeline, never at the top.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mt0_tpu.data import cache_shards
from mt0_tpu.data.cache_progress import CacheProgress
from mt0_tpu.data.cache_shards import Job, Part
from mt0_tpu.data.providers import find_provider
from mt0_tpu.data.task_definition import TaskDefinition, define
from mt0_tpu.errors import UserError

_MARK = "shard.json"  # the last file of a shard to be copied: with it, it is whole
_LOOK_EVERY_S = 5.0
_HERE = ("DirectRunner", "FnApiRunner")
# (run, task) -> definition; a worker serves one run after the other.
_defined: dict[tuple[str, str], TaskDefinition] = {}


def write_all(
    parts: Sequence[Part],
    definitions: Mapping[str, TaskDefinition],
    module: str | None,
    cores: int,
    report: CacheProgress,
    done: Callable[[Job, list[Path]], None],
    *,
    runner: str,
    options: Sequence[str] = (),
    root: Path | None = None,
    url: str | None = None,
) -> None:
    """Writes shards as cache_shards.write_all does, by a Beam pipeline.

    Args:
        runner: a Beam runner; DirectRunner runs in processes of this machine.
        options: Beam's own pipeline options, such as --project=x.
        root, url: where shards lie here, and the remote folder that stands for it, if any.

    Raises UserError: no Beam here, a runner or option it does not know, what a worker says of a
    user's mistake.
    """
    _check_module(runner, module)
    place = _Place(root, url)
    missing = place.missing(parts)
    if missing:
        watch = _Watch(missing, place, report)
        try:
            _run(cache_shards.groups(missing), module, cores, runner, options, place)
        finally:
            watch.stop()
    folders: dict[Job, list[Path]] = {}
    for part in parts:
        folders.setdefault(part.job, []).append(place.fetch(part))
    for job, shards in folders.items():
        done(job, shards)
        place.clear(shards)


def _check_module(runner: str, module: str | None) -> None:
    if module and module.endswith(".py") and runner not in _HERE:
        raise UserError(
            f"the module is {module}, a file of this machine, and workers of {runner} import it by "
            "name; install it there and write --module package.module"
        )


class _Place:
    """Where workers put shards: local paths, or the same paths under a URL."""

    def __init__(self, root: Path | None, url: str | None):
        self._root, self.url = root, url

    def target(self, part: Part) -> str:
        """Returns where a worker puts a part."""
        return (
            f"{self.url}/{Path(part.folder).relative_to(self._root)}" if self.url else part.folder
        )

    def missing(self, parts: Sequence[Part]) -> list[Part]:
        """Returns the parts that are not there yet, nor here."""
        return [p for p in parts if not Path(p.folder).is_dir() and self.mark(p) is None]

    def mark(self, part: Part) -> dict[str, Any] | None:
        """Returns what the last file of a whole shard says; None when it is not whole."""
        import fsspec

        try:
            with fsspec.open(f"{self.target(part)}/{_MARK}", "rt", encoding="utf-8") as file:
                return json.load(file)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def fetch(self, part: Part) -> Path:
        """Returns a shard's folder here, copied if need be; it appears only when whole."""
        folder = Path(part.folder)
        if not self.url or folder.is_dir():
            return folder
        import fsspec

        fs, path = fsspec.core.url_to_fs(self.target(part))
        temporary = folder.with_name(f"{folder.name}.tmp-fetch")
        temporary.mkdir(parents=True, exist_ok=True)
        for name in fs.ls(path, detail=False):
            fs.get_file(name, str(temporary / Path(name).name))
        return temporary.rename(folder)

    def clear(self, shards: Sequence[Path]) -> None:
        """Removes the remote shards of a finished split."""
        if not self.url:
            return
        import fsspec

        fs, path = fsspec.core.url_to_fs(f"{self.url}/{shards[0].parent.relative_to(self._root)}")
        if fs.exists(path):
            fs.rm(path, recursive=True)


class _Watch:
    """Reports shards as they appear: Beam itself says nothing until it ends."""

    def __init__(self, parts: Sequence[Part], place: _Place, report: CacheProgress):
        self._parts, self._place, self._report = list(parts), place, report
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.wait(_LOOK_EVERY_S):
            left = []
            for part in self._parts:
                if self._stopped.is_set():
                    return
                mark = self._place.mark(part)
                if mark is None:
                    left.append(part)
                else:
                    self._report.add(mark["examples"], mark["tokens"], part.weight)
            self._parts = left

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()


def _run(groups, module, cores, runner, options, place) -> None:
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UserError(
            f"--runner {runner} needs Apache Beam ({error}); install it with "
            "`pip install mt0_tpu[beam]`"
        ) from None
    work = [[(dataclasses.asdict(part), place.target(part)) for part in group] for group in groups]
    write = functools.partial(
        write_group,
        run=uuid.uuid4().hex,
        module=module,
        remote=bool(place.url),
        paths=sys.path[:],
        environment={key: value for key, value in os.environ.items() if key.startswith("MT0_")},
    )
    try:
        pipeline = beam.Pipeline(
            runner=_runner(runner), options=PipelineOptions([*_defaults(runner, cores), *options])
        )
        _ = pipeline | beam.Create(work) | beam.Reshuffle() | beam.Map(write)
        result = pipeline.run()
        state = result.wait_until_finish()
    except UserError:
        raise
    except Exception as error:  # a worker's error arrives as text, deep in one of Beam's own
        said = re.search(r"UserError: (.+?)(?: \[while running|\\n|\n|$)", str(error))
        if said:
            raise UserError(said[1]) from error
        raise
    if state not in (None, "DONE"):
        raise UserError(f"the pipeline on {runner} ended as {state}; its log says why")


def _runner(name: str) -> Any:
    if name in _HERE:
        # Beam's own DirectRunner first tries to download another one.
        from apache_beam.runners.portability.fn_api_runner import FnApiRunner

        return FnApiRunner()
    return name


def _defaults(runner: str, cores: int) -> list[str]:
    """Returns options that the caller's own, coming later, override."""
    if runner not in _HERE:
        return []
    mode = "multi_processing" if cores > 1 else "in_memory"
    return [f"--direct_num_workers={cores}", f"--direct_running_mode={mode}"]


def write_group(
    group: Sequence[tuple[Mapping[str, Any], str]],
    *,
    run: str,
    module: str | None,
    remote: bool,
    paths: Sequence[str],
    environment: Mapping[str, str],
) -> int:
    """Writes shards in a Beam worker and returns how many.

    Args:
        group: (fields of a Part, where it goes).
        run: names the run: tasks may have changed since another.
        module: what registers the tasks.
        remote: whether shards go to a URL.
        paths: the caller's module search path, of use on its own machine.
        environment: the caller's variables of ours: where data and vocabulary are.
    """
    os.environ.update(environment)
    sys.path += [path for path in paths if path not in sys.path]
    for fields, target in group:
        part = Part(**fields)
        if (run, part.task) not in _defined:
            _defined[run, part.task] = define(find_provider(part.task, module))
        definition = _defined[run, part.task]
        if not remote:
            Path(part.folder).parent.mkdir(parents=True, exist_ok=True)
            cache_shards.write_part(part, definition, lambda *count: None)
            continue
        with tempfile.TemporaryDirectory() as folder:
            here = dataclasses.replace(part, folder=str(Path(folder, "shard")))
            cache_shards.write_part(here, definition, lambda *count: None)
            _upload(Path(here.folder), target)
    return len(group)


def _upload(folder: Path, url: str) -> None:
    import fsspec

    fs, path = fsspec.core.url_to_fs(url)
    fs.makedirs(path, exist_ok=True)
    for file in sorted(folder.iterdir(), key=lambda file: file.name == _MARK):
        fs.put_file(str(file), f"{path}/{file.name}")
