"""Tasks made of rows and prompts on the fly, for training or for evaluation by rank.

    from seqio_tasks import prompted, raw_rows, vocabularies
    from seqio_tasks.prompt_library import PromptLibrary

    rows = {"train": raw_rows.RawSplit("reviews", None, "train", files=("reviews.jsonl",))}
    templates = PromptLibrary().templates("imdb")
    prompted.add_prompted_task("my_reviews", rows, templates, vocabularies.mt5())

Every row goes under every template given. With `rank=True` the examples hold the answer choices and
the index of the right one, which must be what the template prints behind its `|||`.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import seqio

from seqio_tasks import prompts, task_facts, vocabularies
from seqio_tasks.line_files import Tally
from seqio_tasks.prompts import Template, Unprompted
from seqio_tasks.raw_rows import RawSplit
from seqio_tasks.sources import PythonDataSource

Rows = Mapping[str, "RawSplit | Callable[[], Iterable[dict[str, Any]]]"]


def _listed(templates: Any) -> tuple[Template, ...]:
    if isinstance(templates, Template):
        return (templates,)
    listed = tuple(templates.values() if isinstance(templates, Mapping) else templates)
    if not listed or not all(isinstance(template, Template) for template in listed):
        raise ValueError(
            f"templates is {templates!r}; write a Template, a list of them, or what "
            "PromptLibrary().templates(key) gives."
        )
    return listed


class PromptedDataSource(PythonDataSource):
    """Rows under prompts, as examples.

    The examples are {"inputs", "targets"}; with `rank`, {"inputs", "choices", "answer", "prompt",
    "language"}, the same rows under each template in turn.

    Args:
      rows: split name -> RawSplit, or a callable without arguments that gives dicts.
      templates: a Template, several, or a mapping of them.
      rank: whether the examples are for choosing among answers; needs answer_choices.
      language: of the data; a field of rank examples.
      fields: further fields of rank examples, such as {"cluster": "completion"}.
      max_variable_chars: what each printed variable is cut to; None for no cut.
      keep_line_breaks: keeps the blanks around the `|||`, as code needs them.
      seed: of what the filters `choice` and `random` pick.
      errors: 'skip' leaves out rows that give no example and counts them (`dropped`), 'stop'
        raises ValueError at the first.
    """

    def __init__(
        self,
        rows: Rows,
        templates: Template | Iterable[Template] | Mapping[str, Template],
        *,
        rank: bool = False,
        language: str = "en",
        fields: Mapping[str, Any] | None = None,
        max_variable_chars: int | None = prompts.PUBLISHED_CHARS,
        keep_line_breaks: bool = False,
        seed: int = 0,
        errors: str = "skip",
    ):
        if errors not in ("skip", "stop"):
            raise ValueError(f"errors is '{errors}'; write 'skip' or 'stop'.")
        self._rows, self._templates = dict(rows), _listed(templates)
        for template in self._templates:
            template.check()
            if rank and template.answer_choices is None:
                raise ValueError(
                    f"Template '{template.name}' has no answer_choices to rank; leave it out."
                )
        self._rank, self._errors, self._seed = rank, errors, seed
        self._fields = {"language": language} | dict(fields or {})
        self._options = {"truncate_chars": max_variable_chars, "strip": not keep_line_breaks}
        # How many rows under a template gave no example in the last pass, by split and reason.
        self.dropped: dict[str, Counter] = {}
        self._tally = Tally()
        splits = {split: functools.partial(self._make, split) for split in self._rows}
        known = all(isinstance(made, RawSplit) for made in self._rows.values())
        super().__init__(splits, fingerprint=self._hash if known else None)

    def _hash(self) -> str:
        """Of the rows' files, the templates and the options."""
        told = [
            {split: rows.fingerprint() for split, rows in self._rows.items()},
            [[template.name, template.jinja, template.answer_choices] for template in
             self._templates],
            [self._rank, self._seed, self._options, self._fields],
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def take_tally(self) -> Tally:
        """What was left out since the last call, for a cache's table."""
        return self._tally.take()

    def python_examples(
        self, split: str, shard_index: int = 0, num_shards: int = 1
    ) -> Iterator[dict[str, Any]]:
        """The examples of a split; of several shards the first alone counts what is left out."""
        yield from super().python_examples(split, shard_index, num_shards)
        if shard_index == 0:
            self._tally.bad += self.dropped.get(split, Counter()).total()

    def _make(self, split: str) -> Iterator[dict[str, Any]]:
        dropped = Counter()
        for number, row, template in self._pairs(self._rows[split]):
            seed = f"{self._seed} {template.name} {number}"
            try:
                yield self._example(template, row, seed)
            except Unprompted as left_out:
                if self._errors == "stop":
                    where = f"Split '{split}', row {number}"
                    told = f"{where}: {left_out} (prompt '{template.name}')."
                    raise ValueError(told) from None
                dropped[left_out.reason] += 1
        self.dropped[split] = dropped

    def _pairs(self, rows: Any) -> Iterator[tuple[int, dict[str, Any], Template]]:
        """Every row with its number under every template, in the order of the examples."""
        for template in self._templates:
            found = rows.rows() if isinstance(rows, RawSplit) else rows()
            yield from ((number, row, template) for number, row in enumerate(found))

    def _example(self, template: Template, row: Mapping[str, Any], seed: str) -> dict[str, Any]:
        inputs, target = template.pair(row, seed=seed, **self._options)
        if not self._rank:
            return {"inputs": inputs, "targets": target}
        choices = template.choices(row, f"{seed} choices")
        if len(choices) < 2:
            raise Unprompted("one_choice", f"{choices}")
        if "" in choices:
            raise Unprompted("empty_choice", f"{choices}")
        if target not in choices:
            raise Unprompted("answer_not_among_choices", f"'{target}' of {choices}")
        return {
            "inputs": inputs,
            "choices": choices,
            "answer": choices.index(target),
            "prompt": template.name,
            **self._fields,
        }


def add_prompted_task(
    name: str,
    rows: Rows,
    templates: Template | Iterable[Template] | Mapping[str, Template],
    vocabulary: seqio.Vocabulary,
    *,
    rank: bool = False,
    inputs_eos: bool = True,
    targets_eos: bool = True,
    metric_fns: Iterable[Any] = (),
    facts: Mapping[str, Any] | None = None,
    **options: Any,
) -> seqio.Task:
    """Registers rows under prompts as a SeqIO task and returns it.

    Args:
      name: of the task; ValueError if it is taken.
      rows, templates, rank: as in PromptedDataSource, and so are `options`.
      vocabulary: of inputs, targets and choices.
      inputs_eos, targets_eos: whether they end in EOS; `targets_eos` is of the choices too.
      metric_fns: of a text-to-text task.
      facts: for `mt0 tasks`: collection, cluster, dataset, … (seqio_tasks.task_facts).
    """
    if name in seqio.TaskRegistry.names():
        raise ValueError(f"There is a task '{name}' already; write another name.")
    source = PromptedDataSource(rows, templates, rank=rank, **options)
    first: list[Any] = []
    if rank:
        from seqio_tasks.choices import RightChoice

        first = [RightChoice()]
        features = vocabularies.rank_features(vocabulary, inputs_eos, targets_eos)
    else:
        features = vocabularies.output_features(vocabulary, inputs_eos, targets_eos)
    task = seqio.TaskRegistry.add(
        name,
        source=source,
        preprocessors=[
            *first,
            *vocabularies.text_steps(vocabulary),
            seqio.preprocessors.tokenize,
            seqio.CacheDatasetPlaceholder(),
            seqio.preprocessors.append_eos_after_trim,
        ],
        output_features=features,
        metric_fns=list(metric_fns),
    )
    task_facts.register_facts(name, **{"language": options.get("language", "en"), **(facts or {})})
    return task
