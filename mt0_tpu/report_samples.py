"""Questions of the evaluation with every arm's choice, for a reader to look at."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from mt0_tpu.errors import UserError
from mt0_tpu.report_runs import Run, json_lines

_MOST_QUESTIONS = 6
_MOST_CHARACTERS = 600


@dataclasses.dataclass(frozen=True)
class Question:
    """One rank-classification question; picks is the choice each arm ranked first."""

    task: str
    inputs: str
    choices: tuple[str, ...]
    answer: int
    picks: dict[str, int]


def sample_questions(runs: list[Run]) -> list[Question]:
    """Takes the first question of a seen and an unseen language of each cluster, held out first.

    Reads eval/inference_eval/<task>-<step>.jsonl of the first run of each arm; a task that a
    run did not write is passed over. Raises UserError on a line that is no such record.
    """
    arms: dict[str, Run] = {}
    for run in runs:
        if run.rank:
            arms.setdefault(run.arm, run)
    tasks: dict[tuple, tuple[bool, str]] = {}
    for run in arms.values():
        for line in run.rank:
            # One task a (cluster, seen or not): English, else the first by name.
            key = (not line.held_out_cluster, line.cluster, not line.seen_language)
            rank = (line.language != "en", line.task)
            tasks[key] = min(tasks.get(key, rank), rank)
    found = (_question(task, arms) for _, (_, task) in sorted(tasks.items()))
    return [question for question in found if question][:_MOST_QUESTIONS]


def _question(task: str, arms: dict[str, Run]) -> Question | None:
    question = None
    for arm, run in arms.items():
        record = _first_record(run, task)
        if record is None:
            continue
        inputs, choices, answer, pick = record
        if question is None:
            question = Question(task, inputs, choices, answer, {})
        # Only the very same question is comparable.
        if (inputs, choices) == (question.inputs, question.choices):
            question.picks[arm] = pick
    return question


def _first_record(run: Run, task: str) -> tuple[str, tuple[str, ...], int, int] | None:
    path = _newest(run.eval_dir / "inference_eval", task)
    if path is None:
        return None
    for number, value in json_lines(path):
        try:
            choices = tuple(_plain(choice) for choice in value["choices"])
            answer, pick = int(value["answer"]), int(value["prediction"])
            inputs = _plain(value["inputs"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}:{number} should hold inputs, choices, prediction and answer "
                f"({type(error).__name__}: {error}); run `mt0 eval` again to write it."
            ) from None
        return inputs, choices, answer, pick
    return None


def _newest(folder: Path, task: str) -> Path | None:
    """Finds <task>-<step>.jsonl of the greatest step."""
    pattern = re.compile(re.escape(task) + r"-(\d+)\.jsonl$")
    if not folder.is_dir():
        return None
    steps = {int(m.group(1)): p for p in folder.iterdir() if (m := pattern.match(p.name))}
    return steps[max(steps)] if steps else None


def _plain(value: object) -> str:
    """Writes an input as text; T5X wraps it as {"inputs_pretokenized": text}."""
    if isinstance(value, dict):
        value = value.get("inputs_pretokenized", next(iter(value.values()), ""))
    text = str(value)
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"
