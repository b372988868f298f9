"""`mt0 launch`: one line in front of the scripts of launch/.

It turns flags into the variables that a script's head explains, looks at the command that shall
run, and runs the script. What is created, waited for and deleted is the scripts' to know.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mt0_tpu import launch_check
from mt0_tpu.errors import UserError, did_you_mean
from mt0_tpu.tpu_types import tpu_type


@dataclasses.dataclass(frozen=True)
class Platform:
    """Where a command can be run.

    Attributes:
      scripts: the steps that can be asked for, by name, and the script of each; the first is
        what is done when no step is named.
      flags: {flag: (variable of the scripts, what it says)}.
      required: flags that every step wants.
      programless: steps that take no command.
    """

    scripts: dict[str, str]
    flags: dict[str, tuple[str, str]]
    required: tuple[str, ...] = ("name",)
    programless: tuple[str, ...] = ()


# Flags without a value, which set their variable to 1.
SWITCHES = ("keep", "spot")
_NAME = {"name": ("NAME", "of the run: lower case letters, digits, dashes")}
_TPU = {
    "type": ("TYPE", "v4-64, v5e-16, v5p-128, v6e-64, …"),
    "slices": ("SLICES", "slices of that type (1)"),
}
_GOOGLE = {"zone": ("ZONE", "us-central2-b, …"), "project": ("PROJECT", "(gcloud's own)")}

PLATFORMS = {
    "tpu": Platform(
        {
            "babysit": "tpu_babysit.sh", "create": "tpu_create.sh", "setup": "tpu_setup.sh",
            "run": "tpu_run.sh", "logs": "tpu_logs.sh", "stop": "tpu_stop.sh",
            "delete": "tpu_delete.sh",
        },
        _NAME | _TPU | _GOOGLE | {
            "capacity": ("CAPACITY", "spot, on-demand or reserved (spot)"),
            "mount": ("MOUNT", "gs://BUCKET as /gcs/BUCKET, or SERVER:/SHARE as /nfs/SHARE"),
            "pass_env": ("PASS_ENV", "variables of yours the run shall have: 'HF_TOKEN …'"),
            "valid_until": ("VALID_UNTIL", "give up waiting for capacity after: 6h (never)"),
            "source": ("SOURCE", "checkout that is copied to the workers (this one)"),
            "keep": ("KEEP", "the TPUs stay when the run is over, and cost"),
        },
        ("name", "zone"),
        ("create", "setup", "logs", "stop", "delete"),
    ),
    "gke": Platform(
        {"run": "gke_jobset.py"},
        _NAME | _TPU | {
            "image": ("IMAGE", "made with launch/Dockerfile"),
            "bucket": ("BUCKET", "appears as /gcs/BUCKET"),
            "spot": ("SPOT", "on spot nodes"),
            "secret": ("SECRET", "Kubernetes Secret whose entries become variables"),
            "service_account": ("SERVICE_ACCOUNT", "of the pods"),
            "namespace": ("NAMESPACE", "(kubectl's own)"),
            "max_restarts": ("MAX_RESTARTS", "(100)"),
        },
        ("name", "type", "image"),
    ),
    "xpk": Platform(
        {"run": "xpk_run.sh"},
        _NAME | _TPU | _GOOGLE | {
            "image": ("IMAGE", "made with launch/Dockerfile"),
            "cluster": ("CLUSTER", "of xpk cluster create"),
            "storage": ("STORAGE", "of xpk storage attach"),
            "max_restarts": ("MAX_RESTARTS", "(100)"),
        },
        ("name", "type", "zone", "image", "cluster"),
    ),
    "slurm": Platform(
        {"run": "slurm_submit.sh"},
        _NAME | {
            "nodes": ("NODES", "(1)"),
            "gpus": ("GPUS", "of each node (8)"),
            "per": ("PER", "gpu or node: what has a process of its own (gpu)"),
            "cpus": ("CPUS", "of each process"),
            "time": ("TIME", "limit of one turn"),
            "sbatch_flags": ("SBATCH_FLAGS", "further ones: '--partition=gpu'"),
        },
    ),
}  # fmt: skip


def launch_folder() -> Path:
    """Where the scripts are: the checkout's launch/, or the installed copy of it."""
    here = Path(__file__).resolve().parent
    for folder in (here.parent / "launch", here / "launch_files"):
        if (folder / "tpu_settings.sh").is_file():
            return folder
    raise UserError("the scripts of launch/ are not installed; run it from a checkout of mt0_tpu")


def launch(
    where: str,
    flags: dict[str, str],
    words: Sequence[str],
    step: str | None = None,
    dry_run: bool = False,
    check: bool = True,
) -> int:
    """Runs the script for one step, after a look at what it is given.

    Args:
      where: one of PLATFORMS.
      flags: as typed, without those that were left out.
      words: the command after `mt0`.
      step: one of the platform's scripts; None is the first.
      dry_run: prints the commands and runs none.
      check: resolves the command's gin files here first.

    Returns:
      The script's exit code.

    Raises:
      UserError: what can be told before anything is created.
    """
    platform = PLATFORMS[where]
    step = step or next(iter(platform.scripts))
    if step not in platform.scripts:
        hint = did_you_mean(step, platform.scripts) or f" There are: {', '.join(platform.scripts)}."
        raise UserError(f"`mt0 launch {where}` has no step '{step}'.{hint}")
    required = [*platform.required, *(["type"] if step in ("babysit", "create") else [])]
    missing = [f"--{name}" for name in required if not flags.get(name)]
    if missing:
        raise UserError(f"`mt0 launch {where}` needs {' and '.join(missing)}")
    kind = tpu_type(flags["type"]) if "type" in flags else None
    if step in platform.programless:
        if words:
            raise UserError(f"the step {step} takes no command, but found: {shlex.join(words)}")
    else:
        launch_check.check_words(words)
        text = launch_check.resolved(words) if check else ""
        if text and kind:
            launch_check.check_mesh(text, kind, flags.get("slices", "1"))
    script = launch_folder() / platform.scripts[step]
    if "source" not in flags and step in ("babysit", "setup") and script.parent.name != "launch":
        raise UserError(
            "mt0_tpu is installed without its sources, which the workers need; name a checkout: "
            "--source=DIR"
        )
    variables = {platform.flags[name][0]: value for name, value in flags.items()}
    # NAME, TIME and so on may mean something else to whoever has set them; a flag is meant.
    passed = flags.get("pass_env", "").split()
    unsaid = {variable for variable, _ in platform.flags.values()} - {*variables, *passed}
    environment = {name: value for name, value in os.environ.items() if name not in unsaid}
    variables |= {"DRY_RUN": "1" if dry_run else "", "PYTHON": sys.executable}
    interpreter = sys.executable if script.suffix == ".py" else "bash"
    path = os.pathsep.join(filter(None, (launch_check.import_path(), os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [interpreter, str(script), *words],
        env=environment | variables | {"PYTHONPATH": path}, check=False,
    ).returncode  # fmt: skip
