"""One file of a build: the rows of a split under one template, capped, ordered and written."""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mt0_tpu.building.build_config import BuildConfig
from mt0_tpu.building.build_examples import ScratchExamples, json_line, write_lines

# Why rows give no example, for the table; the reasons of prompts.DROPPED and recipe_rows.REASONS
# join them.
ROW_REASONS = {
    "bad_row": "could not be read",
    "not_drawn": "more rows than max_rows",
    "bad_unicode": "text that UTF-8 has no bytes for",
    "cap": "more examples than max_examples",
    "prompt_failed": "a row failed and, faithfully, its whole prompt with it",
}


@dataclasses.dataclass(frozen=True)
class Job:
    """What a worker needs to make one file.

    Attributes:
      split: a seqio_tasks.raw_rows.RawSplit.
      template: a seqio_tasks.prompts.Template; key: the promptsource key it came from.
      folder: language folder; path: the file, relative to where files are made.
      rows: how many rows the split has, changes and bad ones taken off.
    """

    config: BuildConfig
    split: Any
    template: Any
    key: str
    folder: str
    path: str
    rows: int = 0

    def digest(self) -> str:
        """Changes with everything that decides what is in the file."""
        options = dataclasses.asdict(self.config)
        for name in ("output_dir", "prompts_dir", "raw_dir", "data", "hub", "only", "layout",
                     "num_processes", "merge_mib"):  # fmt: skip
            del options[name]
        template = [self.template.jinja, self.template.answer_choices, self.template.name]
        told = [options, self.split.fingerprint(), template, self.key, self.folder, self.path]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def changed_rows(
    config: BuildConfig, split: Any, dropped: Counter, errors: list[str]
) -> Iterator[tuple[int, dict]]:
    """(number, row) of a split's rows as prompts get them; what is left out goes to `dropped`."""
    from seqio_tasks import recipe_rows

    def on_bad(where: str, reason: str) -> None:
        dropped["bad_row"] += 1
        if len(errors) < 3:
            errors.append(f"{where}: {reason}")

    change = recipe_rows.change(config.collection, split.dataset, split.subset, config.seed)
    number = 0
    for row in split.rows(on_bad if config.bad_rows == "skip" else None):
        made = change(row, number)
        if isinstance(made, str):
            dropped[made] += 1
        else:
            yield number, made
        number += 1


def count_rows(config: BuildConfig, split: Any) -> dict[str, Any]:
    """How many rows a split has, and why others were left out. One pass over it."""
    dropped: Counter = Counter()
    errors: list[str] = []
    rows = sum(1 for _ in changed_rows(config, split, dropped, errors))
    return {"rows": rows, "dropped": dict(dropped), "errors": errors}


def _drawn(job: Job, most: int, best_by: str | None) -> Callable[[int], bool]:
    """Says of the n-th row whether it is rendered."""
    if job.rows <= most:
        return lambda place: True
    if best_by is None:
        chance = random.Random(f"{job.config.seed} {job.path} rows")
        taken = set(chance.sample(range(job.rows), most))
        return taken.__contains__
    rows = changed_rows(job.config, job.split, Counter(), [])
    # Of equal scores the earlier row: the place counts backwards.
    scored = ((_number(row.get(best_by)), -place) for place, (_, row) in enumerate(rows))
    best = {-place for _, place in heapq.nlargest(most, scored)}
    return best.__contains__


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("-inf")


def build_file(job: Job, folder: str, scratch: str) -> dict[str, Any]:
    """Makes the file of a job in `folder`, whole or not at all; nothing if no row gives an example.

    Returns:
      A record: what was made of how many rows, and why others gave nothing.
    """
    from seqio_tasks import xp3_recipe

    begin = time.monotonic()
    config, split = job.config, job.split
    dropped: Counter = Counter()
    errors: list[str] = []
    cap = xp3_recipe.cap(split.dataset, config.max_examples, config.max_rows, config.faithful)
    drawn = _drawn(job, cap.preselected, cap.best_by)
    with ScratchExamples(Path(scratch)) as examples:
        failed = False
        # Rows that are never rendered were counted once, with their split.
        for place, (number, row) in enumerate(changed_rows(config, split, Counter(), [])):
            if not drawn(place):
                dropped["not_drawn"] += 1
            elif failed:
                dropped["prompt_failed"] += 1
            else:
                reason = _render(job, row, number, examples, errors)
                failed = reason == "prompt_failed"
                if reason:
                    dropped[reason] += 1
        if failed:
            dropped["prompt_failed"] += len(examples)
            chosen = []
        else:
            chosen = examples.chosen(config.cap_order, cap.kept, f"{config.seed} {job.path}")
            dropped["cap"] += len(examples) - len(chosen)
        fields = _further_fields(job)
        size = 0
        if chosen:
            lines = (
                json_line({"inputs": inputs, "targets": targets} | fields)
                for inputs, targets in examples.texts(chosen)
            )
            _, size = write_lines(Path(folder) / job.path, lines)
    return {
        "file": job.path,
        "dataset": split.dataset,
        "subset": split.subset,
        "split": split.split,
        "prompts": job.key,
        "template": job.template.name,
        "template_id": job.template.id,
        "language": job.folder,
        "rows": job.rows,
        "examples": len(chosen),
        "bytes": size,
        "dropped": {reason: count for reason, count in dropped.items() if count},
        "errors": errors,
        "seconds": round(time.monotonic() - begin, 3),
        "digest": job.digest(),
    }


def _render(
    job: Job, row: dict, number: int, examples: ScratchExamples, errors: list[str]
) -> str | None:
    """Adds a row's example; returns why there is none, or None."""
    from seqio_tasks import xp3_recipe
    from seqio_tasks.prompts import Unprompted

    config = job.config
    keep = xp3_recipe.keeps_line_break(config.collection, job.folder, config.faithful)
    try:
        pair = job.template.pair(
            row,
            truncate_chars=config.max_variable_chars or None,
            strip=not keep,
            seed=f"{config.seed} {job.split.name} {job.template.name} {number}",
            top_level_bars_only=config.faithful,
        )
        examples.append(*pair)
        return None
    except UnicodeEncodeError:
        return "bad_unicode"
    except Unprompted as left_out:
        if left_out.reason == "render_error" and len(errors) < 3:
            errors.append(f"row {number}: {left_out}")
        # The published code caught ValueError alone; anything else ended the prompt.
        fatal = left_out.cause is not None and not isinstance(left_out.cause, ValueError)
        return "prompt_failed" if fatal and config.faithful else left_out.reason


def _further_fields(job: Job) -> dict[str, Any]:
    """xP3x says with every example where it came from."""
    if job.config.collection != "xp3x":
        return {}
    return {
        "language": job.folder,
        "split": job.split.split,
        "template": job.template.name,
        "dataset": job.split.dataset,
        "config": job.split.subset,
    }
