"""The paper's held-out evaluation as SeqIO tasks, registered by name when they are asked for.

Importing this module registers nothing. A task is a data set in one language under its prompts
(`eval_xcopa_sw`), a mixture a data set in all its languages (`eval_xcopa`) or all of them
(`mt0_eval`). Which there are: `evaluation_tables`; where rows lie: `evaluation_data`; prompts:
`evaluation_prompts`. docs/evaluation.md has the protocol.

Environment, beside $MT0_EVAL_DIR and $MT0_PROMPTS_DIR: MT0_VOCABULARY names the SentencePiece
model or BLOOM's tokenizer.json; MT0_BAD_LINES=skip leaves rows out, and counts them, that a prompt
makes no question of.
Inputs go without EOS, as in the published evaluation; mT5's choices end in it, BLOOM's have none
and a blank before them.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import seqio

from seqio_tasks import (
    evaluation_at_hand,
    evaluation_data,
    evaluation_prompts,
    evaluation_tables,
    generation,
    humaneval,
    prompt_library,
    prompted,
    task_facts,
    vocabularies,
)
from seqio_tasks.choices import RightChoice
from seqio_tasks.evaluation_at_hand import AT_HAND
from seqio_tasks.evaluation_tables import PREFIX, SPLIT, EvaluationTask
from seqio_tasks.line_files import LineFile
from seqio_tasks.near_names import did_you_mean
from seqio_tasks.prompt_library import PromptLibrary
from seqio_tasks.prompts import Template, Unprompted
from seqio_tasks.raw_rows import RawSplit

_BEGINNINGS = (PREFIX, "mt0_eval", "mt0_validation")


class EvaluationSource(prompted.PromptedDataSource):
    """A task's rows as rank examples, each row under all prompts before the next.

    The first examples of a task are thus of all its prompts.

    Attributes:
      environment: variables that decide what the examples and their ids are.
    """

    environment = (evaluation_data.VARIABLE, prompt_library.VARIABLE, "MT0_VOCABULARY")

    def __init__(self, task: EvaluationTask, library: PromptLibrary, errors: str = "stop"):
        self._evaluation_rows = evaluation_data.rows_of(task)
        super().__init__(
            {SPLIT: self._evaluation_rows},
            evaluation_prompts.templates_of(task, library),
            rank=True,
            language=task.language,
            fields=task.fields(),
            errors=errors,
        )

    def _make(self, split: str) -> Iterator[dict[str, Any]]:
        try:
            yield from super()._make(split)
        except ValueError as error:
            if isinstance(error.__context__, Unprompted):
                told = str(error).rstrip(".")
                raise ValueError(
                    f"{told}; mend the row, or leave such rows out, counted, with "
                    "MT0_BAD_LINES=skip."
                ) from None
            raise

    def _pairs(self, rows: RawSplit) -> Iterator[tuple[int, dict[str, Any], Template]]:
        for number, row in enumerate(rows.rows()):
            yield from ((number, row, template) for template in self._templates)

    def watched_files(self, split: str) -> list[LineFile]:
        """The local files that the examples are made of."""
        self._check(split)
        return self._evaluation_rows.line_files()


def ensure(name: str) -> None:
    """Registers a task or mixture of the evaluation; any other name is left alone.

    Raises:
      ValueError: the prompts are not at hand, nothing of an `…_at_hand` mixture is, or the name
        begins as one of these and is none.
    """
    if _registered(name):
        return
    if name in evaluation_tables.tasks():
        _add_tasks([name])
    elif name.endswith(AT_HAND) and name.removesuffix(AT_HAND) in evaluation_tables.mixtures():
        _add_mixture(name, evaluation_at_hand.at_hand(name.removesuffix(AT_HAND)))
    elif name in evaluation_tables.mixtures():
        _add_mixture(name, evaluation_tables.mixtures()[name])
    elif name.startswith(_BEGINNINGS):
        raise ValueError(f"There is no evaluation task or mixture '{name}'.{_near(name)}")


def names() -> list[str]:
    """Every name that `ensure` knows, and those of generated text and code."""
    mixtures = list(evaluation_tables.mixtures())
    ranked = [*evaluation_tables.tasks(), *mixtures, *(name + AT_HAND for name in mixtures)]
    return [*ranked, *generation.NAMES, humaneval.NAME]


def _registered(name: str) -> bool:
    return name in seqio.TaskRegistry.names() or name in seqio.MixtureRegistry.names()


def _near(name: str) -> str:
    """The nearest name, or the languages there are of a data set that is known."""
    known = names()
    dataset, _, language = name.rpartition("_")
    if dataset in evaluation_tables.mixtures() and len(language) < 4:
        tasks = [evaluation_tables.tasks()[n] for n in evaluation_tables.mixtures()[dataset]]
        near = did_you_mean(name, [task.name for task in tasks])
        return f" {dataset} has {', '.join(task.name[len(dataset) + 1 :] for task in tasks)}.{near}"
    return did_you_mean(name, known)


def _add_mixture(name: str, members: Sequence[str]) -> None:
    _add_tasks(members)
    seqio.MixtureRegistry.add(name, [(member, 1.0) for member in members])


def _add_tasks(wanted: Sequence[str]) -> None:
    library = PromptLibrary()
    for name in wanted:
        if not _registered(name):
            _add_task(evaluation_tables.tasks()[name], library)


def _add_task(task: EvaluationTask, library: PromptLibrary) -> None:
    errors = os.environ.get("MT0_BAD_LINES") or "stop"
    features = _features(os.environ.get("MT0_VOCABULARY"))
    seqio.TaskRegistry.add(
        task.name,
        source=EvaluationSource(task, library, errors),
        preprocessors=[
            RightChoice(),
            *vocabularies.text_steps(features["choices"].vocabulary),
            seqio.preprocessors.tokenize,
            seqio.CacheDatasetPlaceholder(),
            seqio.preprocessors.append_eos_after_trim,
        ],
        output_features=features,
        metric_fns=[],
    )
    task_facts.register_facts(task.name, **evaluation_tables.facts_of(task.name))


@functools.cache
def _features(path: str | None) -> dict[str, seqio.Feature]:
    # One object for all tasks: they need one model in memory.
    vocabulary = vocabularies.named(path)
    return vocabularies.rank_features(
        vocabulary, inputs_eos=False, choices_eos=not vocabularies.text_steps(vocabulary)
    )
