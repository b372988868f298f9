"""The inference job: a file of inputs in, a file of predictions out, resumable anywhere."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from mt0_tpu import decoding, distributed, partitioning
from mt0_tpu.countdown import Countdown
from mt0_tpu.errors import UserError, did_you_mean
from mt0_tpu.input_lines import open_inputs
from mt0_tpu.models.t5 import T5Config
from mt0_tpu.partitioning import MeshConfig
from mt0_tpu.text_vocabulary import TextVocabulary, check_size, content, open_vocabulary
from mt0_tpu.whole_file import write_whole

MODES = ("predict",)
_SHORTEST_BUCKET = 16


@dataclasses.dataclass(frozen=True)
class InferSummary:
    """What a job did: its output file, its lines, and how many of them this process wrote."""

    path: str
    num_lines: int
    num_written: int


def infer(
    infer_output_dir: str,
    model: T5Config,
    checkpoint_path: str,
    inputs_path: str,
    task_feature_lengths: Mapping[str, int],
    vocabulary: str = "mini",
    batch_size: int = 32,
    mode: str = "predict",
    shard_id: int = 0,
    num_shards: int = 1,
    checkpoint_period: int = 16,
    inputs_eos: bool = True,
    mesh: MeshConfig = MeshConfig(),
    params=None,
) -> InferSummary:
    """Decodes every input greedily; run again, it continues where it was.

    Writes INFER_OUTPUT_DIR/<name>-SSSSS-of-NNNNN.jsonl, one line an input in the file's order:
    its fields, then "prediction". While running the file ends in .partial; finished, a file
    .COMPLETED beside it says what was run. Shards are consecutive parts of the inputs, so
    that `cat` of the outputs in their order is the output of one shard.

    Args:
      model: the network the checkpoint holds.
      checkpoint_path: a MODEL_DIR (its latest) or one of its checkpoints.
      inputs_path: .jsonl with a field 'inputs', or text of one input a line.
      task_feature_lengths: tokens; longer inputs are cut, decoding stops at 'targets'.
      vocabulary: 'mini', 'byt5' or the path of a SentencePiece model.
      batch_size: rows.
      mode: 'predict'.
      shard_id, num_shards: which part of the inputs this job does.
      checkpoint_period: batches between writes; what is not written is decoded again after a kill.
      inputs_eos: whether inputs end with EOS, as they did in training.
      params: already in memory, instead of the checkpoint's.

    Raises:
      UserError: an argument or a line of the inputs is wrong, or the output folder holds the
        predictions of another job.
    """
    if "://" in infer_output_dir:
        raise UserError(f"INFER_OUTPUT_DIR is remote ({infer_output_dir}); name a local folder")
    _check_arguments(task_feature_lengths, mode, shard_id, num_shards, batch_size)
    lines = open_inputs(inputs_path)
    words = open_vocabulary(vocabulary)
    check_size(words, model.vocab_size, vocabulary)
    device_mesh = partitioning.make_mesh(mesh)
    partitioning.check_batch_size(batch_size, device_mesh)
    first, stop = (len(lines) * (shard_id + at) // num_shards for at in (0, 1))
    name = f"{Path(inputs_path).stem}-{shard_id:05d}-of-{num_shards:05d}.jsonl"
    job = {
        "inputs": str(inputs_path),
        "inputs_sha256": lines.sha256,
        "shard": [shard_id, num_shards],
        "checkpoint": _checkpoint_name(checkpoint_path, params),
        "vocabulary": vocabulary,
        "task_feature_lengths": dict(task_feature_lengths),
        "inputs_eos": inputs_eos,
        "mode": mode,
    }
    output = OutputFile(Path(infer_output_dir) / name, job, stop - first)
    if output.is_complete():
        print(f"{output.path} is complete already", file=sys.stderr)
        return InferSummary(str(output.path), stop - first, 0)

    if params is None:
        from mt0_tpu import checkpoints

        params = checkpoints.restore_params(checkpoint_path, model, device_mesh)
    done = output.lines_done()
    # Every process has read how much is done before the first of them writes more.
    distributed.barrier("infer output read")
    leader = jax.process_index() == 0
    countdown = Countdown("infer", stop - first, "inputs", done)
    chunk = batch_size * checkpoint_period
    written = stop - first - done
    if leader:
        output.start()
    for begin in range(first + done, stop, chunk):
        fields = lines.read(begin, min(begin + chunk, stop))
        ids = [encode(words, one["inputs"], task_feature_lengths["inputs"], inputs_eos)
               for one in fields]  # fmt: skip
        predictions = decode_all(
            params, model, ids, task_feature_lengths, batch_size, words.eos_id, device_mesh,
            lambda count, base=begin - first: leader and countdown.update(base + count),
        )  # fmt: skip
        if leader:
            texts = [words.decode(one) for one in predictions]
            output.append([one | {"prediction": t} for one, t in zip(fields, texts, strict=True)])
    if leader:
        output.complete()
        countdown.finish(stop - first)
    distributed.barrier("infer done")
    return InferSummary(str(output.path), stop - first, written)


def encode(words: TextVocabulary, text: str, length: int, eos: bool) -> list[int]:
    """Returns ids cut to the length, EOS included, as T5X's append_eos_after_trim."""
    ids = words.encode(text)
    return [*ids[: length - 1], words.eos_id] if eos else ids[:length]


def decode_all(
    params, model: T5Config, inputs: Sequence[Sequence[int]], lengths: Mapping[str, int],
    batch_size: int, eos_id: int, mesh, progress,
) -> list[list[int]]:  # fmt: skip
    """Decodes the inputs, like lengths together, and returns the ids before EOS in their order.

    Inputs are padded to powers of two, so that few shapes are compiled.
    """
    order = np.argsort([len(ids) for ids in inputs], kind="stable")
    results: list[list[int]] = [[] for _ in inputs]
    waiting = None

    def collect(members, ids_BS) -> None:
        for member, ids in zip(members, np.asarray(ids_BS), strict=False):
            results[member] = content(ids, eos_id)

    for begin in range(0, len(order), batch_size):
        members = order[begin : begin + batch_size]
        tokens_BT = np.zeros((batch_size, _bucket(len(inputs[members[-1]]), lengths)), np.int32)
        for row, member in enumerate(members):
            tokens_BT[row, : len(inputs[member])] = inputs[member]
        ids_BS = decoding.greedy_decode(
            params, model, tokens_BT, lengths["targets"], eos_id=eos_id, mesh=mesh
        )
        # One batch ahead: the device decodes while the host reads the batch before.
        if waiting is not None:
            collect(*waiting)
            progress(begin)
        waiting = (members, ids_BS)
    if waiting is not None:
        collect(*waiting)
    progress(len(inputs))
    return results


def _bucket(length: int, lengths: Mapping[str, int]) -> int:
    bucket = _SHORTEST_BUCKET
    while bucket < length:
        bucket *= 2
    return min(bucket, lengths["inputs"])


def _checkpoint_name(path: str, params) -> str:
    if params is not None:
        return f"parameters in memory ({path})"
    from mt0_tpu import checkpoints

    return f"{os.path.abspath(path)} step {checkpoints.checkpoint_step(path)}"


def _check_arguments(lengths, mode: str, shard_id: int, num_shards: int, batch_size: int) -> None:
    if mode not in MODES:
        raise UserError(f"mode is {mode!r}; write 'predict'.{did_you_mean(str(mode), MODES)}")
    if not 0 <= shard_id < num_shards:
        raise UserError(
            f"shard_id {shard_id} of num_shards {num_shards} does not exist; shards are numbered "
            "from 0"
        )
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; write 1 or more")
    for name in ("inputs", "targets"):
        if not isinstance(lengths.get(name), int) or lengths[name] < 2:
            raise UserError(
                f"task_feature_lengths is {dict(lengths)!r}; write at least 2 tokens each, such as "
                "{'inputs': 512, 'targets': 64}"
            )


class OutputFile:
    """Lines appended in order, whole or not at all; the final name appears when all are there."""

    def __init__(self, path: Path, job: Mapping, num_lines: int):
        self.path = path
        self._job = json.loads(json.dumps(job))
        self._num_lines = num_lines
        self._partial = path.with_name(f"{path.name}.partial")
        self._partial_job = path.with_name(f"{path.name}.partial.job")
        self._completed = path.with_name(f"{path.name}.COMPLETED")

    def is_complete(self) -> bool:
        """Tells whether this very job has finished; UserError where another one has."""
        if self._completed.is_file() and self.path.exists():
            self._check_job(self._completed)
            return True
        if self.path.exists() and not self._partial_job.exists():
            raise UserError(
                f"{self.path} exists and was not written by `mt0 infer`; name another "
                "INFER_OUTPUT_DIR or move the file away"
            )
        return False

    def lines_done(self) -> int:
        """Returns how many lines an earlier process of this job has written whole."""
        if self.path.exists():
            # Killed between the two names: all lines are there.
            self._check_job(self._partial_job)
            return self._num_lines
        if not self._partial.is_file():
            return 0
        self._check_job(self._partial_job)
        count = _whole_lines(self._partial)[0]
        if count > self._num_lines:
            raise UserError(
                f"{self._partial} has {count} lines for {self._num_lines} inputs; delete it"
            )
        return count

    def start(self) -> None:
        """Cuts a line that a kill left half written."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            return
        if self._partial.is_file():
            with self._partial.open("r+b") as file:
                file.truncate(_whole_lines(self._partial)[1])
        else:
            write_whole(self._partial_job, json.dumps(self._job, indent=1) + "\n")
            self._partial.touch()

    def append(self, lines: Sequence[Mapping]) -> None:
        """Adds lines; they are on disk when the call returns."""
        with self._partial.open("ab") as file:
            for line in lines:
                file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def complete(self) -> None:
        """Gives the file its name and leaves .COMPLETED beside it."""
        if not self.path.exists():
            os.replace(self._partial, self.path)
        os.replace(self._partial_job, self._completed)

    def _check_job(self, path: Path) -> None:
        try:
            found = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} cannot be read ({error}), so what {self.path.parent} holds is unknown; "
                "name another INFER_OUTPUT_DIR or delete it"
            ) from None
        for name, value in self._job.items():
            if found.get(name) != value:
                raise UserError(
                    f"{path} was written with {name} {found.get(name)!r} and this job has "
                    f"{value!r}; name another INFER_OUTPUT_DIR, or delete the earlier output"
                )


def _whole_lines(path: Path) -> tuple[int, int]:
    """Returns (number of lines that end with a newline, their bytes)."""
    count = size = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            count, size = count + 1, size + len(line)
    return count, size
