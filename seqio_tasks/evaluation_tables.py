"""The paper's held-out evaluation as a table: which data sets, languages and prompts.

Needs neither SeqIO nor TensorFlow. `tables/evaluation_tasks.tsv` has a line a prompt; here a task
is a data set in one language under its (mostly five) prompts.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import re
from collections.abc import Iterator
from typing import Any

from seqio_tasks import xp3_names, xp3_tables

PREFIX = "eval_"
ENGLISH, MACHINE, HUMAN = "EN", "MT", "HT"  # how the prompts came to be in their language
PAPER, VALIDATION = "paper", "validation"
# Whoever evaluates on these sums them up apart from the three clusters held out.
VALIDATION_CLUSTER = "checkpoint_choice"
SPLIT = "validation"  # the one split of every task: what is scored, however its data set calls it

_BY_LANGUAGE = ("xnli", "xcopa", "xstory_cloze", "xwinograd", "amazon_reviews_multi", "head_qa")
_BY_CONFIG = ("super_glue", "glue")
_CODES = {"jp": "ja"}  # of XWinograd
_TRANSLATED = re.compile(r"_[a-z]{2}(mt|ht)$")


@dataclasses.dataclass(frozen=True)
class EvaluationTask:
    """A data set in one language, scored by rank under a few prompts.

    Attributes:
      name: of the SeqIO task, such as 'eval_xcopa_sw'.
      dataset, config, split: on the Hub; config None where there is none.
      template_config: names the templates where not `config` does; None for `config`'s own.
      prompts: names of the templates as the table has them.
      prompt_language: 'EN', or 'MT', 'HT' for prompts in the data's language, translated by a
        machine or by hand.
      group: 'paper', or 'validation' for the sets that the published checkpoints were chosen by.
      reported_as: what its scores are summed up as: 'xcopa', 'super_glue/rte'.
      language: of the data.
      seen_language: whether mT0's finetuning data had the language.
      cluster: of xP3; VALIDATION_CLUSTER for that group.
    """

    name: str
    dataset: str
    config: str | None
    split: str
    template_config: str | None
    prompts: tuple[str, ...]
    prompt_language: str
    group: str
    reported_as: str
    language: str
    seen_language: bool
    cluster: str

    @property
    def short(self) -> str:
        """The data set's name without its owner."""
        return self.dataset.rsplit("/", 1)[-1]

    @property
    def hub_config(self) -> str | None:
        """The config to ask the Hub for: ANLI's rounds are splits there."""
        return None if self.short == "anli" else self.config

    def fields(self) -> dict[str, Any]:
        """What every example says of itself, beside its prompt."""
        return {
            "language": self.language,
            "cluster": self.cluster,
            "dataset": self.reported_as,
            "prompt_language": self.prompt_language,
            "held_out_cluster": self.group == PAPER,
            "seen_language": self.seen_language,
        }


def read_table(name: str) -> list[dict[str, str]]:
    """Rows of a table in `tables/` whose first line, beginning with '#', says its source."""
    with (xp3_tables.FOLDER / name).open(encoding="utf-8", newline="") as file:
        lines = (line for line in file if not line.startswith("#"))
        return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


@functools.cache
def tasks() -> dict[str, EvaluationTask]:
    """Every task by name: the paper's under English prompts, under translated ones, then VAL."""
    prompts: dict[tuple, list[str]] = {}
    seen: set[tuple[str, str]] = set()
    for row in read_table("evaluation_tasks.tsv"):
        if row["group"] == "L1":
            seen.add((row["dataset"], row["config"]))
        named = prompts.setdefault(_key(row), [])
        # Two languages stand in both groups of translated prompts.
        if row["template_name"] not in named:
            named.append(row["template_name"])
    found = {}
    for key, names in sorted(prompts.items(), key=lambda item: item[0][0]):
        task = _task(key, tuple(names), seen)
        found[task.name] = task
    return found


def _key(row: dict[str, str]) -> tuple:
    translated = _TRANSLATED.search(row["template_name"])
    group = VALIDATION if row["group"] == "VAL" else PAPER
    language = translated[1].upper() if translated and row["group"] not in ("L1", "L2") else ENGLISH
    order = (group == VALIDATION, language != ENGLISH)
    fields = [row[name] for name in ("dataset", "config", "template_config", "split")]
    return (order, group, language, *(None if field == "None" else field for field in fields))


def _task(key: tuple, prompts: tuple[str, ...], seen: set[tuple[str, str]]) -> EvaluationTask:
    _, group, prompt_language, dataset, config, template_config, split = key
    short = dataset.rsplit("/", 1)[-1]
    by_language = short in _BY_LANGUAGE
    own = (config or "").removeprefix("dev_").removeprefix(f"{short}_")
    name = PREFIX + xp3_names.legal("_".join(filter(None, (short, own if own != short else ""))))
    if prompt_language != ENGLISH:
        name = f"{name}_{prompt_language.lower()}"
    return EvaluationTask(
        name=name,
        dataset=dataset,
        config=config,
        split=split,
        template_config=template_config,
        prompts=prompts,
        prompt_language=prompt_language,
        group=group,
        reported_as=f"{short}/{config}" if short in _BY_CONFIG else short,
        language=_CODES.get(config, config) if by_language else "en",
        seen_language=group == VALIDATION or (dataset, config) in seen,
        cluster=_cluster(dataset, config) if group == PAPER else VALIDATION_CLUSTER,
    )


def _cluster(dataset: str, config: str | None) -> str:
    for known in xp3_tables.datasets():
        if known.name == dataset and (not known.configs or config in known.configs):
            return known.cluster
    raise LookupError(f"tables/datasets.tsv has no '{dataset}', config {config}")


@functools.cache
def mixtures() -> dict[str, tuple[str, ...]]:
    """Names of tasks by mixture; those of what is at hand are not known here."""
    found: dict[str, list[str]] = {}
    for task in tasks().values():
        for name in _mixtures_of(task):
            found.setdefault(name, []).append(task.name)
    return {name: tuple(members) for name, members in found.items() if name not in tasks()}


def _mixtures_of(task: EvaluationTask) -> Iterator[str]:
    if task.group == VALIDATION:
        yield "mt0_validation"
        return
    translated = "" if task.prompt_language == ENGLISH else f"_{task.prompt_language.lower()}"
    yield f"mt0_eval{translated}"
    # 'eval_xcopa_ht' is Haitian: a mixture of translated prompts says 'all'.
    yield PREFIX + task.short + (f"_all{translated}" if translated else "")


def facts_of(name: str) -> dict[str, Any]:
    """What `task_facts` says of a task; {} for a name that is none of these."""
    task = tasks().get(name)
    if task is None:
        return {}
    return {
        "collection": "mt0_eval" if task.group == PAPER else "mt0_validation",
        "language": task.language,
        "cluster": task.cluster,
        "dataset": task.dataset,
        "config": task.config,
        "source_split": task.split,
    }
