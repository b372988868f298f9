"""What is kept of a step whose numbers are sick: MODEL_DIR/sick/step-N/.

    step.json               the step, its loss and gradient norm, where the batch came from
    config.gin              the run, as it was
    examples.jsonl          the examples of the whole batch, a line each: task, index in the cache
    batch-P.npz             the rows that process P fed, by feature

Parameters are not kept: `python -m mt0_tpu.reproduce MODEL_DIR/sick/step-N` goes from the last
checkpoint before the step to it, and runs it again.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mt0_tpu.data.batch_examples import BatchExample, batch_at
from mt0_tpu.data.batches import LoaderState
from mt0_tpu.data.dataset_config import DatasetConfig
from mt0_tpu.data.rows import Batch
from mt0_tpu.data.sources import CachedTask
from mt0_tpu.errors import UserError
from mt0_tpu.whole_file import write_whole

FOLDER = "sick"


@dataclasses.dataclass(frozen=True)
class SickStep:
    """A step to be repeated.

    Attributes:
      step: the absolute step that it would have led to.
      loss, grad_norm: as the devices gave them.
      position: the loader's before its batch.
      process_count, devices: how the run was laid out.
      seed: of the run.
      model_dir: where its checkpoints are.
    """

    step: int
    loss: float
    grad_norm: float
    position: LoaderState
    process_count: int
    devices: int
    seed: int
    model_dir: str

    @property
    def folder(self) -> str:
        """Where it is kept, of a run in a bucket an address."""
        return f"{self.model_dir.rstrip('/')}/{FOLDER}/step-{self.step}"


def keep(
    sick: SickStep,
    rows: Batch,
    sources: Sequence[CachedTask],
    dataset: DatasetConfig,
    config_text: str,
    files: str,
) -> None:
    """Writes the folder; every process its rows, the first one the rest.

    Args:
      files: model_dir, or where small files are written for it (remote_run.py).

    Raises OSError where it cannot be written.
    """
    packed = io.BytesIO()
    np.savez_compressed(packed, **rows)
    folder = Path(files) / FOLDER / f"step-{sick.step}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"batch-{jax.process_index()}.npz").write_bytes(packed.getvalue())
    if jax.process_index():
        return
    batch, examples = batch_at(sources, dataset, sick.position)
    lines = [json.dumps(_line(example, batch)) + "\n" for example in examples]
    write_whole(folder / "examples.jsonl", "".join(lines))
    write_whole(folder / "config.gin", config_text)
    record = dataclasses.asdict(sick) | {
        # JSON knows no NaN.
        "loss": repr(sick.loss),
        "grad_norm": repr(sick.grad_norm),
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "command": f"python -m mt0_tpu.reproduce {sick.folder}",
    }
    write_whole(folder / "step.json", json.dumps(record, indent=1) + "\n")


def _line(example: BatchExample, batch: Batch) -> dict[str, Any]:
    line: dict[str, Any] = {
        "row": example.row,
        "segment": example.segment,
        "task": example.task,
        "index": example.index,
    }
    inputs = "encoder_input_tokens" if "encoder_input_tokens" in batch else "decoder_input_tokens"
    for side, feature in (("inputs", inputs), ("targets", "decoder_target_tokens")):
        begin, end = getattr(example, side)
        line[f"{side}_ids"] = batch[feature][example.row, begin:end].tolist()
    return line


def load(folder: str | Path) -> SickStep:
    """Reads step.json; UserError where the folder is none of ours."""
    path = Path(folder) / "step.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        names = [field.name for field in dataclasses.fields(SickStep)]
        values = {name: record[name] for name in names} | {
            "loss": float(record["loss"]),
            "grad_norm": float(record["grad_norm"]),
            "position": LoaderState(**record["position"]),
        }
        return SickStep(**values)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}: {error}); give a folder such as "
            f"MODEL_DIR/{FOLDER}/step-1234"
        ) from None


def recorded_examples(folder: str | Path) -> list[tuple[str, int]]:
    """Reads (task, index) of the batch's examples, row by row; UserError where it cannot."""
    path = Path(folder) / "examples.jsonl"
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [(line["task"], line["index"]) for line in lines]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}: {error})") from None


def named(examples: Sequence[BatchExample], most: int = 5) -> str:
    """Returns 'one:17, two:3 and 41 more examples'."""
    shown = ", ".join(f"{one.task}:{one.index}" for one in examples[:most])
    more = len(examples) - most
    return f"{shown} and {more} more examples" if more > 0 else shown
