"""Evaluation data that a training mixture holds by name: data set, config and split.

What is known of the published evaluation of mT0 and BLOOMZ and of the collections of the xP3
family. Lines marked UNVERIFIED rest on the code that made the collections, not on their files.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# What a finding means, worst first.
EVALUATION = "evaluation"  # the very examples that are scored
HELD_OUT = "held-out"  # another split or data set of what must stay unseen
BENCHMARK = "benchmark"  # an evaluation split of a data set that is trained on
KINDS = (EVALUATION, HELD_OUT, BENCHMARK)

HELD_OUT_CLUSTERS = {
    "natural_language_inference": "natural language inference",
    "nli": "natural language inference",
    "coreference": "coreference resolution",
    "coreference_resolution": "coreference resolution",
    "sentence_completion": "sentence completion",
    "completion": "sentence completion",
}

# Their other configs are other data; of the rest, languages or rounds.
_BY_CONFIG = ("super_glue", "glue", "winogrande", "story_cloze", "blimp", "lince", "pubmed_qa")


@dataclasses.dataclass(frozen=True)
class EvaluationSet:
    """A data set that is scored.

    Attributes:
        dataset: its name, without its owner.
        configs: which configs; empty for all.
        splits: the splits that are scored.
        why: where.
    """

    dataset: str
    configs: tuple[str, ...]
    splits: tuple[str, ...]
    why: str


_PUBLISHED = "scored by rank in mT0's published evaluation, held-out cluster"
_CHOICE = "scored in the published choice of mT0's checkpoints"
# What is scored by generation; sets scored by rank stand in seqio_tasks' table.
_GENERATED = (
    EvaluationSet("wmt14", ("fr-en", "hi-en"), ("validation", "test"), _CHOICE),
    EvaluationSet("mlsum", ("es",), ("validation", "test"), _CHOICE),
    EvaluationSet(
        "openai_humaneval", (), ("test",), "scored by pass@k in mT0's published evaluation"
    ),
)


@functools.cache
def evaluation_sets() -> tuple[EvaluationSet, ...]:
    """Returns every data set that the published evaluation scores, and the split of it."""
    from seqio_tasks import evaluation_tables

    found: dict[tuple, EvaluationSet] = {}
    for task in evaluation_tables.tasks().values():
        why = _PUBLISHED if task.group == evaluation_tables.PAPER else _CHOICE
        key = (task.short, (task.config,) if task.short in _BY_CONFIG else (), why)
        splits = found[key].splits if key in found else ()
        splits = tuple(dict.fromkeys((*splits, task.split)))
        found[key] = EvaluationSet(*key[:2], splits, why)
    return (*found.values(), *_GENERATED)


_FLORES = (
    "FLORES-200 dev and devtest are training data of the collection: confirmed by its author "
    "(bigscience-workshop/xmtf, issue 22); no translation score on FLORES means anything"
)
_FLORES_LANGUAGES = (
    "ak as bm bn ca en es eu fon fr gu hi id ig ki kn lg ln ml mr ne nso ny or pa pt rn rw sn st "
    "sw ta te tn ts tum tw ur vi wo xh yo zh zu"
).split()
_TESTS = (
    "its training sets' test splits are part of the collection: the code that made it keeps every "
    "split but 'validation' (UNVERIFIED against the merged files)"
)
_EVALUATION_SPLIT = re.compile(r"(dev|devtest|test|validation)(_.*)?")


@dataclasses.dataclass(frozen=True)
class Finding:
    """Evaluation data in a task.

    Attributes:
        kind: one of KINDS.
        dataset: the data set, or collection, with its config where that matters.
        split: the split, '' where it is not known.
        task: the training task.
        why: what is known about it.
    """

    kind: str
    dataset: str
    split: str
    task: str
    why: str


def findings(name: str, facts: Mapping[str, Any], files: Iterable[str] = ()) -> list[Finding]:
    """Returns what is known against one training task.

    Args:
        name: the task.
        facts: what seqio_tasks.task_facts says of it.
        files: paths of its files, whose names may say more.
    """
    members = [facts] if facts.get("dataset") else []
    if not members:
        members = [member for path in files if (member := _of_file(path))]
    found = [finding for member in members if (finding := _of_member(name, {**facts, **member}))]
    if not members:
        found += _of_cluster(name, facts) + _of_collection(name, facts)
    return list(dict.fromkeys(found))


def _of_file(path: str) -> dict[str, str]:
    """Returns what a file's name says, {} where it names no data set of the tables."""
    from seqio_tasks import xp3_names

    stem = os.path.basename(path.split("::")[0]).split(".jsonl")[0]
    parts = xp3_names.parse(stem)
    if parts.dataset == xp3_names.UNKNOWN:
        return {}
    return {
        "dataset": parts.dataset,
        "config": parts.config,
        "source_split": parts.split,
        "cluster": parts.cluster,
    }


def _plain(name: Any) -> str:
    return re.sub(r"[^a-z0-9]+", "_", str(name or "").rsplit("/", 1)[-1].lower()).strip("_")


def _of_member(task: str, facts: Mapping[str, Any]) -> Finding | None:
    dataset, config = _plain(facts["dataset"]), _plain(facts.get("config"))
    split = _plain(facts.get("source_split"))
    split = "" if split == "unknown" else split
    config_shown = config if config not in ("", "none", "pairs", "unknown") else ""
    shown = str(facts["dataset"])
    for one in evaluation_sets():
        configs = [_plain(known) for known in one.configs]
        if dataset != _plain(one.dataset) or (configs and config not in configs):
            continue
        if configs:
            shown = f"{shown} {config_shown}"
        if split in one.splits:
            return Finding(EVALUATION, shown, split, task, one.why)
        if not split:
            why = f"{one.why}; which split it was made of is not known"
            return Finding(EVALUATION, shown, "", task, why)
        if "held-out cluster" in one.why:
            scored = " and ".join(one.splits)
            return Finding(HELD_OUT, shown, split, task, f"its {scored} is {one.why}")
    if dataset in ("flores", "flores200"):
        return Finding(BENCHMARK, shown, split, task, _FLORES)
    cluster = _of_cluster(task, facts, shown, split)
    if cluster:
        return cluster[0]
    if _EVALUATION_SPLIT.fullmatch(split):
        return Finding(BENCHMARK, shown, split, task, "an evaluation split of its own data set")
    return None


def _of_cluster(
    task: str, facts: Mapping[str, Any], dataset: str = "", split: str = ""
) -> list[Finding]:
    cluster = str(facts.get("cluster") or "").lower()
    if cluster not in HELD_OUT_CLUSTERS:
        return []
    why = f"{HELD_OUT_CLUSTERS[cluster]} is a cluster that mT0's evaluation holds out of training"
    return [Finding(HELD_OUT, dataset or cluster, split, task, why)]


def _of_collection(task: str, facts: Mapping[str, Any]) -> list[Finding]:
    """What is known of files that merge many data sets."""
    collection, language = facts.get("collection"), facts.get("language")
    # P3 is left out: nothing is known against its 38 data sets (UNVERIFIED against the files).
    if collection not in ("xp3", "xp3mt", "xp3all", "xp3megds"):
        return []
    found = [Finding(BENCHMARK, collection, "test", task, _TESTS)]
    if language in _FLORES_LANGUAGES:
        found.insert(0, Finding(BENCHMARK, "facebook/flores", "dev, devtest", task, _FLORES))
    return found


def grouped(found: Sequence[Finding]) -> list[tuple[Finding, list[str]]]:
    """Returns findings that say the same as one, with their tasks; the worst first."""
    tasks: dict[tuple, list[str]] = {}
    first: dict[tuple, Finding] = {}
    for finding in found:
        key = (finding.kind, finding.dataset, finding.split, finding.why)
        first.setdefault(key, finding)
        tasks.setdefault(key, []).append(finding.task)
    order = sorted(first, key=lambda key: (KINDS.index(key[0]), key[1], key[2]))
    return [(first[key], list(dict.fromkeys(tasks[key]))) for key in order]
