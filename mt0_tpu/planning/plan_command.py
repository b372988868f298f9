"""`mt0 plan`: its flags, and what it prints. Everything heavy is imported when it runs.

The order matters: the environment must be set before JAX is imported, and gin_config imports it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

from mt0_tpu.errors import UserError, did_you_mean
from mt0_tpu.planning import compile_devices, topologies

# Exit code of a plan that does not fit.
NO_FIT = 3
JOBS = ("train", "eval", "decode", "score")
HELP = """\
compiles the step of a run for hardware that need not be here, and says whether it fits, what it
computes and moves, and how long it may take:

  mt0 plan --gin_file=recipes/mt0_xxl.gin --topology=v4-128
  mt0 plan --gin_file=recipes/mt0_xl.gin --topology=v5e-256 --search

Topologies are TPU types (v2-8 … v6e-256; v2 to v4 and v5p count cores, v5e and v6e chips) and
cpu-N, this machine with N simulated devices. Compiling for a TPU needs the extra `tpu`
(pip install 'mt0_tpu[tpu]') and no TPU. See docs/planning.md.

"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `mt0 plan` beside those of gin."""
    parser.add_argument("--topology", metavar="TYPE", help="as v4-128, v5e-16, v6e-256 or cpu-8")
    parser.add_argument("--slices", type=int, default=1, help="slices of it (%(default)s)")
    parser.add_argument(
        "--job", default="train", help=f"which step: {', '.join(JOBS)} (%(default)s)"
    )
    parser.add_argument(
        "--search",
        action="store_true",
        help="tries meshes, microbatches, rematerialisation and rows; compiles the best",
    )
    parser.add_argument(
        "--compile", type=int, default=4, metavar="N", help="of them, at most N (%(default)s)"
    )
    parser.add_argument(
        "--row_lengths",
        metavar="INPUTS/TARGETS,…",
        help="row lengths to try beside the recipe's, as 512/128,2048/512",
    )
    parser.add_argument(
        "--save",
        metavar="FOLDER",
        help="keeps the compiled step where a run with $MT0_COMPILE_CACHE=FOLDER reads it (cpu-N)",
    )
    parser.add_argument("--json", action="store_true", help="prints one JSON object instead")


def run(flags: argparse.Namespace, gin_flags: tuple) -> int:
    """Plans and prints; returns 0 where it fits or its memory is not known, else 3."""
    if flags.job not in JOBS:
        raise UserError(
            f"--job is '{flags.job}'; write one of {', '.join(JOBS)}."
            f"{did_you_mean(flags.job, JOBS)}"
        )
    if not flags.topology:
        raise UserError("`mt0 plan` needs a topology, for example --topology=v4-128")
    top = topologies.topology(flags.topology, flags.slices)
    if flags.save:
        _keep_in(flags, top)
    compile_devices.prepare(top)
    arguments = arguments_of(flags.job, gin_flags)
    if flags.search:
        return _search(flags, arguments, top)
    from mt0_tpu import plan as planning
    from mt0_tpu.planning import plan_text

    print(f"compiling for {top} ...", file=sys.stderr, flush=True)
    made = planning.plan(flags.job, arguments, top)
    if flags.json:
        print(json.dumps(made.as_dict(), indent=1))
    else:
        print("\n".join([*plan_text.lines(made), *_advice(made, arguments)]))
        if flags.save:
            print(f"kept in {flags.save}: run with MT0_COMPILE_CACHE={flags.save}")
    return NO_FIT if made.fits is False else 0


def _keep_in(flags: argparse.Namespace, top: topologies.Topology) -> None:
    """Lets JAX write the entry of its compilation cache that the run itself would write.

    JAX's other way, jax.experimental.serialize_executable, is a pickle: whoever wrote the file
    could run anything here, so nothing of it is read or written.
    """
    if flags.search:
        raise UserError("--save is for one plan; leave --search out")
    if top.tpu is not None:
        raise UserError(
            f"--save cannot keep a step for {top.name}: JAX's compilation cache takes only what "
            "was compiled for devices that are there; the run's first start writes it, and every "
            "later one reads it"
        )
    os.environ["JAX_COMPILATION_CACHE_DIR"] = flags.save
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


def _advice(made, arguments) -> list[str]:
    """What to do about a run that does not fit."""
    if made.fits is not False:
        return []
    if made.job != "train":
        return ["take fewer rows, more tensor ways or a larger slice"]
    from mt0_tpu.planning import search

    advice = "--search looks for a mesh, microbatches and rematerialisation that do"
    larger = search.smallest_that_fits(arguments, made.topology)
    if not search.some_fit(arguments, made.topology):
        advice = f"by formula no other setting fits {made.topology.name} either"
        advice += f"; the smallest slice that should do is {larger}" if larger else ""
    return [advice]


def _search(flags: argparse.Namespace, arguments: dict, top: topologies.Topology) -> int:
    if flags.job != "train":
        raise UserError("--search is for --job=train")
    if flags.compile < 1:
        raise UserError(f"--compile is {flags.compile}; write 1 or more")
    from mt0_tpu.planning import search, search_text

    found = search.search(
        arguments,
        top,
        compile_most=flags.compile,
        row_lengths=_row_lengths(flags.row_lengths),
        say=lambda text: print(text, file=sys.stderr, flush=True),
    )
    if flags.json:
        print(json.dumps(search_text.as_dict(found), indent=1))
    else:
        print("\n".join(search_text.lines(found)))
    return NO_FIT if found.tried[0].plan.fits is False else 0


def _row_lengths(text: str | None) -> list[tuple[int, int]]:
    if not text:
        return []
    try:
        pairs = [tuple(int(part) for part in one.split("/")) for one in text.split(",")]
        if any(len(pair) != 2 or min(pair) < 1 for pair in pairs):
            raise ValueError
    except ValueError:
        raise UserError(
            f"--row_lengths is '{text}'; write INPUTS/TARGETS, as --row_lengths=512/128,2048/512"
        ) from None
    return pairs


def arguments_of(job: str, gin_flags: tuple) -> dict:
    """The resolved run; a recipe for training gives the other jobs its model, rows and mesh."""
    from mt0_tpu import gin_config

    if job in ("train", "eval"):
        return dict(gin_config.resolve("train", *_with_model_dir(gin_flags)).arguments)
    try:
        return dict(gin_config.resolve("infer", *gin_flags).arguments)
    except UserError as error:
        try:
            trained = gin_config.resolve("train", *_with_model_dir(gin_flags)).arguments
        except UserError:
            raise error from None
    dataset = trained["train_dataset"]
    return {
        "model": trained["model"],
        "mesh": trained["mesh"],
        "task_feature_lengths": dataset.task_feature_lengths,
        "batch_size": dataset.batch_size,
    }


def _with_model_dir(gin_flags: tuple) -> tuple:
    """Nothing is written, so a recipe need not be told where."""
    files, bindings, folders = gin_flags
    return files, ["MODEL_DIR = ''", *bindings], folders
