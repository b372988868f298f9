"""Tasks of generated text: translation and summarisation, scored by BLEU, chrF and ROUGE.

The published ones, which mT0's checkpoints were chosen by, are registered by name (`ensure`):
`eval_wmt14_fr_en`, `_en_fr`, `_hi_en`, `_en_hi` under five prompts each, `eval_mlsum_es` under
three. A task has the first 3,000 rows of its test split under each of its prompts; a score is the
median over prompts, beside that of every prompt. (Published: BLEU, written 0 to 1, of the limit
3,000 of the BigScience harness, which may shuffle a larger split first.)

For files of one's own:

    add_translation_task("tatoeba_fr_en", ("fr.txt", "en.txt"), "fr", "en", vocabulary)
    add_summarization_task("news", "news.jsonl", "sw", vocabulary)
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import babel
import seqio

from seqio_tasks import generation_metrics, task_facts, vocabularies
from seqio_tasks.evaluation_data import EvaluationRows
from seqio_tasks.evaluation_tables import VALIDATION, EvaluationTask
from seqio_tasks.generation_metrics import MetricFn, PromptedTarget, PromptedTargets
from seqio_tasks.near_names import did_you_mean
from seqio_tasks.prompt_library import PromptLibrary
from seqio_tasks.prompted import PromptedDataSource
from seqio_tasks.prompts import Template
from seqio_tasks.raw_rows import OnBad, RawSplit, Row

LIMIT = 3000
SPLIT = "test"
TRANSLATION = Template(
    "translate",
    "Translate from {{source_language}} to {{target_language}}: {{source}} ||| {{target}}",
)
SUMMARIZATION = Template(
    "summarize", "Summarize in {{language_name}}: {{document}} ||| {{summary}}"
)

Files = str | Sequence[str] | RawSplit
_WMT_PROMPTS = (
    ("version-{0}-{1}-target",),
    ("a_good_translation-{0}-{1}-target",),
    ("a_good_translation-{0}-{1}-source+target",),
    ("xglm-{0}-{1}-target",),
    ("gpt3-{0}-{1}-target", "gpt3-{0}-{1}", "gpt-3-{0}-{1}-target"),
)
_WMT_WHERE = "branch eval-hackathon of github.com/bigscience-workshop/promptsource has them"
_MLSUM_WHERE = "pull request 738 of github.com/bigscience-workshop/promptsource has them"


@dataclasses.dataclass(frozen=True)
class GenerationTask:
    """A published data set and direction.

    Attributes:
      name: of the SeqIO task.
      dataset, config: on the Hub.
      source, target: languages.
      prompts: what each prompt is called in one copy of promptsource or another.
      where: where those prompts are to be had.
      cluster: of xP3.
    """

    name: str
    dataset: str
    config: str
    source: str
    target: str
    prompts: tuple[tuple[str, ...], ...]
    where: str
    cluster: str

    @property
    def key(self) -> str:
        """Of the templates, as promptsource's folders call it."""
        return f"{self.dataset.removeprefix('wmt/')}/{self.config}"

    def metric_fns(self) -> list[MetricFn]:
        """What it is scored by, over its prompts."""
        first = [generation_metrics.rouge] if self.cluster == "summarization" else []
        wanted = [*first, generation_metrics.bleu_for(self.target), generation_metrics.chrf]
        return [generation_metrics.over_prompts(metric) for metric in wanted]


def _wmt14(source: str, target: str, config: str) -> GenerationTask:
    prompts = tuple(tuple(n.format(source, target) for n in names) for names in _WMT_PROMPTS)
    return GenerationTask(
        f"eval_wmt14_{source}_{target}", "wmt/wmt14", config, source, target, prompts, _WMT_WHERE,
        "translation",
    )  # fmt: skip


TASKS = {
    task.name: task
    for task in (
        _wmt14("fr", "en", "fr-en"),
        _wmt14("en", "fr", "fr-en"),
        _wmt14("hi", "en", "hi-en"),
        _wmt14("en", "hi", "hi-en"),
        GenerationTask(
            "eval_mlsum_es", "GEM/mlsum", "es", "es", "es",
            # By its words the second is what the released copy calls 'language_specific_prompt'.
            (("layman_summ_es",), ("palm_prompt", "language_specific_prompt"),
             ("summarise_this_in_es_few_sentences",)),
            _MLSUM_WHERE, "summarization",
        ),
    )
}  # fmt: skip
NAMES = tuple(TASKS)


def ensure(name: str, vocabulary: seqio.Vocabulary | None = None) -> bool:
    """Registers a published task if `name` is one; returns whether it is.

    Its prompts come from the user's copy of promptsource ($MT0_PROMPTS_DIR), its rows are looked
    for when they are read: in $MT0_EVAL_DIR as wmt14/fr-en/test.jsonl, mlsum/es/test.jsonl (see
    `evaluation_data`), else on the Hub.

    Raises:
      ValueError: the copy lacks a prompt.
    """
    task = TASKS.get(name)
    if task is None:
        return False
    if name not in seqio.TaskRegistry.names():
        rows = FirstRows(
            task.dataset, task.config, SPLIT, task=_as_evaluation(task), most_rows=LIMIT
        )
        _add(
            name, rows, templates_of(task), vocabulary or vocabularies.named(),
            metric_fns=task.metric_fns(), inputs_eos=False, language=task.target,
            facts={"collection": "mt0_validation", "cluster": task.cluster,
                   "dataset": task.dataset, "config": task.config},
        )  # fmt: skip
    return True


def templates_of(task: GenerationTask) -> list[Template]:
    """A published task's templates from the user's copy; ValueError naming those it lacks."""
    try:
        there = PromptLibrary().templates(task.key)
    except ValueError as error:
        raise ValueError(f"{task.name}: {error} ({task.where}.)") from None
    found = [next((name for name in names if name in there), None) for names in task.prompts]
    lacking = [names[0] for names, one in zip(task.prompts, found, strict=True) if one is None]
    if lacking:
        raise ValueError(
            f"{task.name}: the templates of '{task.key}' lack {', '.join(lacking)}"
            f"{did_you_mean(lacking[0], there)}; {task.where}."
        )
    # Under the names that the published results have.
    return [
        dataclasses.replace(there[one], name=names[0])
        for names, one in zip(task.prompts, found, strict=True)
    ]


def _as_evaluation(task: GenerationTask) -> EvaluationTask:
    """The task as those who look for evaluation data know one."""
    return EvaluationTask(
        task.name, task.dataset, task.config, SPLIT, None, (), "EN", VALIDATION, task.key,
        task.target, True, task.cluster,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class FirstRows(EvaluationRows):
    """The first rows of an evaluation's data set."""

    most_rows: int = LIMIT

    def rows(self, on_bad: OnBad | None = None) -> Iterator[Row]:
        return itertools.islice(super().rows(on_bad), self.most_rows)

    def fingerprint(self) -> str:
        return f"{super().fingerprint()} first {self.most_rows}"


@dataclasses.dataclass(frozen=True)
class _FirstOf(RawSplit):
    """The first rows of files."""

    most_rows: int | None = None

    def rows(self, on_bad: OnBad | None = None) -> Iterator[Row]:
        return itertools.islice(super().rows(on_bad), self.most_rows)


class GenerationDataSource(PromptedDataSource):
    """Examples {"inputs", "targets", "prompt", "language"}, and "references" where rows have more.

    Args:
      references: fields of a row, texts or lists of texts, that are right answers too.
      others: of PromptedDataSource.
    """

    def __init__(self, *args: Any, references: Sequence[str] = (), **options: Any):
        self._references = tuple(references)
        super().__init__(*args, **options)

    def _hash(self) -> str:
        return f"{super()._hash()} references {self._references}"

    def _example(self, template: Template, row: Mapping[str, Any], seed: str) -> dict[str, Any]:
        example = super()._example(template, row, seed) | {"prompt": template.name} | self._fields
        if self._references:
            more = [row[field] for field in self._references]
            texts = itertools.chain.from_iterable([m] if isinstance(m, str) else m for m in more)
            example["references"] = list(dict.fromkeys([example["targets"], *texts]))
        return example


def postprocess(text: Any, example: Mapping[str, Any] | None = None, is_target: bool = False):
    """A target with its prompt and its other references; a prediction as it is."""
    if not is_target:
        return text
    prompt = _text(example["prompt"])
    if "references" in example:
        return PromptedTargets([_text(one) for one in example["references"]], prompt)
    return PromptedTarget(text, prompt)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def add_translation_task(
    name: str,
    files: Files,
    source_language: str,
    target_language: str,
    vocabulary: seqio.Vocabulary,
    *,
    templates: Template | Iterable[Template] = TRANSLATION,
    metric_fns: Iterable[MetricFn] | None = None,
    references: Sequence[str] = (),
    split: str = SPLIT,
    limit: int | None = None,
    inputs_eos: bool = True,
    facts: Mapping[str, Any] | None = None,
) -> seqio.Task:
    """Registers pairs of sentences as a translation task and returns it.

    Args:
      name: of the task; ValueError if it is taken.
      files: two line-aligned files, source and target, and after them others with further
        references; or one .jsonl, .tsv, .csv or .parquet with the fields 'source' and 'target';
        or a RawSplit.
      source_language, target_language: codes such as 'fr'; the prompt has their English names.
      templates: over source, target, source_language, target_language.
      metric_fns: BLEU as the target language needs it and chrF by default, of several templates
        each apart and the median.
      references: fields of one file with further references.
      split: of the task; limit: at most this many rows.
      inputs_eos: whether the input ends in EOS.
      facts: for `mt0 tasks` (seqio_tasks.task_facts).
    """
    defaults = [generation_metrics.bleu_for(target_language), generation_metrics.chrf]
    constants = {
        "source_language": language_name(source_language),
        "target_language": language_name(target_language),
    }
    rows, more = _rows(name, files, ("source", "target"), split, limit, constants)
    return _add(
        name, rows, templates, vocabulary, inputs_eos=inputs_eos, language=target_language,
        metric_fns=_by_prompt(defaults, templates) if metric_fns is None else metric_fns,
        references=(*more, *references),
        facts={"cluster": "translation", **(facts or {})},
    )  # fmt: skip


def add_summarization_task(
    name: str,
    files: Files,
    language: str,
    vocabulary: seqio.Vocabulary,
    *,
    templates: Template | Iterable[Template] = SUMMARIZATION,
    metric_fns: Iterable[MetricFn] | None = None,
    references: Sequence[str] = (),
    split: str = SPLIT,
    limit: int | None = None,
    inputs_eos: bool = True,
    facts: Mapping[str, Any] | None = None,
) -> seqio.Task:
    """Registers documents and summaries as a task and returns it.

    Args:
      files: as of `add_translation_task`, with the fields 'document' and 'summary'.
      language: of the summaries.
      templates: over document, summary, language_name.
      metric_fns: ROUGE by default.
      others: as of `add_translation_task`.
    """
    constants = {"language_name": language_name(language)}
    rows, more = _rows(name, files, ("document", "summary"), split, limit, constants)
    return _add(
        name, rows, templates, vocabulary,
        metric_fns=_by_prompt([generation_metrics.rouge], templates)
        if metric_fns is None else metric_fns,
        inputs_eos=inputs_eos, language=language, references=(*more, *references),
        facts={"cluster": "summarization", **(facts or {})},
    )  # fmt: skip


def _by_prompt(metrics: list[MetricFn], templates: Any) -> list[MetricFn]:
    """The metrics, of every prompt apart where there are several."""
    if isinstance(templates, Template):
        return metrics
    return [generation_metrics.over_prompts(metric) for metric in metrics]


def language_name(code: str) -> str:
    """The English name of a language's code; what has none is returned as it is."""
    return babel.Locale("en").languages.get(code.replace("-", "_"), code)


def _rows(
    name: str, files: Files, fields: tuple[str, str], split: str, limit: int | None,
    constants: Mapping[str, str],
) -> tuple[RawSplit, tuple[str, ...]]:  # fmt: skip
    """(the rows of a user's files, the fields with further references)."""
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ValueError(f"Task '{name}': limit is {limit!r}; write 1 or more, or None for all.")
    more: tuple[str, ...] = ()
    if isinstance(files, RawSplit):
        told = {one.name: getattr(files, one.name) for one in dataclasses.fields(RawSplit)}
        told["constants"] = {**constants, **files.constants}
        rows = _FirstOf(**told, most_rows=limit)
    elif isinstance(files, str):
        rows = _FirstOf(name, None, split, (files,), constants=constants, most_rows=limit)
    elif len(files) >= 2:
        more = tuple(f"reference_{number}" for number in range(2, len(files)))
        named = dict(zip((*fields, *more), files, strict=True))
        rows = _FirstOf(name, None, split, named, constants=constants, most_rows=limit)
    else:
        raise ValueError(
            f"Task '{name}': files is {files!r}; write two line-aligned files ({fields[0]}, "
            f"{fields[1]}), or one file with these fields."
        )
    if not rows.on_hub:
        rows.paths()
    return rows, more


def _add(
    name: str, rows: RawSplit | Callable, templates: Any, vocabulary: seqio.Vocabulary, *,
    metric_fns: Iterable[MetricFn], inputs_eos: bool, language: str, facts: Mapping[str, Any],
    references: Sequence[str] = (),
) -> seqio.Task:  # fmt: skip
    if name in seqio.TaskRegistry.names():
        raise ValueError(f"There is a task '{name}' already; write another name.")
    task = seqio.TaskRegistry.add(
        name,
        source=GenerationDataSource(
            {rows.split: rows}, templates, language=language, references=references
        ),
        preprocessors=[
            *vocabularies.text_steps(vocabulary),
            seqio.preprocessors.tokenize,
            seqio.CacheDatasetPlaceholder(),
            seqio.preprocessors.append_eos_after_trim,
        ],
        output_features=vocabularies.output_features(vocabulary, inputs_eos),
        postprocess_fn=postprocess,
        metric_fns=list(metric_fns),
    )
    task_facts.register_facts(name, language=language, source_split=rows.split, **facts)
    return task
