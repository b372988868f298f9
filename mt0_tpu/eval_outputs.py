"""The files of an evaluation, named as T5X names them.

    EVAL_OUTPUT_DIR/
      rank.jsonl                          a line each rank task, prompt and step
      summary.json                        scores of the newest step
      eval.<mixture>.json                 which steps are done, and how they were evaluated
      eval.<mixture>.gin                  the config
      inference_eval/<task>-<step>.jsonl  inputs, targets, predictions or scores
      inference_eval/<task>-metrics.jsonl a line a step
      inference_eval/<task>/events…       TensorBoard: eval/<metric>

Only the first process of a job writes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mt0_tpu import rank_results
from mt0_tpu.errors import UserError
from mt0_tpu.redaction import redact_all
from mt0_tpu.whole_file import write_whole

FOLDER = "inference_eval"
# TensorBoard files open at a time: a mixture may have more tasks than a process may open files.
_MOST_BOARDS = 64


class EvalOutputs:
    """The output folder of one evaluation job.

    Args:
      folder: EVAL_OUTPUT_DIR.
      mixture: what is evaluated; each mixture has its own record of steps.
      settings: what decides the results; a step evaluated with others is not taken for done.
      overwrite: replaces what is there, which is an error otherwise.
      write_n_results: at most this many lines of each task and step; None for all.
    """

    def __init__(
        self,
        folder: str | Path,
        mixture: str,
        settings: Mapping[str, Any],
        overwrite: bool = False,
        write_n_results: int | None = None,
    ):
        if "://" in str(folder):
            raise UserError(f"EVAL_OUTPUT_DIR is remote ({folder}); name a local folder")
        self._folder = Path(folder)
        self._mixture = mixture.replace(" ", "")[:200]  # in names of files
        self._settings = redact_all(json.loads(json.dumps(settings)))
        self._overwrite = overwrite
        self._most_lines = write_n_results
        self._boards: dict[str, Any] = {}

    @property
    def _record_path(self) -> Path:
        return self._folder / f"eval.{self._mixture}.json"

    def _record(self) -> dict[str, dict]:
        """Returns what is known of each step: its settings, and whether it was finished."""
        path = self._record_path
        if not path.is_file():
            return {}
        try:
            steps = json.loads(path.read_text("utf-8"))["steps"]
            return {str(int(step)): {**one, "finished": one["finished"]} for step, one in
                    steps.items()}  # fmt: skip
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path} cannot be read ({error!r}); delete it or move it away"
            ) from None

    def has_finished(self, step: int) -> bool:
        """Whether a step was evaluated to its end, with whatever settings."""
        known = self._record().get(str(step))
        return known is not None and known["finished"]

    def is_done(self, step: int) -> bool:
        """Whether this job has evaluated a step before.

        Raises UserError where the step was evaluated with other settings.
        """
        known = self._record().get(str(step))
        if known is None or not known["finished"] or self._overwrite:
            return False
        for name, value in self._settings.items():
            if known.get(name) != value:
                raise UserError(
                    f"{self._folder} holds the results of step {step} of '{self._mixture}' with "
                    f"{name} {known.get(name)!r}, and this job has {value!r}; name another "
                    "EVAL_OUTPUT_DIR, or set evaluate.overwrite = True to replace them"
                )
        return True

    def check(self, step: int, tasks: Sequence[str] = ()) -> None:
        """Raises UserError where results of a step, or files of others, would be overwritten."""
        ranked = self._rank_lines()  # read even where all may be replaced: it may be damaged
        if self._overwrite:
            return
        known = self._record().get(str(step))
        if known is None:
            same = [line for line in ranked if line["step"] == step and line["task"] in tasks]
            if same:
                raise UserError(
                    f"{self._folder / 'rank.jsonl'} holds the results of step {step} already "
                    f"(task '{same[0]['task']}'); name another EVAL_OUTPUT_DIR, or set "
                    "evaluate.overwrite = True to replace them"
                )
            for task in tasks:
                path = self._lines_path(task, step)
                if path.exists():
                    raise UserError(
                        f"{path} is in the way: {self._record_path.name} does not list step "
                        f"{step}, so another job wrote it; name another EVAL_OUTPUT_DIR, move it "
                        "away, or set evaluate.overwrite = True to replace it"
                    )
        elif known["finished"]:
            raise UserError(
                f"{self._folder} holds the results of step {step} already; name another "
                "EVAL_OUTPUT_DIR, or set evaluate.overwrite = True to replace them"
            )

    def start(self, step: int, config_text: str = "") -> None:
        """Notes that a step's files are being written: after a crash they are this job's."""
        self._note(step, finished=False)
        if config_text:
            write_whole(self._folder / f"eval.{self._mixture}.gin", config_text)

    def _note(self, step: int, finished: bool) -> None:
        steps = self._record() | {str(step): {**self._settings, "finished": finished}}
        ordered = dict(sorted(steps.items(), key=lambda item: int(item[0])))
        text = json.dumps({"mixture": self._mixture, "steps": ordered}, indent=1)
        write_whole(self._record_path, text + "\n")

    def write_task(
        self, task: str, step: int, lines: Sequence[Mapping], metrics: Mapping[str, Any]
    ) -> None:
        """Writes what a task gave at a step: its examples' lines, its metrics, TensorBoard.

        Args:
          metrics: numbers, or seqio.metrics values (a text, a histogram, …).
        """
        if self._most_lines != 0:
            write_lines(self._lines_path(task, step), lines[: self._most_lines])
        if not metrics:
            return
        numbers = {name: _as_json(value) for name, value in metrics.items()}
        numbers = {name: value for name, value in numbers.items() if value is not None}
        path = self._folder / FOLDER / f"{task}-metrics.jsonl"
        earlier = [line for line in _read_lines(path) if line["step"] != step]
        found = sorted([*earlier, {"step": step, **numbers}], key=lambda line: line["step"])
        write_lines(path, found)
        self._write_board(task, step, metrics)

    def _lines_path(self, task: str, step: int) -> Path:
        return self._folder / FOLDER / f"{task}-{step:06d}.jsonl"

    def _write_board(self, task: str, step: int, metrics: Mapping[str, Any]) -> None:
        if task not in self._boards:
            from tensorboardX import SummaryWriter

            if len(self._boards) >= _MOST_BOARDS:
                self._boards.pop(next(iter(self._boards))).close()
            folder = self._folder / FOLDER / task
            self._boards[task] = SummaryWriter(str(folder), write_to_disk=True)
        board = self._boards[task]
        for name, value in metrics.items():
            _add_to_board(board, f"eval/{name}", value, step)
        board.flush()

    def finish(
        self, step: int, rank_lines: Sequence[Mapping], task_metrics: Mapping[str, Mapping], source
    ) -> dict:
        """Writes rank.jsonl and summary.json, and notes the step as done.

        An older step evaluated later adds its lines, and the summary stays that of the newest.

        Returns:
          The summary: of this step, with what other jobs here found at the same step.
        """
        fresh = {line["task"] for line in rank_lines}
        kept = [
            line for line in self._rank_lines() if line["step"] != step or line["task"] not in fresh
        ]
        if rank_lines:
            write_lines(self._folder / "rank.jsonl", [*kept, *rank_lines])
        earlier = self._summary()
        same = earlier if earlier.get("step") == step else {}
        of_step = [line for line in kept if line["step"] == step] + list(rank_lines)
        summary = summary_of(source, step, of_step, {**same.get("tasks", {}), **task_metrics})
        if step >= max([earlier.get("step", step), *(line["step"] for line in kept)]):
            write_whole(self._folder / "summary.json", json.dumps(summary, indent=1) + "\n")
        self._note(step, finished=True)
        return summary

    def _summary(self) -> dict:
        path = self._folder / "summary.json"
        try:
            found = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        except ValueError:
            return {}
        return found if isinstance(found, dict) and isinstance(found.get("step"), int) else {}

    def _rank_lines(self) -> list[dict]:
        lines = _read_lines(self._folder / "rank.jsonl")
        for line in lines:
            if not isinstance(line.get("task"), str):
                raise UserError(
                    f"{self._folder / 'rank.jsonl'} cannot be read (a line has no task); delete "
                    "it or move it away"
                )
        return lines

    def close(self) -> None:
        """Closes the TensorBoard files."""
        for board in self._boards.values():
            board.close()
        self._boards = {}


def summary_of(
    source: str, step: int, rank_lines: Sequence[Mapping], task_metrics: Mapping[str, Mapping]
) -> dict:
    """Returns what summary.json holds: groups and datasets of rank tasks, metrics of others."""
    metrics = {
        task: {name: _as_json(value) for name, value in found.items()}
        for task, found in task_metrics.items()
    }
    return {
        "checkpoint": source,
        "step": step,
        "groups": rank_results.groups(rank_lines),
        "datasets": rank_results.dataset_scores(rank_lines),
        "tasks": metrics,
    }


def metrics_table(task_metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the metrics of tasks as text, a metric a line."""
    rows = [
        (task, name, value)
        for task, found in task_metrics.items()
        for name, value in ((name, _as_json(one)) for name, one in found.items())
        if isinstance(value, int | float)
    ]
    width = max([len(task) for task, _, _ in rows] + [4]) + 1
    names = max([len(name) for _, name, _ in rows] + [6]) + 1
    lines = [f"{'task':{width}} {'metric':{names}} {'value':>10}"]
    lines += [f"{task:{width}} {name:{names}} {value:>10.4g}" for task, name, value in rows]
    return "\n".join(lines)


def write_lines(path: Path, lines: Sequence[Mapping]) -> None:
    """Writes objects, one a line."""
    write_whole(path, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in lines))


def _read_lines(path: Path) -> list[dict]:
    if not path.is_file():
        return []
    try:
        lines = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
        for line in lines:
            line["step"] + 0  # noqa: B018
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error!r}); delete it or move it away") from None
    return lines


def _as_json(value: Any) -> Any:
    """Returns a metric as JSON holds it, or None for a picture, a sound, a histogram."""
    from mt0_tpu.text_tasks import plain

    kind = type(value).__name__
    if dataclasses.is_dataclass(value):  # of seqio.metrics
        field = {"Scalar": "value", "Text": "textdata", "Generic": "tensor"}.get(kind)
        return plain(getattr(value, field)) if field else None
    return plain(value)


def _add_to_board(board: Any, tag: str, value: Any, step: int) -> None:
    kind = type(value).__name__ if dataclasses.is_dataclass(value) else ""
    if kind == "Histogram":
        board.add_histogram(tag, value.values, step, bins=value.bins or "tensorflow")
    elif kind == "Image":
        board.add_images(tag, value.image[: value.max_outputs], step, dataformats="NHWC")
    else:
        found = _as_json(value)
        if isinstance(found, str):
            board.add_text(tag, found, step)
        elif isinstance(found, int | float):
            board.add_scalar(tag, float(found), step)
