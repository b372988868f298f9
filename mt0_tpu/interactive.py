"""A prompt: lines in, answers out, for a person at a terminal or a program at a pipe.

> a question                 its prediction
> choices: yes | no          from here on inputs are answered by the best of these
> choices:                   and from here on freely again
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

from mt0_tpu import infer, partitioning, scoring
from mt0_tpu.decode_config import DecodeConfig
from mt0_tpu.errors import UserError
from mt0_tpu.infer_requests import Cutting
from mt0_tpu.input_lines import check_choices
from mt0_tpu.models.networks import NetworkConfig
from mt0_tpu.partitioning import MeshConfig
from mt0_tpu.predict import predict
from mt0_tpu.text_vocabulary import TextVocabulary

_CHOICES = "choices:"
_HELP = (
    "one input a line; `choices: a | b | c` ranks these for the inputs after it, `choices:` ends "
    "that; Ctrl-D ends"
)


class Prompt:
    """A network, its vocabulary, and the choices set last.

    Args:
      params: of the network, lying on the mesh.
      lengths: tokens of 'inputs' and 'targets'.
      inputs_eos: whether inputs end with EOS, as they did in training.
    """

    def __init__(
        self,
        params,
        model: NetworkConfig,
        words: TextVocabulary,
        lengths: Mapping[str, int],
        decode: DecodeConfig,
        inputs_eos: bool,
        mesh,
    ):
        self._params, self._model, self._words, self._mesh = params, model, words, mesh
        self._lengths, self._decode = lengths, decode
        self._eos = [words.eos_id] if inputs_eos else []
        self._choices_eos = [words.eos_id] if words.choices_eos else []
        self._choices: list[str] = []
        self._asked = 0

    def answer(self, line: str) -> list[str]:
        """Returns the lines that answer one line; none for an empty one.

        Raises UserError for choices that cannot be ranked.
        """
        line = line.rstrip("\r\n")
        if line.lower().startswith(_CHOICES):
            given = [part.strip() for part in line[len(_CHOICES) :].split("|")]
            given = [] if given == [""] else given
            if given:
                check_choices(given, "choices")  # those set before stay where these are refused
            self._choices = given
            return []
        if not line.strip():
            return []
        cutting = Cutting(self._lengths, "trim")
        words, before = self._words, self._words.target_prefix
        inputs = cutting.cut(words.encode(line), "inputs", self._eos, "")
        choices = [
            cutting.cut(words.encode(before + one), "targets", self._choices_eos, "")
            for one in self._choices
        ]
        said = self._ranked(inputs, choices) if choices else self._predicted(inputs)
        if cutting.num_cut[0]:
            said.append(f"(the input was longer than {self._lengths['inputs']} tokens and was cut)")
        return said

    def _predicted(self, inputs: Sequence[int]) -> list[str]:
        found = predict(
            self._params,
            self._model,
            [inputs],
            max_decode_len=self._lengths["targets"],
            decode=self._decode,
            max_input_length=self._lengths["inputs"],
            batch_size=partitioning.batch_ways(self._mesh),
            eos_id=self._words.eos_id,
            mesh=self._mesh,
            first_index=self._asked,  # so that a question asked again draws again
        )[0]
        self._asked += 1
        texts = [self._words.decode(ids) for ids in found.ids]
        if len(texts) == 1:
            return texts
        return [f"{score:9.3f}  {text}" for score, text in zip(found.scores, texts, strict=True)]

    def _ranked(self, inputs: Sequence[int], choices: Sequence[Sequence[int]]) -> list[str]:
        scores = scoring.score_choices(
            self._params, self._model, [(inputs, choices)], batch_size=1, mesh=self._mesh
        )[0]
        order = sorted(range(len(choices)), key=lambda at: -scores[at])
        return [f"{scores[at]:9.3f}  {self._choices[at]}" for at in order]


def interact(
    model: NetworkConfig,
    checkpoint_path: str,
    task_feature_lengths: Mapping[str, int],
    vocabulary: str | None,
    decode: DecodeConfig = DecodeConfig(),
    inputs_eos: bool | None = None,
    mesh: MeshConfig = MeshConfig(),
    params=None,
    lines: Iterable[str] | None = None,
    output: TextIO | None = None,
) -> None:
    """Answers lines until they end; arguments as those of infer.

    Args:
      lines: None reads standard input, with a prompt where it is a terminal.
      output: where answers go; None is standard output.
    """
    infer.check_lengths(task_feature_lengths)
    words = infer.opened_vocabulary(vocabulary, model)
    device_mesh = partitioning.make_mesh(mesh)
    if params is None:
        from mt0_tpu import checkpoints

        params = checkpoints.restore_params(checkpoint_path, model, device_mesh)
    inputs_eos = words.inputs_eos if inputs_eos is None else inputs_eos
    prompt = Prompt(params, model, words, task_feature_lengths, decode, inputs_eos, device_mesh)
    terminal = lines is None and sys.stdin.isatty()
    if terminal:
        print(_HELP, file=sys.stderr)
    for line in _typed() if terminal else lines or sys.stdin:
        try:
            said = prompt.answer(line)
        except UserError as error:
            print(f"mt0: {error}", file=sys.stderr, flush=True)
            continue
        for one in said:
            print(one, file=output or sys.stdout, flush=True)


def _typed() -> Iterable[str]:
    """Gives lines typed at a terminal, with history and editing where Python has readline."""
    try:
        import readline  # noqa: F401
    except ImportError:
        pass
    while True:
        try:
            yield input("> ")
        except EOFError:
            print(file=sys.stderr)
            return
