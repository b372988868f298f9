"""The shards a cache is made of, and the processes that write them.

A source with `ranges` (jsonl files) is cut where its bytes say, so that a killed job goes on with
any number of processes; any other source is dealt out example by example, by the process.

Memory does not grow with the number of examples: 0.4 GB the caller (SeqIO, TensorFlow), 0.3 GB the
process that workers are forked from, 0.15 GB each of them (measured with mT5's vocabulary): the
vocabulary and one batch, at most 2,048 examples or 2 M characters, or one longer example. Index
files are read through the page cache, 20 bytes an example of the largest split.
"""

from __future__ import annotations

import dataclasses
import gc
import multiprocessing
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

from mt0_tpu.data.cache_folder import partial_folder, write_shard
from mt0_tpu.data.cache_progress import CacheProgress
from mt0_tpu.data.providers import find_provider
from mt0_tpu.data.task_definition import TaskDefinition, define
from mt0_tpu.data.tokenizing import can_shard, encoded
from mt0_tpu.errors import UserError

Job = tuple[str, str]  # task, split

_EXAMPLE_BYTES = 256  # what an example counts for where a source only counts examples
_SMALL_BYTES = 64 << 20  # below it, starting processes costs more than it saves
_GROUP_BYTES = 16 << 20  # small tasks are given to a process until they make up as much

_worker: tuple[str | None, tuple[Any, ...], dict[str, TaskDefinition]] | None = None


@dataclasses.dataclass(frozen=True)
class Part:
    """One shard: what it holds and where it goes.

    Attributes:
        task, split: whose it is.
        index, count: shard `index` of `count`.
        ranged: the shard is a range of the source, else every count-th example.
        weight: bytes of the source, an estimate where the source counts examples.
        folder: where it is written.
    """

    task: str
    split: str
    index: int
    count: int
    ranged: bool
    weight: int
    folder: str

    @property
    def job(self) -> Job:
        return self.task, self.split


def plan(
    root: Path,
    definitions: Mapping[str, TaskDefinition],
    prints: Mapping[str, Any],
    jobs: Sequence[Job],
    cores: int,
) -> list[Part]:
    """Cuts jobs into shards, those that are on disk already included."""
    sizes = {job: _bytes(definitions[job[0]], job[1]) for job in jobs}
    parallel = cores > 1 and sum(sizes.values()) >= _SMALL_BYTES
    parts = []
    for task, split in jobs:
        definition, size = definitions[task], sizes[task, split]
        folder = partial_folder(root, task, split, prints[task])
        if _has_ranges(definition):
            weights = [sum(p.num_bytes for p in r) for r in definition.task.source.ranges(split)]
        else:
            count = _strides(definition, split, size, cores, folder) if parallel else 1
            weights = [size // count] * count
        parts += [
            Part(task, split, index, len(weights), _has_ranges(definition), weight,
                 str(folder / f"shard-{index:05d}-of-{len(weights):05d}"))
            for index, weight in enumerate(weights)
        ]  # fmt: skip
    return parts


def _has_ranges(definition: TaskDefinition) -> bool:
    # Rank tasks are small and keep their choices in one piece.
    return hasattr(definition.task.source, "ranges") and definition.kind == "pairs"


def _bytes(definition: TaskDefinition, split: str) -> int:
    """Returns what a split weighs; a source that cannot tell may be large."""
    source = definition.task.source
    if hasattr(source, "num_input_bytes"):
        return source.num_input_bytes(split)
    examples = definition.task.num_input_examples(split)
    return _SMALL_BYTES if examples is None else examples * _EXAMPLE_BYTES


def _strides(definition, split, size: int, cores: int, folder: Path) -> int:
    """Returns how many processes share a source that has no ranges: as before, if it was begun."""
    begun = [path.name.rpartition("-of-")[2] for path in folder.glob("shard-?????-of-?????")]
    if begun:
        return int(begun[0])
    count = min(cores, max(size // (_GROUP_BYTES // 4), 1))
    return count if count > 1 and can_shard(definition, split, count) else 1


def write_part(
    part: Part,
    definition: TaskDefinition,
    count: Callable[[int, int, int], None],
    threads: int = 1,
) -> None:
    """Writes one shard unless it is there; `count` gets (examples, tokens, weight) done."""
    folder = Path(part.folder)
    if folder.is_dir():
        return

    def weigh(examples: int, tokens: int, num_bytes: int) -> None:
        count(examples, tokens, num_bytes if part.ranged else examples * _EXAMPLE_BYTES)

    batches = encoded(
        definition, part.split, part.index, part.count, threads=threads, ranged=part.ranged
    )
    keep_order = part.count > 1 and not part.ranged
    write_shard(folder, definition, batches, weigh, keep_order)


def groups(parts: Sequence[Part]) -> list[list[Part]]:
    """Returns work for a process at a time: a large shard, or many small ones together."""
    found, small, load = [], [], 0
    for part in parts:
        if part.weight >= _GROUP_BYTES:
            found.append([part])
            continue
        small.append(part)
        load += part.weight
        if load >= _GROUP_BYTES:
            found, small, load = [*found, small], [], 0
    return [*found, small] if small else found


def write_all(
    parts: Sequence[Part],
    definitions: Mapping[str, TaskDefinition],
    module: str | None,
    cores: int,
    report: CacheProgress,
    done: Callable[[Job, list[Path]], None],
) -> None:
    """Writes shards, here where they are few bytes and else in processes.

    Args:
        parts: the shards, as `plan` gives them.
        definitions: their tasks.
        module: what registers them.
        cores: processes at most.
        report: told of the progress.
        done: called with a job and its shards' folders as soon as all of them are there.
    """
    folders: dict[Job, list[Path]] = {}
    for part in parts:
        folders.setdefault(part.job, []).append(Path(part.folder))
    missing = [part for part in parts if not Path(part.folder).is_dir()]
    left = {job: sum(part.job == job for part in missing) for job in folders}
    for job in [job for job, count in left.items() if not count]:
        done(job, folders[job])

    def finished(part: Part) -> None:
        left[part.job] -= 1
        if not left[part.job]:
            done(part.job, folders[part.job])

    if cores > 1 and sum(part.weight for part in missing) >= _SMALL_BYTES:
        _in_processes(missing, module, cores, report, finished)
        return
    _forget_garbage()
    for part in missing:
        write_part(part, definitions[part.task], report.add, threads=cores)
        finished(part)


def _in_processes(parts, module, cores, report, finished) -> None:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        # One process imports TensorFlow (3 CPU-seconds, 300 MB), the workers are its copies.
        context.set_forkserver_preload(["seqio", "mt0_tpu.data.cache_shards"])
    counters = tuple(context.Value("q", 0) for _ in range(3))
    initial = (module, counters, dict(os.environ))
    with futures.ProcessPoolExecutor(cores, context, _start_worker, initial) as pool:
        running = {pool.submit(_work, group): group for group in groups(parts)}
        try:
            while running:
                ready, _ = futures.wait(running, 1.0, futures.FIRST_COMPLETED)
                report.set(*(counter.value for counter in counters))
                for future in ready:
                    group = running.pop(future)
                    future.result()
                    for part in group:
                        finished(part)
        except futures.BrokenExecutor as error:
            raise UserError(
                "a caching process was killed, by hand or for want of memory; run it again, with "
                "fewer --num_processes if memory is short: finished parts are kept"
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _start_worker(module: str | None, counters: tuple, environment: dict[str, str]) -> None:
    global _worker
    _worker = (module, counters, {})
    os.environ.update(environment)
    _forget_garbage()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _forget_garbage() -> None:
    """Keeps Python's collector from walking TensorFlow's objects again for every few batches."""
    gc.freeze()


def _end_with_parent() -> None:
    """Ends this process when its parent was killed: else it would wait for work for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _work(parts: list[Part]) -> None:
    """Writes shards in a worker process."""
    module, _, defined = _worker
    for part in parts:
        if part.task not in defined:
            defined[part.task] = define(find_provider(part.task, module))
        write_part(part, defined[part.task], _count)


def _count(*numbers: int) -> None:
    for counter, number in zip(_worker[1], numbers, strict=True):
        with counter.get_lock():
            counter.value += number
