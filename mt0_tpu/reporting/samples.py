"""Predictions for a reader to look at: questions answered by rank, and text that was written."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from mt0_tpu.errors import UserError
from mt0_tpu.reporting.records import json_lines
from mt0_tpu.reporting.runs import Run

MOST_QUESTIONS = 16
_MOST_WRITTEN_TASKS, _WRITTEN_A_TASK = 8, 2
_MOST_CHARACTERS = 700
_MOST_READ = 400  # lines of a file that are looked through
_FILE = re.compile(r"(?P<task>.+)-(?P<step>\d+)\.jsonl$")
# Languages of several scripts, so that a page shows how a model fares in each.
_LANGUAGES = ("en", "ar", "zh", "hi", "sw", "fr", "ru", "es", "vi", "id")


@dataclasses.dataclass(frozen=True)
class Question:
    """One rank-classification question; picks is the choice each arm ranked first."""

    task: str
    prompt: str
    inputs: str
    choices: tuple[str, ...]
    answer: int
    picks: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Written:
    """One input of a task of generation, with what each arm wrote (or its score) for it."""

    task: str
    inputs: str
    target: str
    predictions: dict[str, str]


def first_seeds(runs: Sequence[Run]) -> dict[str, Run]:
    """Returns the first run of each arm that has predictions."""
    arms: dict[str, Run] = {}
    for run in runs:
        if run.prediction_folders:
            arms.setdefault(run.arm, run)
    return arms


def sample_questions(runs: Sequence[Run]) -> tuple[str, list[Question]]:
    """Takes of some tasks the first question that one arm got right and the first it got wrong.

    A seen and an unseen language of each data set, held out first; the arm is the last of the
    page's order. Returns (arm, questions). Raises UserError on a line that is no such record.
    """
    arms = {arm: run for arm, run in first_seeds(runs).items() if run.rank}
    if not arms:
        return "", []
    lead = list(arms)[-1]
    found: list[Question] = []
    for task in _tasks(arms.values()):
        answered = {arm: _answers(run, task) for arm, run in arms.items()}
        for right in (True, False):
            if question := _question(task, answered, lead, right):
                found.append(question)
    return lead, found[:MOST_QUESTIONS]


def _tasks(runs: Collection[Run]) -> list[str]:
    """One task a data set and kind of language; the language moves on from set to set."""
    kinds: dict[tuple, set[tuple[str, str]]] = {}
    languages: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        for line in run.rank:
            languages[line.group("dataset")].add(line.language)
    for run in runs:
        there = {match["task"] for match, _ in _files(run)}
        for line in run.rank:
            if line.task not in there:
                continue
            group = line.group("dataset")
            # Data sets of many languages first.
            size = -len(languages[group])
            key = (not line.seen_language, not line.held_out_cluster, size, group)
            kinds.setdefault(key, set()).add((line.language, line.task))
    chosen = []
    for number, (_, tasks) in enumerate(sorted(kinds.items())):
        turn = number % len(_LANGUAGES)
        order = _LANGUAGES[turn:] + _LANGUAGES[:turn]
        place = {language: index for index, language in enumerate(order)}
        chosen.append(min(tasks, key=lambda pair: (place.get(pair[0], len(place)), pair))[1])
    return chosen


def _question(
    task: str, answered: dict[str, dict[tuple, tuple[int, int]]], lead: str, right: bool
) -> Question | None:
    # The lead arm may not have been scored on this task.
    judge = lead if answered[lead] else next((arm for arm in answered if answered[arm]), lead)
    for key, (answer, pick) in answered[judge].items():
        if (pick == answer) != right:
            continue
        prompt, inputs, choices = key
        # Only the very same question is comparable.
        picks = {arm: found[key][1] for arm, found in answered.items() if key in found}
        return Question(task, prompt, inputs, choices, answer, picks)
    return None


def _answers(run: Run, task: str) -> dict[tuple, tuple[int, int]]:
    """Returns (prompt, inputs, choices) -> (answer, its choice) of a file's first lines."""
    path = _newest(run, task)
    found = {}
    for number, value in itertools.islice(json_lines(path, torn_end=True), _MOST_READ):
        try:
            choices = tuple(plain(choice) for choice in value["choices"])
            answer, pick = int(value["answer"]), int(value["prediction"])
            key = (str(value.get("prompt", "")), plain(value["inputs"]), choices)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}:{number} should hold inputs, choices, prediction and answer "
                f"({type(error).__name__}: {error}); run `mt0 eval` again to write it."
            ) from None
        found.setdefault(key, (answer, pick))
    return found


def sample_written(runs: Sequence[Run]) -> tuple[list[Written], int]:
    """Takes inputs of tasks that are not scored by rank: one written just as its target, one not.

    Returns the samples and the number of tasks that were left out.
    """
    arms = first_seeds(runs)
    ranked = {line.task for run in runs for line in run.history}
    names = {m["task"] for run in arms.values() for m, _ in _files(run)} - ranked
    found = []
    for task in sorted(names)[:_MOST_WRITTEN_TASKS]:
        texts = {arm: dict(_texts(_newest(run, task))) for arm, run in arms.items()}
        lead = next((arm for arm in reversed(texts) if texts[arm]), None)
        if lead is None:
            continue
        keys = list(texts[lead])
        same = [key for key in keys if texts[lead][key].strip() == key[1].strip() != ""]
        other = [key for key in keys if key not in same[:1]]
        for key in [*same[:1], *other][:_WRITTEN_A_TASK]:
            by_arm = {arm: written[key] for arm, written in texts.items() if key in written}
            found.append(Written(task, *key, by_arm))
    return found, max(len(names) - _MOST_WRITTEN_TASKS, 0)


def _texts(path: Path) -> Iterator[tuple[tuple[str, str], str]]:
    """Yields ((inputs, target), what was written or scored); other records are passed over."""
    for _, value in itertools.islice(json_lines(path, torn_end=True), _MOST_READ):
        inputs = value.get("inputs", value.get("input"))
        target = value.get("target", value.get("targets", ""))
        said = value.get("prediction", value.get("predictions"))
        if said is None and isinstance(value.get("score"), (int, float)):
            said = f"log-probability {value['score']:.3f}"
        if inputs is not None and said is not None:
            # Of several decodes the first stands for all.
            said = said[0] if isinstance(said, list) and said else said
            yield (plain(inputs), plain(target)), plain(said)


def _files(run: Run) -> Iterator[tuple[re.Match, Path]]:
    for folder in run.prediction_folders:
        for path in sorted(folder.iterdir()):
            if match := _FILE.match(path.name):
                yield match, path


def _newest(run: Run, task: str) -> Path:
    """Finds <task>-<step>.jsonl of the greatest step; a path that is not there without one."""
    found = {int(m["step"]): path for m, path in _files(run) if m["task"] == task}
    if run.only_step is not None:
        found = {step: path for step, path in found.items() if step == run.only_step}
    return found[max(found)] if found else run.path / "no such file"


def plain(value: object) -> str:
    """Writes an input as text, cut; T5X wraps it as {"inputs_pretokenized": text}."""
    if isinstance(value, dict):
        value = value.get("inputs_pretokenized", next(iter(value.values()), ""))
    text = str(value)
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"
