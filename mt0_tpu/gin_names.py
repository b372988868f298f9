"""The names that gin files may bind: T5X's names, and the classes of ours behind them.

Nothing here imports gin, and a class is imported only when a config mentions it.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from mt0_tpu.errors import UserError, did_you_mean

# Arguments that a caller in Python gives; a config cannot bind them.
GIVEN_IN_PYTHON = frozenset({"config_text", "params"})


@dataclasses.dataclass(frozen=True)
class Configurable:
    """One name that gin may bind.

    Attributes:
        name: the name T5X uses, with its module, as it is written into config.gin.
        target: "module:attribute" of the class or function that takes the parameters.
        other_names: further names accepted, such as our own.
        renamed: T5X's spelling of a parameter -> ours.
    """

    name: str
    target: str
    other_names: tuple[str, ...] = ()
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def function(self) -> Callable[..., Any]:
        module, attribute = self.target.split(":")
        return getattr(importlib.import_module(module), attribute)

    @functools.cached_property
    def parameters(self) -> dict[str, inspect.Parameter]:
        found = inspect.signature(self.function).parameters
        return {name: parameter for name, parameter in found.items() if name not in GIVEN_IN_PYTHON}

    @functools.cached_property
    def annotations(self) -> dict[str, Any]:
        return typing.get_type_hints(self.function)

    def answers_to(self, selector: str) -> bool:
        """Whether `selector` is one of the names, or the end of one after a dot."""
        names = (self.name, *self.other_names)
        return any(name == selector or name.endswith("." + selector) for name in names)


TRAIN_RENAMED = {
    "train_dataset_cfg": "train_dataset",
    "train_eval_dataset_cfg": "train_eval_dataset",
    "infer_eval_dataset_cfg": "infer_eval_dataset",
    "stats_period": "log_every_steps",
    "checkpoint_cfg": "checkpoint",
}

JOBS = {
    "train": Configurable(
        "train",
        "mt0_tpu.train:train",
        ("train_script.train", "t5x.train.train"),
        TRAIN_RENAMED,
    ),
    "eval": Configurable("evaluate", "mt0_tpu.evaluate:evaluate", ("eval_script.evaluate",)),
    "infer": Configurable("infer", "mt0_tpu.infer:infer", ("infer_script.infer",)),
}

CONFIGURABLES = (
    *JOBS.values(),
    Configurable(
        "network.T5Config", "mt0_tpu.models.t5:T5Config", ("t5x.examples.t5.network.T5Config",)
    ),
    Configurable("network.BloomConfig", "mt0_tpu.models.config:BloomConfig"),
    Configurable(
        "utils.DatasetConfig",
        "mt0_tpu.data.dataset_config:DatasetConfig",
        ("t5x.utils.DatasetConfig",),
    ),
    Configurable(
        "models.EncoderDecoderModel",
        "mt0_tpu.losses:LossConfig",
        # Older T5X gins, mT0's own among them, bind the loss on `.loss_fn`.
        (
            "t5x.models.EncoderDecoderModel",
            "models.EncoderDecoderModel.loss_fn",
            "t5x.models.DecoderOnlyModel",
            "LossConfig",
        ),  # fmt: skip
    ),
    Configurable(
        "adafactor.Adafactor", "mt0_tpu.optimizers:Adafactor", ("t5x.adafactor.Adafactor",)
    ),
    Configurable("optimizers.AdamW", "mt0_tpu.optimizers:AdamW", ("t5x.optimizers.adamw",)),
    Configurable(
        "utils.create_learning_rate_scheduler",
        "mt0_tpu.schedules:LearningRate",
        ("t5x.utils.create_learning_rate_scheduler", "LearningRate"),
    ),
    Configurable(
        "partitioning.PjitPartitioner",
        "mt0_tpu.partitioning:MeshConfig",
        ("t5x.partitioning.PjitPartitioner", "MeshConfig"),
    ),
    Configurable(
        "utils.SaveCheckpointConfig",
        "mt0_tpu.checkpoints:CheckpointConfig",
        ("t5x.utils.SaveCheckpointConfig", "CheckpointConfig"),
        {"period": "save_every_steps", "keep": "keep_last"},
    ),
    Configurable(
        "DecodeConfig",
        "mt0_tpu.decode_config:DecodeConfig",
        # T5X has a function for each method; `method` says which is meant.
        (
            "decoding.beam_search",
            "decoding.temperature_sample",
            "models.EncoderDecoderModel.predict_batch_with_aux",
        ),
        {"topk": "top_k", "topp": "top_p"},
    ),
)

# T5X binds these on classes we do not have; the job itself takes them: (class, parameter) ->
# the parameter's names in the jobs, the first that the job has being meant.
TAKEN_BY_THE_JOB: dict[tuple[str, str], tuple[str, ...]] = {
    ("trainer.Trainer", "num_microbatches"): ("num_microbatches",),
    ("trainer.Trainer", "learning_rate_fn"): ("learning_rate",),
    ("utils.RestoreCheckpointConfig", "path"): ("initial_checkpoint_path", "checkpoint_path"),
    ("utils.RestoreCheckpointConfig", "mode"): ("checkpoints",),
    ("models.EncoderDecoderModel.predict_batch_with_aux", "return_all_decodes"): (
        "return_all_decodes",
    ),
    ("seqio.Evaluator", "num_examples"): ("num_examples", "infer_eval_num_examples"),
    ("seqio.JSONLogger", "write_n_results"): ("write_n_results",),
}


def find_configurable(selector: str, origin: str) -> Configurable:
    """Returns the configurable a gin selector names; a UserError names the nearest one."""
    for configurable in CONFIGURABLES:
        if configurable.answers_to(selector):
            return configurable
    known = [n for c in CONFIGURABLES for n in (c.name, c.name.rsplit(".", 1)[-1])]
    known += [name for name, _ in TAKEN_BY_THE_JOB]
    raise UserError(
        f"{origin}: nothing called '{selector}' can be configured."
        + (did_you_mean(selector, known) or f" There are: {_listed(known)}.")
    )


def configurable_of(value: Any) -> Configurable | None:
    """Returns the configurable that makes values of this type, if there is one."""
    for configurable in CONFIGURABLES:
        if configurable.target.endswith(":" + type(value).__qualname__):
            return configurable
    return None


def find_parameter(selector: str, parameter: str, job: str, origin: str) -> tuple[str, str]:
    """Returns (configurable's name, our parameter name) for a binding in any accepted spelling."""
    for (moved, name), ours in TAKEN_BY_THE_JOB.items():
        if (moved == selector or moved.endswith("." + selector)) and name == parameter:
            taken = [candidate for candidate in ours if candidate in JOBS[job].parameters]
            if not taken:
                raise UserError(f"{origin}: {selector}.{parameter} means nothing to `mt0 {job}`.")
            return JOBS[job].name, taken[0]
    configurable = find_configurable(selector, origin)
    name = configurable.renamed.get(parameter, parameter)
    if name not in configurable.parameters:
        known = [*configurable.parameters, *configurable.renamed]
        raise UserError(
            f"{origin}: {selector} has no parameter '{parameter}'."
            + (did_you_mean(parameter, known) or f" It has: {_listed(known)}.")
        )
    return configurable.name, name


def _listed(names: typing.Iterable[str]) -> str:
    return ", ".join(sorted(set(names)))
