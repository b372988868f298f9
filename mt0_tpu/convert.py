"""`mt0 convert`: a checkpoint of any kind into one of another, a tensor at a time.

Runs in one process, offline, without SeqIO or TensorFlow (but for reading Mesh TensorFlow's).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path

from mt0_tpu.errors import UserError, did_you_mean
from mt0_tpu.formats import detect, remote, shape_of, sound

WRITERS = {"orbax": "own_run", "t5x": "t5x_writer", "hf": "hf_export"}
DTYPES = ("float32", "bfloat16")


def convert(
    source: str,
    destination: str,
    to: str,
    *,
    dtype: str = "float32",
    with_state: bool = False,
    overwrite: bool = False,
    vocabulary: str | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Writes the checkpoint at `source` to `destination` as another kind.

    Args:
      source: a MODEL_DIR or checkpoint of ours, T5X's, Hugging Face's or Mesh TensorFlow's.
      destination: a folder that is not there yet.
      to: 'orbax' (a MODEL_DIR of ours), 't5x' (its legacy form) or 'hf'.
      dtype: of the parameters; statistics stay float32.
      with_state: takes Adafactor's statistics along, to orbax and t5x.
      overwrite: replaces what is at `destination`.
      vocabulary: spiece.model for hf's tokenizer; $MT0_VOCABULARY by default, else none is written.

    Raises:
      UserError: nothing readable at source, something at destination, or what does not go together.
    """
    for name, value, known in (("--to", to, WRITERS), ("--dtype", dtype, DTYPES)):
        if value not in known:
            near = did_you_mean(value, list(known))
            raise UserError(f"{name} is '{value}'; write one of {', '.join(known)}.{near}")
    if to == "hf" and with_state:
        raise UserError("a Hugging Face folder holds no optimizer state; leave --with_state out")
    if os.path.exists(destination) and not overwrite:
        raise UserError(f"{destination} exists; name another folder, or write --overwrite")
    weights = detect.open_any(remote.bring(source, say))
    network = sound.check_tensors(weights)
    if spiece := vocabulary or os.environ.get("MT0_VOCABULARY"):
        sound.check_vocabulary(spiece, network.vocab_size)
    if with_state and not weights.state_tensors():
        what = f"{source} ({weights.kind})"
        raise UserError(f"{what} holds no optimizer state; leave --with_state out")
    step = f", step {weights.step}" if weights.step is not None else ""
    what = f"{shape_of.describe(network)}, {len(weights.tensors())} tensors"
    say(f"convert: {weights.kind}{step}, {what} → {to} at {destination}")
    writer = importlib.import_module(f"mt0_tpu.formats.{WRITERS[to]}")
    own = {"vocabulary": spiece} if to == "hf" else {}
    # The writer of hf checks the values itself.
    checked = weights if to == "hf" else sound.Checked(weights)
    writer.write(
        checked, Path(destination), dtype=dtype, with_state=with_state, overwrite=overwrite,
        say=say, **own,
    )  # fmt: skip
    say(f"convert: done, {destination}")
