"""The processors of this machine that this process may use."""

from __future__ import annotations

import os


def cores_here() -> int:
    """Returns their number, at least 1: a container or taskset may have left it fewer than all."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    return len(affinity(0)) if affinity else os.cpu_count() or 1
