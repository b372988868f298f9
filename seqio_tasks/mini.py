"""mini-xP3, the embedded default: xP3's clusters over real facts in 42 languages, no download.

Importing the module registers SeqIO Tasks and Mixtures; rows are made when they are asked for.

* `mini_pretrain`: span corruption over raw text of all languages.
* `mini_<cluster>_<language>` and the mixture `mini_multilingual`: finetuning, seen languages.
* `mini_english`: a mixture of the same clusters' English tasks, where English has them.
* `mini_eval_<cluster>_<language>` and the mixture `mini_eval`: evaluation by rank.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
from pathlib import Path
from typing import Any

import seqio

from seqio_tasks import metrics, mini_facts, mini_pretraining, mini_rows, vocabularies
from seqio_tasks.choices import RightChoice
from seqio_tasks.sources import PythonDataSource
from seqio_tasks.span_corruption import SpanCorruption

# What CLDR is too thin for, or what a cluster means nothing in. A test holds these to the rows;
# they are written down so that registering reads no data.
_NO_CONJUNCTION = "ny sn ts rw lg tn nso rn wo ki st bm"
_MISSING = {
    "closed_book_qa": "ny nso",
    "translation": "en",
    "structure_to_text": _NO_CONJUNCTION,
    "number_verbalisation": "ur mr gu pa yo ml kn or as ln " + _NO_CONJUNCTION,
}
_MISSING_EVALUATION = {
    "language_identification": "ny nso",
    "closed_book_qa": "ig wo ny ts rw tn nso st",
    "extractive_qa": "ny nso",
}
# The question of these needs a second language.
_NOT_ENGLISH_ALONE = ("translation", "language_identification")
# Share of a cluster in a mixture, before languages.
_CLUSTER_RATES = {
    "paraphrase_identification": 14.0,
    "language_identification": 8.0,
    "closed_book_qa": 45.0,
    "extractive_qa": 15.0,
    "translation": 6.0,
    "data_to_text": 3.0,
    "structure_to_text": 3.0,
    "number_verbalisation": 3.0,
    "code": 3.0,
}
# English has four times a large language's share (xP3: 39 %); languages with few names have less,
# but more than their size would give.
_ENGLISH_RATE, _SMALL_RATE = 4.0, 0.4
_SMALL_LANGUAGES = ("ny", "ts", "rw", "tn", "nso", "st")


@functools.cache
def _package_hash() -> str:
    """Hash of everything that the rows follow from: this package's files and CLDR's releases."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("mini*")):
        if path.suffix in (".py", ".model"):
            digest.update(path.name.encode() + path.read_bytes())
    for package in ("babel", "unicode-rbnf"):
        digest.update(importlib.metadata.version(package).encode())
    return digest.hexdigest()


def _fingerprint(name: str) -> str:
    return f"{name}-{_package_hash()}"


def _source(name: str, splits: dict[str, functools.partial]) -> PythonDataSource:
    # Partials, not lambdas: a worker process may be sent the source.
    return PythonDataSource(splits, fingerprint=functools.partial(_fingerprint, name))


def clusters_of(language: str) -> list[str]:
    """Training clusters that have rows in a seen language."""
    if language in mini_facts.HELD_OUT_LANGUAGES:
        return []
    return [c for c in mini_rows.CLUSTERS if language not in _MISSING.get(c, "").split()]


def evaluations_of(language: str) -> list[str]:
    """Clusters that are scored by rank in a language."""
    missing = _MISSING_EVALUATION
    return [c for c in mini_rows.EVALUATIONS if language not in missing.get(c, "").split()]


def eval_groups() -> list[dict[str, Any]]:
    """Every evaluation task: its name, cluster and language, and whether each was finetuned."""
    return [
        {
            "task": f"mini_eval_{cluster}_{language}",
            "cluster": cluster,
            "language": language,
            "held_out_cluster": cluster in mini_rows.HELD_OUT_CLUSTERS,
            "seen_language": language not in mini_facts.HELD_OUT_LANGUAGES,
        }
        for cluster in mini_rows.EVALUATIONS
        for language in mini_facts.LANGUAGES
        if cluster in evaluations_of(language)
    ]


def _add_pretraining(vocabulary: seqio.Vocabulary) -> None:
    splits = {
        split: functools.partial(mini_pretraining.pretraining_examples, split)
        for split in ("train", "validation")
    }
    seqio.TaskRegistry.add(
        "mini_pretrain",
        source=_source("mini_pretrain", splits),
        preprocessors=[
            seqio.preprocessors.tokenize,
            seqio.CacheDatasetPlaceholder(),
            SpanCorruption(),
            seqio.preprocessors.append_eos_after_trim,
        ],
        output_features=vocabularies.output_features(vocabulary),
    )


def _add_finetuning(cluster: str, language: str, vocabulary: seqio.Vocabulary) -> str:
    name = f"mini_{cluster}_{language}"
    splits = {
        split: functools.partial(mini_rows.finetuning_examples, cluster, language, split)
        for split in ("train", "validation")
    }
    seqio.TaskRegistry.add(
        name,
        source=_source(name, splits),
        preprocessors=[
            seqio.preprocessors.tokenize,
            seqio.CacheDatasetPlaceholder(),
            seqio.preprocessors.append_eos_after_trim,
        ],
        output_features=vocabularies.output_features(vocabulary),
        metric_fns=[metrics.exact_match],
    )
    return name


def _rate(cluster: str, language: str) -> float:
    if language == "en":
        return _CLUSTER_RATES[cluster] * _ENGLISH_RATE
    return _CLUSTER_RATES[cluster] * (_SMALL_RATE if language in _SMALL_LANGUAGES else 1.0)


def _add_evaluation(group: dict[str, Any], vocabulary: seqio.Vocabulary) -> None:
    make = functools.partial(mini_rows.evaluation_rows, group["cluster"], group["language"])
    seqio.TaskRegistry.add(
        group["task"],
        source=_source(group["task"], {"validation": make}),
        preprocessors=[
            RightChoice(),
            seqio.preprocessors.tokenize,
            seqio.CacheDatasetPlaceholder(),
            seqio.preprocessors.append_eos_after_trim,
        ],
        output_features=vocabularies.rank_features(vocabulary),
    )


def _register() -> None:
    vocabulary = vocabularies.mini()
    _add_pretraining(vocabulary)
    rates = {
        _add_finetuning(cluster, language, vocabulary): _rate(cluster, language)
        for language in mini_facts.SEEN_LANGUAGES
        for cluster in clusters_of(language)
    }
    seqio.MixtureRegistry.add("mini_multilingual", list(rates.items()))
    english = [
        (f"mini_{cluster}_en", _CLUSTER_RATES[cluster])
        for cluster in clusters_of("en")
        if cluster not in _NOT_ENGLISH_ALONE
    ]
    seqio.MixtureRegistry.add("mini_english", english)
    groups = eval_groups()
    for group in groups:
        _add_evaluation(group, vocabulary)
    seqio.MixtureRegistry.add("mini_eval", [(group["task"], 1.0) for group in groups])


if "mini_pretrain" not in seqio.TaskRegistry.names():
    _register()
