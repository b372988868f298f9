"""What is known of a task by its name: collection, language, cluster, data set, prompt.

Neither SeqIO nor TensorFlow is needed, and the task need not be registered.
"""

from __future__ import annotations

import re
from typing import Any

from seqio_tasks import evaluation_tables, xp3_names, xp3_tables

# The last two are for whoever evaluates: the metric runs predicted code; fields of DecodeConfig.
KEYS = (
    "collection", "language", "cluster", "dataset", "config", "prompt", "source_split",
    "executes_code", "decode",
)  # fmt: skip
_MINI = re.compile(r"mini_(?:eval_)?(?P<cluster>[a-z_]+)_(?P<language>[a-z]{2,3})")

_registered: dict[str, dict[str, Any]] = {}


def register_facts(task_name: str, **facts: Any) -> None:
    """Says what a task is about, over what its name says; KEYS are the words known.

    Raises:
      ValueError: a word that is not one of KEYS.
    """
    for key in facts:
        if key not in KEYS:
            raise ValueError(f"A task has no fact '{key}'; write one of {', '.join(KEYS)}.")
    _registered[task_name] = {**_registered.get(task_name, {}), **facts}


def facts(task_name: str) -> dict[str, Any]:
    """What is known of a task, by KEYS; a key that nothing is known of is left out."""
    found = {**_by_name(task_name), **_registered.get(task_name, {})}
    return {key: value for key, value in found.items() if value not in (None, "", "unknown")}


def _by_name(name: str) -> dict[str, Any]:
    mini = _MINI.fullmatch(name)
    if mini:
        return {"collection": "mini", **mini.groupdict()}
    if name.startswith("mini_"):
        return {"collection": "mini"}
    if name.startswith(evaluation_tables.PREFIX):
        return evaluation_tables.facts_of(name)
    collection, rest = xp3_names.collection_of(name)
    if not collection:
        return {}
    if collection == "p3":
        return {"collection": collection, "language": "en"}
    codes = list(xp3_tables.languages(xp3_tables.collections()[collection].languages))
    language, rest_of_it = xp3_names.language_of(rest, codes)
    if not language:
        language = xp3_names.guessed_language(rest)
        rest_of_it = rest[len(language) + 1 :]
    found = {"collection": collection, "language": language}
    if not rest_of_it or not language:
        return found
    parts = xp3_names.parse(rest_of_it)
    return found | {
        "cluster": parts.cluster,
        "dataset": parts.dataset,
        "config": parts.config,
        "prompt": parts.prompt,
        "source_split": parts.split,
    }
