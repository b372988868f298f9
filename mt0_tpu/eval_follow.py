"""Which checkpoints there are to evaluate: one, all of a folder, or those still to come.

A running job shows itself by MODEL_DIR/run.json, which train.py writes: the step it will stop at.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from mt0_tpu import distributed, run_folder
from mt0_tpu.checkpoint_saving import storage_fault
from mt0_tpu.errors import UserError
from mt0_tpu.formats import detect, t5x_folder
from mt0_tpu.place import CannotBeSeen, entries, is_bucket, place
from mt0_tpu.progress import duration

RUN_FILE = "run.json"
# How often a checkpoint that cannot be read, and has not gone, is tried.
_TRIES = 3
_READ = ("read", "")

# A message is said once; processes follow the same runs in the same order.
_turns = itertools.count()


@dataclasses.dataclass(frozen=True)
class Patience:
    """How a running MODEL_DIR is followed; checks itself.

    Attributes:
      poll_seconds: between two looks.
      timeout_minutes: without a new checkpoint, before the job ends by itself.
    """

    poll_seconds: float = 10.0
    timeout_minutes: float = 60.0

    def __post_init__(self):
        for name in ("poll_seconds", "timeout_minutes"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} is {getattr(self, name)}; write more than 0")


def found_in(path: str | os.PathLike) -> dict[int, str]:
    """Returns {step: checkpoint} of the whole checkpoints of a folder, ours or T5X's, in order.

    One still being written has another name, or lacks the file that is written last; what
    retention has begun to delete lacks it too.
    """
    root = place(path)
    inside = root if root.name == run_folder.FOLDER else root / run_folder.FOLDER
    found = {}
    steps = run_folder.steps_of(inside.parent)
    if steps:
        for step in steps:
            folder = inside / str(step)
            has_state = is_bucket(folder) or (folder / "state").is_dir()  # there the mark says so
            if has_state and (folder / "_CHECKPOINT_METADATA").exists():
                found[step] = str(folder)
    else:
        for folder in entries(root):
            step = t5x_folder.step_of(folder)
            if step is not None and detect.find(folder) is not None:
                found[step] = str(folder)
    return dict(sorted(found.items()))


def final_step(model_dir: str | os.PathLike) -> int | None:
    """Returns the step that a run will stop at, where it says so."""
    try:
        return int(json.loads((place(model_dir) / RUN_FILE).read_text("utf-8"))["final_step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def all_of(path: str) -> list[tuple[int, str]]:
    """Returns (step, checkpoint) of every checkpoint of a folder.

    Raises UserError where there is none.
    """
    found = found_in(path)
    if not found:
        raise UserError(
            f"{path} holds no checkpoints to evaluate all of; name a MODEL_DIR, a folder of T5X's "
            "checkpoint_STEP, or one checkpoint with CHECKPOINTS = 'latest'"
        )
    return list(found.items())


def follow(
    path: str,
    done: Callable[[int], bool],
    patience: Patience,
    say: Callable[[str], None],
    leader: bool = True,
) -> Iterator[tuple[int, str]]:
    """Gives each checkpoint of a running MODEL_DIR once, the oldest first, as it appears.

    Ends after the run's last step, or when nothing new has come for as long as patience says.
    The first process looks; the others are told.

    Args:
      done: whether a step was evaluated before.
    """
    seen: set[int] = set()
    while True:
        found, failure = None, None
        if leader:
            try:
                found = _next(path, done, patience, say, seen)
            except UserError as error:
                failure = error
        text = distributed.leader_says(
            f"eval follow {next(_turns)}",
            json.dumps([found, failure and str(failure)]),
            patience.timeout_minutes * 60,
        )
        found, why = json.loads(text)
        if why is not None:
            raise failure or UserError(why)
        if found is None:
            return
        seen.add(found[0])
        yield found[0], found[1]


def _next(path: str, done, patience: Patience, say, seen: set[int]) -> tuple[int, str] | None:
    """Waits for a checkpoint that was not given yet; None where no more will come."""
    began, told, unseen = time.monotonic(), False, None
    while True:
        try:
            found, last = found_in(path), final_step(path)
            unseen = None
        except Exception as error:
            fault = storage_fault(error) if is_bucket(path) else None
            if fault is None:
                raise
            if fault != unseen:  # said once an outage, not at every look
                say(f"eval: waiting until {path} can be seen again: {fault}")
            found, last, unseen = {}, None, fault
        for step, checkpoint in found.items():
            if step not in seen:
                if not done(step):
                    return step, checkpoint
                say(f"eval: step {step} is done already")
                seen.add(step)
        if last is not None and any(step >= last for step in seen):
            say(f"eval: {path} has reached its last step, {last}")
            return None
        waited = time.monotonic() - began
        if waited > patience.timeout_minutes * 60:
            say(
                f"eval: no new checkpoint in {path} for {duration(waited)}; stopping (run it again "
                "to go on, or raise follow_timeout_minutes)"
            )
            return None
        if not told:
            newest = f"after step {max(seen)}" if seen else "for the first checkpoint"
            end = f" of {last}" if last is not None else ""
            say(f"eval: waiting {newest}{end}: {path}")
            told = True
        time.sleep(patience.poll_seconds)


def read_or_gone(path: str, read: Callable[[], Any], patience: Patience, say) -> Any:
    """Returns what `read` gives; None for a checkpoint that retention deleted meanwhile.

    One that is there and cannot be read is tried again: it may be a copy that is still growing.
    Where there are several processes, what one of them cannot read none of them keeps.
    """
    for left in reversed(range(_TRIES)):
        content, error, verdict = None, None, _READ
        try:
            content = read()
        except Exception as caught:
            error, verdict = caught, _verdict(path, caught)
        said = [json.loads(text) for text in distributed.everyone_says(json.dumps(verdict))]
        kinds = [kind for kind, _ in said]
        if "gone" in kinds:
            say(f"eval: {path} was deleted before it was read (keep_last); passed over")
            return None
        if set(kinds) == {"read"}:
            return content
        index = next(index for index, kind in enumerate(kinds) if kind != "read")
        text = said[index][1]
        if "refused" in kinds or not left:
            raise error or UserError(f"process {index} cannot read {path}: {text}")
        say(f"eval: {path} cannot be read yet ({text}); trying again")
        time.sleep(patience.poll_seconds)
    return None


def _verdict(path: str, error: Exception) -> tuple[str, str]:
    """Says what an error in reading a checkpoint means, and its first words."""
    try:
        if path not in found_in(place(path).parent).values():
            return "gone", ""
    except Exception as unseen:
        fault = storage_fault(unseen)
        if fault is None:
            raise
        return "unreadable", fault  # nobody can tell: it is tried again
    if isinstance(error, UserError) and not isinstance(error, CannotBeSeen):
        return "refused", str(error)
    first = str(error).strip().partition("\n")[0][:200]
    return "unreadable", f"{type(error).__name__}: {first}"
