"""What a run starts from: its own last checkpoint, another's, or nothing."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

from mt0_tpu.errors import UserError
from mt0_tpu.formats import detect, own_run, remote, sound
from mt0_tpu.formats.weights import Weights
from mt0_tpu.models.networks import NetworkConfig
from mt0_tpu.place import is_address, is_bucket, place
from mt0_tpu.run_folder import FOLDER, MARK, steps_of

# Of mT5 and T5 1.1; T5X's TRAIN_STEPS counts from their beginning.
_PRETRAINING_STEPS = 1_000_000


@dataclasses.dataclass(frozen=True)
class Start:
    """What a run starts from: kind is 'resume', 'initial', 'foreign' or 'scratch'.

    `weights` is the opened checkpoint of a foreign start: T5X's, Hugging Face's, Mesh TensorFlow's.
    """

    kind: str
    path: str | None = None
    step: int = 0
    weights: Weights | None = None

    def __str__(self) -> str:
        if self.kind == "scratch":
            return "freshly drawn parameters"
        if self.weights is not None and self.weights.step is None:
            return f"{self.path} ({self.weights.kind}, which names no step: counted as 0)"
        kind = f" ({self.weights.kind})" if self.weights is not None else ""
        return f"step {self.step} of {self.path}{kind}"


def say(text: str) -> None:
    """Writes a line where nobody else takes it."""
    print(text, file=sys.stderr, flush=True)


def locate(path: str) -> tuple[Path, int] | None:
    """Returns (MODEL_DIR, step) for a run folder, its checkpoints folder or one checkpoint.

    A run in a bucket is read where it is. None where it is none of our runs.
    """
    if is_address(path) and not is_bucket(path):
        return None
    given = place(path)
    if given.name.isdecimal() and given.parent.name == FOLDER:
        if not (given / "state").is_dir():
            raise UserError(f"no checkpoint at {path}: it has no folder 'state'")
        if is_bucket(path) and not (given / MARK).exists():
            raise UserError(
                f"the checkpoint at {path} is not whole: it has no {MARK}, which is written last; "
                "name another"
            )
        return given.parent.parent, int(given.name)
    folder = given.parent if given.name == FOLDER else given
    steps = steps_of(folder)
    return (folder, steps[-1]) if steps else None


def reach(path: str) -> tuple[str, tuple[Path, int] | None]:
    """Returns (where a checkpoint can be read, what `locate` says of that).

    A run of ours in a bucket stays there; anything else that is not on disk is copied to it.
    """
    own = locate(path)
    if own is None:
        path = remote.bring(path, say)
        own = locate(path)
    return path, own


def find_start(model_dir: str, initial_checkpoint_path: str | None, from_scratch: bool) -> Start:
    """Decides what a run starts from, in this order.

    1. the latest checkpoint of MODEL_DIR, 2. INITIAL_CHECKPOINT_PATH,
    3. scratch, where that is allowed.
    """
    steps = steps_of(model_dir)
    if steps:
        return Start("resume", str(model_dir), steps[-1])
    if initial_checkpoint_path:
        here, own = reach(initial_checkpoint_path)
        if own:
            return Start("initial", str(own[0]), own[1])
        weights = detect.open_any(os.path.abspath(here))
        return Start("foreign", weights.path, weights.step or 0, sound.Checked(weights))
    if from_scratch:
        return Start("scratch")
    raise UserError(
        f"nothing to start from: MODEL_DIR {model_dir} has no checkpoint and "
        "INITIAL_CHECKPOINT_PATH is not set; set it, or train.from_scratch = True"
    )


def check_network(start: Start, config: NetworkConfig) -> None:
    """Raises UserError where a start says of its network what no shape does, and it is another.

    A run that goes on in its own MODEL_DIR is not asked: its config.gin is this run's.
    """
    if start.kind == "foreign":
        sound.check_network(start.weights, config)
    elif start.kind == "initial":
        folder = place(start.path) / FOLDER / str(start.step)
        sound.check_network(own_run.open_weights(folder), config)


def check_total_steps(start: Start, total_steps: int, relative_steps: int | None) -> None:
    """Raises UserError where TRAIN_STEPS counts pretraining that the start does not know of.

    Hugging Face's folders name no step. To count one in would be no help: at step 1,000,000
    Adafactor hardly moves its statistics, and from there they start at zero.
    """
    counted = start.kind in ("initial", "foreign") and start.step == 0
    if relative_steps is not None or not counted or total_steps <= _PRETRAINING_STEPS:
        return
    more = total_steps - _PRETRAINING_STEPS
    raise UserError(
        f"TRAIN_STEPS is {total_steps:,}, and {start.path} names no step: it counts as 0, and all "
        f"of them would be trained; write TRAIN_STEPS_RELATIVE = {more} for {more:,} steps on top "
        f"of it, or {total_steps} where so many are meant"
    )


def checkpoint_step(path: str) -> int:
    """Returns the step that restore_params would read from this path; 0 where it names none."""
    path, own = reach(path)
    return own[1] if own else detect.open_any(os.path.abspath(path)).step or 0
