"""Metrics of a run: to the terminal, to metrics.jsonl and to TensorBoard."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from mt0_tpu.line_file import LineFile
from mt0_tpu.scalar_file import ScalarFile
from mt0_tpu.whole_file import write_whole

# Sums of train_step.metric_sums that describe one step and are averaged over steps.
_PER_STEP = ("loss", "cross_ent_loss", "z_loss", "learning_rate", "grad_norm")


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else 0.0


def summarise(sums: Mapping[str, float], steps: int) -> dict[str, float]:
    """Returns T5X's metrics from sums over `steps` steps.

    loss, cross_ent_loss and z_loss are means over steps of the normalised loss. accuracy and
    loss_per_nonpadding_target_token are means under the loss weights in use. skipped_steps, where
    a run may skip, is how many are in none of them; where there is no other, it is all there is.
    """
    skipped = {name: sums[name] for name in ("skipped_steps",) if name in sums}
    if skipped and not steps:
        return skipped
    metrics = {name: sums[name] / steps for name in _PER_STEP if name in sums} | skipped
    metrics["accuracy"] = _ratio(sums["weighted_correct"], sums["weight"])
    metrics["loss_per_nonpadding_target_token"] = _ratio(sums["weighted_loss"], sums["weight"])
    metrics["loss_per_all_target_tokens"] = _ratio(sums["weighted_loss"], sums["decoder_positions"])
    # A decoder-only row is inputs and targets: it has the overall fraction alone.
    for side in ("encoder", "decoder") if sums["encoder_positions"] else ():
        metrics[f"non_padding_fraction/{side}"] = _ratio(
            sums[f"{side}_tokens"], sums[f"{side}_positions"]
        )
    metrics["non_padding_fraction/overall"] = _ratio(
        sums["encoder_tokens"] + sums["decoder_tokens"],
        sums["encoder_positions"] + sums["decoder_positions"],
    )
    return metrics


def duration(seconds: float) -> str:
    """Returns 65.2 as '1m05s'."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"


class ProgressLine:
    """A line that a terminal sees rewritten, and a log sees now and then."""

    def __init__(self, every_seconds: float = 20.0, stream=None):
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._every_seconds = 0.2 if self._terminal else every_seconds
        self._last = 0.0
        self._open = False

    def show(self, text: str, force: bool = False) -> None:
        """Writes the text, unless one was written a moment ago."""
        now = time.monotonic()
        if not force and now - self._last < self._every_seconds:
            return
        self._last = now
        if self._terminal:
            self._put("\r\x1b[K" + text[:160])
            self._open = True
        else:
            self._put(text + "\n")

    def say(self, text: str) -> None:
        """Writes a line that stays."""
        self._put(("\r\x1b[K" if self._open else "") + text + "\n")
        self._open = False

    def _put(self, text: str) -> None:
        # A log on a full disk is no reason to stop.
        with contextlib.suppress(OSError):
            self._stream.write(text)
            self._stream.flush()


class MetricWriter:
    """Writes metrics of one run; only the first process of a job has one.

    metrics.jsonl is the record: after a crash it is cut back to the step the run resumes
    from, so that it holds each step once, as an uninterrupted run's would.

    A file that cannot be written is said once; what it lacks is written as soon as it can be.
    """

    def __init__(self, model_dir: str, resume_step: int, say: Callable[[str], None] = print):
        self._folder, self._say = Path(model_dir), say
        self._path = self._folder / "metrics.jsonl"
        self._cut_back(resume_step)
        self._lines = LineFile(self._path)
        self._boards: dict[str, ScalarFile] = {}
        self._resume_step = resume_step
        self._failing: set[str] = set()

    def _cut_back(self, resume_step: int) -> None:
        if not self._path.exists():
            return
        kept = []
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= resume_step:
                    kept.append(line + "\n")
            except (json.JSONDecodeError, KeyError, TypeError):
                break  # a line the crash cut short; what follows it cannot be older
        write_whole(self._path, "".join(kept))

    def write(self, step: int, split: str, metrics: Mapping[str, float], folder: str) -> None:
        """Writes one line and the TensorBoard scalars; folder is T5X's ('train', ...)."""
        line = json.dumps({"step": step, "split": split, "metrics": dict(metrics)})
        board = self._boards.setdefault(
            folder, ScalarFile(self._folder / folder, self._resume_step)
        )
        self._try(str(self._path), lambda: self._lines.add(line))
        self._try(str(self._folder / folder), lambda: board.add(step, metrics))

    def _try(self, what: str, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            if what not in self._failing:
                self._say(f"{what} cannot be written ({error.strerror}); training goes on")
            self._failing.add(what)
        else:
            if what in self._failing:
                self._say(f"{what} can be written again; it lacks nothing")
            self._failing.discard(what)

    def close(self) -> None:
        """Writes what waits, says what is lost, and closes the files."""
        self._try(str(self._path), self._lines.flush)
        if self._lines.waiting:
            self._say(f"{self._path} lacks its last {self._lines.waiting} lines")
        self._lines.close()
        for folder, board in self._boards.items():
            self._try(str(self._folder / folder), board.flush)
            board.close()
