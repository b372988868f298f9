"""The table at the end of a build: what every data set gave, and why rows gave nothing."""

from __future__ import annotations

from collections import Counter
from typing import Any

from mt0_tpu.building.build_job import ROW_REASONS
from mt0_tpu.tasks.text_table import table


def meanings() -> dict[str, str]:
    """What each reason for losing a row means."""
    from seqio_tasks import prompts, recipe_rows

    return ROW_REASONS | prompts.DROPPED | recipe_rows.REASONS


def final_table(record: dict[str, Any]) -> str:
    """The table of a build.json's content, in lines."""
    files = [*record["files"], *record["without_examples"]]
    by_dataset: dict[str, dict[str, Any]] = {}
    for file in files:
        line = by_dataset.setdefault(
            file["dataset"],
            {"files": 0, "rows": 0, "examples": 0, "cap": 0, "dropped": 0, "languages": set()},
        )
        line["files"] += bool(file["examples"])
        line["rows"] += file["rows"]
        line["examples"] += file["examples"]
        over = sum(file["dropped"].get(reason, 0) for reason in ("cap", "not_drawn"))
        line["cap"] += over
        line["dropped"] += sum(file["dropped"].values()) - over
        line["languages"].add(file["language"])
    heads = ("data set", "languages", "files", "rows × prompts", "over the cap", "dropped",
             "examples")  # fmt: skip
    rows = [
        (name, str(len(line["languages"])), *(f"{line[key]:,}" for key in
         ("files", "rows", "cap", "dropped", "examples")))
        for name, line in sorted(by_dataset.items())
    ]  # fmt: skip
    lines = table(heads, rows)
    lines += _reasons(record, files)
    if record["merged"]:
        merged = record["merged"].values()
        lines.append(
            f"merged: {len(merged)} languages, {sum(m['lines'] for m in merged):,} examples, "
            f"{sum(m['duplicates'] for m in merged):,} duplicates left out"
        )
    left_out = Counter(left["reason"] for left in record["left_out"])
    if left_out:
        told = ", ".join(f"{reason} {count}" for reason, count in left_out.most_common())
        lines.append(f"left out whole: {told} (all named in build.json)")
    return "\n".join(lines)


def _reasons(record: dict[str, Any], files: list[dict[str, Any]]) -> list[str]:
    before: Counter = Counter()
    for counted in record["splits"].values():
        before.update(counted["dropped"])
    rendering: Counter = Counter()
    for file in files:
        rendering.update(file["dropped"])
    known = meanings()
    rows = [
        (reason, when, f"{count:,}", known.get(reason, ""))
        for when, counts in (("rows", before), ("rows × prompts", rendering))
        for reason, count in counts.most_common()
    ]
    return table(("dropped", "counted in", "", "because"), rows, texts=(0, 1, 3)) if rows else []
