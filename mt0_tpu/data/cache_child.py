"""`mt0 cache` as a child of a job: TensorFlow stays out of the trainer, and both end together."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mt0_tpu.errors import UserError
from mt0_tpu.exit_codes import REQUEUE
from mt0_tpu.stop_signals import Stopped

_PARENT = "MT0_PARENT_PROCESS"
_POLL_S = 0.5
# A child that is told to end throws its half-written parts away first.
_UNWIND_S = 15.0


def run(command: Sequence[str], progress: Callable[[str], None]) -> None:
    """Runs the command, handing on its lines.

    Raises:
      UserError: it failed; with its own sentence, where it says one.
      Stopped: it was told to stop.
    """
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *(path or os.getcwd() for path in sys.path)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "PYTHONUNBUFFERED": "1",  # progress as it happens
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # The accelerator belongs to the trainer.
        "JAX_PLATFORMS": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        _PARENT: str(os.getpid()),
    }
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        ) as child:
            try:
                for line in child.stdout:
                    progress(line.rstrip())
            except BaseException:
                _end(child)
                raise
        if child.returncode:
            errors.seek(0)
            lines = [line.strip() for line in errors if line.strip()]
            said = lines[-1] if lines else f"it ended with code {child.returncode}"
            if child.returncode == REQUEUE:
                raise Stopped(f"caching was stopped: {said.removeprefix('mt0: ')}")
            if said.startswith("mt0: error: "):  # written for a user already
                raise UserError(said.removeprefix("mt0: error: "))
            raise UserError(f"caching failed: {said} (`{' '.join(command[1:])}`)")


def _end(child: subprocess.Popen) -> None:
    child.terminate()
    try:
        child.wait(_UNWIND_S)
    except subprocess.TimeoutExpired:
        child.kill()


def end_with_parent() -> None:
    """In such a child: ends this process when its parent has been killed.

    Left alone it would go on caching, and the job that is started again would cache into the
    same folder beside it. Does nothing in a process that no job started.
    """
    parent = os.environ.pop(_PARENT, None)
    if parent is not None:
        threading.Thread(target=_watch, args=(int(parent),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    os._exit(REQUEUE)
