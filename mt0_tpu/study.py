"""The embedded default and the study: the paper's finding in small, on this machine.

    OUT/cache/                       tokenised tasks, shared by all arms
    OUT/seed<S>/<arm>/               each arm a run folder, with its scores in eval/
    OUT/report/index.html

Every stage is a run folder that resumes by itself, so a study that was interrupted goes on
where it was when the same command is given again.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mt0_tpu import gin_config, report
from mt0_tpu.cores import cores_here
from mt0_tpu.errors import UserError, did_you_mean
from mt0_tpu.progress import duration

PRETRAIN_RECIPE = "recipes/mini_pretrain.gin"
FINETUNE_RECIPE = "recipes/mini_mt0.gin"
BLOOMZ_RECIPE = "recipes/mini_bloomz.gin"
EVAL_MIXTURE = "mini_eval"
# Enough to see that every stage works; the scores mean nothing.
QUICK_STEPS, QUICK_EXAMPLES = 8, 2


@dataclasses.dataclass(frozen=True)
class Arm:
    """One row of the comparison: what is trained, and from what.

    Attributes:
      name: its folder under OUT/seed<S>/.
      recipe: gin file.
      mixture: what it trains on.
      after: the arm whose last checkpoint it starts from; None starts from scratch.
    """

    name: str
    recipe: str
    mixture: str
    after: str | None = None


ARMS = (
    Arm("pretrain", PRETRAIN_RECIPE, "mini_pretrain"),
    Arm("multilingual", FINETUNE_RECIPE, "mini_multilingual", after="pretrain"),
    Arm("english", FINETUNE_RECIPE, "mini_english", after="pretrain"),
    Arm("scratch", FINETUNE_RECIPE, "mini_multilingual"),
)

# Trained and scored where it is asked for: the same data through the other half of the paper.
MORE_ARMS = (Arm("bloomz", BLOOMZ_RECIPE, "mini_multilingual"),)


def chosen_arms(names: Sequence[str]) -> tuple[Arm, ...]:
    """Returns the arms of these names in the order they are run.

    Raises UserError for a name that no arm has, and where one is missing that another starts from.
    """
    known = {arm.name: arm for arm in (*ARMS, *MORE_ARMS)}
    for name in names:
        if name not in known:
            listed = ", ".join(known)
            near = did_you_mean(name, known)
            raise UserError(f"--arms names '{name}'; write some of {listed}.{near}")
        source = known[name].after
        if source and source not in names:
            raise UserError(f"--arms has {name}, which starts from {source}: add {source} to it")
    return tuple(arm for arm in known.values() if arm.name in names)


def run_default(
    output_dir: str = "runs/mini",
    seed: int = 0,
    quick: bool = False,
    bindings: Sequence[str] = (),
) -> None:
    """Caches, pretrains a tiny mT5, finetunes it into a tiny mT0, scores both and reports.

    Further gin bindings go to both trainings.
    """
    began = time.monotonic()
    _use_all_cores()
    arms = ARMS[:2]
    _cache(output_dir, arms)
    for number, arm in enumerate(arms, 1):
        _say(f"== {number}/{len(arms)} {arm.name} ==")
        run_arm(arm, output_dir, seed, quick, bindings)
    _finish(output_dir, began)


def run_study(
    output_dir: str = "runs/study",
    seeds: Sequence[int] = (0, 1, 2),
    quick: bool = False,
    arms: Sequence[Arm] = ARMS,
) -> None:
    """Runs every arm for every seed, and one report over all of them."""
    if not seeds or len(set(seeds)) != len(seeds):
        raise UserError(f"seeds are {list(seeds)}; give one or more different numbers")
    began = time.monotonic()
    _use_all_cores()
    _cache(output_dir, arms)
    total = len(seeds) * len(arms)
    done = 0
    for seed in seeds:
        for arm in arms:
            left = (time.monotonic() - began) / done * (total - done) if done else None
            eta = f", about {duration(left)} left" if left is not None else ""
            _say(f"== {done + 1}/{total} seed {seed}: {arm.name}{eta} ==")
            run_arm(arm, output_dir, seed, quick)
            done += 1
    _finish(output_dir, began)


def _use_all_cores() -> None:
    """Cuts a batch over up to four simulated devices: XLA runs small products on one core.

    The mesh does not change the run beyond rounding. An accelerator, or a count that the user
    has set, is left alone.
    """
    import jax

    chosen = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not chosen and "JAX_NUM_CPU_DEVICES" not in os.environ:
        cores = cores_here()
        jax.config.update("jax_num_cpu_devices", 4 if cores >= 4 else 2 if cores >= 2 else 1)


def _cache(output_dir: str, arms: Sequence[Arm]) -> None:
    """Caches all that the arms read at once: one start of TensorFlow instead of five."""
    from mt0_tpu.data import cache

    mixtures = [*dict.fromkeys(arm.mixture for arm in arms), EVAL_MIXTURE]
    cache.ensure_mixtures(mixtures, os.path.join(output_dir, "cache"), _say)


def run_arm(
    arm: Arm, output_dir: str, seed: int, quick: bool = False, more_bindings: Sequence[str] = ()
) -> None:
    """Trains and scores one arm; what is done already is not done again."""
    folder = Path(output_dir) / f"seed{seed}" / arm.name
    cache_dir = str(Path(output_dir) / "cache")
    bindings = [
        f"MODEL_DIR = {str(folder)!r}",
        f"RANDOM_SEED = {seed}",
        f"utils.DatasetConfig.cache_dir = {cache_dir!r}",
        f"MIXTURE_OR_TASK_NAME = {arm.mixture!r}",
        *more_bindings,
    ]
    if arm.after:
        source = Path(output_dir) / f"seed{seed}" / arm.after
        bindings.append(f"INITIAL_CHECKPOINT_PATH = {str(source)!r}")
    if arm.recipe == FINETUNE_RECIPE and not arm.after:
        # The same number of finetuning steps, counted from nothing.
        bindings.append("train.from_scratch = True")
    if quick:
        bindings += [f"TRAIN_STEPS_RELATIVE = {QUICK_STEPS}", "EVAL_STEPS = 1"]
    resolved = gin_config.resolve("train", [arm.recipe], bindings)
    summary = resolved.run()
    if not _is_scored(folder, summary.step):
        from mt0_tpu.evaluate import evaluate

        evaluate(
            str(folder / "eval"),
            model=resolved.arguments["model"],
            checkpoint_path=str(folder),
            mixture_or_task_name=EVAL_MIXTURE,
            cache_dir=cache_dir,
            num_examples=QUICK_EXAMPLES if quick else None,
            overwrite=True,
        )


def _is_scored(folder: Path, step: int) -> bool:
    path = folder / "eval" / "summary.json"
    return path.exists() and json.loads(path.read_text(encoding="utf-8")).get("step") == step


def _finish(output_dir: str, began: float) -> None:
    page = report.write_report([output_dir], os.path.join(output_dir, "report"))
    print(report.terminal_summary([output_dir]))
    print(f"report: {page}   ({duration(time.monotonic() - began)} in all)")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
