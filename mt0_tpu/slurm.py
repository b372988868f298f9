"""What SLURM tells a task of a job step: its nodes, its place, its GPUs. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mt0_tpu.errors import UserError

# Linux hands ports below 61000 to any program that connects somewhere; these stay free.
FIRST_PORT, PORTS = 61440, 4096
_MOST_HOSTS = 1_000_000  # a longer list is a typing error, not a cluster
_TASKS = re.compile(r"(\d+)(?:\(x(\d+)\))?")


def hosts(hostlist: str) -> list[str]:
    """Expands SLURM's hostlist: node[01-03,7],login1 is node01 node02 node03 node7 login1.

    The width of a range's lower bound is kept; a name may hold several brackets, the last of
    which counts fastest.

    Raises:
      UserError: brackets that do not close, a range that is none or runs backwards.
    """
    found = []
    for name in _split(hostlist):
        expanded = [""]
        for piece in re.split(r"(\[[^\[\]]*\])", name):
            if piece.startswith("["):
                numbers = _numbers(piece[1:-1], hostlist)
                if len(expanded) * len(numbers) > _MOST_HOSTS:
                    raise UserError(
                        f"the SLURM host list '{hostlist}' has over {_MOST_HOSTS} hosts"
                    )
                expanded = [left + number for left in expanded for number in numbers]
            else:
                expanded = [left + piece for left in expanded]
        found += expanded
    return found


def _split(hostlist: str) -> list[str]:
    """Cuts at the commas outside brackets."""
    names, depth = [""], 0
    for character in hostlist.strip():
        depth += (character == "[") - (character == "]")
        if depth not in (0, 1):
            break
        if character == "," and depth == 0:
            names.append("")
        else:
            names[-1] += character
    if depth or not all(names):
        raise UserError(
            f"the SLURM host list '{hostlist}' cannot be read; it looks like node[01-03,7],login1"
        )
    return names


def _numbers(ranges: str, hostlist: str) -> list[str]:
    found = []
    for part in ranges.split(","):
        low, dash, high = part.partition("-")
        if not (low.isdecimal() and (high.isdecimal() or not dash)):
            raise UserError(
                f"the SLURM host list '{hostlist}' has the range '{part}', which is no number "
                "or pair of numbers"
            )
        first, last = int(low), int(high or low)
        if not 0 <= last - first < _MOST_HOSTS:
            raise UserError(
                f"the SLURM host list '{hostlist}' has the range '{part}', which runs backwards "
                "or is too long"
            )
        found += [f"{number:0{len(low)}d}" for number in range(first, last + 1)]
    return found


def tasks_per_node(text: str) -> list[int]:
    """Expands SLURM_STEP_TASKS_PER_NODE: '4(x2),3' is [4, 4, 3]."""
    found = []
    for part in text.split(","):
        match = _TASKS.fullmatch(part.strip())
        if match is None:
            raise UserError(f"SLURM_STEP_TASKS_PER_NODE is '{text}'; it looks like 4(x2),3")
        found += [int(match[1])] * int(match[2] or 1)
    return found


def port(job_id: int, step_id: int) -> int:
    """A port all tasks of a step agree on; two steps of a job get different ones."""
    return FIRST_PORT + (job_id + 131 * step_id) % PORTS


def local_devices(environment: Mapping[str, str], tasks_here: int, local: int) -> list[int] | None:
    """Which of the GPUs that this task sees it shall use; None: all of them.

    Alone on its node a task takes all; where SLURM has bound each task to its own GPUs, they
    are all it sees. Else the tasks of a node see the same GPUs and share them evenly. Indices
    count the visible GPUs, as jax_cuda_visible_devices does.

    Raises:
      UserError: GPUs that cannot be shared evenly.
    """
    if tasks_here == 1 or "JAX_LOCAL_DEVICE_IDS" in environment:
        return None
    bound = environment.get("SLURM_GPU_BIND", environment.get("SLURM_GPUS_BIND", "none"))
    if not bound.endswith("none"):
        return None
    seen = _gpus_seen(environment)
    if seen is None:
        return [local]
    own = environment.get("SLURM_GPUS_PER_TASK", "").rpartition(":")[2]
    if seen == 1 or (own.isdecimal() and seen == int(own)):
        return None
    if seen % tasks_here:
        raise UserError(
            f"{tasks_here} SLURM tasks share {seen} GPUs on this node, which does not divide; "
            "start one task per GPU or one per node, or give each its own with --gpus-per-task"
        )
    share = seen // tasks_here
    return list(range(local * share, (local + 1) * share))


def _gpus_seen(environment: Mapping[str, str]) -> int | None:
    for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        devices = [device for device in environment.get(name, "").split(",") if device.strip()]
        if devices:
            return len(devices)
    count = environment.get("SLURM_GPUS_ON_NODE", "").rpartition(":")[2]
    return int(count) if count.isdecimal() and int(count) else None
