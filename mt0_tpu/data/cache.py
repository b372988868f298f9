"""SeqIO tasks → caches: run the steps that run once, write token ids, keep what says how.

The only room of training that meets SeqIO (hence TensorFlow), and only inside functions:
`ensure_cached` runs it in a child process, so that the trainer never imports either.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

from mt0_tpu.data import definition_files
from mt0_tpu.data.cache_folder import finish, partial_folder, write_json, write_shard
from mt0_tpu.data.cache_progress import CacheProgress, table
from mt0_tpu.data.dataset_config import DatasetConfig, cache_path
from mt0_tpu.data.sources import mixture_file, read_info, read_json, task_folder
from mt0_tpu.data.task_definition import TaskDefinition, define, difference, fingerprint
from mt0_tpu.data.tokenizing import can_shard, encoded
from mt0_tpu.errors import UserError, did_you_mean

_SMALL = 250_000  # examples below which starting processes costs more than it saves
_SHARD = 20_000  # examples worth a shard of their own
_FULL = (errno.ENOSPC, errno.EDQUOT)

_worker: tuple[str | None, tuple[Any, Any]] | None = None  # module, (examples, tokens) written


def cache_mixture(
    name: str,
    cache_dir: str | os.PathLike | None,
    *,
    splits: Sequence[str] | None = None,
    module: str | None = None,
    num_processes: int | None = None,
    overwrite: bool = False,
    progress: Callable[[str], None] = print,
) -> None:
    """Caches every task of a SeqIO mixture (or one task) that is not cached yet.

    Args:
        name: the mixture or task.
        cache_dir: the cache folder; None for the default.
        splits: which splits; all by default.
        module: the module that registers the mixture, where it is not one of ours.
        num_processes: processes of a large job; the machine's cores by default.
        overwrite: caches again what another definition of a task wrote.
        progress: receives lines of text.

    Raises UserError: no such mixture or split, a task that cannot be cached, a cache written by
    another definition, a full disk.
    """
    root = cache_path(None if cache_dir is None else os.fspath(cache_dir))
    provider = find_provider(name, module)
    known = sorted(provider.splits)
    for split in splits or ():
        if split not in known:
            near = did_you_mean(split, known)
            raise UserError(f"'{name}' has no split '{split}'; it has {known}.{near}")
    tasks = [task for task in _tasks(provider) if _rate(provider, task) != 0]
    definitions = {task.name: define(task) for task in tasks}
    with _full_disk(root):
        root.mkdir(parents=True, exist_ok=True)
        wanted = [
            (task.name, split)
            for task in tasks
            for split in task.splits
            if splits is None or split in splits
        ]
        prints = {name: fingerprint(definition) for name, definition in definitions.items()}
        todo = [job for job in wanted if not _is_cached(root, *job, prints, name, overwrite)]
        _cache(root, definitions, prints, todo, module, num_processes, progress)
        infos = [read_info(task_folder(root, *job)) for job in wanted]
        _write_mixture(root, name, provider, tasks, module)
    for line in table(infos, set(todo)):
        progress(line)


def find_provider(name: str, module: str | None) -> Any:
    """Returns the registered seqio.Mixture or seqio.Task; UserError with a near match."""
    import seqio

    def registered():
        for registry in (seqio.MixtureRegistry, seqio.TaskRegistry):
            if name in registry.names():
                return registry.get(name)
        return None

    if registered() is None:
        try:
            importlib.import_module("seqio_tasks").load(module)
        except ValueError as error:
            raise UserError(str(error)) from error
    provider = registered()
    if provider is None:
        near = did_you_mean(name, [*seqio.MixtureRegistry.names(), *seqio.TaskRegistry.names()])
        where = "" if module else "; name the module that registers it (MIXTURE_OR_TASK_MODULE)"
        raise UserError(f"no SeqIO mixture or task is named '{name}'{where}.{near}")
    return provider


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
    reasons = {split: _why_not_cached(root, name, split, config.module) for split in splits}
    reasons = {split: reason for split, reason in reasons.items() if reason}
    if not reasons:
        return
    missing, text = next(iter(reasons.values()))
    if missing and config.use_cached:
        raise UserError(
            f"{text}, and use_cached is True; run `mt0 cache --mixture {name} --cache_dir {root}` "
            f"or write USE_CACHED_TASKS = False.{did_you_mean(name, _cached_names(root))}"
        )
    progress(f"cache: {text}; caching '{name}' into {root}")
    command = [sys.executable, "-m", "mt0_tpu", "cache", "--mixture", name]
    command += ["--cache_dir", str(root)]
    for split in reasons:
        command += ["--split", split]
    if config.module:
        command += ["--module", config.module]
    _run_child(command, progress)


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
    _run_child(command, progress)


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
    if changed:
        return False, f"{', '.join(changed)} changed since '{name}' was cached"
    return None


def _cached_names(root: Path) -> list[str]:
    return [path.name.removesuffix(".mixture.json") for path in root.glob("*.mixture.json")]


def _run_child(command: list[str], progress: Callable[[str], None]) -> None:
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *(path or os.getcwd() for path in sys.path)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "PYTHONUNBUFFERED": "1",  # progress as it happens
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # The accelerator belongs to the trainer.
        "JAX_PLATFORMS": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
    }
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        ) as child:
            for line in child.stdout:
                progress(line.rstrip())
        if child.returncode:
            errors.seek(0)
            lines = [line.strip() for line in errors if line.strip()]
            said = lines[-1] if lines else f"it ended with code {child.returncode}"
            if said.startswith("mt0: error: "):  # written for a user already
                raise UserError(said.removeprefix("mt0: error: "))
            raise UserError(f"caching failed: {said} (`{' '.join(command[1:])}`)")


def _tasks(provider: Any) -> list[Any]:
    return list(getattr(provider, "tasks", None) or [provider])


def _rate(provider: Any, task: Any) -> float | None:
    """Returns a task's rate, nested mixtures multiplied as SeqIO does; None if not known yet."""
    if provider is task:
        return 1.0
    try:
        return float(provider.get_rate(task))
    except Exception:  # rates by function may ask for statistics that caching will give
        return None


def _is_cached(root, task, split, prints, mixture, overwrite) -> bool:
    folder = task_folder(root, task, split)
    if not (folder / "info.json").is_file():
        if folder.exists() and not overwrite:
            raise UserError(f"{folder} is no whole cache (no info.json); delete it to go on")
        return False
    found = read_info(folder)["fingerprint"]
    if found == prints[task]:
        return True
    if overwrite:
        return False
    raise UserError(
        f"{folder} was cached by another definition of task '{task}': changed is "
        f"{difference(found, prints[task])}; rebuild it with `mt0 cache --mixture {mixture} "
        f"--cache_dir {root} --overwrite`, or delete the folder"
    )


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


def _cache(root, definitions, prints, todo, module, num_processes, progress) -> None:
    """Caches the splits in `todo`: small jobs here, large ones in processes."""
    if not todo:
        return
    cores = num_processes or _cores()
    sizes = {job: definitions[job[0]].task.num_input_examples(job[1]) for job in todo}
    total = sum(_size(size) for size in sizes.values())
    report = CacheProgress(progress, len(todo), None if None in sizes.values() else total)
    parallel = cores > 1 and total >= _SMALL
    shards = {}
    for task, split in todo:
        count = min(cores, max(_size(sizes[task, split]) // _SHARD, 1)) if parallel else 1
        if count > 1 and not can_shard(definitions[task], split, count):
            count = 1
        partial = partial_folder(root, task, split, prints[task])
        partial.mkdir(exist_ok=True)
        shards[task, split] = [partial / f"shard-{i:05d}-of-{count:05d}" for i in range(count)]

    def done(job):
        finish(root, definitions[job[0]], job[1], prints[job[0]], shards[job])
        report.finished(job)

    if parallel:
        _in_processes(cores, shards, sizes, module, report, done)
        return
    for job, (folder,) in shards.items():
        if not folder.is_dir():
            batches = encoded(definitions[job[0]], job[1], threads=cores)
            write_shard(folder, definitions[job[0]], batches, report.add)
        done(job)


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _size(examples: int | None) -> int:
    """Returns a split's size; a source that does not know may be large."""
    return _SMALL if examples is None else examples


def _in_processes(cores, shards, sizes, module, report, done) -> None:
    context = multiprocessing.get_context("spawn")
    counters = (context.Value("q", 0), context.Value("q", 0))
    left = {job: sum(not f.is_dir() for f in folders) for job, folders in shards.items()}
    for job in [job for job, count in left.items() if not count]:
        done(job)
    with futures.ProcessPoolExecutor(
        cores, context, initializer=_start_worker, initargs=(module, counters)
    ) as pool:
        running = {}
        for group in _groups(shards, sizes):
            running[pool.submit(_work, [part[1:] for part in group])] = [part[0] for part in group]
        try:
            while running:
                ready, _ = futures.wait(running, 1.0, futures.FIRST_COMPLETED)
                report.set(counters[0].value, counters[1].value)
                for future in ready:
                    future.result()
                    for job in running.pop(future):
                        left[job] -= 1
                        if not left[job]:
                            done(job)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _groups(shards, sizes) -> list[list[tuple]]:
    """Returns work for a process at a time: a shard, or many small tasks together."""
    groups, small, load = [], [], 0
    for job, folders in shards.items():
        parts = [
            (job, *job, index, len(folders), str(folder))
            for index, folder in enumerate(folders)
            if not folder.is_dir()
        ]
        each = _size(sizes[job]) // len(folders)
        if each >= _SHARD:
            groups += [[part] for part in parts]
            continue
        small += parts
        load += each * len(parts)
        if load >= _SHARD:
            groups, small, load = [*groups, small], [], 0
    return [*groups, small] if small else groups


def _start_worker(module: str | None, counters: tuple[Any, Any]) -> None:
    global _worker
    _worker = (module, counters)
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"


def _work(parts: list[tuple[str, str, int, int, str]]) -> None:
    """Writes shards in a worker process."""
    defined: dict[str, TaskDefinition] = {}
    for task, split, index, count, folder in parts:
        if task not in defined:
            defined[task] = define(find_provider(task, _worker[0]))
        batches = encoded(defined[task], split, index, count)
        write_shard(Path(folder), defined[task], batches, _count)


def _count(examples: int, tokens: int) -> None:
    for counter, number in zip(_worker[1], (examples, tokens), strict=True):
        with counter.get_lock():
            counter.value += number


def _write_mixture(root, name, provider, tasks, module) -> None:
    entries = []
    with _statistics(root, tasks):
        for task in tasks:
            rate = 1.0 if provider is task else float(provider.get_rate(task))
            entries.append({"name": task.name, "rate": rate, "splits": list(task.splits)})
    content = {
        "name": name,
        "tasks": entries,
        "module": module,
        "definition_files": definition_files.of_tasks(provider, tasks, module),
    }
    write_json(mixture_file(root, name), content)


@contextlib.contextmanager
def _statistics(root: Path, tasks: Sequence[Any]) -> Iterator[None]:
    """Lends SeqIO our counts, for rates by function (seqio.mixing_rate_num_examples).

    Only where every split is cached: SeqIO asks for any of them once it sees a cache folder.
    """
    before = [(task, task._cache_dir, task._stats) for task in tasks]
    try:
        for task in tasks:
            folders = {split: task_folder(root, task.name, split) for split in task.splits}
            if not all((folder / "info.json").is_file() for folder in folders.values()):
                continue
            infos = {split: read_info(folder) for split, folder in folders.items()}
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
