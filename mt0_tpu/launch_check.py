"""What can be told of a command before machines are paid for: its words, its gin files, its mesh.

Needs no JAX: the command resolves itself in a process of its own, by --dry_run.
"""

from __future__ import annotations

import ast
import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mt0_tpu.errors import UserError, did_you_mean
from mt0_tpu.tpu_types import TpuType

# Jobs that start from a gin file.
GIN_JOBS = ("train", "eval", "infer")
_MESH = "partitioning.PjitPartitioner"


def import_path() -> str:
    """The folder that mt0_tpu is imported from."""
    return str(Path(__file__).resolve().parent.parent)


def check_words(words: Sequence[str]) -> None:
    """Raises UserError for what is no job, or writes where no job can."""
    if not words:
        raise UserError("there is nothing to run; write -- and the words after mt0: -- train …")
    if words[0] not in GIN_JOBS:
        hint = did_you_mean(words[0], GIN_JOBS) or f" There are: {', '.join(GIN_JOBS)}."
        raise UserError(f"`mt0 {words[0]}` is no job to launch.{hint}")
    written = r"--gin\.(EVAL_OUTPUT_DIR|INFER_OUTPUT_DIR)=['\"]+\w+://"
    remote = [word for word in words if re.match(written, word)]
    if remote:
        raise UserError(
            f"{remote[0]}: results are written through the file system; mount the bucket "
            "(--mount=gs://BUCKET, --bucket=BUCKET) and name /gcs/BUCKET/…"
        )


def resolved(words: Sequence[str]) -> str:
    """Returns what the command prints under --dry_run: the whole configuration.

    Raises:
      UserError: the command fails, with its own last words.
    """
    tried = subprocess.run(
        [sys.executable, "-m", "mt0_tpu", *words, "--dry_run"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([import_path(), os.getcwd()])},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if tried.returncode:
        said = tried.stderr.strip().splitlines()[-1:] or [shlex.join(words)]
        raise UserError(
            f"the command fails here already: {said[0].removeprefix('mt0: error: ')} "
            "(--no_check launches it as it is)"
        )
    return tried.stdout


def check_mesh(text: str, kind: TpuType, slices: str) -> None:
    """Holds the mesh of a resolved configuration against the devices that are asked for.

    Raises:
      UserError: its axes do not multiply to them, or slices are joined by another axis than
        `replica`.
    """
    if not re.fullmatch(r"[1-9]\d*", slices):
        raise UserError(f"--slices is '{slices}'; it must be a number from 1")
    found = re.findall(rf"^{re.escape(_MESH)}\.(\w+) = (.+?)(?:  #.*)?$", text, re.M)
    axes = {name: ast.literal_eval(value) for name, value in found}
    if not {"replica", "data", "fsdp", "tensor"} <= axes.keys():
        return  # a mesh of the user's own making
    ways = axes.get("num_partitions") or axes["tensor"]
    if axes.get("model_parallel_submesh"):
        ways = math.prod(axes["model_parallel_submesh"])
    devices = kind.devices * int(slices)
    fixed = axes["replica"] * axes["fsdp"] * ways
    data = devices // fixed if axes["data"] == -1 else axes["data"]
    what = f"replica={axes['replica']} x data={axes['data']} x fsdp={axes['fsdp']} x tensor={ways}"
    if fixed * data != devices or data < 1:
        raise UserError(
            f"the mesh {what} does not divide the {devices} devices of {slices} x {kind.name}; "
            f"add for example --gin.{_MESH}.fsdp=… --gin.{_MESH}.num_partitions=…, or ask "
            f"`mt0 plan --topology={kind.name} --search`"
        )
    if axes["replica"] % int(slices):
        raise UserError(
            f"the mesh {what} joins {slices} slices by other axes than replica, so that more than "
            f"gradients crosses the network between them; add --gin.{_MESH}.replica={slices}"
        )
