"""What finished runs left on disk: which folders are runs, and what their files say."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from mt0_tpu.errors import UserError, did_you_mean

# The rows of the study, in the order a reader wants them (DESIGN.md section 7).
ARM_TITLES = {
    "untrained": "untrained",
    "pretrain": "pretrained only",
    "scratch": "multilingual, no pretraining",
    "english": "English-only multitask",
    "multilingual": "multilingual multitask",
}
# The same where room is scarce.
_SHORT_TITLES = {
    "pretrain": "pretrained",
    "scratch": "no pretraining",
    "english": "English-only",
    "multilingual": "multilingual",
}

_SEED = re.compile(r"seed(\d+)$")
_NOT_ARMS = {"cache", "report", "checkpoints", "inference_eval"}
# Macros worth a line in the report, as T5X users know them.
_MACROS = (
    "MIXTURE_OR_TASK_NAME",
    "TRAIN_STEPS",
    "TRAIN_STEPS_RELATIVE",
    "BATCH_SIZE",
    "TASK_FEATURE_LENGTHS",
    "DROPOUT_RATE",
    "LOSS_NORMALIZING_FACTOR",
    "INITIAL_CHECKPOINT_PATH",
)


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


@dataclasses.dataclass(frozen=True)
class Run:
    """One trained arm of one seed, with whatever of it was found on disk."""

    path: Path
    arm: str
    seed: int
    rank: tuple[RankLine, ...] = ()
    # split ("train", "eval", ...) -> metric name -> [(step, value)], by step.
    curves: dict[str, dict[str, list[tuple[int, float]]]] = dataclasses.field(default_factory=dict)
    facts: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def eval_dir(self) -> Path:
        """The folder that `mt0 eval` wrote; MODEL_DIR/eval unless the run is one itself."""
        return self.path if (self.path / "rank.jsonl").is_file() else self.path / "eval"


def arm_title(arm: str) -> str:
    """Returns the name a reader knows an arm by; an arm of the user's own keeps its name."""
    return ARM_TITLES.get(arm, arm)


def short_title(arm: str) -> str:
    """Returns arm_title in a word or two."""
    return _SHORT_TITLES.get(arm, arm)


def arms_in_order(runs: Iterable[Run]) -> list[str]:
    """Returns the arms present: the study's own in its order, then others by name."""
    known = list(ARM_TITLES)
    return sorted(
        {run.arm for run in runs},
        key=lambda arm: (known.index(arm) if arm in known else len(known), arm),
    )


def load_runs(folders: list[str]) -> list[Run]:
    """Reads every run in the given run or study folders, in order of arm and seed.

    Raises UserError where a folder holds no run or a file in it cannot be read.
    """
    if isinstance(folders, (str, Path)):
        folders = [folders]
    if not folders:
        raise UserError(
            "The report was given no run folder; name the MODEL_DIR of a run or the folder of "
            "a study."
        )
    # A folder named twice, or inside another named one, counts once.
    paths = {path.resolve() for folder in folders for path in _discover(str(folder))}
    named = _name_arms(sorted(paths))
    runs = [_load_run(path, arm, seed) for path, arm, seed in named]
    order = arms_in_order(runs)
    return sorted(runs, key=lambda run: (order.index(run.arm), run.seed, str(run.path)))


def _is_run(folder: Path) -> bool:
    return any(
        (folder / name).is_file() for name in ("metrics.jsonl", "eval/rank.jsonl", "rank.jsonl")
    )


def _discover(folder: str) -> list[Path]:
    """Lists the runs at a run folder, a seed's folder or a study's folder."""
    if "://" in folder:
        raise UserError(
            f"The report reads local folders only, and {folder} is remote; copy the run's "
            "metrics.jsonl and eval/ to a local folder and name that."
        )
    root = Path(folder).resolve()
    if not root.is_dir():
        siblings = [p.name for p in root.parent.iterdir()] if root.parent.is_dir() else []
        raise UserError(
            f"There is no folder {root} to report on.{did_you_mean(root.name, siblings)}"
        )
    # An evaluation's folder stands for the run that it is in.
    if root.name == "eval" and _is_run(root.parent):
        return [root.parent]
    if _is_run(root):
        return [root]
    arms = [p for p in sorted(root.iterdir()) if p.is_dir() and p.name not in _NOT_ARMS]
    seeds = [p for p in arms if _SEED.match(p.name) and not _is_run(p)]
    nested = [p for seed in seeds for p in sorted(seed.iterdir()) if p.is_dir()]
    found = [p for p in [*arms, *nested] if _is_run(p) and p.name not in _NOT_ARMS]
    if not found:
        raise UserError(
            f"Found no run in {root}: looked for metrics.jsonl and eval/rank.jsonl in it, in "
            f"{root}/<arm> and in {root}/seed*/<arm> (arms: pretrain, english, multilingual, "
            "scratch); name the MODEL_DIR of a run or the folder of a study."
        )
    return found


def _name_arms(paths: list[Path]) -> list[tuple[Path, str, int]]:
    """Gives each run its arm and seed; arms that two studies share carry the study's name."""
    named = []
    for path in paths:
        seed = _SEED.match(path.parent.name)
        study = path.parent.parent if seed else path.parent
        named.append((path, path.name, int(seed.group(1)) if seed else 0, study))
    keys = [(arm, seed) for _, arm, seed, _ in named]
    shared = {arm for arm, seed in keys if keys.count((arm, seed)) > 1}
    above = os.path.commonpath([study for *_, study in named])
    taken: dict[tuple[str, int], Path] = {}
    for path, arm, seed, study in named:
        name = f"{os.path.relpath(study, above)}/{arm}" if arm in shared else arm
        if other := taken.get((name, seed)):
            raise UserError(
                f"{other} and {path} are both seed {seed} of {arm}; name one of them alone."
            )
        taken[name, seed] = path
    return [(path, name, seed) for (name, seed), path in taken.items()]


def _load_run(path: Path, arm: str, seed: int) -> Run:
    run = Run(path, arm, seed)
    return dataclasses.replace(
        run,
        rank=tuple(_read_rank(run.eval_dir / "rank.jsonl")),
        curves=_read_metrics(path / "metrics.jsonl"),
        facts=_read_facts(run),
    )


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


def _read_rank(path: Path) -> list[RankLine]:
    """Reads the lines of the newest step; where a task and prompt recur the last line counts."""
    lines = [_rank_line(value, f"{path}:{number}") for number, value in json_lines(path)]
    newest = max((line.step for line in lines), default=0)
    return list(
        {
            (line.task, line.language, line.prompt): line for line in lines if line.step == newest
        }.values()
    )


def _rank_line(value: dict, where: str) -> RankLine:
    """Checks one line of rank.jsonl against the fields of RankLine."""
    fields = {field.name: field.type for field in dataclasses.fields(RankLine)}
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


def _read_metrics(path: Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Reads a run's curves; a step written twice (a restart) keeps its last value."""
    curves: dict[str, dict[str, dict[int, float]]] = {}
    for number, value in json_lines(path, torn_end=True):
        step, split, metrics = (value.get(key) for key in ("step", "split", "metrics"))
        if not isinstance(step, int) or not isinstance(split, str) or not isinstance(metrics, dict):
            raise UserError(
                f"{path}:{number} should hold step (an int), split (a string) and metrics (an "
                "object)."
            )
        for name, number_found in metrics.items():
            # A diverged run still has a report: its NaNs are gaps in the curve.
            if isinstance(number_found, (int, float)) and math.isfinite(number_found):
                curves.setdefault(split, {}).setdefault(name, {})[step] = float(number_found)
    return {
        split: {name: sorted(points.items()) for name, points in metrics.items()}
        for split, metrics in curves.items()
    }


def _read_facts(run: Run) -> dict[str, str]:
    """Collects what was run from config.gin, model-info.txt and eval/summary.json, if there."""
    facts = {}
    info = _text(run.path / "model-info.txt")
    if match := re.search(r"total[^\n\d]*param[^\n\d]*([\d,_]+)", info, re.IGNORECASE):
        facts["parameters"] = f"{int(re.sub('[,_]', '', match.group(1))):,}"
    config = _text(run.path / "config.gin")
    for name in _MACROS:
        if match := re.search(rf"^{name}\s*=\s*(.+?)\s*$", config, re.MULTILINE):
            facts[name] = match.group(1)
    summary = run.eval_dir / "summary.json"
    if summary.is_file():
        try:
            value = json.loads(summary.read_text("utf-8"))
        except ValueError as error:
            raise UserError(
                f"{summary} is not JSON ({error}); run `mt0 eval` again to write it."
            ) from None
        if isinstance(value, dict) and value.get("step") is not None:
            facts["evaluated step"] = str(value["step"])
    return facts


def _text(path: Path) -> str:
    return path.read_text("utf-8", "replace") if path.is_file() else ""
