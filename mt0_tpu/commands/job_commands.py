"""`mt0 train`, `study`, `eval` and `infer`: their flags, gin's among them, and what runs them."""

from __future__ import annotations

import argparse
import inspect
import sys

from mt0_tpu import process_flags
from mt0_tpu.errors import UserError

GIN_FLAGS_HELP = """\
T5X's flags:
  --gin_file=FILE            a gin file; repeat it, later files override earlier ones.
                             Names are looked up here and among the files of mt0_tpu,
                             such as models/mt5/small.gin, runs/finetune.gin.
  --gin.NAME=VALUE           sets a macro or a parameter; text needs quotes inside the
                             shell's: --gin.MODEL_DIR="'runs/mine'"
  --gin_bindings='N = V'     the same in gin's own writing.
  --gin_search_paths=A,B     further folders to look gin files up in.
  --dry_run                  prints the resolved run and exits; touches no device, no data.
"""
CHECK_REPLICAS_STEPS = 1000
_EXAMPLE_RUNS = {"train": "finetune", "plan": "finetune", "eval": "eval", "infer": "infer"}
JOB_FLAGS = ("--gin_file", "--gin_bindings", "--gin_search_paths")


def add_gin_flags(parser: argparse.ArgumentParser) -> None:
    # Documented together in the epilog, where --gin.NAME can stand beside them.
    for flag in JOB_FLAGS:
        parser.add_argument(flag, action="append", default=[], help=argparse.SUPPRESS)


def add_job(parser: argparse.ArgumentParser) -> None:
    parser.epilog = GIN_FLAGS_HELP
    add_gin_flags(parser)
    parser.add_argument("--dry_run", action="store_true", help=argparse.SUPPRESS)
    process_flags.add_flags(parser)


def add_train(parser: argparse.ArgumentParser) -> None:
    add_job(parser)
    parser.add_argument(
        "--check_replicas",
        type=int,
        nargs="?",
        const=CHECK_REPLICAS_STEPS,
        metavar="STEPS",
        help="compare what devices hold copies of, every STEPS (%(const)s) and before each save",
    )
    parser.add_argument("--output_dir", help="run folder of the embedded mini mT0 (runs/mini)")
    parser.add_argument("--seed", type=int, help="seed of the embedded mini mT0 (0)")
    parser.add_argument("--quick", action="store_true", help="a few steps, to try the embedded run")


def add_study(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output_dir", default="runs/study", help="folder (%(default)s)")
    parser.add_argument(
        "--arms", default="pretrain,multilingual,english,scratch",
        help="comma list, of these and bloomz (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--seeds", default="0,1,2", help="comma list of seeds (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="a few steps each, to try it out")


def add_infer(parser: argparse.ArgumentParser) -> None:
    add_job(parser)
    parser.add_argument(
        "--interactive", action="store_true", help="answer lines typed at a prompt, or piped in"
    )


def run_job(flags: argparse.Namespace) -> None:
    from mt0_tpu import gin_config

    resolved = gin_config.resolve(flags.command, *gin_flags(flags))
    if flags.dry_run:
        print(resolved.text, end="")
        return
    try:
        resolved.run()
    finally:
        if "mt0_tpu.remote_run" in sys.modules:
            sys.modules["mt0_tpu.remote_run"].close_all()


def run_infer(flags: argparse.Namespace) -> None:
    if not flags.interactive:
        run_job(flags)
        return
    from mt0_tpu import gin_config

    # No file is written, so none need be named.
    flags.gin_bindings = ["INFER_OUTPUT_DIR = ''", *flags.gin_bindings]
    resolved = gin_config.resolve("infer", *gin_flags(flags))
    if flags.dry_run:
        print(resolved.text, end="")
        return
    from mt0_tpu import interactive

    taken = inspect.signature(interactive.interact).parameters
    chosen = {name: value for name, value in resolved.arguments.items() if name in taken}
    interactive.interact(**chosen)


def gin_flags(flags: argparse.Namespace) -> tuple[list[str], list[str], list[str]]:
    """Returns (files, bindings, folders); UserError where no file is named."""
    if not flags.gin_file:
        raise UserError(
            f"`mt0 {flags.command}` needs a gin file, for example "
            f"--gin_file=models/mt5/small.gin --gin_file=runs/{_EXAMPLE_RUNS[flags.command]}.gin"
        )
    folders = [folder for paths in flags.gin_search_paths for folder in paths.split(",") if folder]
    return flags.gin_file, flags.gin_bindings, folders


def run_train(flags: argparse.Namespace) -> None:
    checks = []
    if flags.check_replicas is not None:
        checks = [f"train.check_replicas_every_steps = {flags.check_replicas}"]
    if flags.gin_file:
        flags.gin_bindings = [*checks, *flags.gin_bindings]
        for name in ("output_dir", "seed"):
            if getattr(flags, name) is not None:
                macro = {"output_dir": "MODEL_DIR", "seed": "RANDOM_SEED"}[name]
                raise UserError(f"--{name} is for the embedded run; set --gin.{macro}=… instead.")
        run_job(flags)
        return
    if flags.gin_bindings or flags.gin_search_paths:
        raise UserError(
            "--gin flags need a gin file to act on, for example --gin_file=recipes/mini_mt0.gin"
        )
    if flags.dry_run:
        flags.gin_file = ["recipes/mini_mt0.gin"]
        flags.gin_bindings = [f"MODEL_DIR = {flags.output_dir or 'runs/mini'!r}", *checks]
        run_job(flags)
        return
    from mt0_tpu import study

    chosen = {n: getattr(flags, n) for n in ("output_dir", "seed") if getattr(flags, n) is not None}
    study.run_default(**chosen, quick=flags.quick, bindings=checks)


def run_study(flags: argparse.Namespace) -> None:
    try:
        seeds = tuple(int(seed) for seed in flags.seeds.split(","))
    except ValueError:
        raise UserError(f"--seeds is '{flags.seeds}', but wants integers: --seeds=0,1,2") from None
    from mt0_tpu import study

    arms = study.chosen_arms(flags.arms.split(","))
    study.run_study(output_dir=flags.output_dir, seeds=seeds, quick=flags.quick, arms=arms)
