"""SeqIO tasks that are scored by metric functions: examples, model outputs in, metrics out.

SeqIO does what it does best, reading a task, its postprocessor and its metrics; batches, decoding
and scoring are ours. Nothing here touches a device.

Letters: N examples, K decodes of each, L tokens.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mt0_tpu import decode_config
from mt0_tpu.data.providers import facts_of
from mt0_tpu.data.task_definition import name_of
from mt0_tpu.decode_config import DecodeConfig
from mt0_tpu.errors import UserError

# What a metric asks of the model, by the numbers of seqio.metrics.ModelOutputType.
PREDICTION, SCORE, PREDICTION_WITH_AUX = 1, 2, 3
_FEATURES = ("inputs", "targets")
_EOS_STEPS = ("append_eos", "append_eos_after_trim")


@dataclasses.dataclass
class TextTask:
    """One split of one SeqIO task, read.

    Attributes:
      task: the seqio.Task.
      examples: as SeqIO gives them, numpy.
      wants: PREDICTION, SCORE, PREDICTION_WITH_AUX: what its metrics ask of the model.
      decode: how its predictions are made.
      all_decodes: whether a metric sees every decode of an input, or the best alone.
      why_no_metric: why its metrics are not run; None where they are.
      runs_code: whether its metrics run predicted code, which was allowed.
      cut: how many inputs and targets were longer than the row.
    """

    name: str
    task: Any
    split: str
    examples: list[dict]
    wants: tuple[int, ...]
    decode: DecodeConfig
    all_decodes: bool
    why_no_metric: str | None = None
    runs_code: bool = False
    cut: tuple[int, int] = (0, 0)
    _targets: list | None = None

    def ids(self, feature: str) -> list[list[int]]:
        """Returns the token ids of 'inputs' or 'targets', EOS where the task appends it."""
        return [np.asarray(example[feature]).tolist() for example in self.examples]

    @property
    def eos_id(self) -> int:
        """The id that ends a prediction."""
        return int(self.task.output_features["targets"].vocabulary.eos_id)

    @property
    def largest_id(self) -> int:
        """The largest token of any example."""
        return max(
            int(np.max(example[feature], initial=0))
            for example in self.examples
            for feature in _FEATURES
        )

    def text(self, feature: str, ids: Sequence[int]) -> str:
        """Returns ids as the feature's vocabulary writes them, up to EOS."""
        return self.task.output_features[feature].vocabulary.decode([int(one) for one in ids])

    def shown(self, number: int, feature: str) -> str:
        """Returns the text of an example's feature, as it was before it was tokenised."""
        example = self.examples[number]
        given = example.get(f"{feature}_pretokenized")
        return self.text(feature, example[feature]) if given is None else plain(given)

    def predictions_array(self, decodes: Sequence[Sequence[Sequence[int]]]) -> np.ndarray:
        """Returns the decodes as a metric wants them: [N, L], or [N, K, L] with all_decodes.

        Each is ended by EOS, then zeros.
        """
        length = max((len(ids) for each in decodes for ids in each), default=0) + 1
        count = max((len(each) for each in decodes), default=1)
        ids_NKL = np.zeros((len(decodes), count, length), np.int32)
        for number, each in enumerate(decodes):
            for at, ids in enumerate(each):
                ids_NKL[number, at, : len(ids) + 1] = [*ids, self.eos_id]
        return ids_NKL if self.all_decodes else ids_NKL[:, 0]

    def results(self, outputs: Mapping[int, Any]) -> tuple[dict[str, Any], list[dict]]:
        """Runs the postprocessor and the metrics.

        Args:
          outputs: what the model gave for each of `wants`; PREDICTION_WITH_AUX is a pair
            (predictions, {name: a value for each example}).

        Returns:
          (metrics by name, a line for each example: target, prediction, score, …).
        """
        if self.why_no_metric:
            return {}, self._bare_lines(outputs[PREDICTION])
        with _code_allowed() if self.runs_code else contextlib.nullcontext():
            return self._metrics_and_lines(outputs)

    def _metrics_and_lines(self, outputs: Mapping[int, Any]) -> tuple[dict, list[dict]]:
        metrics: dict[str, Any] = {}
        inferred: dict[str, Sequence] = {}
        for metric in self.task.metric_objs:
            value, found = self._computed(metric, outputs[int(metric.model_output_type)])
            for name, one in value.items():
                if name in metrics:
                    raise UserError(
                        f"task '{self.name}' has two metrics called '{name}'; rename one of them"
                    )
                metrics[name] = one
            inferred |= found
        return metrics, self._lines(inferred)

    def _computed(self, metric: Any, output: Any) -> tuple[Mapping[str, Any], dict]:
        """Returns (metrics, what they compared), as seqio.Evaluator runs a metric object."""
        import seqio

        features = self.task.output_features
        try:
            instance = metric.from_model_output(self.examples, output, features, "targets")
            if isinstance(instance, seqio.metrics.CollectingMetric):
                value, found = instance.actual_compute(
                    self.examples, features, "targets", self._targets
                )
                self._targets = found["targets"]
            else:
                value, found = instance.compute(), getattr(instance, "targets_and_inferences", {})
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"a metric of task '{self.name}' failed: {error}") from error
        if not isinstance(value, Mapping):
            value = {type(metric).__name__: value}
        return value, dict(found)

    def _lines(self, inferred: Mapping[str, Any]) -> list[dict]:
        columns = {("target" if k == "targets" else k): v for k, v in inferred.items()}
        aux = columns.pop("aux_value", {})
        columns |= {f"aux_{name}": values for name, values in aux.items()}
        columns = {k: v for k, v in columns.items() if len(v) == len(self.examples)}
        return [
            {"inputs": self.shown(number, "inputs")}
            | {name: plain(values[number]) for name, values in columns.items()}
            for number in range(len(self.examples))
        ]

    def _bare_lines(self, ids: np.ndarray) -> list[dict]:
        def texts(one: np.ndarray):
            return self.text("targets", one) if one.ndim == 1 else [texts(row) for row in one]

        return [
            {
                "inputs": self.shown(number, "inputs"),
                "target": self.shown(number, "targets"),
                "prediction": texts(one),
            }
            for number, one in enumerate(ids)
        ]


def _code_allowed() -> contextlib.AbstractContextManager:
    from seqio_tasks import code_execution

    return code_execution.allowed()


def plain(value: Any) -> Any:
    """Returns a value as JSON holds it; what it cannot hold, as its text."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.generic | np.ndarray):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(one) for one in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    # An array of another library, such as jax's.
    return plain(np.asarray(value)) if hasattr(value, "__array__") else str(value)


def read_text_task(
    task: Any,
    split: str,
    *,
    lengths: Mapping[str, int] | None = None,
    num_examples: int | None = None,
    decode: DecodeConfig = DecodeConfig(),
    return_all_decodes: bool | None = None,
    execute_code: bool = False,
    overlong: str = "trim",
) -> TextTask:
    """Reads one split of a SeqIO task of text in, text out, that has metrics.

    Args:
      task: the seqio.Task.
      lengths: tokens of 'inputs' and 'targets' where examples are cut, as SeqIO cuts them.
      num_examples: at most this many.
      decode: where it is the default, what the task's facts say goes.
      return_all_decodes: whether metrics see all decodes; None: all samples, of beams the best.
      execute_code: whether metrics that run predicted code are run.
      overlong: 'trim', or 'error' for an example that is longer than `lengths`.

    Raises:
      UserError: an example cannot be used, or a metric asks for what there is not.
    """
    facts = facts_of(task.name)
    if decode == DecodeConfig() and facts.get("decode"):
        decode = decode_config.from_fields(facts["decode"], f"task '{task.name}'")
    all_decodes = shows_all(decode, return_all_decodes)
    why, runs_code = None, bool(facts.get("executes_code"))
    if runs_code and not execute_code:
        why = "its metric runs predicted code; set evaluate.execute_code = True to allow it"
    wants = (PREDICTION,) if why else _wants(task)
    examples, cut = _examples(task, split, lengths, num_examples, overlong)
    return TextTask(
        task.name, task, split, examples, wants, decode, all_decodes, why, runs_code, cut
    )


def shows_all(decode: DecodeConfig, wanted: bool | None) -> bool:
    """Whether all decodes of an input are looked at; None: all samples, of beams the best."""
    if decode.num_decodes == 1:
        return False
    return decode.method == "sample" if wanted is None else wanted


def _wants(task: Any) -> tuple[int, ...]:
    try:
        found = {int(metric.model_output_type): metric for metric in task.metric_objs}
    except (ValueError, AttributeError) as error:
        raise UserError(f"a metric of task '{task.name}' cannot be used: {error}") from error
    for kind, metric in found.items():
        if kind not in (PREDICTION, SCORE, PREDICTION_WITH_AUX):
            raise UserError(
                f"task '{task.name}': {type(metric).__name__} asks for model output {kind} (scores "
                "with intermediates), which mt0 does not give; use one of predictions or scores"
            )
    return tuple(sorted(found))


def _examples(
    task: Any, split: str, lengths: Mapping[str, int] | None, num_examples: int | None, overlong
) -> tuple[list[dict], tuple[int, int]]:
    """Returns (examples, how many inputs and targets were cut)."""
    for feature in _FEATURES:
        if feature not in task.output_features:
            raise UserError(
                f"task '{task.name}' has no output feature '{feature}'; an encoder-decoder is "
                f"evaluated on inputs and targets (it has {sorted(task.output_features)})"
            )
    examples = _run(task, split, lengths, num_examples)
    if not examples:
        raise UserError(f"task '{task.name}' holds no example in split '{split}'")
    cut = [0, 0]
    if lengths and not _needs_lengths(task):
        whole = _run(task, split, None, num_examples)
        for number, (one, other) in enumerate(zip(examples, whole, strict=True)):
            for at, feature in enumerate(_FEATURES):
                longer = len(other[feature]) > len(one[feature])
                cut[at] += longer
                if longer and overlong == "error":
                    raise UserError(
                        f"example {number} of task '{task.name}': its {feature} have "
                        f"{len(other[feature])} tokens and TASK_FEATURE_LENGTHS allows "
                        f"{lengths[feature]}; raise it, or allow overlong = 'trim'"
                    )
    for number, example in enumerate(examples):
        if not len(example["inputs"]):
            raise UserError(
                f"example {number} of task '{task.name}' has an empty input; give it at least one "
                "token, such as EOS"
            )
    return examples, tuple(cut)


def _run(task: Any, split: str, lengths, num_examples: int | None) -> list[dict]:
    try:
        dataset = task.get_dataset(
            sequence_length=dict(lengths) if lengths else None,
            split=split,
            use_cached=False,
            shuffle=False,
            num_epochs=1,
        )
        if num_examples is not None:
            dataset = dataset.take(num_examples)
        return list(dataset.as_numpy_iterator())
    except UserError:
        raise
    except ValueError as error:  # a source's own words
        raise UserError(f"task '{task.name}': {error}") from error


def _needs_lengths(task: Any) -> bool:
    """Whether a step other than append_eos asks for the row's lengths."""
    return any(
        "sequence_length" in inspect.signature(step).parameters
        and name_of(step).rpartition(".")[2] not in _EOS_STEPS
        for step in task.preprocessors
        if callable(step)
    )
