"""What a SeqIO task does, as the cache needs it: which steps run once, which at drawing.

Tasks are looked at, not imported: this module needs neither SeqIO nor TensorFlow.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from mt0_tpu.data.dataset_config import FEATURES
from mt0_tpu.data.denoising import draw_step
from mt0_tpu.errors import UserError

RANK_FEATURES = ("inputs", "choices")
_EOS_STEPS = ("seqio.preprocessors.append_eos", "seqio.preprocessors.append_eos_after_trim")
_TOKENIZE = "seqio.preprocessors.tokenize"
_MOST_ITEMS = 100
_EDGE = 1 << 20  # bytes of a source file's beginning and end that are hashed


@dataclasses.dataclass(frozen=True)
class TaskDefinition:
    """A SeqIO task taken apart.

    Attributes:
        task: the seqio.Task.
        kind: 'pairs' (inputs, targets) or 'rank' (inputs, choices, answer).
        features: the token features that are stored.
        before: steps that run once, at caching.
        append_eos: by feature, whether EOS is appended at drawing.
        eos_after_trim: whether overlong examples keep their EOS.
        draw_steps: descriptions of the steps that run at drawing (see denoising.draw_step).
    """

    task: Any
    kind: str
    features: tuple[str, ...]
    before: tuple[Any, ...]
    append_eos: Mapping[str, bool]
    eos_after_trim: bool
    draw_steps: tuple[dict[str, Any], ...]

    @property
    def plain(self) -> bool:
        """Whether the task runs in plain Python, without tf.data."""
        return hasattr(self.task.source, "python_examples") and all(
            is_tokenize(step) or hasattr(step, "numpy_map") for step in self.before
        )


def define(task: Any) -> TaskDefinition:
    """Takes a task apart; UserError for steps that cannot run at drawing."""
    outputs = task.output_features
    rank = "choices" in outputs and outputs["choices"].rank == 2
    features = RANK_FEATURES if rank else FEATURES
    known = {*features, "answer"} if rank else {*features}
    for name in outputs:
        if name not in known and not (rank and name == "targets"):
            raise UserError(
                f"task '{task.name}' has an output feature '{name}'; the cache holds "
                f"{sorted(known)}"
            )
    before, after = _split_steps(task)
    eos = [name_of(step) for step in after if name_of(step) in _EOS_STEPS]
    steps = [_filled(task, step.draw_step) for step in after if hasattr(step, "draw_step")]
    if len(steps) > 1 or len(eos) > 1 or (steps and eos and name_of(after[-1]) not in _EOS_STEPS):
        raise UserError(
            f"task '{task.name}': at drawing runs at most one step and then at most one "
            f"append_eos; found {[name_of(step) for step in after]}"
        )
    return TaskDefinition(
        task=task,
        kind="rank" if rank else "pairs",
        features=features,
        before=tuple(before),
        append_eos={f: bool(eos) and f in outputs and bool(outputs[f].add_eos) for f in features},
        eos_after_trim=bool(eos) and eos[0].endswith("after_trim"),
        draw_steps=tuple(steps),
    )


def _split_steps(task: Any) -> tuple[list, list]:
    """Returns (steps before, steps after) SeqIO's CacheDatasetPlaceholder.

    Without a placeholder the last steps that can run at drawing do, and all others run once.
    """
    steps = list(task.preprocessors)
    places = [i for i, s in enumerate(steps) if type(s).__name__ == "CacheDatasetPlaceholder"]
    if places:
        before, after = steps[: places[0]], steps[places[0] + 1 :]
        for step in after:
            if not _draws(step):
                raise UserError(
                    f"task '{task.name}': step '{name_of(step)}' comes after "
                    "CacheDatasetPlaceholder, where only append_eos, append_eos_after_trim and "
                    "steps with an attribute draw_step can run; move it before the placeholder"
                )
        return before, after
    first = len(steps)
    while first and _draws(steps[first - 1]):
        first -= 1
    for step in steps[:first]:
        if "sequence_length" in inspect.signature(step).parameters:
            raise UserError(
                f"task '{task.name}': step '{name_of(step)}' depends on the sequence length, so "
                "it cannot be cached; write it as a step with an attribute draw_step"
            )
    return steps[:first], steps[first:]


def _draws(step: Any) -> bool:
    return hasattr(step, "draw_step") or name_of(step) in _EOS_STEPS


def _filled(task: Any, description: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a step's description with the vocabulary's last id as first sentinel."""
    description = dict(description)
    if description.get("name") == "span_corruption" and "first_sentinel" not in description:
        vocabulary = task.output_features["targets"].vocabulary
        description["first_sentinel"] = int(vocabulary.vocab_size) - 1
    draw_step(description)
    return description


def name_of(step: Any) -> str:
    """Returns a function's dotted name, a partial's function's, or an object's class's."""
    while isinstance(step, functools.partial):
        step = step.func
    named = step if hasattr(step, "__qualname__") else type(step)
    return f"{named.__module__}.{named.__qualname__}"


def is_tokenize(step: Any) -> bool:
    """Whether a step is SeqIO's tokenize, without EOS."""
    if isinstance(step, functools.partial):
        return is_tokenize(step.func) and not step.args and set(step.keywords) <= {
            "copy_pretokenized"
        }  # fmt: skip
    return name_of(step) == _TOKENIZE


def fingerprint(definition: TaskDefinition) -> dict[str, Any]:
    """Returns what a cache depends on, part by part, so that a difference can be named."""
    task = definition.task
    parts: dict[str, Any] = {
        "source": _source(task.source),
        "preprocessors": [describe(step) for step in definition.before],
        "drawing": {
            "append_eos": dict(definition.append_eos),
            "eos_after_trim": definition.eos_after_trim,
            "draw_steps": list(definition.draw_steps),
        },
    }
    for name, feature in sorted(task.output_features.items()):
        parts[f"feature '{name}'"] = {
            "vocabulary": _vocabulary(feature.vocabulary),
            "add_eos": bool(feature.add_eos),
            "rank": feature.rank,
        }
    # As JSON gives it back, so that it compares equal to what info.json holds.
    return json.loads(json.dumps(parts, sort_keys=True))


def short_hash(parts: Mapping[str, Any]) -> str:
    """Returns 12 hex digits of a fingerprint."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Returns which parts of a fingerprint changed, with the values where they are short."""
    changes = []
    for part in sorted({*old, *new}):
        was, now = json.dumps(old.get(part)), json.dumps(new.get(part))
        if was != now:
            short = len(was) + len(now) < 300
            changes.append(f"{part} (was {was}, is {now})" if short else part)
    return ", ".join(changes)


def describe(value: Any, depth: int = 6) -> Any:
    """Describes code and its parameters by text that does not change from run to run."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if not depth:  # functions may refer to themselves
        return name_of(value)
    if isinstance(value, Mapping):
        return {str(key): describe(item, depth - 1) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        items = [describe(item, depth - 1) for item in value]
        items = sorted(items, key=str) if isinstance(value, set | frozenset) else items
        return items if len(items) <= _MOST_ITEMS else [len(items), short_hash({"items": items})]
    if isinstance(value, functools.partial):
        return [describe(part, depth - 1) for part in (value.func, value.args, value.keywords)]
    own = {k: v for k, v in getattr(value, "__dict__", {}).items() if k[:2] != "__"}
    if inspect.isroutine(value):
        closure = [_cell(cell) for cell in getattr(value, "__closure__", None) or ()]
        return [
            name_of(value),
            _code(value),
            describe(closure, depth - 1),
            describe(own, depth - 1),
        ]
    if callable(value):
        return [name_of(value), _code(type(value)), describe(own, depth - 1)]
    return name_of(value)


def _cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that was never bound
        return None


def _code(value: Any) -> str:
    try:
        return hashlib.sha256(inspect.getsource(value).encode()).hexdigest()[:12]
    except (OSError, TypeError):
        return ""


def _source(source: Any) -> Any:
    if hasattr(source, "fingerprint"):
        return source.fingerprint()
    parts = [name_of(source), list(source.splits), describe(getattr(source, "_dataset_fn", None))]
    files = [f for split in source.splits for f in source.list_shards(split)]
    return [*parts, [_file(f) for f in files]]


def _file(path: str) -> list:
    """Returns name, size and a hash of the ends of a source file; the name alone elsewhere."""
    if not os.path.isfile(path):
        return [str(path)]
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        ends = file.read(_EDGE)
        file.seek(max(size - _EDGE, 0))
        ends += file.read(_EDGE)
    return [os.path.basename(path), size, hashlib.sha256(ends).hexdigest()[:16]]


def _vocabulary(vocabulary: Any) -> list:
    parts = [name_of(vocabulary), vocabulary.vocab_size, vocabulary.eos_id]
    model = getattr(vocabulary, "sp_model", None)
    if model:
        parts.append(_model_hash(model))
    # A tokenizer.json, which knows its own hash.
    parts += [vocabulary.file_sha256] if hasattr(vocabulary, "file_sha256") else []
    return parts


@functools.lru_cache(maxsize=16)
def _model_hash(model: bytes) -> str:
    return hashlib.sha256(model).hexdigest()
