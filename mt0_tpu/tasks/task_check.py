"""`mt0 tasks check`: evaluation data inside a training mixture, by name and by its texts.

Exit code 0: nothing found; 3: something found. See text_keys and overlap for what counts as the
same text, evaluation_names for what is known by name.
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mt0_tpu.data.providers import find_provider, never_drawn, tasks_of
from mt0_tpu.errors import UserError, did_you_mean
from mt0_tpu.progress import duration
from mt0_tpu.tasks import evaluation_names, task_texts
from mt0_tpu.tasks.evaluation_names import Finding
from mt0_tpu.tasks.overlap import EvaluationIndex, Texts
from mt0_tpu.tasks.text_keys import WINDOW_WORDS
from mt0_tpu.tasks.text_table import listed, percent, plural, table
from mt0_tpu.whole_file import write_whole

FOUND = 3  # exit code
_EVERY_S = 5.0
_MOST_ROWS, _MOST_SAMPLES, _SHOWN = 20, 5, 160
_KNOWN_BY = 12  # letters that a passage is found again by
_SPLITS = ("test", "validation", "dev")


@dataclasses.dataclass(frozen=True)
class CheckOptions:
    """What to check a mixture for.

    Attributes:
        split: the training split.
        against: tasks, mixtures or .jsonl files; none takes the evaluation tasks at hand.
        num_examples: training examples to sample, over all tasks; None reads all.
        seed: decides the sample.
        vocabulary: the model file that reads the ids of Megatron's files, '' where none is given.
        json_file: where the whole result goes, '' for nowhere.
    """

    split: str = "train"
    against: tuple[str, ...] = ()
    num_examples: int | None = 200_000
    seed: int = 0
    vocabulary: str = ""
    json_file: str = ""


def check(
    name: str,
    module: str | None,
    options: CheckOptions,
    say: Callable[[str], None] = print,
) -> int:
    """Checks a mixture, says what was found and returns the exit code.

    Raises UserError: no such mixture, split or evaluation task, or data that cannot be read.
    """
    provider = find_provider(name, module)
    tasks = [task for task in tasks_of(provider) if not never_drawn(provider, task)]
    tasks = [task for task in tasks if options.split in task.splits]
    if not tasks:
        near = did_you_mean(options.split, provider.splits)
        raise UserError(
            f"'{name}' has no split '{options.split}'; it has {sorted(provider.splits)}.{near}"
        )
    files = {task.name: _files(task, options.split) for task in tasks}
    by_name = [finding for task in tasks for finding in _by_name(task, options.split, files)]
    for line in _name_lines(name, len(tasks), by_name):
        say(line)
    result: dict[str, Any] = {
        "mixture": name,
        "split": options.split,
        "tasks": len(tasks),
        "by_name": [dataclasses.asdict(finding) for finding in by_name],
    }
    against = list(options.against) or _evaluations_at_hand(tasks, say)
    touched = 0
    if against:
        index = _index(against, module, tasks, say)
        missing = [task.name for task in tasks if files[task.name] is None]
        there = [task for task in tasks if files[task.name] is not None]
        read, skipped = _scan(index, there, options, say)
        result["by_text"] = _by_text(index, options, read, skipped) | {"not_at_hand": missing}
        touched = sum(one["touched"] for one in result["by_text"]["evaluations"])
        for line in _text_lines(result["by_text"]):
            say(line)
    else:
        result["by_text"] = None
        say(
            "by text: not looked at, as no evaluation task is at hand; name one, or a .jsonl "
            "file of its examples, with --against"
        )
    found = bool(by_name or touched)
    result["found"] = found
    if options.json_file:
        write_whole(options.json_file, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return FOUND if found else 0


# By name


def _files(task: Any, split: str) -> list[str] | None:
    """Returns the paths of a task's files, none where it has no files, None where they lack."""
    try:
        if hasattr(task.source, "megatron_prefixes"):
            task.source.num_input_examples(split)
            return list(task.source.megatron_prefixes(split).values())
        if hasattr(task.source, "files"):
            return [file.url for file in task.source.files(split)]
    except ValueError:
        return None
    return []


def _by_name(task: Any, split: str, files: dict[str, list[str] | None]) -> list[Finding]:
    from seqio_tasks import task_facts

    if "choices" in task.output_features:
        why = "an evaluation task by rank is itself part of the mixture"
        return [Finding(evaluation_names.EVALUATION, task.name, split, task.name, why)]
    facts = task_facts.facts(task.name)
    return evaluation_names.findings(task.name, facts, files[task.name] or ())


def _name_lines(name: str, num_tasks: int, found: Sequence[Finding]) -> Iterator[str]:
    if not found:
        yield f"by name: nothing known against the {plural(num_tasks, 'task')} of '{name}'"
        return
    yield f"by name: {plural(len({f.task for f in found}), 'task')} of {num_tasks} of '{name}'"
    groups = evaluation_names.grouped(found)
    rows = [
        (finding.kind, f"{finding.dataset} {finding.split}".strip(), f"{len(tasks):,}",
         listed(tasks, 2))
        for finding, tasks in groups
    ]  # fmt: skip
    yield from table(("what", "data set and split", "tasks", "which"), rows[:_MOST_ROWS], (0, 1, 3))
    if len(rows) > _MOST_ROWS:
        yield f"… and {len(rows) - _MOST_ROWS} more (--json FILE has all)"
    reasons: dict[tuple[str, str], list[str]] = {}
    for finding, _ in groups:
        named = reasons.setdefault((finding.kind, finding.why), [])
        if finding.dataset not in named:
            named.append(finding.dataset)
    for (kind, why), datasets in reasons.items():
        yield f"{kind}, {listed(datasets, 3)}: {why}"


# By text


def _evaluations_at_hand(tasks: Sequence[Any], say: Callable[[str], None] = print) -> list[str]:
    """Returns mini-xP3's rank tasks for its own mixtures.

    For others, the registered ones and those of the paper whose files are here.
    """
    import seqio

    if all(task.name.startswith("mini_") for task in tasks):
        return ["mini_eval"]
    own = {task.name for task in tasks}
    registered = {
        name
        for name in seqio.TaskRegistry.names()
        if not name.startswith("mini_")
        and "choices" in seqio.TaskRegistry.get(name).output_features
    }
    return sorted((registered | _papers(say)) - own)


def _papers(say: Callable[[str], None]) -> set[str]:
    """Returns the paper's evaluation tasks at hand; says why where it is for want of prompts."""
    from seqio_tasks import evaluation_at_hand

    try:
        if not evaluation_at_hand.with_files():
            return set()
        return set(evaluation_at_hand.at_hand())
    except ValueError as error:
        say(f"check: the paper's evaluation is left out: {error}")
        return set()


def _index(
    against: Sequence[str], module: str | None, tasks: Sequence[Any], say: Callable[[str], None]
) -> EvaluationIndex:
    index, waiting = EvaluationIndex(), _Waiting(say)
    for name in dict.fromkeys(against):
        if name.endswith((".jsonl", ".json")) or "/" in name:
            index.add(name, task_texts.read_file(name))
            continue
        for task in tasks_of(find_provider(name, module)):
            if task.name not in index.sizes:
                index.add(task.name, _evaluation_texts(task))
                size = sum(index.sizes.values())
                waiting.line(lambda size=size: f"check: {plural(size, 'evaluation example')}")
    index.close()
    return index


def _evaluation_texts(task: Any) -> Iterator[Texts]:
    """Gives a task's examples: its evaluation splits, or all where it has none."""
    splits = [split for split in task.splits if split.split("_")[0] in _SPLITS]
    for split in splits or task.splits:
        yield from task_texts.read(task, split, None, 0)


def _scan(index, tasks, options: CheckOptions, say) -> tuple[dict[str, int], list[str]]:
    """Returns how many examples of each task were read, and the tasks that cannot be."""
    decoder = _decoder(options.vocabulary)
    each = options.num_examples and max(-(-options.num_examples // max(len(tasks), 1)), 1)
    progress = _Scanning(say, tasks, options)
    read, skipped = {}, []
    for task in tasks:
        readable, its_decoder = task_texts.decoder_of(task, decoder)
        if not readable:
            skipped.append(task.name)
            continue
        examples = task_texts.read(task, options.split, each, options.seed, its_decoder)
        read[task.name] = index.match(task.name, progress.of_task(task, examples))
    return read, skipped


class _Scanning:
    """Says how far reading is: by examples of a sample, by bytes where all is read."""

    def __init__(self, say: Callable[[str], None], tasks: Sequence[Any], options: CheckOptions):
        self._waiting, self._num_tasks, self._wanted = (
            _Waiting(say),
            len(tasks),
            options.num_examples,
        )
        self._examples = self._tasks = self._bytes = self._begun = 0
        sizes = [getattr(task.source, "num_input_bytes", None) for task in tasks]
        self._num_bytes = None
        if self._wanted is None and all(sizes):
            self._num_bytes = sum(size(options.split) for size in sizes)

    def of_task(self, task: Any, examples: Iterator[Texts]) -> Iterator[Texts]:
        """Gives a task's examples, counting them."""
        self._tasks += 1
        self._begun = self._tally(task)
        for example in examples:
            self._examples += 1
            if self._examples % 256 == 0:
                self._waiting.line(lambda: self._line(task))
            yield example
        self._bytes += self._tally(task) - self._begun

    def _tally(self, task: Any) -> int:
        return task.source.tally.num_bytes if self._num_bytes else 0

    def _line(self, task: Any) -> str:
        seconds = max(self._waiting.seconds(), 1e-3)
        done, of = 0.0, ""
        if self._wanted:
            done, of = self._examples / self._wanted, f" of {self._wanted:,}"
        elif self._num_bytes:
            done = (self._bytes + self._tally(task) - self._begun) / self._num_bytes
        left = f", {duration(seconds / done - seconds)} left" if 0 < done < 1 else ""
        return (
            f"check: {self._examples:,}{of} training examples, task {self._tasks} of "
            f"{self._num_tasks}, {self._examples / seconds:,.0f} examples/s{left}"
        )


def _decoder(path: str) -> Any:
    if not path:
        return None
    if path.endswith(".json"):
        from mt0_tpu.tasks.byte_pairs import BytePairs

        return BytePairs(path)
    import sentencepiece

    try:
        return sentencepiece.SentencePieceProcessor(model_file=path)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"--vocabulary is {path}, neither a tokenizer.json nor a SentencePiece model: {error}"
        ) from None


def _by_text(index: EvaluationIndex, options, read: dict[str, int], skipped) -> dict[str, Any]:
    evaluations = []
    for task, size in index.sizes.items():
        touched, by_window, weak = index.touched(task)
        pairs = {t: pair for (t, e), pair in index.pairs.items() if e == task}
        evaluations.append(
            {
                "evaluation": task,
                "examples": size,
                "too_short": index.unkeyed[task],
                "boilerplate_keys": index.ignored[task],
                "touched": touched,
                "touched_by_window": by_window,
                "weak": weak,
                "training": [
                    {
                        "task": name,
                        "training_examples": pair.training_examples,
                        "evaluation_examples": len(pair.evaluation_examples),
                        "samples": [dataclasses.asdict(sample) for sample in pair.samples],
                    }
                    for name, pair in sorted(
                        pairs.items(), key=lambda item: -len(item[1].evaluation_examples)
                    )
                ],
            }
        )
    evaluations.sort(key=lambda one: (-one["touched"], one["evaluation"]))
    return {
        "window_words": WINDOW_WORDS,
        "read": read,
        "sampled": options.num_examples is not None,
        "not_read": skipped,
        "keys": index.num_keys,
        "evaluations": evaluations,
    }


def _text_lines(result: dict[str, Any]) -> Iterator[str]:
    read, evaluations = sum(result["read"].values()), result["evaluations"]
    size = sum(one["examples"] for one in evaluations)
    hit = [one for one in evaluations if one["touched"]]
    touched = sum(one["touched"] for one in hit)
    sample = "a sample of " if result["sampled"] else "all "
    yield (
        f"by text: {touched:,} of {plural(size, 'evaluation example')} "
        f"({percent(touched / max(size, 1))}) share a passage with {sample}"
        f"{plural(read, 'training example')}"
    )
    weak = sum(one["weak"] for one in evaluations)
    if weak:
        yield f"{weak:,} more share less than a quarter of their words, in short sentences alone"
    short = sum(one["too_short"] for one in evaluations)
    if short:
        yield f"{plural(short, 'evaluation example')} have no passage of their own to look for"
    missing = result["not_at_hand"]
    if missing:
        number = plural(len(missing), "task")
        yield f"not read, as their files are not at hand: {number} ({listed(missing, 3)})"
    if result["not_read"]:
        yield (f"not read, as their token ids need --vocabulary: {listed(result['not_read'], 3)}")
    if not hit:
        return
    rows = []
    for one in hit[:_MOST_ROWS]:
        worst = one["training"][0]
        rows.append(
            (one["evaluation"], f"{one['examples']:,}", f"{one['touched']:,}",
             percent(one["touched"] / one["examples"]), f"{one['touched_by_window']:,}",
             f"{sum(t['training_examples'] for t in one['training']):,}",
             listed([t["task"] for t in one["training"]], 1))
        )  # fmt: skip
    heads = ("evaluation task", "examples", "touched", "", f"by {WINDOW_WORDS} words",
             "training examples", "most in")  # fmt: skip
    yield from table(heads, rows, (0, 6))
    if len(hit) > _MOST_ROWS:
        yield f"… and {len(hit) - _MOST_ROWS} more (--json FILE has all)"
    for one in hit[:_MOST_SAMPLES]:
        worst = one["training"][0]
        sample = worst["samples"][0]
        yield f"── {one['evaluation']} in {worst['task']}: “{_cut(sample['passage'])}”"
        for side in ("evaluation", "training"):
            yield f"   {side + ':':<12}{_cut(sample[side], sample['passage'])}"


def _cut(text: str, passage: str = "") -> str:
    """Returns as much of a text as a line shows, from a little before a passage of it on."""
    text = " ".join(text.split())
    letters = passage.replace(" ", "")[:_KNOWN_BY]
    found = re.search(r"[\W_]*".join(map(re.escape, letters)), text, re.IGNORECASE)
    begin = max(found.start() - _SHOWN // 4, 0) if found and len(text) > _SHOWN else 0
    end = begin + _SHOWN - 2
    return ("…" if begin else "") + text[begin:end] + ("…" if end < len(text) else "")


class _Waiting:
    """Says a line at most every few seconds."""

    def __init__(self, say: Callable[[str], None]):
        self._say = say
        self._begin = self._said = time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self._begin

    def line(self, text: Callable[[], str]) -> None:
        if time.monotonic() - self._said >= _EVERY_S:
            self._said = time.monotonic()
            self._say(text())
