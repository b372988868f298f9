"""What becomes of steps whose loss or gradient is sick, and what is told of losses that jump.

Every process sees the same loss and gradient norm, and so decides the same. The compiled step
leaves parameters and optimizer state alone where it is to skip (train_step.make_train_step);
here it is seen, one step later, counted and told.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from mt0_tpu import sick_step
from mt0_tpu.data.batch_examples import batch_at
from mt0_tpu.data.batches import LoaderState
from mt0_tpu.data.dataset_config import DatasetConfig
from mt0_tpu.data.rows import Batch
from mt0_tpu.data.sources import CachedTask
from mt0_tpu.errors import UserError, did_you_mean
from mt0_tpu.loss_spikes import LossSpikes, Spike
from mt0_tpu.sick_step import SickStep
from mt0_tpu.whole_file import write_whole

ON_NONFINITE = ("stop", "skip")
SPIKES_FILE = "spikes.jsonl"
# Of a run; a disk is not filled with the batches of a run that is lost.
_MOST_KEPT = 20
# A step is judged when the next one is already under way.
_HELD_BATCHES = 3


@dataclasses.dataclass(frozen=True)
class HealthConfig:
    """Attributes are train's arguments of the same names."""

    on_nonfinite: str = "stop"
    max_consecutive_skips: int = 10
    spike_threshold: float | None = 8.0

    def __post_init__(self) -> None:
        if self.on_nonfinite not in ON_NONFINITE:
            raise UserError(
                f"train.on_nonfinite is {self.on_nonfinite!r}; write 'stop' or 'skip'."
                f"{did_you_mean(str(self.on_nonfinite), ON_NONFINITE)}"
            )
        if self.max_consecutive_skips < 1:
            raise UserError(
                f"train.max_consecutive_skips is {self.max_consecutive_skips}; write 1 or more, or "
                "train.on_nonfinite = 'stop' to skip none"
            )
        LossSpikes(self.spike_threshold)

    @property
    def skips(self) -> bool:
        return self.on_nonfinite == "skip"


class StepHealth:
    """Watches the steps of one run.

    Args:
      config: what is asked for.
      model_dir: of the run.
      sources, dataset: the data that the steps are fed with.
      seed, config_text: of the run, for the reproducer.
      state: what `state` gave when the checkpoint was saved.
      step: the step the run goes on from; what is told of later ones is forgotten.
      say: takes lines.
      files: where small files are written for model_dir (remote_run.py); None: there.
    """

    def __init__(
        self,
        config: HealthConfig,
        model_dir: str,
        sources: Sequence[CachedTask],
        dataset: DatasetConfig,
        seed: int,
        config_text: str,
        state: Mapping[str, Any] | None,
        step: int,
        say: Callable[[str], None],
        files: str | None = None,
    ):
        state = state or {}
        self._files = files or model_dir
        self._config, self._model_dir, self._say = config, model_dir, say
        self._sources, self._dataset = sources, dataset
        self._seed, self._config_text = seed, config_text
        self._spikes = LossSpikes(config.spike_threshold, state.get("spikes"))
        self._consecutive = int(state.get("consecutive_skips", 0))
        self._kept = int(state.get("kept", 0))
        self._fed: collections.deque[tuple[int, LoaderState, Batch]] = collections.deque(
            maxlen=_HELD_BATCHES
        )
        self._spikes_path = Path(self._files) / sick_step.FOLDER / SPIKES_FILE
        if jax.process_index() == 0:
            self._try(lambda: _cut_back(self._spikes_path, step))

    @property
    def skips(self) -> bool:
        """Whether a sick step is skipped rather than the end of the run."""
        return self._config.skips

    @property
    def state(self) -> dict[str, Any]:
        """What the next process needs to go on exactly; JSON."""
        return {
            "spikes": self._spikes.state,
            "consecutive_skips": self._consecutive,
            "kept": self._kept,
        }

    def fed(self, step: int, position: LoaderState, rows: Batch) -> None:
        """Remembers, for a few steps, what a step was fed and where in the data that began."""
        self._fed.append((step, position, rows))

    def admits(self, step: int, sums: Mapping[str, float]) -> bool:
        """Whether a step's sums count; False where it was skipped.

        Raises UserError where the run has to stop: 'stop', or too many skips in a row.
        """
        loss, norm = sums["loss"], sums["grad_norm"]
        if math.isfinite(loss) and math.isfinite(norm):
            self._consecutive = 0
            spike = self._spikes.add(step, sums["weighted_loss"] / max(sums["weight"], 1e-9))
            if spike is not None and jax.process_index() == 0:
                self._try(lambda: self._tell(spike))
            return True
        what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient norm is {norm}"
        self._consecutive += 1
        where = self._keep(step, loss, norm)
        if not self._config.skips:
            raise UserError(
                f"{what} at step {step} of {self._model_dir}{where}. The last checkpoint is from "
                "before it: lower the learning rate or check the data and run again, or leave such "
                "steps out with train.on_nonfinite = 'skip'"
            )
        if self._consecutive > self._config.max_consecutive_skips:
            raise UserError(
                f"{what} at step {step} of {self._model_dir}, and {self._consecutive} steps in a "
                f"row were skipped (train.max_consecutive_skips is "
                f"{self._config.max_consecutive_skips}){where}; parameters are as before them: "
                "lower the learning rate or check the data"
            )
        self._say(f"{what} at step {step}: skipped, nothing is changed by it{where}")
        return False

    def _keep(self, step: int, loss: float, norm: float) -> str:
        """Keeps the step's batch; returns what to say of it."""
        found = [(position, rows) for at, position, rows in self._fed if at == step]
        if not found or (self._config.skips and self._kept >= _MOST_KEPT):
            return ""
        (position, rows), self._kept = found[0], self._kept + 1
        sick = SickStep(
            step, loss, norm, position, jax.process_count(), jax.device_count(), self._seed,
            self._model_dir,
        )  # fmt: skip

        def write():
            sick_step.keep(sick, rows, self._sources, self._dataset, self._config_text, self._files)

        if not self._try(write):
            return ""
        return f"; its batch, examples and how to repeat it are in {sick.folder}"

    def _tell(self, spike: Spike) -> None:
        found = [position for at, position, _ in self._fed if at == spike.step]
        examples = batch_at(self._sources, self._dataset, found[0])[1] if found else []
        self._say(
            f"loss spike at step {spike.step}: {spike.loss:.4f}, where {spike.median:.4f} is usual "
            f"(bound {spike.bound:.4f}); {sick_step.named(examples)}: {self._spikes_path}"
        )
        record = dataclasses.asdict(spike) | {
            "examples": [[one.task, one.index] for one in examples]
        }
        self._spikes_path.parent.mkdir(parents=True, exist_ok=True)
        with self._spikes_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def _try(self, write: Callable[[], None]) -> bool:
        """Writes what the run does not depend on; a full disk is said and no reason to stop."""
        try:
            write()
        except OSError as error:
            self._say(f"{self._model_dir}/{sick_step.FOLDER} cannot be written ({error})")
            return False
        return True


def _cut_back(path: Path, step: int) -> None:
    """Drops lines of steps after `step`, which will be run again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            break  # a line that a crash cut short
    write_whole(path, "".join(kept))
