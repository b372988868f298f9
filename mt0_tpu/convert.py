"""`mt0 convert`: a checkpoint of any kind into one of another, a tensor at a time.

Runs in one process, offline, without SeqIO or TensorFlow (but for reading Mesh TensorFlow's).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path

from mt0_tpu.errors import UserError, did_you_mean
from mt0_tpu.formats import detect, own_run, remote, run_record, shape_of, sound
from mt0_tpu.formats.model_card import ModelCard
from mt0_tpu.formats.weights import Weights
from mt0_tpu.place import is_bucket, place

WRITERS = {"orbax": "own_run", "t5x": "t5x_writer", "hf": "hf_export"}
T5X_LAYOUTS = {"msgpack": "t5x_writer", "orbax": "t5x_orbax_writer"}
DTYPES = ("float32", "bfloat16")
_HF_DTYPES = (*DTYPES, "float16")


def convert(
    source: str,
    destination: str,
    to: str,
    *,
    dtype: str = "float32",
    with_state: bool = False,
    overwrite: bool = False,
    vocabulary: str | None = None,
    t5x_layout: str | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Writes the checkpoint at `source` to `destination` as another kind.

    Args:
      source: a MODEL_DIR or checkpoint of ours, T5X's, Hugging Face's or Mesh TensorFlow's.
      destination: a folder that is not there yet.
      to: 'orbax' (a MODEL_DIR of ours), 't5x' or 'hf'.
      dtype: of the parameters, 'float32', 'bfloat16' and, of a BLOOM to hf, 'float16'; statistics
        stay float32.
      with_state: takes Adafactor's statistics along, to orbax and t5x.
      overwrite: replaces what is at `destination`.
      vocabulary: for hf's tokenizer, mT5's spiece.model or BLOOM's tokenizer.json or its folder; by
        default that of a BLOOM's own folder, else $MT0_VOCABULARY, else none is written.
      t5x_layout: of t5x: 'msgpack' (its own, the default) or 'orbax' (as with T5X's use_orbax).

    Raises:
      UserError: nothing readable at source, something at destination, or what does not go together.
    """
    for name, value, known in (
        ("--to", to, WRITERS), ("--dtype", dtype, _HF_DTYPES if to == "hf" else DTYPES),
        ("--t5x_layout", t5x_layout or "msgpack", T5X_LAYOUTS),
    ):  # fmt: skip
        if value not in known:
            near = did_you_mean(value, list(known))
            raise UserError(f"{name} is '{value}'; write one of {', '.join(known)}.{near}")
    if to == "hf" and with_state:
        raise UserError("a Hugging Face folder holds no optimizer state; leave --with_state out")
    if t5x_layout and to != "t5x":
        raise UserError(f"--t5x_layout is for --to t5x, not --to {to}; leave it out")
    if "://" in destination:
        raise UserError(
            f"{destination} is no local folder; convert into one, and copy that there (`gcloud "
            "storage cp -r`)"
        )
    if os.path.lexists(destination) and not overwrite:
        raise UserError(f"{destination} exists; name another folder, or write --overwrite")
    weights = _open(source, say)
    if _holds(destination, weights.path):
        raise UserError(
            f"{destination} holds the checkpoint that is read, and --overwrite would delete it; "
            "name another folder"
        )
    network = sound.check_tensors(weights)
    if network.decoder_only and to == "t5x":
        raise UserError("T5X has no BLOOM; convert to orbax or hf")
    # Of the environment it is for the tokenizer: a T5's weights may pass where mT5's is set.
    named = vocabulary or (_tokenizer_for_hf(weights, network) if to == "hf" else None)
    if named:
        sound.check_words(named, network)
    if with_state and not weights.state_tensors():
        what = f"{source} ({weights.kind})"
        raise UserError(f"{what} holds no optimizer state; leave --with_state out")
    step = f", step {weights.step}" if weights.step is not None else ""
    what = f"{shape_of.describe(network)}, {len(weights.tensors())} tensors"
    say(f"convert: {weights.kind}{step}, {what} → {to} at {destination}")
    name = T5X_LAYOUTS[t5x_layout] if t5x_layout else WRITERS[to]
    writer = importlib.import_module(f"mt0_tpu.formats.{name}")
    own = _for_hf(weights, network, Path(destination), named) if to == "hf" else {}
    # The writer of hf checks the values itself.
    checked = weights if to == "hf" else sound.Checked(weights)
    writer.write(
        checked, Path(destination), dtype=dtype, with_state=with_state, overwrite=overwrite,
        say=say, **own,
    )  # fmt: skip
    say(f"convert: done, {destination}")


def _open(source: str, say: Callable[[str], None]) -> Weights:
    """Opens a checkpoint of any kind; a run of ours in a bucket is read where it is."""
    own = own_run.find(place(source)) if is_bucket(source) else None
    return own_run.open_weights(own) if own else detect.open_any(remote.bring(source, say))


def _holds(folder: str, path: str) -> bool:
    """Whether a path is a folder or lies in it, links followed."""
    folder, path = os.path.realpath(folder), os.path.realpath(path)
    return os.path.commonpath([folder, path]) == folder


def _tokenizer_for_hf(weights, network) -> str | None:
    """A BLOOM's own, which lies beside its weights, else what the environment names."""
    own = Path(weights.path)
    own = own if own.is_dir() else own.parent
    if network.decoder_only and (own / "tokenizer.json").is_file():
        return str(own)
    return os.environ.get("MT0_VOCABULARY")


def _for_hf(weights, network, destination: Path, vocabulary: str | None) -> dict:
    """What only transformers' folder has: the card and the configuration, of a run from its files.

    Of other checkpoints a configuration that says more than the shapes (Hugging Face's) is kept.
    """
    record = None
    if weights.kind == own_run.OwnRun.kind:
        record = run_record.of_checkpoint(place(weights.path), weights.step)
    name = destination.absolute().name
    config = record.network(network) if record else weights.config or network
    card = record.card(name) if record else ModelCard(name=name)
    return {"vocabulary": vocabulary, "config": config, "card": card}
