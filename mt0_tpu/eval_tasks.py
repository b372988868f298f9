"""What an evaluation reads: the rank tasks of a mixture from its cache, the others through SeqIO.

A mixture of rank tasks whose cache is there needs neither SeqIO nor TensorFlow.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mt0_tpu import distributed
from mt0_tpu.data import sources
from mt0_tpu.data.dataset_config import cache_path, remote_url
from mt0_tpu.data.providers import find_provider, tasks_of
from mt0_tpu.decode_config import DecodeConfig
from mt0_tpu.errors import UserError, did_you_mean
from mt0_tpu.rank_tasks import SPLITS, RankTask, open_rank_tasks
from mt0_tpu.text_tasks import TextTask, read_text_task


@dataclasses.dataclass(frozen=True)
class EvalData:
    """Which examples are evaluated, and how; checks itself.

    Attributes:
      mixture_or_task_name: a SeqIO Task or Mixture, of rank tasks or of tasks with metrics; or
        several, with commas between them.
      split: None takes each task's 'test', else its 'validation', else 'train'.
      task_feature_lengths: tokens of 'inputs' and 'targets' (also of a choice); None cuts nothing.
      num_examples: at most this many of each task.
      overlong: 'trim', or 'error' for what is longer.
      decode: of predictions; where it is the default, what a task's facts say goes.
      return_all_decodes: whether metrics see all decodes; None: all samples, of beams the best.
      execute_code: whether metrics that run predicted code are run.
      length_normalised: rank scores are divided by tokens; the published evaluation does not.
      inputs_eos: whether inputs of rank tasks end in EOS; None leaves it to each task.
      module: the Python module that registers the mixture, where it is not one of ours.
      cache_dir, use_cached, data_dir: as in DatasetConfig.
    """

    mixture_or_task_name: str
    split: str | None = None
    task_feature_lengths: Mapping[str, int] | None = None
    num_examples: int | None = None
    overlong: str = "trim"
    decode: DecodeConfig = DecodeConfig()
    return_all_decodes: bool | None = None
    execute_code: bool = False
    length_normalised: bool = False
    inputs_eos: bool | None = None
    module: str | None = None
    cache_dir: str | None = None
    use_cached: bool | None = None
    data_dir: str | None = None

    def __post_init__(self):
        if self.num_examples is not None and self.num_examples < 1:
            raise UserError(
                f"num_examples is {self.num_examples}; write 1 or more, or None for all"
            )
        if self.overlong not in ("trim", "error"):
            near = did_you_mean(str(self.overlong), ("trim", "error"))
            raise UserError(f"overlong is {self.overlong!r}; write 'trim' or 'error'.{near}")
        if self.inputs_eos not in (None, True, False):
            raise UserError(
                f"inputs_eos is {self.inputs_eos!r}; write True, False, or None to leave it to "
                "each task"
            )
        for name, length in (self.task_feature_lengths or {}).items():
            if name not in ("inputs", "targets") or not isinstance(length, int) or length < 2:
                raise UserError(
                    f"task_feature_lengths is {dict(self.task_feature_lengths)!r}; write at least "
                    "2 tokens each, such as {'inputs': 1024, 'targets': 256}, or None"
                )

    @property
    def names(self) -> list[str]:
        """The tasks and mixtures named."""
        return [name.strip() for name in self.mixture_or_task_name.split(",")]

    def length(self, feature: str) -> int | None:
        """Returns the tokens a feature may have; None for no limit."""
        return (self.task_feature_lengths or {}).get(feature)

    def settings(self) -> dict[str, Any]:
        """Returns what decides the results, as JSON holds it."""
        lengths = self.task_feature_lengths
        return {
            "split": self.split,
            "task_feature_lengths": dict(lengths) if lengths else None,
            "num_examples": self.num_examples,
            "length_normalised": self.length_normalised,
            "inputs_eos": self.inputs_eos,
            "decode": dataclasses.asdict(self.decode),
            "return_all_decodes": self.return_all_decodes,
            "execute_code": self.execute_code,
        }


def open_eval_tasks(
    data: EvalData, leader: bool, say: Callable[[str], None]
) -> tuple[list[RankTask], list[TextTask]]:
    """Opens the tasks; the leader caches the rank tasks that are not cached yet.

    Every process of a job calls it, and all get the same.

    Raises:
      UserError: there is no such mixture or split, or none of its tasks can be evaluated.
    """
    rank: list[RankTask] = []
    text: list[TextTask] = []
    for name in data.names:
        found = _open(dataclasses.replace(data, mixture_or_task_name=name), leader, say)
        rank += found[0]
        text += found[1]
    names = [task.name for task in (*rank, *text)]
    again = sorted({name for name in names if names.count(name) > 1})
    if again:
        raise UserError(
            f"'{data.mixture_or_task_name}' evaluates {some(again)} more than once; name each task "
            "or mixture once"
        )
    return rank, text


def _open(data: EvalData, leader: bool, say) -> tuple[list[RankTask], list[TextTask]]:
    name = data.mixture_or_task_name
    _fetch(name, data.cache_dir, say)
    described = sources.mixture_file(cache_path(data.cache_dir), name)
    if (data.use_cached and not described.is_file()) or _cached_as_rank(name, data.cache_dir):
        return _rank_tasks(data, leader, say), []
    if data.data_dir:
        os.environ["MT0_DATA_DIR"] = data.data_dir  # read by seqio_tasks
    provider = find_provider(name, data.module)
    keep_from_the_accelerator()
    tasks = tasks_of(provider)
    # SeqIO's mixtures have the same features in every task: all rank, or none does.
    if all(_ranks(task) for task in tasks):
        return _rank_tasks(data, leader, say), []
    chosen = _with_metrics(tasks, data.split, name, say)
    return [], [_read(data, task, split, say) for task, split in chosen]


def _fetch(name: str, cache_dir: str | None, say) -> None:
    url = remote_url(cache_dir)
    if url:
        from mt0_tpu.data import remote_cache

        if remote_cache.there(url, name):
            remote_cache.fetch(url, name, say=say)


def _cached_as_rank(name: str, cache_dir: str | None) -> bool:
    """Whether the cache shows, without SeqIO, that every task of a mixture ranks choices."""
    root = cache_path(cache_dir)
    described = sources.mixture_file(root, name)
    if not described.is_file():
        return False
    for entry in sources.read_json(described)["tasks"]:
        folders = [sources.task_folder(root, entry["name"], split) for split in entry["splits"]]
        kinds = {sources.read_info(f)["kind"] for f in folders if (f / "info.json").is_file()}
        if kinds != {"rank"}:
            return False
    return True


def _ranks(task: Any) -> bool:
    choices = task.output_features.get("choices")
    return choices is not None and choices.rank == 2


def _rank_tasks(data: EvalData, leader: bool, say) -> list[RankTask]:
    def opened(cache_missing: bool) -> list[RankTask]:
        return open_rank_tasks(
            data.mixture_or_task_name, data.cache_dir, data.split, data.module, data.use_cached,
            data.num_examples, say, cache_missing, data.data_dir, data.inputs_eos,
        )  # fmt: skip

    tasks = opened(cache_missing=True) if leader else None
    distributed.barrier(f"eval cached {data.mixture_or_task_name}")
    return tasks or opened(cache_missing=False)


def _with_metrics(
    tasks: Sequence[Any], split: str | None, mixture: str, say
) -> list[tuple[Any, str]]:
    """Returns the tasks that have a metric, each with its split; says which it leaves out."""
    chosen = [(task, split_of(task.splits, split)) for task in tasks]
    lacking = [task.name for task, one in chosen if one is None]
    silent = [task.name for task, one in chosen if one and not _has_metrics(task)]
    chosen = [(task, one) for task, one in chosen if one and _has_metrics(task)]
    if not chosen:
        if not silent:
            there = sorted({one for task in tasks for one in task.splits})
            near = did_you_mean(str(split), there)
            raise UserError(f"'{mixture}' has no split '{split}'; it has {there}.{near}")
        raise UserError(
            f"nothing of '{mixture}' can be evaluated: no answer choices to rank, and no "
            f"metric_fns or metric_objs in {some(silent)}; add metric_fns to the task, or name a "
            "task that has some, or rank tasks such as those of 'mini_eval'"
        )
    for names, why in ((lacking, f"no split '{split}'"), (silent, "no metric_fns or metric_objs")):
        if names:
            say(f"eval: left out, having {why}: {some(names)}")
    return chosen


def _has_metrics(task: Any) -> bool:
    try:
        return bool(task.metric_objs)
    except ValueError as error:
        raise UserError(f"a metric of task '{task.name}' cannot be used: {error}") from error


def split_of(there: Sequence[str], wanted: str | None) -> str | None:
    """Returns the split wanted, or the one that evaluations take; None where it is not there."""
    if wanted is not None:
        return wanted if wanted in there else None
    return next((one for one in SPLITS if one in there), next(iter(there), None))


def some(names: Sequence[str]) -> str:
    """Returns up to five names, and how many more there are."""
    shown = ", ".join(f"'{name}'" for name in names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown


def _read(data: EvalData, task: Any, split: str, say) -> TextTask:
    read = read_text_task(
        task,
        split,
        lengths=data.task_feature_lengths,
        num_examples=data.num_examples,
        decode=data.decode,
        return_all_decodes=data.return_all_decodes,
        execute_code=data.execute_code,
        overlong=data.overlong,
    )
    if any(read.cut):
        lengths = dict(data.task_feature_lengths)
        say(
            f"eval: of {len(read.examples)} examples of '{task.name}' {read.cut[0]} inputs and "
            f"{read.cut[1]} targets were longer than {lengths} and are cut"
        )
    return read


def keep_from_the_accelerator() -> None:
    """TensorFlow would take all of a GPU's memory; here it only reads examples."""
    import tensorflow as tf

    try:
        tf.config.set_visible_devices([], "GPU")
    except RuntimeError:
        pass  # it has started already
