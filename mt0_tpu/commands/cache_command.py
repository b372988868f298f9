"""`mt0 cache`: its flags, and what runs it."""

from __future__ import annotations

import argparse
import os

from mt0_tpu import process_flags
from mt0_tpu.errors import UserError


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--mixture", required=True, action="append", help="task or mixture; repeat it for more"
    )
    parser.add_argument("--cache_dir", help="folder of caches ($MT0_CACHE_DIR)")
    parser.add_argument(
        "--data_dir", help="folder of released files, xP3 and so on ($MT0_DATA_DIR)"
    )
    parser.add_argument("--module", help="module that registers it, as MIXTURE_OR_TASK_MODULE")
    parser.add_argument("--split", action="append", help="split; repeat it (all splits)")
    parser.add_argument("--num_processes", type=int, help="processes (one per core)")
    parser.add_argument("--overwrite", action="store_true", help="cache again what is cached")
    parser.add_argument(
        "--task_feature_lengths",
        metavar="inputs=N,targets=M",
        help="a job's row lengths, to count the examples that are longer",
    )
    parser.add_argument(
        "--bad_lines",
        choices=("stop", "skip"),
        help="what a malformed line of jsonl does; skipped ones are counted ($MT0_BAD_LINES, stop)",
    )
    parser.add_argument(
        "--runner",
        help="run on Apache Beam: DirectRunner, DataflowRunner, FlinkRunner, SparkRunner, …",
    )
    parser.add_argument(
        "--runner_option",
        action="append",
        default=[],
        metavar="--NAME=VALUE",
        help="a pipeline option of Beam's; repeat it: --runner_option=--project=x",
    )
    process_flags.add_flags(parser)


def _feature_lengths(text: str | None) -> dict[str, int] | None:
    if text is None:
        return None
    try:
        lengths = {name: int(value) for name, value in (p.split("=") for p in text.split(","))}
    except ValueError:
        lengths = {}
    if lengths.keys() != {"inputs", "targets"}:
        raise UserError(
            f"--task_feature_lengths is '{text}'; write --task_feature_lengths "
            "inputs=1024,targets=256"
        )
    return lengths


def _beam(flags: argparse.Namespace) -> dict | None:
    if flags.runner is None:
        if flags.runner_option:
            raise UserError("--runner_option is for a Beam runner; name it with --runner=…")
        return None
    return {"runner": flags.runner, "options": flags.runner_option}


def run(flags: argparse.Namespace) -> None:
    from mt0_tpu import process_settings
    from mt0_tpu.data import cache, cache_child

    cache_child.end_with_parent()
    process_settings.refuse_several(
        "`mt0 cache`", "start it once (`srun --ntasks=1 mt0 cache …`: it uses every core)"
    )
    # Read by seqio_tasks, here and in workers.
    for variable, value in (("DATA_DIR", flags.data_dir), ("BAD_LINES", flags.bad_lines)):
        if value:
            os.environ[f"MT0_{variable}"] = value
    for mixture in flags.mixture:
        cache.cache_mixture(
            mixture,
            flags.cache_dir,
            splits=flags.split,
            module=flags.module,
            num_processes=flags.num_processes,
            overwrite=flags.overwrite,
            lengths=_feature_lengths(flags.task_feature_lengths),
            beam=_beam(flags),
        )
