"""SeqIO tasks → caches: run the steps that run once, write token ids, keep what says how.

The only room of training that meets SeqIO (hence TensorFlow), and only inside functions:
`ensure_cached` runs it in a child process, so that the trainer never imports either.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mt0_tpu.cores import cores_here
from mt0_tpu.data import cache_child, cache_shards, definition_files
from mt0_tpu.data.cache_folder import finish, write_json
from mt0_tpu.data.cache_progress import CacheProgress, table
from mt0_tpu.data.dataset_config import DatasetConfig, cache_path, remote_url
from mt0_tpu.data.providers import facts_of, find_provider, never_drawn, tasks_of
from mt0_tpu.data.sources import mixture_file, read_info, read_json, task_folder
from mt0_tpu.data.task_definition import define, difference, fingerprint
from mt0_tpu.errors import UserError, did_you_mean

__all__ = ["cache_mixture", "ensure_cached", "ensure_mixtures", "find_provider"]

_MANY_SHARDS = 32  # joining more of them takes long enough to be said
_FULL = (errno.ENOSPC, errno.EDQUOT)


def cache_mixture(
    name: str,
    cache_dir: str | os.PathLike | None,
    *,
    splits: Sequence[str] | None = None,
    module: str | None = None,
    num_processes: int | None = None,
    overwrite: bool = False,
    lengths: Mapping[str, int] | None = None,
    beam: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] = print,
) -> None:
    """Caches every task of a SeqIO mixture (or one task) that is not cached yet.

    Args:
        name: the mixture or task.
        cache_dir: the cache folder; None for the default. A remote one (gs://…) is written here
            first and then copied there.
        splits: which splits; all by default.
        module: the module that registers the mixture, where it is not one of ours.
        num_processes: processes of a large job; the machine's cores by default.
        overwrite: caches again what is cached, by this definition or another.
        lengths: a job's row lengths, to count the examples that are longer.
        beam: {"runner": …, "options": […]} to run on Apache Beam (see beam_cache.write_all).
        progress: receives lines of text.

    Raises UserError: no such mixture or split, a task that cannot be cached, data that is none, a
    cache written by another definition, a full disk.
    """
    cache_dir = None if cache_dir is None else os.fspath(cache_dir)
    root, url = cache_path(cache_dir), remote_url(cache_dir)
    provider = find_provider(name, module)
    known = sorted(provider.splits)
    for split in splits or ():
        if split not in known:
            near = did_you_mean(split, known)
            raise UserError(f"'{name}' has no split '{split}'; it has {known}.{near}")
    tasks = [task for task in tasks_of(provider) if not never_drawn(provider, task)]
    definitions = {task.name: define(task) for task in tasks}
    with _full_disk(root):
        root.mkdir(parents=True, exist_ok=True)
        wanted = [
            (task.name, split)
            for task in tasks
            for split in task.splits
            if splits is None or split in splits
        ]
        with _sources_words():
            prints = {name: fingerprint(definition) for name, definition in definitions.items()}
        todo = [job for job in wanted if not _is_cached(root, *job, prints, name, overwrite)]
        if beam is not None:
            beam = {**beam, "root": root, "url": url}
        _cache(root, definitions, prints, todo, module, num_processes, beam, progress)
        infos = [read_info(task_folder(root, *job)) for job in wanted]
        _write_mixture(root, name, provider, tasks, module)
    for line in table(root, infos, set(todo), lengths):
        progress(line)
    if url:
        _publish(root, url, name, wanted, overwrite, progress)


def _publish(root, url, name, jobs, overwrite, progress) -> None:
    """Copies finished splits and the mixture's file to a remote folder, the latter last."""
    from mt0_tpu.data import remote_cache

    progress(f"cache: copying '{name}' to {url}")
    for task, split in jobs:
        folder, there = task_folder(root, task, split), f"{url}/{task}/{split}"
        remote_cache.publish(folder, there, overwrite, progress)
    remote_cache.publish(mixture_file(root, name), f"{url}/{mixture_file(root, name).name}")


def ensure_cached(
    config: DatasetConfig, progress: Callable[[str], None], more_splits: Sequence[str] = ()
) -> None:
    """Caches a job's mixture in a child process unless it is there and its definition unchanged.

    Neither SeqIO nor TensorFlow is imported here.

    Args:
        more_splits: besides the config's; one child caches them all, as each pays for
            TensorFlow's import.

    Raises UserError: something is missing and use_cached is True, or the child failed.
    """
    root, name = config.cache_path, config.mixture_or_task_name
    splits = list(dict.fromkeys((config.split, *more_splits)))
    url = remote_url(config.cache_dir)
    if url:
        from mt0_tpu.data import remote_cache

        if remote_cache.there(url, name):
            remote_cache.fetch(url, name, splits, say=progress, required=False)
    reasons = {split: _why_not_cached(root, name, split, config.module) for split in splits}
    reasons = {split: reason for split, reason in reasons.items() if reason}
    if not reasons:
        return
    missing, text = next(iter(reasons.values()))
    where = url or root
    if missing and config.use_cached:
        raise UserError(
            f"{text}, and use_cached is True; run `mt0 cache --mixture {name} --cache_dir {where}` "
            f"or write USE_CACHED_TASKS = False.{did_you_mean(name, _cached_names(root))}"
        )
    progress(f"cache: {text}; caching '{name}' into {where}")
    command = [sys.executable, "-m", "mt0_tpu", "cache", "--mixture", name]
    command += ["--cache_dir", str(where)]
    for split in reasons:
        command += ["--split", split]
    if config.module:
        command += ["--module", config.module]
    if config.data_dir:
        command += ["--data_dir", config.data_dir]
    cache_child.run(command, progress)


def ensure_mixtures(names: Sequence[str], cache_dir: str, progress: Callable[[str], None]) -> None:
    """Caches mixtures of ours that are not there, all splits, in one child process."""
    root = cache_path(cache_dir)
    missing = [name for name in names if not mixture_file(root, name).is_file()]
    if not missing:
        return
    progress(f"cache: caching {', '.join(missing)} into {root}")
    command = [sys.executable, "-m", "mt0_tpu", "cache", "--cache_dir", str(root)]
    for name in missing:
        command += ["--mixture", name]
    cache_child.run(command, progress)


def _why_not_cached(
    root: Path, name: str, split: str, module: str | None
) -> tuple[bool, str] | None:
    """Returns (whether something is missing, what) or None when the cache can be used."""
    path = mixture_file(root, name)
    if not path.is_file():
        return True, f"'{name}' is not cached in {root}"
    mixture = read_json(path)
    for entry in mixture["tasks"]:
        folder = task_folder(root, entry["name"], split)
        if split in entry["splits"] and not (folder / "info.json").is_file():
            return True, f"split '{split}' of task '{entry['name']}' is not cached in {root}"
    changed = definition_files.changed(mixture.get("definition_files", {}), module)
    changed += definition_files.changed_data(mixture.get("data_files", {}))
    changed += definition_files.changed_environment(mixture.get("environment", {}))
    if changed:
        return False, f"{', '.join(changed)} changed since '{name}' was cached"
    return None


def _cached_names(root: Path) -> list[str]:
    return [path.name.removesuffix(".mixture.json") for path in root.glob("*.mixture.json")]


def _is_cached(root, task, split, prints, mixture, overwrite) -> bool:
    folder = task_folder(root, task, split)
    if not (folder / "info.json").is_file():
        if folder.exists() and not overwrite:
            raise UserError(f"{folder} is no whole cache (no info.json); delete it to go on")
        return False
    found = read_info(folder)["fingerprint"]
    if overwrite:
        return False
    if found == prints[task]:
        return True
    raise UserError(
        f"{folder} was cached by another definition of task '{task}': changed is "
        f"{difference(found, prints[task])}{_changed_data(root, mixture)}; rebuild it with "
        f"`mt0 cache --mixture {mixture} --cache_dir {root} --overwrite`, or delete the folder"
    )


def _changed_data(root: Path, mixture: str) -> str:
    """Says which data files changed since a mixture was cached, if any did."""
    path = mixture_file(root, mixture)
    files = read_json(path).get("data_files", {}) if path.is_file() else {}
    changed = definition_files.changed_data(files)
    return f" (files that changed: {', '.join(changed)})" if changed else ""


@contextlib.contextmanager
def _full_disk(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        free = shutil.disk_usage(root if root.exists() else root.parent).free
        raise UserError(
            f"the disk of {root} is full ({free // 2**20} MiB left) while caching; make room and "
            "run it again: finished parts are kept"
        ) from error


@contextlib.contextmanager
def _sources_words() -> Iterator[None]:
    """Turns the ValueErrors of seqio_tasks, which are written for users, into UserErrors."""
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from error


def _cache(root, definitions, prints, todo, module, num_processes, beam, progress) -> None:
    """Caches the splits in `todo`."""
    linked = [job for job in todo if hasattr(definitions[job[0]].task.source, "megatron_prefixes")]
    for task, split in linked:
        from mt0_tpu.data import linked as links

        links.link(root, definitions[task], split, prints[task])
    jobs = [job for job in todo if job not in linked]
    if not jobs:
        return
    cores = num_processes or cores_here()
    with _sources_words():
        parts = cache_shards.plan(root, definitions, prints, jobs, cores)
    for part in parts:
        Path(part.folder).parent.mkdir(exist_ok=True)
    work = sum(part.weight for part in parts if not Path(part.folder).is_dir())
    report = CacheProgress(progress, len(jobs), work, all(part.ranged for part in parts))

    def done(job: tuple[str, str], shards: list[Path]) -> None:
        if len(shards) > _MANY_SHARDS:
            progress(f"cache: joining {len(shards)} parts of '{job[0]}', split '{job[1]}'")
        finish(root, definitions[job[0]], job[1], prints[job[0]], shards)
        report.finished(job)

    if beam is None:
        cache_shards.write_all(parts, definitions, module, cores, report, done)
        return
    from mt0_tpu.data import beam_cache

    beam_cache.write_all(parts, definitions, module, cores, report, done, **beam)


def _write_mixture(root, name, provider, tasks, module) -> None:
    entries = []
    with _statistics(root, tasks):
        for task in tasks:
            rate = 1.0 if provider is task else float(provider.get_rate(task))
            entry = {"name": task.name, "rate": rate, "splits": list(task.splits)}
            # Facts that a user's module registered are known to no other process.
            entries.append(entry | {"facts": facts_of(task.name)})
    content = {
        "name": name,
        "tasks": entries,
        "module": module,
        "definition_files": definition_files.of_tasks(provider, tasks, module),
        "data_files": definition_files.data_files(tasks),
        "environment": definition_files.environment(tasks),
    }
    write_json(mixture_file(root, name), content)


@contextlib.contextmanager
def _statistics(root: Path, tasks: Sequence[Any]) -> Iterator[None]:
    """Lends SeqIO our counts, for rates by function (seqio.mixing_rate_num_examples).

    SeqIO asks for any split once it sees a cache folder, so only where every split is cached. Of
    the others, a source that would read its files to count them is told what is known.
    """
    before = [(task, task._cache_dir, task._stats) for task in tasks]
    try:
        for task in tasks:
            folders = {split: task_folder(root, task.name, split) for split in task.splits}
            folders = {
                s: folder for s, folder in folders.items() if (folder / "info.json").is_file()
            }
            infos = {split: read_info(folder) for split, folder in folders.items()}
            if hasattr(task.source, "tell_num_input_examples"):
                for split, info in infos.items():
                    task.source.tell_num_input_examples(split, info["num_examples"])
            if len(infos) < len(task.splits):
                continue
            task._cache_dir = str(root / task.name)
            task._stats = {
                split: {"examples": info["num_examples"]}
                | {f"{f}_tokens": part["tokens"] for f, part in info["features"].items()}
                for split, info in infos.items()
            }
        yield
    finally:
        for task, folder, stats in before:
            task._cache_dir, task._stats = folder, stats
