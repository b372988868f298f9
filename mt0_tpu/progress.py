"""Metrics of a run: to the terminal, to metrics.jsonl and to TensorBoard."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from mt0_tpu.whole_file import write_whole

# Sums of train_step.metric_sums that describe one step and are averaged over steps.
_PER_STEP = ("loss", "cross_ent_loss", "z_loss", "learning_rate", "grad_norm")


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else 0.0


def summarise(sums: Mapping[str, float], steps: int) -> dict[str, float]:
    """Returns T5X's metrics from sums over `steps` steps.

    loss, cross_ent_loss and z_loss are means over steps of the normalised loss. accuracy and
    loss_per_nonpadding_target_token are means under the loss weights in use.
    """
    metrics = {name: sums[name] / steps for name in _PER_STEP if name in sums}
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
            self._stream.write("\r\x1b[K" + text[:160])
            self._open = True
        else:
            self._stream.write(text + "\n")
        self._stream.flush()

    def say(self, text: str) -> None:
        """Writes a line that stays."""
        if self._open:
            self._stream.write("\r\x1b[K")
            self._open = False
        self._stream.write(text + "\n")
        self._stream.flush()


class MetricWriter:
    """Writes metrics of one run; only the first process of a job has one.

    metrics.jsonl is the record: after a crash it is cut back to the step the run resumes
    from, so that it holds each step once, as an uninterrupted run's would.
    """

    def __init__(self, model_dir: str, resume_step: int):
        self._folder = Path(model_dir)
        self._path = self._folder / "metrics.jsonl"
        self._cut_back(resume_step)
        self._file = open(self._path, "a", encoding="utf-8")
        self._boards: dict = {}
        self._resume_step = resume_step

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

    def _board(self, folder: str):
        if folder not in self._boards:
            from tensorboardX import SummaryWriter

            # purge_step tells TensorBoard to forget what a crashed run wrote beyond it.
            self._boards[folder] = SummaryWriter(
                str(self._folder / folder), purge_step=self._resume_step + 1, write_to_disk=True
            )
        return self._boards[folder]

    def write(self, step: int, split: str, metrics: Mapping[str, float], folder: str) -> None:
        """Writes one line and the TensorBoard scalars; folder is T5X's ('train', ...)."""
        line = {"step": step, "split": split, "metrics": dict(metrics)}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        board = self._board(folder)
        for name, value in metrics.items():
            board.add_scalar(name, value, step)
        board.flush()

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        for board in self._boards.values():
            board.close()
