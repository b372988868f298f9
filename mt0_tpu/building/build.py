"""`mt0 tasks build`: raw data × prompts → jsonl files in the layout of the released collections.

    OUTPUT/xp3/sw/merged_sw.jsonl              (layout merged)
    OUTPUT/xp3mt/sw/xp3_xcopa_sw_train_….jsonl (layout prompts)
    OUTPUT/xp3/build.json                      what was made of what, and what was left out
    OUTPUT/xp3.build/                          records of finished files; parts to be merged

A file stands under its name only when it is whole, and a build that was cut off goes on with the
files that are missing. Memory: a process holds one example, and about 200 bytes more for each row
drawn of a split (at most max_rows), for choosing among them; merging holds merge_mib.
"""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import dataclasses
import json
import multiprocessing
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from mt0_tpu.building import build_plan
from mt0_tpu.building.build_config import BuildConfig
from mt0_tpu.building.build_examples import merge
from mt0_tpu.building.build_job import Job, build_file, count_rows
from mt0_tpu.building.build_table import final_table
from mt0_tpu.errors import UserError
from mt0_tpu.progress import duration
from mt0_tpu.whole_file import write_whole

_EVERY_S = 5.0
RECORD = "build.json"
_RECORDS = "records.jsonl"


def build(config: BuildConfig, progress: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Builds a collection and returns what stands in its build.json.

    Args:
      config: what to build.
      progress: told a line now and then, and the final table; the terminal by default.
    Raises:
      UserError: for what the config, the data or the prompts do not allow, and where the folder
        holds something that this build would not make.
    """
    say = progress or (lambda line: print(line, file=sys.stderr, flush=True))
    config = config.resolved()
    try:
        return _build(config, say)
    except UserError:
        raise
    except concurrent.futures.process.BrokenProcessPool:
        raise UserError(
            "A process of the build was killed, for want of memory perhaps: lower num_processes, "
            "max_rows or merge_mib; the same command goes on where this one ended."
        ) from None
    # seqio_tasks knows no UserError: its mistakes of a user's are ValueErrors.
    except ValueError as error:
        raise UserError(str(error)) from None


def _build(config: BuildConfig, say: Callable[[str], None]) -> dict[str, Any]:
    from seqio_tasks import xp3_tables
    from seqio_tasks.prompt_library import PromptLibrary

    library = PromptLibrary(config.prompts_dir)
    place = Path(config.output_dir) / config.collection
    work = place.with_name(f"{place.name}.build")
    plan = build_plan.plan(config, library)
    _say_left_out(plan.left_out, say)
    if not plan.jobs:
        # What is at hand and yet of no use says more than what is not at hand.
        first = min(plan.left_out, key=lambda left: left.reason == "no data at hand")
        raise UserError(
            f"Nothing can be built: {first.what}: {first.reason}. {first.detail}".rstrip()
        )
    known = xp3_tables.collections().get(config.collection)
    folder = known.folder if known else ""
    finished = place / folder if config.layout == "prompts" else work / "parts"
    done = _resumed(config, plan.jobs, place, work, finished)
    if done is None:
        record = json.loads((place / RECORD).read_text(encoding="utf-8"))
        say(f"build: {place} is built already")
        say(final_table(record))
        return record
    with _pool(config.num_processes) as pool:
        counts = _counted(config, plan.jobs, pool, say)
        jobs = build_plan.made_of(plan, counts, say)
        records = _files(jobs, done, finished, work, pool, say)
        merged = {}
        if config.layout == "merged":
            merged = _merged(config, records, finished, place / folder, pool, say)
    record = _record(config, library, plan, counts, records, merged)
    write_whole(place / RECORD, json.dumps(record, ensure_ascii=False, indent=1) + "\n")
    shutil.rmtree(work / "parts", ignore_errors=True)
    shutil.rmtree(work / "scratch", ignore_errors=True)
    say(final_table(record))
    return record


def _say_left_out(left_out: list[build_plan.LeftOut], say: Callable[[str], None]) -> None:
    for reason, count in Counter(left.reason for left in left_out).items():
        first = next(left for left in left_out if left.reason == reason)
        more = f" and {count - 1} more" if count > 1 else ""
        detail = f": {first.detail}" if first.detail else ""
        say(f"build: left out, {reason}: {first.what}{more}{detail}")


def _digests(jobs: Iterable[Job]) -> dict[str, str]:
    return {job.path: job.digest() for job in jobs}


def _resumed(
    config: BuildConfig, jobs: list[Job], place: Path, work: Path, finished: Path
) -> dict[str, dict] | None:
    """Records of files that are made already; None where all is; UserError where others are."""
    wanted = _digests(jobs)
    advice = "name another --output_dir, or delete it first"
    if (place / RECORD).is_file():
        earlier = json.loads((place / RECORD).read_text(encoding="utf-8"))
        same = {file["file"]: file["digest"] for file in earlier["files"]} | earlier["empty_files"]
        if same == {path: wanted.get(path) for path in same} and earlier["layout"] == config.layout:
            if set(wanted) <= set(same) | set(earlier["rowless_files"]):
                return None
        raise UserError(f"{place} holds another build{_difference(earlier, config)}; {advice}.")
    records = {}
    if (work / _RECORDS).is_file():
        for line in (work / _RECORDS).read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue  # The line a crash cut off.
            records[record["file"]] = record
    for path, record in records.items():
        if wanted.get(path) != record["digest"]:
            raise UserError(f"{work} holds {path} of another build, cut off before; {advice}.")
    strays = sorted(place.rglob("*.jsonl*")) if place.is_dir() else []
    if config.layout == "merged" and records:
        strays = []  # What merging wrote before it was cut off, to be written again.
    known = {finished / path for path in records}
    for path in strays:
        if path not in known and ".tmp-" not in path.name:
            raise UserError(f"{place} holds {path.name}, which no build made; {advice}.")
    return {
        path: record
        for path, record in records.items()
        if not record["examples"] or (finished / path).is_file()
    }


def _difference(earlier: dict[str, Any], config: BuildConfig) -> str:
    """': cap_order was shortest, is sample' for the first option that differs."""
    for name, value in earlier["config"].items():
        now = getattr(config, name, None)
        now = list(now) if isinstance(now, tuple) else now
        if now != value and name not in ("num_processes", "merge_mib", "output_dir"):
            return f" ({name} was {value!r}, is {now!r})"
    return ""


class _Inline:
    """A pool of one: runs what it is given at once, in this process."""

    def __enter__(self) -> _Inline:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, function, *arguments) -> concurrent.futures.Future:
        future: concurrent.futures.Future = concurrent.futures.Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


def _pool(num_processes: int) -> Any:
    if num_processes == 1:
        return _Inline()
    # Spawned: the parent may hold threads (pyarrow's), which a fork would copy half of.
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(num_processes, mp_context=context)


def _ended(
    pool: Any, function: Callable, calls: Iterable[tuple[Any, tuple]], num_waiting: int = 64
) -> Iterator[tuple[Any, Any]]:
    """(key, result) of calls as they end; (None, None) every few seconds in between.

    The first failure ends it all: calls not begun are taken back.
    """
    waiting: dict[concurrent.futures.Future, Any] = {}
    calls = iter(calls)
    try:
        while True:
            while len(waiting) < num_waiting and (call := next(calls, None)) is not None:
                waiting[pool.submit(function, *call[1])] = call[0]
            if not waiting:
                return
            ended, _ = concurrent.futures.wait(
                waiting, _EVERY_S, concurrent.futures.FIRST_COMPLETED
            )
            for future in ended:
                yield waiting.pop(future), future.result()
            if not ended:
                yield None, None
    finally:
        for future in waiting:
            future.cancel()


class _Progress:
    """A line every few seconds: how far, how fast, how long still."""

    def __init__(self, what: str, total: int, unit: str, say: Callable[[str], None]):
        self._what, self._total, self._unit, self._say = what, total, unit, say
        self._begin = self._said = time.monotonic()
        self.done = self.files = self.examples = 0

    def tick(self) -> None:
        now = time.monotonic()
        if now - self._said < _EVERY_S:
            return
        self._said = now
        rate = self.done / (now - self._begin)
        left = f", {duration((self._total - self.done) / rate)} left" if rate else ""
        self._say(
            f"build: {self._what}: {self.files} files, {self.examples:,} examples, "
            f"{self.done:,} of {self._total:,} {self._unit} ({rate:,.0f}/s){left}"
        )


def _counted(
    config: BuildConfig, jobs: list[Job], pool: Any, say: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    splits = {job.split.name: job.split for job in jobs}
    counts: dict[str, dict[str, Any]] = {}
    progress = _Progress("counting rows", len(splits), "splits", say)
    calls = ((name, (config, split)) for name, split in splits.items())
    for name, counted in _ended(pool, count_rows, calls):
        if name is not None:
            counts[name] = counted
            progress.done += 1
        progress.tick()
    return {name: counts[name] for name in splits}


def _files(
    jobs: list[Job],
    done: dict[str, dict],
    finished: Path,
    work: Path,
    pool: Any,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Records of all jobs in their order; those not done yet are made now."""
    todo = [job for job in jobs if job.path not in done]
    if len(todo) < len(jobs):
        say(f"build: {len(jobs) - len(todo)} of {len(jobs)} files are made already")
    progress = _Progress("prompting", sum(job.rows for job in todo), "rows", say)
    records = dict(done)
    work.mkdir(parents=True, exist_ok=True)
    # The longest first, so that no core waits for one at the end.
    todo.sort(key=lambda job: -job.rows)
    calls = ((job, (job, str(finished), str(work / "scratch"))) for job in todo)
    with (work / _RECORDS).open("a", encoding="utf-8") as log:
        for job, record in _ended(pool, build_file, calls):
            if job is not None:
                log.write(json.dumps(record, ensure_ascii=False) + "\n")
                log.flush()
                records[job.path] = record
                progress.done += job.rows
                progress.files += 1
                progress.examples += record["examples"]
            progress.tick()
    return [records[job.path] for job in jobs]


def _merged(
    config: BuildConfig,
    records: list[dict[str, Any]],
    parts: Path,
    place: Path,
    pool: Any,
    say: Callable[[str], None],
) -> dict[str, dict[str, Any]]:
    """One file a language of all its prompts' files."""
    languages: dict[str, list[Path]] = {}
    for record in records:
        if record["examples"]:
            languages.setdefault(record["language"], []).append(parts / record["file"])
    progress = _Progress("merging", len(languages), "languages", say)
    memory = max(1, config.merge_mib // config.num_processes)
    calls = (
        (
            language,
            (sorted(paths), place / language / f"merged_{language}.jsonl", config.seed, memory),
        )
        for language, paths in languages.items()
    )
    merged = {}
    for language, counts in _ended(pool, merge, calls):
        if language is not None:
            merged[language] = counts
            progress.done += 1
            progress.examples += counts["lines"]
        progress.tick()
    return dict(sorted(merged.items()))


def _record(
    config: BuildConfig,
    library: Any,
    plan: build_plan.Plan,
    counts: dict[str, dict[str, Any]],
    records: list[dict[str, Any]],
    merged: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """What build.json says: the config, every file, everything left out."""
    import mt0_tpu

    told = {record["file"] for record in records}
    return {
        "mt0_tpu": mt0_tpu.__version__,
        "collection": config.collection,
        "layout": config.layout,
        "config": dataclasses.asdict(config),
        "prompts": list(library.places),
        "files": [record for record in records if record["examples"]],
        "empty_files": {r["file"]: r["digest"] for r in records if not r["examples"]},
        "rowless_files": sorted(job.path for job in plan.jobs if job.path not in told),
        "without_examples": [record for record in records if not record["examples"]],
        "splits": counts,
        "merged": merged,
        "left_out": [dataclasses.asdict(left) for left in plan.left_out],
    }
