"""The README.md of an exported folder: what the model is, what made it, how it did."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

_FENCE = "`" * 3


@dataclasses.dataclass(frozen=True)
class _Kind:
    """What a page says of its architecture, and which class of transformers loads it."""

    name: str
    tag: str
    what: str
    head: str
    model: str
    prompt: str


_MT5 = _Kind(
    "mT5",
    "mt5",
    "An encoder-decoder network of the mT5 architecture.",
    "The embedding and the output head are two tensors: load them untied.",
    "AutoModelForSeq2SeqLM",
    "Translate to English: Je t'aime.",
)
_BLOOM = _Kind(
    "BLOOM",
    "bloom",
    "A decoder-only network of the BLOOM architecture.",
    "The output head is the embedding.",
    "AutoModelForCausalLM",
    # BLOOMZ goes on with the text where nothing ends it.
    "Translate to English: Je t'aime. Translation:",
)


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """What is known of a model; what is not stays empty and is left out.

    Attributes:
      name: of the model, the title.
      base_model: Hub name of what it was trained from, such as 'google/mt5-small'.
      mixture: SeqIO task or mixture it was trained on.
      training: {'what': value} of how it was trained, None for what is not said.
      recipe: the text of the gin configuration of the run.
      metrics: {'task/metric': value} of its evaluation.
      languages: ISO 639-1 codes of the mixture.
      license: as the Hub spells it, such as 'apache-2.0'.
    """

    name: str = ""
    base_model: str = ""
    mixture: str = ""
    training: Mapping[str, object] = dataclasses.field(default_factory=dict)
    recipe: str = ""
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    languages: tuple[str, ...] = ()
    license: str = ""

    def text(self, facts: Mapping[str, object], decoder_only: bool = False) -> str:
        """Returns the page of an mT5, or of a BLOOM where it is `decoder_only`.

        `facts` are rows of the table on top, such as {'Parameters': 9}.
        """
        kind = _BLOOM if decoder_only else _MT5
        parts = [self._front(kind), f"# {self.name or kind.name}\n", self._intro(kind)]
        rows = {key: value for key, value in facts.items() if value is not None}
        parts.append(_table(("", ""), rows))
        if training := {key: value for key, value in self.training.items() if value is not None}:
            parts += ["## Training\n", _table(("", ""), training)]
        if self.metrics:
            metrics = {name: f"{value:.4g}" for name, value in sorted(self.metrics.items())}
            parts += ["## Evaluation\n", _table(("Metric", "Value"), metrics)]
        parts += ["## Use\n", self._use(kind)]
        if self.recipe:
            parts += ["## Recipe\n", f"{_fence(self.recipe)}gin\n{self.recipe.rstrip()}\n"
                      f"{_fence(self.recipe)}\n"]  # fmt: skip
        return "\n".join(parts)

    def _front(self, kind: _Kind) -> str:
        """The YAML that the Hub reads; every text is quoted as JSON, which YAML contains."""
        entries: dict[str, object] = {"library_name": "transformers", "tags": [kind.tag, "mt0_tpu"]}
        for key, value in (
            ("base_model", self.base_model), ("language", list(self.languages)),
            ("license", self.license),
        ):  # fmt: skip
            if value:
                entries[key] = value
        lines = [f"{key}: {json.dumps(value)}" for key, value in entries.items()]
        return "\n".join(["---", *lines, "---\n"])

    def _intro(self, kind: _Kind) -> str:
        begun = f" from `{self.base_model}`" if self.base_model else ""
        trained = f" on the mixture `{self.mixture}`" if self.mixture else ""
        how = f"Trained{begun}{trained} with mt0_tpu." if begun or trained else (
            "Converted with mt0_tpu.")  # fmt: skip
        return f"{kind.what} {how} {kind.head}\n"

    def _use(self, kind: _Kind) -> str:
        where = json.dumps(self.name or "PATH")
        return (
            f"{_FENCE}python\n"
            f"from transformers import {', '.join(sorted((kind.model, 'AutoTokenizer')))}\n\n"
            f"tokenizer = AutoTokenizer.from_pretrained({where})\n"
            f"model = {kind.model}.from_pretrained({where})\n"
            f'batch = tokenizer("{kind.prompt}", return_tensors="pt")\n'
            "print(tokenizer.decode(model.generate(**batch)[0], skip_special_tokens=True))\n"
            f"{_FENCE}\n"
        )


def _fence(text: str) -> str:
    """A fence longer than any in the text."""
    fence = _FENCE
    while fence in text:
        fence += "`"
    return fence


def _table(head: tuple[str, str], rows: Mapping[str, object]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    for key, value in rows.items():
        lines.append(f"| {_cell(key)} | {_cell(value)} |")
    return "\n".join([*lines, ""])


def _cell(value: object) -> str:
    return " ".join(str(value).replace("|", "\\|").split())
