"""What a run of ours says of its own weights: its config.gin, its metrics, its evaluation."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mt0_tpu.errors import UserError
from mt0_tpu.formats.model_card import ModelCard
from mt0_tpu.models.networks import NetworkConfig
from mt0_tpu.redaction import redact
from mt0_tpu.reporting.config import RunConfig, read_config

# Rows of the card's table of training: what a reader asks first, and the macro or parameter.
_TRAINING = {
    "Started from": "INITIAL_CHECKPOINT_PATH",
    "Steps in all, pretraining included": "TRAIN_STEPS",
    "Steps on top of the start": "TRAIN_STEPS_RELATIVE",
    "Rows a step": "BATCH_SIZE",
    "Tokens a row": "TASK_FEATURE_LENGTHS",
    "Packed": "train/utils.DatasetConfig.pack",
    "Optimizer": "OPTIMIZER",
    "Learning rate": "utils.create_learning_rate_scheduler.base_learning_rate",
    "Schedule": "utils.create_learning_rate_scheduler.factors",
    "Loss divided by": "LOSS_NORMALIZING_FACTOR",
    "Dropout": "DROPOUT_RATE",
    "z-loss": "Z_LOSS",
    "Label smoothing": "LABEL_SMOOTHING",
    "Seed": "RANDOM_SEED",
}
# What weights cannot tell of their network.
_NOT_IN_SHAPES = ("dropout_rate", "mlp_activations", "relative_attention_max_distance")
BLOOM_FIELDS = (
    "num_heads", "layer_norm_epsilon", "residual_post_layernorm",
    "inputs_bidirectional_attention", "dropout_rate",
)  # fmt: skip
_CURVES = ("accuracy", "loss_per_nonpadding_target_token")
# T5X's buckets and the Hub's names call the sizes the same.
_MT5 = re.compile(r"(?:google/mt5-|.*/mt5_)(small|base|large|xl|xxl)(?:/checkpoint_1000000)?/?")
_BLOOM = re.compile(r"bigscience/bloom(-(560m|1b1|1b7|3b|7b1))?")
_ABSOLUTE = re.compile(r"""(['"])[/~][^'"]*?([^'"/]*)/?\1""")
_ORIGIN = re.compile(r"  # (\S.* line \d+|the command line)$", re.MULTILINE)
_ISO_639 = re.compile(r"([a-z]{2,3})(_[A-Z][a-z]{3})?")


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """What lies in a MODEL_DIR beside its checkpoints; what is not there is empty.

    Attributes:
      folder: the MODEL_DIR.
      step: of the checkpoint that is spoken of: metrics of later steps are not its own.
      config: the settings of config.gin.
    """

    folder: Path
    step: int
    config: RunConfig

    def value(self, name: str) -> Any:
        """A macro's or parameter's value, macros it names looked up; None where there is none."""
        written = self.config.settings.get(name)
        for _ in range(9):
            if written is None or not written.startswith("%"):
                break
            written = self.config.settings.get(written[1:])
        try:
            return None if written is None else ast.literal_eval(written)
        except (ValueError, SyntaxError):
            return written

    def bloom_fields(self) -> dict[str, Any]:
        """What config.gin says of a BLOOM's network that its shapes do not."""
        return self._told("BloomConfig", BLOOM_FIELDS)

    def _told(self, name: str, fields: tuple[str, ...]) -> dict[str, Any]:
        found = {field: self.value(f"network.{name}.{field}") for field in fields}
        return {field: value for field, value in found.items() if value is not None}

    def network(self, config: NetworkConfig) -> NetworkConfig:
        """The network with what its shapes do not say, as the run was told.

        Raises UserError where config.gin holds no such value.
        """
        told = (
            self.bloom_fields() if config.decoder_only else self._told("T5Config", _NOT_IN_SHAPES)
        )
        try:
            return dataclasses.replace(config, **told)
        except (ValueError, TypeError) as error:
            raise UserError(f"{self.folder / 'config.gin'} describes no network: {error}") from None

    def card(self, name: str) -> ModelCard:
        """The model card of the run's weights, under a model's name."""
        start = self.value("INITIAL_CHECKPOINT_PATH")
        start = start if isinstance(start, str) else ""
        mt5, bloom = _MT5.fullmatch(start), _BLOOM.fullmatch(start)
        mixture = self.value("MIXTURE_OR_TASK_NAME")
        lines = list(self._rank_lines())
        return ModelCard(
            name=name,
            base_model=f"google/mt5-{mt5[1]}" if mt5 else bloom[0] if bloom else "",
            mixture=mixture if isinstance(mixture, str) else "",
            training={title: self._shown(macro) for title, macro in _TRAINING.items()},
            recipe=self._recipe(),
            metrics=self._curves() | _accuracies(lines),
            languages=languages_of(mixture) if isinstance(mixture, str) else (),
        )

    def _shown(self, name: str) -> Any:
        value = self.value(name)
        if name == "TRAIN_STEPS" and self.value("TRAIN_STEPS_RELATIVE") is not None:
            return None  # The relative ones won.
        if not isinstance(value, str):
            return value
        if value.startswith("@"):
            return value.strip("@()")
        return _without_folders(redact(repr(value)))[1:-1]

    def _recipe(self) -> str:
        """config.gin, without the places of this machine: a card is read by others."""
        file = self.folder / "config.gin"
        text = file.read_bytes().decode("utf-8", "replace") if file.is_file() else ""
        return _without_folders(redact(_ORIGIN.sub("", text)))

    def _curves(self) -> dict[str, float]:
        """The last line of each split of metrics.jsonl that is not after the checkpoint."""
        last: dict[str, dict] = {}
        for line in _json_lines(self.folder / "metrics.jsonl"):
            if line.get("step", self.step + 1) <= self.step and isinstance(line.get("split"), str):
                last[line["split"]] = line
        return {
            f"{split}/{name}, step {line['step']}": float(line["metrics"][name])
            for split, line in last.items()
            for name in _CURVES
            if name in line.get("metrics", {})
        }

    def _rank_lines(self) -> Iterator[dict]:
        """Lines of the evaluation of this very checkpoint."""
        for line in _json_lines(self.folder / "eval" / "rank.jsonl"):
            if line.get("step") == self.step:
                yield line


def of_checkpoint(checkpoint: Path, step: int) -> RunRecord | None:
    """Returns the record of MODEL_DIR/checkpoints/STEP; None where no training run wrote there."""
    folder = checkpoint.parent.parent
    config = read_config(folder / "config.gin")
    there = bool(config) or (folder / "metrics.jsonl").is_file()
    return RunRecord(folder, step, config) if there else None


def languages_of(mixture: str) -> tuple[str, ...]:
    """Codes of ISO 639 of an xP3 mixture, by its name: 'xp3_sw' → ('sw',); () for another's.

    'xp3' is all its languages; those of programming are none.
    """
    from seqio_tasks import xp3_names, xp3_tables

    collection, rest = xp3_names.collection_of(mixture)
    if not collection:
        return ()
    table = list(xp3_tables.languages(xp3_tables.collections()[collection].languages))
    own = xp3_names.language_of(rest, table)[0]
    if not own and rest:
        return ()
    matches = (_ISO_639.fullmatch(code) for code in ([own] if own else table))
    return tuple(dict.fromkeys(match[1] for match in matches if match))


def _accuracies(lines: list[dict]) -> dict[str, float]:
    """Median over prompts, mean over languages, as published evaluations have it."""
    from mt0_tpu import rank_results

    try:
        found = rank_results.groups(lines)
    except (KeyError, TypeError):
        raise UserError(
            "eval/rank.jsonl of the run lacks fields that `mt0 eval` writes; evaluate it again, or "
            "take the file away"
        ) from None
    return {
        f"{group['cluster']}, {group['languages']} languages: accuracy (chance "
        f"{group['chance']:.3f})": group["median_accuracy"]
        for group in found
    }


def _json_lines(path: Path) -> Iterator[dict]:
    if not path.is_file():
        return
    for text in path.read_bytes().decode("utf-8", "replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue  # The line that a crash cut short.
        if isinstance(line, dict):
            yield line


def _without_folders(text: str) -> str:
    return _ABSOLUTE.sub(r"\1\2\1", text)
