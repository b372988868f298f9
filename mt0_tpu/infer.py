"""The inference job: inputs in, predictions or scores out, in order and resumable anywhere."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from mt0_tpu import compile_cache, distributed, partitioning, scoring
from mt0_tpu.countdown import Countdown
from mt0_tpu.decode_config import DecodeConfig
from mt0_tpu.errors import UserError, did_you_mean
from mt0_tpu.infer_output import OutputFile
from mt0_tpu.infer_requests import Cutting, FileRequests, Request, Requests, TaskRequests
from mt0_tpu.input_lines import open_inputs
from mt0_tpu.models.networks import NetworkConfig
from mt0_tpu.partitioning import MeshConfig
from mt0_tpu.place import absolute
from mt0_tpu.predict import Prediction, predict
from mt0_tpu.text_tasks import shows_all
from mt0_tpu.text_vocabulary import TextVocabulary, check_size, open_vocabulary

MODES = ("predict", "score", "predict_with_aux")
_OVERLONG = ("trim", "error")
# Requests read at a time where all are read only to be checked.
_CHECKED = 4096


@dataclasses.dataclass(frozen=True)
class InferSummary:
    """What a job did: its output files, their lines, and how many of them this process wrote."""

    paths: tuple[str, ...]
    num_lines: int
    num_written: int

    @property
    def path(self) -> str:
        """The output file; of several tasks the first one's."""
        return self.paths[0]


def infer(
    infer_output_dir: str,
    model: NetworkConfig,
    checkpoint_path: str,
    inputs_path: str | None = None,
    task_feature_lengths: Mapping[str, int] | None = None,
    vocabulary: str | None = "mini",
    batch_size: int = 32,
    mode: str = "predict",
    shard_id: int = 0,
    num_shards: int = 1,
    checkpoint_period: int = 16,
    inputs_eos: bool | None = None,
    mesh: MeshConfig = MeshConfig(),
    params=None,
    mixture_or_task_name: str | None = None,
    module: str | None = None,
    split: str | None = None,
    data_dir: str | None = None,
    decode: DecodeConfig = DecodeConfig(),
    return_all_decodes: bool | None = None,
    length_normalised: bool = False,
    overlong: str = "trim",
    duplicate_ids: str = "error",
) -> InferSummary:
    """Answers or scores every input; run again, it continues where it was.

    Writes INFER_OUTPUT_DIR/<name>-SSSSS-of-NNNNN.jsonl, one line an input in their order: its
    fields, then "prediction" (and "aux" in mode predict_with_aux), or "score" of its targets, or
    "scores" of its choices with the "best" one's index. <name> is the file's or the task's,
    followed by the mode where it is not predict. While running the file ends in .partial;
    finished, a file .COMPLETED beside it says what was run. Shards are consecutive parts of the
    inputs, so that `cat` of the outputs in their order is the output of one shard.

    Args:
      model: the network the checkpoint holds.
      checkpoint_path: a MODEL_DIR (its latest) or one of its checkpoints.
      inputs_path: .jsonl with a field 'inputs' (to score, 'targets' or 'choices' too), or text of
        one input a line; or else mixture_or_task_name, whose examples of `split` are asked (None:
        'test', else 'validation', else 'train').
      task_feature_lengths: tokens; longer inputs are cut, decoding stops at 'targets'.
      vocabulary: of a file: 'mini', 'byt5' or the path of a SentencePiece model.
      batch_size: rows.
      mode: 'predict', 'score' or 'predict_with_aux'.
      shard_id, num_shards: which part of the inputs this job does.
      checkpoint_period: batches between writes; what is not written is done again after a kill.
      inputs_eos: whether inputs of a file end with EOS, as they did in training; None leaves it
        to the vocabulary: T5's do, BLOOM's do not.
      params: already in memory, instead of the checkpoint's.
      module: the Python module that registers the task, where it is not one of ours.
      data_dir: where released files lie; None is $MT0_DATA_DIR.
      decode: how predictions are made.
      return_all_decodes: whether "prediction" is a list of all; None: all samples, the best beam.
      length_normalised: divides scores by tokens.
      overlong: 'trim', or 'error' for what is longer than task_feature_lengths.
      duplicate_ids: of lines with a field 'id': 'error' where two are the same, or 'keep'.

    Raises:
      UserError: an argument or a line of the inputs is wrong, or the output folder holds the
        predictions of another job.
    """
    if "://" in infer_output_dir:
        raise UserError(f"INFER_OUTPUT_DIR is remote ({infer_output_dir}); name a local folder")
    _check_choices({"mode": (mode, MODES), "overlong": (overlong, _OVERLONG)})
    _check_arguments(task_feature_lengths, shard_id, num_shards, batch_size, checkpoint_period)
    asked: list[Requests]
    cutting = functools.partial(Cutting, task_feature_lengths, overlong)
    if (inputs_path is None) == (mixture_or_task_name is None):
        raise UserError(
            f"INPUTS_PATH is {inputs_path!r} and MIXTURE_OR_TASK_NAME is "
            f"{mixture_or_task_name!r}; give one of them"
        )
    if inputs_path is not None:
        words = opened_vocabulary(vocabulary, model)
        lines = open_inputs(inputs_path, mode == "score", duplicate_ids)
        inputs_eos = words.inputs_eos if inputs_eos is None else inputs_eos
        asked = [FileRequests(lines, words, cutting(), inputs_eos)]
    else:
        tasks = _tasks(mixture_or_task_name, module, data_dir)
        asked = [
            TaskRequests(one, split, cutting(), mode == "score", model.vocab_size) for one in tasks
        ]
        vocabulary, inputs_eos = None, None  # the task's own
    distributed.initialize()
    compile_cache.enable(infer_output_dir)
    device_mesh = partitioning.make_mesh(mesh)
    partitioning.check_batch_size(batch_size, device_mesh)
    job = _Job(
        model, device_mesh, mode, batch_size, task_feature_lengths, decode, return_all_decodes,
        length_normalised,
    )  # fmt: skip
    settings = {
        "shard": [shard_id, num_shards],
        "checkpoint": _checkpoint_name(checkpoint_path, params),
        "vocabulary": vocabulary,
        "task_feature_lengths": dict(task_feature_lengths),
        "inputs_eos": inputs_eos,
        "mode": mode,
        "length_normalised": length_normalised,
        "decode": dataclasses.asdict(decode),
        "return_all_decodes": job.shows_all,
    }
    paths, num_lines, num_written = [], 0, 0
    for requests in asked:
        first, stop = (len(requests) * (shard_id + at) // num_shards for at in (0, 1))
        suffix = "" if mode == "predict" else f"-{mode}"
        name = f"{requests.name}{suffix}-{shard_id:05d}-of-{num_shards:05d}.jsonl"
        output = OutputFile(
            Path(infer_output_dir) / name, {**requests.identity, **settings}, stop - first
        )
        paths.append(str(output.path))
        num_lines += stop - first
        if output.is_complete():
            _say(f"{output.path} is complete already")
            continue
        if overlong == "error":
            for begin in range(first, stop, _CHECKED):
                requests.read(begin, min(begin + _CHECKED, stop))
        if params is None:
            from mt0_tpu import checkpoints

            params = checkpoints.restore_params(checkpoint_path, model, device_mesh)
        num_written += _run(job, params, requests, output, first, stop, checkpoint_period)
    return InferSummary(tuple(paths), num_lines, num_written)


@dataclasses.dataclass(frozen=True)
class _Job:
    """How requests become lines."""

    model: NetworkConfig
    mesh: Any
    mode: str
    batch_size: int
    lengths: Mapping[str, int]
    decode: DecodeConfig
    return_all_decodes: bool | None
    length_normalised: bool

    @property
    def shows_all(self) -> bool:
        """Whether a line has every decode."""
        return shows_all(self.decode, self.return_all_decodes)

    def lines(self, params, asked: Sequence[Request], first_index: int, words: Requests, progress):
        """Returns the output lines of requests; first_index numbers the first of them."""
        if self.mode == "score":
            scores = scoring.score_choices(
                params,
                self.model,
                [(one.inputs, one.targets) for one in asked],
                batch_size=self.batch_size,
                length_normalised=self.length_normalised,
                min_choices=1,
                mesh=self.mesh,
                progress=progress,
            )
            return [_scored(one, row) for one, row in zip(asked, scores, strict=True)]
        predictions = predict(
            params,
            self.model,
            [one.inputs for one in asked],
            max_decode_len=self.lengths["targets"],
            decode=self.decode,
            max_input_length=self.lengths["inputs"],
            batch_size=self.batch_size,
            eos_id=words.eos_id,
            mesh=self.mesh,
            first_index=first_index,
            progress=progress,
        )
        return [self._answered(*pair, words) for pair in zip(asked, predictions, strict=True)]

    def _answered(self, asked: Request, found: Prediction, words: Requests) -> dict:
        texts = [words.decode(ids) for ids in found.ids]
        line = {**asked.fields, "prediction": texts if self.shows_all else texts[0]}
        if self.mode == "predict_with_aux":
            line["aux"] = {"scores": found.scores if self.shows_all else found.scores[0]}
        return line


def _scored(asked: Request, scores) -> dict:
    if asked.choices is None:
        return {**asked.fields, "score": float(scores[0])}
    best = int(scores.argmax())
    found = {"scores": scores.tolist(), "best": best, "prediction": asked.choices[best]}
    return {**asked.fields, "choices": asked.choices, **found}


def _run(job: _Job, params, requests: Requests, output: OutputFile, first, stop, period) -> int:
    """Does what is not done of requests first..stop-1; returns how many that were."""
    done = output.lines_done()
    # Every process has read how much is done before the first of them writes more.
    distributed.barrier(f"infer output read {output.path.name}")
    leader = jax.process_index() == 0
    countdown = Countdown(f"infer {requests.name}", stop - first, "inputs", done)
    requests.num_cut[:] = [0, 0]
    if leader:
        output.start()
    chunk = job.batch_size * period
    for begin in range(first + done, stop, chunk):
        asked = requests.read(begin, min(begin + chunk, stop))

        def progress(count: int, base: int = begin - first) -> None:
            if leader:
                countdown.update(base + count)

        lines = job.lines(params, asked, begin, requests, progress)
        if leader:
            output.append(lines)
    if leader:
        output.complete()
        countdown.finish(stop - first)
        if any(requests.num_cut):
            _say(
                f"infer: of {stop - first - done} lines {requests.num_cut[0]} inputs and "
                f"{requests.num_cut[1]} targets were longer than {dict(job.lengths)} and were cut"
            )
    distributed.barrier(f"infer done {output.path.name}")
    return stop - first - done


def opened_vocabulary(name: str | None, model: NetworkConfig) -> TextVocabulary:
    """Opens a vocabulary that fits the network; UserError where there is none."""
    if name is None:
        raise UserError(
            "VOCABULARY is not set; write 'mini', 'byt5' or the path of the SentencePiece model "
            "or tokenizer.json that the network was trained with"
        )
    words = open_vocabulary(name)
    check_size(words, model.vocab_size, name)
    return words


def _tasks(name: str, module: str | None, data_dir: str | None) -> list[Any]:
    from mt0_tpu.data.providers import find_provider, tasks_of
    from mt0_tpu.eval_tasks import keep_from_the_accelerator

    if data_dir:
        os.environ["MT0_DATA_DIR"] = data_dir  # read by seqio_tasks
    tasks = tasks_of(find_provider(name, module))
    keep_from_the_accelerator()
    return tasks


def _say(text: str) -> None:
    if jax.process_index() == 0:
        print(text, file=sys.stderr, flush=True)


def _checkpoint_name(path: str, params) -> str:
    if params is not None:
        return f"parameters in memory ({path})"
    from mt0_tpu import start_rule

    return f"{absolute(path)} step {start_rule.checkpoint_step(path)}"


def _check_choices(given: Mapping[str, tuple[str, tuple[str, ...]]]) -> None:
    for name, (value, known) in given.items():
        if value not in known:
            wanted = ", ".join(repr(one) for one in known[:-1])
            near = did_you_mean(str(value), known)
            raise UserError(f"{name} is {value!r}; write {wanted} or {known[-1]!r}.{near}")


def _check_arguments(
    lengths: Mapping[str, int] | None, shard_id: int, num_shards: int, batch_size: int, period: int
) -> None:
    if not 0 <= shard_id < num_shards:
        raise UserError(
            f"shard_id {shard_id} of num_shards {num_shards} does not exist; shards are numbered "
            "from 0"
        )
    for name, value in (("batch_size", batch_size), ("checkpoint_period", period)):
        if value < 1:
            raise UserError(f"{name} is {value}; write 1 or more")
    check_lengths(lengths)


def check_lengths(lengths: Mapping[str, int] | None) -> None:
    """Raises UserError unless 'inputs' and 'targets' have two tokens or more."""
    for name in ("inputs", "targets"):
        if not lengths or not isinstance(lengths.get(name), int) or lengths[name] < 2:
            raise UserError(
                f"task_feature_lengths is {dict(lengths or {})!r}; write at least 2 tokens each, "
                "such as {'inputs': 512, 'targets': 64}"
            )
