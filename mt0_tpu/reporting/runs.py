"""What finished runs left on disk: which folders are runs, and what is in them."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

from mt0_tpu.errors import UserError, did_you_mean
from mt0_tpu.reporting.config import RunConfig, read_config
from mt0_tpu.reporting.records import (
    Curves,
    RankLine,
    newest,
    read_curves,
    read_rank,
    read_task_metrics,
)

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
_NOT_ARMS = {"cache", "report", "checkpoints", "eval", "inference_eval"}


@dataclasses.dataclass(frozen=True)
class Run:
    """One trained arm of one seed, with whatever of it was found on disk.

    Attributes:
      rank: lines of rank.jsonl, each task's of its newest step.
      history: the lines of every step.
      curves: split ("train", "eval", ...) -> metric -> points.
      task_metrics: task -> metric -> points, of tasks scored by metric functions.
      parameters: their number, as text; '' where no model-info.txt says it.
      evaluations: folders elsewhere that hold scores of its checkpoints.
      checkpoint: what summary.json says was scored; '' where there is none.
      only_step: of a network that stands in another's folder, its step.
    """

    path: Path
    arm: str
    seed: int
    rank: tuple[RankLine, ...] = ()
    history: tuple[RankLine, ...] = ()
    curves: Curves = dataclasses.field(default_factory=dict)
    task_metrics: Curves = dataclasses.field(default_factory=dict)
    config: RunConfig = RunConfig()
    parameters: str = ""
    evaluations: tuple[Path, ...] = ()
    checkpoint: str = ""
    only_step: int | None = None

    @property
    def scored_steps(self) -> list[int]:
        """The steps that its newest scores are of; several where tasks were scored apart."""
        steps = {line.step for line in self.rank}
        return sorted(steps | {p[-1][0] for m in self.task_metrics.values() for p in m.values()})

    @property
    def prediction_folders(self) -> list[Path]:
        """Its inference_eval folders, what counts most last."""
        folders = [place / "inference_eval" for place in _places(self.path, self.evaluations)]
        return [folder for folder in folders if folder.is_dir()]


def arm_title(arm: str) -> str:
    """Returns the name a reader knows an arm by; an arm of the user's own keeps its name."""
    return ARM_TITLES.get(arm, arm)


def short_title(arm: str) -> str:
    """Returns arm_title in a word or two."""
    return _SHORT_TITLES.get(arm, arm)


def arms_in_order(runs: Iterable[Run]) -> list[str]:
    """Returns the arms present: the study's own in its order, then others as they were given."""
    known = list(ARM_TITLES)
    found = dict.fromkeys(run.arm for run in runs)
    return sorted(found, key=lambda arm: known.index(arm) if arm in known else len(known))


def load_runs(folders: list[str]) -> list[Run]:
    """Reads every run in the given run or study folders, by arm as in arms_in_order, then seed.

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
    paths = dict.fromkeys(path.resolve() for f in folders for path in _discover(str(f)))
    evaluations = _evaluations(list(paths))
    elsewhere = {folder for found in evaluations.values() for folder in found}
    named = _name_arms([path for path in paths if path not in elsewhere])
    runs = [_load_run(Run(*one, evaluations=evaluations.get(one[0], ()))) for one in named]
    runs += _untrained(runs)
    order = arms_in_order(runs)
    return sorted(runs, key=lambda run: (order.index(run.arm), run.seed, str(run.path)))


def _is_run(folder: Path) -> bool:
    files = ("metrics.jsonl", "rank.jsonl", "eval/rank.jsonl")
    return any((folder / name).is_file() for name in files) or any(
        next((folder / name).glob("*.jsonl"), None) is not None
        for name in ("inference_eval", "eval/inference_eval")
    )


def _evaluations(paths: list[Path]) -> dict[Path, tuple[Path, ...]]:
    """Finds evaluations of each run that were written elsewhere: run -> EVAL_OUTPUT_DIRs."""
    found: dict[Path, tuple[Path, ...]] = {}
    for path in paths:
        checkpoint = _checkpoint(_places(path))
        if not checkpoint or (path / "metrics.jsonl").is_file():
            continue
        scored = Path(checkpoint).resolve()
        host = next((p for p in paths if p != path and scored.is_relative_to(p)), None)
        if host:
            found[host] = (*found.get(host, ()), path)
    return found


def _places(run: Path, elsewhere: Iterable[Path] = ()) -> list[Path]:
    """Folders that may hold rank.jsonl and inference_eval/; what counts most last.

    Evaluation during training writes into MODEL_DIR itself; `mt0 eval` into a folder of its own,
    eval/ or another name within MODEL_DIR, or elsewhere.
    """
    places = [*elsewhere, run / "inference_eval", run]
    if (run / "metrics.jsonl").is_file() or (run / "checkpoints").is_dir():
        others = [p for p in sorted(run.iterdir()) if p.is_dir() and p.name not in _NOT_ARMS]
        places += [
            p for p in others if (p / "rank.jsonl").is_file() or (p / "inference_eval").is_dir()
        ]
    return [*places, run / "eval"]


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
    if root.name == "inference_eval" and _is_run(root.parent):
        root = root.parent
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
            f"Found no run in {root}: looked for metrics.jsonl, rank.jsonl and inference_eval/ "
            f"in it and in its eval/, in {root}/<arm> and in {root}/seed*/<arm>; name a MODEL_DIR, "
            "an EVAL_OUTPUT_DIR or the folder of a study."
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


def _load_run(run: Run) -> Run:
    """Reads what lies in a run's folder and in those of its evaluations."""
    path, places = run.path, _places(run.path, run.evaluations)
    history = read_rank(place / "rank.jsonl" for place in places)
    return dataclasses.replace(
        run,
        rank=tuple(newest(history)),
        history=tuple(history),
        curves=read_curves(path / "metrics.jsonl"),
        task_metrics=read_task_metrics(run.prediction_folders),
        config=_config(path),
        parameters=_parameters(path / "model-info.txt"),
        checkpoint=_checkpoint(places),
    )


def _untrained(runs: list[Run]) -> list[Run]:
    """Makes an arm of what some runs scored before their first step, one a seed."""
    if any(run.arm == "untrained" for run in runs):
        return []
    found: dict[int, Run] = {}
    for run in runs:
        lines = tuple(line for line in run.history if line.step == 0)
        if lines and any(line.step > 0 for line in run.history):
            about = {"evaluations": run.evaluations, "only_step": 0}
            found.setdefault(run.seed, Run(run.path, "untrained", run.seed, lines, lines, **about))
    return list(found.values())


def _checkpoint(places: Iterable[Path]) -> str:
    """Returns what was scored, by the summary.json that counts most."""
    found = ""
    for place in places:
        summary = place / "summary.json"
        if not summary.is_file():
            continue
        try:
            value = json.loads(summary.read_text("utf-8"))
        except ValueError as error:
            raise UserError(
                f"{summary} is not JSON ({error}); run `mt0 eval` again to write it."
            ) from None
        if isinstance(value, dict) and isinstance(value.get("checkpoint"), str):
            found = value["checkpoint"]
    return found


def _config(path: Path) -> RunConfig:
    """Reads the config of training; where there was none, the first one of an evaluation."""
    evaluations = sorted(path.glob("eval.*.gin"))
    return next(filter(None, map(read_config, [path / "config.gin", *evaluations])), RunConfig())


def _parameters(path: Path) -> str:
    info = path.read_text("utf-8", "replace") if path.is_file() else ""
    match = re.search(r"total[^\n\d]*param[^\n\d]*([\d,_]+)", info, re.IGNORECASE)
    return f"{int(re.sub('[,_]', '', match.group(1))):,}" if match else ""
