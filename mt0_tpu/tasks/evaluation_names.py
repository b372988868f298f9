"""Evaluation data that a training mixture holds by name: data set, config and split.

What is known of the published evaluation of mT0 and BLOOMZ and of the collections of the xP3
family. Lines marked UNVERIFIED rest on the code that made the collections, not on their files.
"""

from __future__ import annotations

import dataclasses
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


def _sets(why: str, text: str) -> list[EvaluationSet]:
    """Reads lines of `dataset [config,config] split,split`."""
    found = []
    for line in text.split(";"):
        name, *configs, splits = line.split()
        configs = tuple(configs[0].split(",")) if configs else ()
        found.append(EvaluationSet(name, configs, tuple(splits.split(",")), why))
    return found


EVALUATION_SETS = (
    *_sets(
        "scored by rank in mT0's published evaluation, held-out cluster",
        "xnli validation; super_glue cb,rte,copa validation; anli dev_r1,dev_r2,dev_r3;"
        "xwinograd test; winogrande winogrande_xl validation; xcopa validation;"
        "story_cloze 2016 validation; xstory_cloze validation",
    ),
    *_sets(
        "scored in the published choice of mT0's checkpoints",
        "head_qa validation; climate_fever test; codah train; aqua_rat validation;"
        "commonsense_qa validation; amazon_reviews_multi validation; art validation;"
        "banking77 test; blbooksgenre train; blimp adjunct_island train; conv_ai_3 validation;"
        "craigslist_bargains validation; ecthr_cases validation; emo validation; emotion test;"
        "financial_phrasebank train; glue cola,sst2 validation; health_fact validation;"
        "hlgd validation; hyperpartisan_news_detection train; liar validation;"
        "lince sa_spaeng validation; math_qa test; movie_rationales validation; mwsc validation;"
        "onestop_english train; poem_sentiment validation; pubmed_qa pqa_labeled train;"
        "riddle_sense validation; scicite validation; selqa validation;"
        "snips_built_in_intents train; wmt14 fr-en,hi-en validation,test; mlsum es validation,test",
    ),
    *_sets("scored by pass@k in mT0's published evaluation", "openai_humaneval test"),
)

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
    for one in EVALUATION_SETS:
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
