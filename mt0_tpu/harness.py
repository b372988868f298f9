"""Checkpoints as a model of EleutherAI's lm-evaluation-harness, without an export.

python -m mt0_tpu.harness --model_args checkpoint=runs/mine,vocabulary=spiece.model --tasks copa

The rest of the command line is the harness's own. From Python:
lm_eval.simple_evaluate(model=Mt0Harness(checkpoint=…, vocabulary=…), tasks=[…]).
"""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mt0_tpu import checkpoints, infer, partitioning, scoring
from mt0_tpu.countdown import Countdown
from mt0_tpu.decode_config import DecodeConfig
from mt0_tpu.errors import UserError, did_you_mean
from mt0_tpu.formats import detect, own_run, remote, run_record, sound
from mt0_tpu.models.config import DTYPES
from mt0_tpu.models.networks import NetworkConfig, parameter_count
from mt0_tpu.partitioning import MeshConfig
from mt0_tpu.predict import predict

try:
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
except ImportError:
    _MISSING = "lm-evaluation-harness is not installed; pip install 'mt0_tpu[harness]'"
    if __name__ == "__main__":
        sys.exit(f"mt0: error: {_MISSING}")
    raise ImportError(_MISSING) from None

# What the command line adds where nobody says: the harness's own batch size would be 1.
_DEFAULTS = {"mt0": ("--model", "-M"), "32": ("--batch_size", "-b")}
_LENGTH_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_GENERATION_NAMES = (
    "until", "do_sample", "temperature", "top_k", "top_p", "num_beams", *_LENGTH_NAMES,
)  # fmt: skip


@register_model("mt0")
class Mt0Harness(LM):
    """A checkpoint and its vocabulary, answering the harness's requests.

    The context is the input, the continuation the target. A continuation's leading white space,
    by which the harness parts it from the context, is left out where a target begins anew (mT0),
    and belongs to it where it goes on (BLOOMZ).

    Args:
      checkpoint: a MODEL_DIR (its latest), one of its checkpoints, or T5X's, Hugging Face's or
        Mesh TensorFlow's.
      vocabulary: 'mini', 'byt5', a SentencePiece model or a tokenizer.json; None is
        $MT0_VOCABULARY, else the spiece.model or tokenizer.json beside the weights.
      batch_size: inputs of a batch; the harness's --batch_size.
      max_input_length: tokens; of longer contexts the end stays, where the question is.
      max_gen_toks: tokens of an answer where the task does not say.
      inputs_eos: whether contexts end with EOS, as in training; None leaves it to the vocabulary.
      targets_eos: whether EOS counts in a log-likelihood, as in mT0's evaluation but not in
        BLOOMZ's; None leaves it to the vocabulary. The harness's own `hf` leaves it out.
      dtype: of activations, 'float32' or 'bfloat16'.
      device, max_batch_size: the harness hands them over; they change nothing. JAX takes all
        devices there are.

    Raises:
      UserError: an argument is wrong, or checkpoint and vocabulary do not fit.
    """

    def __init__(
        self,
        checkpoint: str | None = None,
        vocabulary: str | None = None,
        batch_size: int | str | None = 32,
        max_input_length: int = 1024,
        max_gen_toks: int = 256,
        inputs_eos: bool | None = None,
        targets_eos: bool | None = None,
        dtype: str = "float32",
        device: str | None = None,
        max_batch_size: int | None = None,
        **unknown: Any,
    ):
        super().__init__()
        if unknown:
            name = next(iter(unknown))
            known = ("checkpoint", "vocabulary", "max_input_length", "max_gen_toks",
                     "inputs_eos", "targets_eos", "dtype", "batch_size")  # fmt: skip
            raise UserError(
                f"--model_args has '{name}', which the model mt0 does not take; it takes "
                f"{', '.join(known)}.{did_you_mean(name, known)}"
            )
        if not checkpoint:
            raise UserError("the model mt0 has no checkpoint; write --model_args checkpoint=PATH")
        batch_size = _whole("batch_size", 32 if batch_size is None else batch_size, 1)
        self.max_input_length = _whole("max_input_length", max_input_length, 2)
        self.max_gen_toks = _whole("max_gen_toks", max_gen_toks, 1)
        _check_flag("inputs_eos", inputs_eos)
        _check_flag("targets_eos", targets_eos)
        if dtype not in DTYPES:
            near = did_you_mean(str(dtype), DTYPES)
            raise UserError(f"dtype is {dtype!r}; write one of {', '.join(DTYPES)}.{near}")
        here = remote.bring(checkpoint, _say)
        self.config, self._step = _network(here, dtype)
        self._vocabulary = vocabulary or _vocabulary_of(here)
        self._words = infer.opened_vocabulary(self._vocabulary, self.config)
        inputs_eos = self._words.inputs_eos if inputs_eos is None else inputs_eos
        targets_eos = self._words.choices_eos if targets_eos is None else targets_eos
        self._inputs_eos = [self._words.eos_id] if inputs_eos else []
        self._targets_eos = [self._words.eos_id] if targets_eos else []
        self._mesh = partitioning.make_mesh(MeshConfig())
        ways = partitioning.batch_ways(self._mesh)
        self.batch_size = -(-batch_size // ways) * ways
        self._params = checkpoints.restore_params(here, self.config, self._mesh)

    @property
    def tokenizer_name(self) -> str:
        """What the harness's cache of requests tells vocabularies apart by."""
        return self._vocabulary

    def get_model_info(self) -> dict[str, Any]:
        """Returns what the results say of the model."""
        return {
            "model_num_parameters": parameter_count(self.config),
            "model_dtype": self.config.dtype,
            "model_step": self._step,
        }

    def loglikelihood(self, requests, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Returns (log p of the continuation, whether it is what greedy decoding begins with).

        Each context is encoded once, with all its continuations.
        """
        contexts: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            contexts.setdefault(request.args[0], []).append(number)
        targets = [self._target(request.args[1]) for request in requests]
        inputs = self._inputs(list(contexts))
        # Without EOS an empty continuation has no token, and is certain.
        results: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        asked = [
            (ids, kept)
            for ids, numbers in zip(inputs, contexts.values(), strict=True)
            if (kept := [number for number in numbers if targets[number]])
        ]
        countdown = Countdown("harness: scored", len(asked), "contexts")
        found = scoring.score_and_compare(
            self._params,
            self.config,
            [(ids, [targets[number] for number in kept]) for ids, kept in asked],
            batch_size=self.batch_size,
            mesh=self._mesh,
            progress=None if disable_tqdm else countdown.update,
        )
        if not disable_tqdm:
            countdown.finish(len(asked))
        for (_, kept), pairs in zip(asked, found, strict=True):
            for number, score, greedy in zip(kept, *pairs, strict=True):
                results[number] = (float(score), bool(greedy))
        for request, result in zip(requests, results, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, result)
        return results

    def loglikelihood_rolling(self, requests, disable_tqdm: bool = False) -> list[float]:
        """Raises UserError: an encoder-decoder has no such thing, and BLOOMZ's is not offered."""
        raise UserError(
            "the model mt0 scores no text without an input, which tasks of perplexity ask for "
            "(loglikelihood_rolling); leave these tasks out"
        )

    def generate_until(self, requests, disable_tqdm: bool = False) -> list[str]:
        """Returns the answers, each up to the first of its stop sequences.

        What is sampled depends on the place of a request among `requests` of its settings.
        """
        groups: dict[tuple[DecodeConfig, int], list[int]] = {}
        stops = []
        for number, request in enumerate(requests):
            decode, length, until = _generation(request.args[1], self.max_gen_toks)
            groups.setdefault((decode, length), []).append(number)
            stops.append(until)
        inputs = self._inputs([request.args[0] for request in requests])
        answers = [""] * len(requests)
        for (decode, length), numbers in groups.items():
            countdown = Countdown("harness: answered", len(numbers), "inputs")
            found = predict(
                self._params,
                self.config,
                [inputs[number] for number in numbers],
                max_decode_len=length,
                decode=decode,
                batch_size=self.batch_size,
                eos_id=self._words.eos_id,
                mesh=self._mesh,
                progress=None if disable_tqdm else countdown.update,
            )
            if not disable_tqdm:
                countdown.finish(len(numbers))
            for number, one in zip(numbers, found, strict=True):
                answers[number] = _until(self._words.decode(one.ids[0]), stops[number])
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, answer)
        return answers

    def apply_chat_template(self, chat_history, add_generation_prompt: bool = True) -> str:
        """Raises UserError: mT0 has none."""
        raise UserError("mT0 has no chat template; leave --apply_chat_template out")

    def _inputs(self, contexts: Sequence[str]) -> list[list[int]]:
        """Returns ids of contexts, what is too long without its beginning."""
        found, cut = [], 0
        room = self.max_input_length - len(self._inputs_eos)
        for context in contexts:
            ids = self._words.encode(context)
            cut += len(ids) > room
            # A network reads at least one token, whatever training did.
            found.append([*ids[-room:], *self._inputs_eos] or [self._words.eos_id])
        if cut:
            logging.getLogger(__name__).warning(
                "%d of %d contexts are longer than max_input_length %d: their beginnings are cut",
                *(cut, len(contexts), self.max_input_length),
            )
        return found

    def _target(self, continuation: str) -> list[int]:
        text = continuation if self.config.decoder_only else continuation.lstrip()
        return [*self._words.encode(text), *self._targets_eos]


def _network(checkpoint: str, dtype: str) -> tuple[NetworkConfig, int | None]:
    """Returns the network of a checkpoint and its step; what shapes do not say, from the run's."""
    weights = detect.open_any(os.path.abspath(checkpoint))
    network = sound.check_tensors(weights)
    config = getattr(weights, "config", None)
    if weights.kind == own_run.OwnRun.kind:
        record = run_record.of_checkpoint(Path(weights.path), weights.step)
        config = record.network(network) if record else None
    network = config if isinstance(config, NetworkConfig) else network
    return dataclasses.replace(network, dtype=dtype), weights.step


def _vocabulary_of(checkpoint: str) -> str:
    if named := os.environ.get("MT0_VOCABULARY"):
        return named
    # mT5's folders have a tokenizer.json as well, BLOOM's have no other.
    for name in ("spiece.model", "tokenizer.json"):
        beside = Path(checkpoint) / name
        if beside.is_file():
            return str(beside)
    raise UserError(
        "the model mt0 has no vocabulary; write --model_args "
        "checkpoint=PATH,vocabulary=PATH_OF_SPIECE_MODEL_OR_TOKENIZER_JSON ('mini' and 'byt5' are "
        "known too)"
    )


def _generation(kwargs: Mapping[str, Any], length: int) -> tuple[DecodeConfig, int, list[str]]:
    """Returns (how to decode, tokens at most, stop sequences) of a task's generation_kwargs."""
    for name in kwargs:
        if name not in _GENERATION_NAMES:
            raise UserError(
                f"generation_kwargs has '{name}', which the model mt0 does not take; it takes "
                f"{', '.join(_GENERATION_NAMES)}.{did_you_mean(name, _GENERATION_NAMES)}"
            )
    length = next((kwargs[name] for name in _LENGTH_NAMES if kwargs.get(name)), length)
    until = kwargs.get("until") or []
    temperature = float(kwargs.get("temperature") or 0.0)
    beams = _whole("num_beams", kwargs.get("num_beams") or 1, 1)
    # As in the harness's own models: a temperature means sampling unless do_sample is False.
    sample = temperature > 0 if kwargs.get("do_sample") is None else kwargs["do_sample"]
    if sample and beams > 1:
        raise UserError(f"num_beams is {beams} and do_sample is set; write one of them")
    decode = DecodeConfig()
    if sample:
        decode = DecodeConfig(
            method="sample",
            temperature=temperature or 1.0,
            top_k=int(kwargs.get("top_k") or 0),
            top_p=float(kwargs.get("top_p") or 0.0),
        )
    elif beams > 1:
        decode = DecodeConfig(method="beam", num_decodes=beams)
    stops = [until] if isinstance(until, str) else [stop for stop in until if stop]
    return decode, _whole("max_gen_toks", length, 1), stops


def _until(text: str, stops: Sequence[str]) -> str:
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=None)]


def _whole(name: str, value: Any, least: int) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = least - 1
    if number < least or number != (float(value) if isinstance(value, float) else number):
        raise UserError(f"{name} is {value!r}; write a whole number from {least}")
    return number


def _check_flag(name: str, value: Any) -> None:
    if value is not None and not isinstance(value, bool):
        raise UserError(f"{name} is {value!r}; write True or False")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the harness's command line with --model mt0; returns 2 for a user's mistake."""
    from lm_eval.__main__ import cli_evaluate

    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] not in (["run"], ["ls"], ["validate"], ["-h"], ["--help"]):
        given.insert(0, "run")
    if given[0] == "run":
        named = {one.partition("=")[0] for one in given}
        for default, names in _DEFAULTS.items():
            if not named & {*names, "--config", "-C"}:
                given[1:1] = [names[0], default]
    sys.argv = ["lm-eval", *given]
    try:
        cli_evaluate()
    except UserError as error:
        print(f"mt0: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
