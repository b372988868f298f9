"""What `mt0 tasks list` prints: what is registered, and what of it is cached.

SeqIO, hence TensorFlow, is imported only by what asks its registry.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from mt0_tpu.data import sources
from mt0_tpu.data.dataset_config import cache_path
from mt0_tpu.data.providers import facts_of
from mt0_tpu.errors import UserError, did_you_mean
from mt0_tpu.tasks.text_table import counted, listed, table

MOST_SINGLE = 60  # tasks, or mixtures, listed one by one; more are listed in groups
_MOST_LANGUAGES = 8


@dataclasses.dataclass(frozen=True)
class Entry:
    """A task or mixture.

    Attributes:
        name: as it is registered.
        kind: 'mixture', 'pairs', 'rank' or 'span' (texts for span corruption).
        tasks: the tasks of a mixture; its own name for a task.
        splits: those that it, or any of its tasks, has.
        collection, cluster: what it belongs to, '' where that is not known.
        languages: of its tasks, sorted.
        cached: splits of tasks that lie in the cache, and all that there are.
        examples, tokens: of what is cached, all splits together.
    """

    name: str
    kind: str
    tasks: tuple[str, ...]
    splits: tuple[str, ...]
    collection: str
    cluster: str
    languages: tuple[str, ...]
    cached: tuple[int, int]
    examples: int
    tokens: int


def print_list(
    patterns: Sequence[str],
    module: str | None = None,
    *,
    cache_dir: str | None = None,
    everything: bool = False,
    say: Callable[[str], None] = print,
) -> list[Entry]:
    """Prints every mixture and task, many tasks in groups, and returns them.

    Args:
        patterns: keeps the names that contain one of them; none keeps all.
        module: the module that registers more tasks.
        cache_dir: the folder of caches; None for the default.
        everything: each task on a line of its own, however many there are.
        say: receives the lines.

    Raises UserError: nothing matches.
    """
    entries = find_entries(patterns, module, cache_dir)
    mixtures = [entry for entry in entries if entry.kind == "mixture"]
    tasks = [entry for entry in entries if entry.kind != "mixture"]
    grouped = len(tasks) > MOST_SINGLE and not everything
    if len(mixtures) > MOST_SINGLE and not everything:
        mixtures = folded(mixtures)
    blocks = [entry_table("mixture", mixtures)] if mixtures else []
    if tasks:
        blocks.append(group_table(groups_of(tasks)) if grouped else entry_table("task", tasks))
    for number, block in enumerate(blocks):
        for line in ([""] if number else []) + block:
            say(line)
    if grouped:
        say(f"{len(tasks)} tasks in groups; a part of a name, or --all, lists them one by one")
    unread = [name for name in collections() if not any(e.collection == name for e in entries)]
    if unread and not patterns:
        say(f"listed when named, as in `mt0 tasks list {unread[0]}`: {', '.join(unread)}")
    if not patterns:
        say(f"the published evaluation, by whole names too: {', '.join(evaluations())}")
    return entries


def find_entries(
    patterns: Sequence[str], module: str | None = None, cache_dir: str | None = None
) -> list[Entry]:
    """Returns the mixtures, then the tasks, whose names contain one of the patterns."""
    seqio = _registered(patterns, module)
    cache = _Cache(cache_path(cache_dir))

    def kept(names: Iterable[str]) -> list[str]:
        return [n for n in sorted(names) if not patterns or any(p in n for p in patterns)]

    tasks = {n: seqio.TaskRegistry.get(n) for n in kept(seqio.TaskRegistry.names())}
    mixtures = {n: seqio.MixtureRegistry.get(n) for n in kept(seqio.MixtureRegistry.names())}
    if not mixtures and not tasks:
        known = [*seqio.MixtureRegistry.names(), *seqio.TaskRegistry.names()]
        hint = did_you_mean(patterns[0], known) if patterns else ""
        raise UserError(f"no task or mixture matches {', '.join(patterns) or 'anything'}.{hint}")
    return [
        *(_entry(name, "mixture", mixture.tasks, cache) for name, mixture in mixtures.items()),
        *(_entry(name, _kind(task), [task], cache) for name, task in tasks.items()),
    ]


def collections() -> list[str]:
    """Returns the collections of the xP3 family, which are registered when they are named."""
    import seqio_tasks.xp3_tables

    return list(seqio_tasks.xp3_tables.collections())


def evaluations() -> list[str]:
    """Returns the published evaluation's mixture and the tasks that no mixture of it holds."""
    from seqio_tasks import generation, humaneval

    return ["mt0_eval", *generation.NAMES, humaneval.NAME]


def _registered(patterns: Sequence[str], module: str | None) -> Any:
    """SeqIO, after the embedded tasks, the user's and those named have been registered."""
    import seqio_tasks

    try:
        seqio_tasks.load(module)
    except ValueError as error:
        raise UserError(str(error)) from error
    import seqio

    for pattern in patterns:
        try:
            seqio_tasks.load(names=[pattern])
        except ValueError as error:
            # A text that no family member's name begins with may still be part of other names.
            names = [*seqio.MixtureRegistry.names(), *seqio.TaskRegistry.names()]
            if not any(pattern in name for name in names):
                raise UserError(str(error)) from error
    return seqio


def _kind(task: Any) -> str:
    outputs = task.output_features
    if "choices" in outputs and outputs["choices"].rank == 2:
        return "rank"
    return "span" if any(hasattr(step, "draw_step") for step in task.preprocessors) else "pairs"


def _entry(name: str, kind: str, tasks: Sequence[Any], cache: _Cache) -> Entry:
    splits = [(task.name, split) for task in tasks for split in task.splits]
    found = [info for info in (cache.sizes(*one) for one in splits) if info]
    facts = [facts_of(task.name) for task in tasks]
    clusters = {fact.get("cluster", "") for fact in facts} - {""}
    collections_ = {fact.get("collection", "") for fact in facts} - {""}
    return Entry(
        name=name,
        kind=kind,
        tasks=tuple(task.name for task in tasks),
        splits=tuple(dict.fromkeys(split for _, split in splits)),
        collection=" ".join(sorted(collections_)),
        cluster=clusters.pop() if len(clusters) == 1 else "",
        languages=tuple(sorted({str(fact["language"]) for fact in facts if fact.get("language")})),
        cached=(len(found), len(splits)),
        examples=sum(examples for examples, _ in found),
        tokens=sum(tokens for _, tokens in found),
    )


class _Cache:
    """What a folder of caches holds, each info.json read once."""

    def __init__(self, root: Path):
        self._root = root
        # One look at the folder: thousands of tasks are not asked for one by one.
        self._names = set(os.listdir(root)) if root.is_dir() else set()
        self._known: dict[tuple[str, str], tuple[int, int] | None] = {}

    def sizes(self, task: str, split: str) -> tuple[int, int] | None:
        """Returns (examples, tokens) of a cached split; None where it is not cached whole."""
        if task not in self._names:
            return None
        if (task, split) not in self._known:
            try:
                info = sources.read_info(sources.task_folder(self._root, task, split))
                tokens = sum(feature.get("tokens", 0) for feature in info["features"].values())
                self._known[task, split] = (info["num_examples"], tokens)
            except UserError:
                self._known[task, split] = None
        return self._known[task, split]


def entry_table(title: str, entries: Sequence[Entry]) -> list[str]:
    """Returns a line an entry: kind or number of tasks, language, cluster, what is cached."""
    mixtures = title == "mixture"
    heads = [title, "tasks" if mixtures else "kind", "languages" if mixtures else "language",
             "cluster", "splits", "cached", "examples", "tokens"]  # fmt: skip
    rows = [
        [
            entry.name,
            str(len(entry.tasks)) if mixtures else entry.kind,
            listed(entry.languages, 1 if mixtures and len(entry.languages) > 3 else 3) or "–",
            entry.cluster or "–",
            " ".join(entry.splits),
            *cached_cells(entry),
        ]
        for entry in entries
    ]
    return table(heads, rows, texts=(0, 2, 3, 4) if mixtures else (0, 1, 2, 3, 4))


def cached_cells(entry: Entry) -> list[str]:
    """Returns whether it is cached, in how many examples and tokens."""
    there, of = entry.cached
    if not there:
        return ["no", "–", "–"]
    state = "yes" if there == of else f"{there}/{of}"
    return [state, f"{entry.examples:,}", counted(entry.tokens)]


@dataclasses.dataclass(frozen=True)
class Group:
    """Tasks that are listed together; `pattern` is what their names have in common."""

    pattern: str
    collection: str
    cluster: str
    kind: str
    entries: tuple[Entry, ...]

    def merged(self) -> Entry:
        """Returns the group as if it were one task."""
        entries = self.entries
        return Entry(
            name=self.pattern,
            kind=self.kind,
            tasks=tuple(task for entry in entries for task in entry.tasks),
            splits=tuple(dict.fromkeys(split for entry in entries for split in entry.splits)),
            collection=self.collection,
            cluster=self.cluster,
            languages=tuple(sorted({one for entry in entries for one in entry.languages})),
            cached=tuple(sum(entry.cached[i] for entry in entries) for i in (0, 1)),
            examples=sum(entry.examples for entry in entries),
            tokens=sum(entry.tokens for entry in entries),
        )


def groups_of(tasks: Sequence[Entry]) -> list[Group]:
    """Groups tasks by collection, cluster and kind; by the beginning of the name without facts."""
    found: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in tasks:
        known = entry.cluster or entry.languages
        cluster = entry.cluster if known else entry.name.rpartition("_")[0]
        found.setdefault((entry.collection, cluster, entry.kind), []).append(entry)
    return [
        Group(
            _pattern([entry.name for entry in members]),
            collection, members[0].cluster, kind, tuple(members),
        )
        for (collection, _, kind), members in sorted(found.items())
    ]  # fmt: skip


def folded(mixtures: Sequence[Entry]) -> list[Entry]:
    """Returns mixtures with those of a single language as one entry a collection."""
    kept, single = [], {}
    for entry in mixtures:
        if len(entry.languages) == 1 and entry.name.endswith(f"_{entry.languages[0]}"):
            single.setdefault(entry.collection, []).append(entry)
        else:
            kept.append(entry)
    for collection, members in single.items():
        name = f"{_pattern([one.name for one in members])} ({len(members)}, a language each)"
        kept.append(Group(name, collection, "", "mixture", tuple(members)).merged())
    return kept


def _pattern(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    begin = os.path.commonprefix(list(names))
    return f"{begin}*"


def group_table(groups: Sequence[Group]) -> list[str]:
    """Returns a line a group of tasks."""
    heads = ["tasks", "number", "kind", "languages", "cluster", "splits", "cached", "examples",
             "tokens"]  # fmt: skip
    rows = []
    for group in groups:
        entry = group.merged()
        rows.append(
            [
                entry.name,
                str(len(entry.tasks)),
                entry.kind,
                listed(entry.languages, _MOST_LANGUAGES) or "–",
                entry.cluster or "–",
                " ".join(entry.splits),
                *cached_cells(entry),
            ]
        )
    return table(heads, rows, texts=(0, 2, 3, 4, 5))
