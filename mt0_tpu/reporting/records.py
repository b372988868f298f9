"""The jsonl files of a run, line by line: scores by rank, curves, metrics of generation."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

from mt0_tpu.errors import UserError

Points = list[tuple[int, float]]  # (step, value), by step
Curves = dict[str, dict[str, Points]]  # split or task -> metric -> points

_METRICS_END = "-metrics.jsonl"
_SIGNATURE_END = "_signature"  # of sacrebleu: what a BLEU or chrF was computed with


@dataclasses.dataclass(frozen=True)
class RankLine:
    """The accuracy of one run on one task under one prompt; accuracies are within 0..1."""

    task: str
    cluster: str
    language: str
    prompt: str
    num_examples: int
    accuracy: float
    chance: float
    majority: float
    held_out_cluster: bool
    seen_language: bool
    step: int
    # Older files lack these: a cluster is then one data set.
    dataset: str = ""
    prompt_language: str = ""

    def group(self, by: str) -> str:
        """Returns its 'cluster' or its 'dataset'; translated prompts make a data set of their own.

        'xcopa' with prompts translated by machine is 'xcopa@MT', by hand 'xcopa@HT'.
        """
        if by == "cluster":
            return self.cluster
        translated = self.prompt_language in ("MT", "HT")
        return (self.dataset or self.cluster) + (f"@{self.prompt_language}" if translated else "")


def json_lines(path: Path, torn_end: bool = False) -> Iterator[tuple[int, dict]]:
    """Yields (line number from 1, object) of a JSON Lines file; nothing where it is absent.

    With torn_end a last line without its newline is a write in progress and is left out.
    Any other line that is no JSON object is a UserError naming file and line.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if not raw.strip():
                continue
            try:
                value = json.loads(raw.decode("utf-8"))
            except ValueError as error:
                if torn_end and not raw.endswith(b"\n"):
                    return
                raise UserError(
                    f"{path}:{number} is not a line of JSON ({error}): {_excerpt(raw)}; "
                    "run again the command that wrote the file."
                ) from None
            if not isinstance(value, dict):
                raise UserError(
                    f"{path}:{number} should hold a JSON object and holds {_excerpt(raw)}."
                )
            yield number, value


def _excerpt(raw: bytes) -> str:
    text = raw.decode("utf-8", "replace").strip()
    return repr(text if len(text) <= 60 else text[:57] + "...")


def read_rank(paths: Iterable[Path]) -> list[RankLine]:
    """Reads rank.jsonl files; where a task, prompt and step recur, the last line counts."""
    lines = {}
    for path in paths:
        for number, value in json_lines(path, torn_end=True):
            line = _rank_line(value, f"{path}:{number}")
            lines[line.task, line.language, line.prompt, line.step] = line
    return list(lines.values())


def newest(lines: Iterable[RankLine]) -> list[RankLine]:
    """Keeps each task's lines of its greatest step."""
    lines = list(lines)
    last: dict[str, int] = {}
    for line in lines:
        last[line.task] = max(line.step, last.get(line.task, line.step))
    return [line for line in lines if line.step == last[line.task]]


def _rank_line(value: dict, where: str) -> RankLine:
    """Checks one line of rank.jsonl against the fields of RankLine."""
    fields = {field.name: field.type for field in dataclasses.fields(RankLine)}
    value = {"dataset": value.get("cluster", ""), "prompt_language": ""} | value
    missing = [name for name in fields if name not in value]
    if missing:
        raise UserError(
            f"{where} lacks {', '.join(repr(name) for name in missing)}; a line of rank.jsonl "
            f"holds {', '.join(fields)}."
        )
    kinds = {"str": str, "int": int, "float": (int, float), "bool": bool}
    said = {"str": "a string", "int": "an integer", "float": "a number", "bool": "true or false"}
    for name, kind in fields.items():
        found = value[name]
        fits = isinstance(found, kinds[kind]) and (kind == "bool" or not isinstance(found, bool))
        if not fits:
            raise UserError(f"{where}: {name} should be {said[kind]} and is {json.dumps(found)}.")
        # A NaN fails this comparison too.
        if kind == "float" and not 0 <= found <= 1:
            raise UserError(f"{where}: {name} should lie between 0 and 1 and is {found!r}.")
    return RankLine(**{name: value[name] for name in fields})


def read_curves(path: Path) -> Curves:
    """Reads metrics.jsonl; a step written twice (a restart) keeps its last value."""
    curves: dict[str, dict[str, dict[int, float]]] = {}
    for number, value in json_lines(path, torn_end=True):
        step, split, metrics = (value.get(key) for key in ("step", "split", "metrics"))
        if not isinstance(step, int) or not isinstance(split, str) or not isinstance(metrics, dict):
            raise UserError(
                f"{path}:{number} should hold step (an int), split (a string) and metrics (an "
                "object)."
            )
        _add(curves, split, step, metrics)
    return _sorted(curves)


def read_task_metrics(folders: Iterable[Path]) -> Curves:
    """Reads every <task>-metrics.jsonl in inference_eval folders: task -> metric -> points."""
    curves: dict[str, dict[str, dict[int, float]]] = {}
    for folder in folders:
        for path in sorted(folder.glob(f"*{_METRICS_END}")):
            task = path.name.removesuffix(_METRICS_END)
            for number, value in json_lines(path, torn_end=True):
                if not isinstance(value.get("step"), int):
                    raise UserError(f"{path}:{number} should hold a step and one or more metrics.")
                metrics = {name: found for name, found in value.items() if name != "step"}
                _add(curves, task, value["step"], metrics)
    return _sorted(curves)


def read_signatures(folders: Iterable[Path]) -> set[tuple[str, str]]:
    """Returns (metric, signature) of every metric that says how it was computed."""
    return {
        (name.removesuffix(_SIGNATURE_END), found)
        for folder in folders
        for path in folder.glob(f"*{_METRICS_END}")
        for _, value in json_lines(path, torn_end=True)
        for name, found in value.items()
        if name.endswith(_SIGNATURE_END) and isinstance(found, str)
    }


def _add(curves: dict, group: str, step: int, metrics: dict) -> None:
    for name, found in metrics.items():
        # A diverged run still has a report: its NaNs are gaps in the curve.
        number = isinstance(found, (int, float)) and not isinstance(found, bool)
        if number and math.isfinite(found):
            curves.setdefault(group, {}).setdefault(name, {})[step] = float(found)


def _sorted(curves: dict[str, dict[str, dict[int, float]]]) -> Curves:
    return {
        group: {name: sorted(points.items()) for name, points in metrics.items()}
        for group, metrics in curves.items()
    }
