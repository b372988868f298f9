"""Cached rank-classification tasks: inputs, answer choices, the right answer, and where it belongs.

Reads what `mt0 cache` wrote; needs neither SeqIO nor TensorFlow over a finished cache.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from mt0_tpu.data import sources
from mt0_tpu.data.dataset_config import DatasetConfig, cache_path, remote_url
from mt0_tpu.data.indexed import IndexedDataset
from mt0_tpu.errors import UserError, did_you_mean

# Tried in order where no split is named and the task has several.
SPLITS = ("test", "validation", "train")


@dataclasses.dataclass(frozen=True)
class Belonging:
    """What an example's accuracy counts towards.

    dataset: what scores are compared with published ones by, such as 'super_glue/rte'; the
    cluster's name where a task does not say. prompt_language: 'EN', or 'MT', 'HT' for the paper's
    translated prompts, '' where a task does not say. held_out_cluster: no task of the cluster is
    finetuned; seen_language: some task of the language is.
    """

    prompt: str
    cluster: str
    dataset: str
    language: str
    prompt_language: str
    held_out_cluster: bool
    seen_language: bool


@dataclasses.dataclass(frozen=True)
class RankTask:
    """One split of one cached rank task.

    Attributes:
      examples: (input ids, [ids of each choice]), EOS appended where the task appends it.
      answers: index of the right choice of each example.
      belongings: of each example.
      info: what info.json says.
    """

    name: str
    examples: list[tuple[np.ndarray, list[np.ndarray]]]
    answers: np.ndarray
    belongings: list[Belonging]
    info: Mapping

    @property
    def eos_id(self) -> int:
        """The EOS of the vocabulary that the task was cached with."""
        return int(self.info["features"]["choices"]["eos_id"])


def open_rank_tasks(
    name: str,
    cache_dir: str | None,
    split: str | None,
    module: str | None,
    use_cached: bool | None,
    num_examples: int | None,
    say: Callable[[str], None],
    cache_missing: bool = True,
    data_dir: str | None = None,
    inputs_eos: bool | None = None,
) -> list[RankTask]:
    """Opens the rank tasks of a mixture, or one task, caching what is missing.

    Args:
      split: of every task; None takes 'test', 'validation' or the only one.
      use_cached: True fails where something is not cached.
      num_examples: at most this many of each task.
      cache_missing: whether this process is the one that caches.
      data_dir: where released files lie; None is $MT0_DATA_DIR.
      inputs_eos: whether inputs end in EOS; None leaves it to the task.

    Raises:
      UserError: no such task or split, a task does not rank choices, or an example has fewer than
        two, or an empty one.
    """
    root, url = cache_path(cache_dir), remote_url(cache_dir)
    described = sources.mixture_file(root, name)
    if url:
        from mt0_tpu.data import remote_cache

        if remote_cache.there(url, name):
            remote_cache.fetch(url, name, say=say)
    if cache_missing:
        _forget_outdated(described, name, use_cached, say)
        _ensure_cached(name, cache_dir, split, module, use_cached, say, data_dir)
    if not described.is_file():
        raise UserError(
            f"'{name}' is not cached in {root}; run `mt0 cache --mixture {name} --cache_dir {root}`"
        )
    entries = sources.read_json(described)["tasks"]
    groups = _Groups(module)
    tasks = []
    for entry in entries:
        chosen = _split(entry, split, name)
        folder = sources.task_folder(root, entry["name"], chosen)
        tasks.append(_open(folder, entry["name"], num_examples, groups, inputs_eos))
    if not tasks:
        raise UserError(f"'{name}' has no task to evaluate")
    return tasks


def _forget_outdated(described: Path, name: str, use_cached: bool | None, say) -> None:
    """Deletes the list of an '…_at_hand' mixture that would have other tasks by now."""
    if not name.endswith("_at_hand") or use_cached or not described.is_file():
        return
    listed = sorted(entry["name"] for entry in sources.read_json(described)["tasks"])
    try:
        room = importlib.import_module("seqio_tasks.evaluation_at_hand")
        there = sorted(room.at_hand(name.removesuffix("_at_hand")))
    except (ValueError, KeyError):  # no data here, or a mixture of the user's own
        return
    if listed != there:
        say(f"eval: '{name}' has {len(there)} tasks by now, and {len(listed)} in the cache")
        described.unlink()


def _ensure_cached(name, cache_dir, split, module, use_cached, say, data_dir) -> None:
    from mt0_tpu.data import cache

    def ensure(one: str) -> None:
        # Rank tasks are cached whole: the lengths only complete the configuration.
        config = DatasetConfig(
            mixture_or_task_name=name,
            task_feature_lengths={"inputs": 1024, "targets": 256},
            split=one,
            cache_dir=cache_dir,
            module=module,
            data_dir=data_dir,
            use_cached=use_cached,
        )
        cache.ensure_cached(config, say)

    if split is not None:
        ensure(split)
        return
    described = sources.mixture_file(cache_path(cache_dir), name)
    if described.is_file():
        for one in sorted({_split(e, None, name) for e in sources.read_json(described)["tasks"]}):
            ensure(one)
        return
    tried = _likely_splits(name)
    for one in tried:
        try:
            ensure(one)
            return
        except UserError as error:
            # Which splits there are only SeqIO knows, and it lives in the child process.
            if "has no split" not in str(error) or one == tried[-1]:
                raise


def _likely_splits(name: str) -> tuple[str, ...]:
    """Splits to try where none is named; tasks of the paper have but one."""
    tables = importlib.import_module("seqio_tasks.evaluation_tables")
    known = name.removesuffix("_at_hand")
    paper = known in tables.tasks() or known in tables.mixtures()
    return (tables.SPLIT,) if paper else SPLITS[:2]


def _split(entry: Mapping, wanted: str | None, mixture: str) -> str:
    there = list(entry["splits"])
    if wanted is None:
        return next((one for one in SPLITS if one in there), there[0])
    if wanted not in there:
        raise UserError(
            f"task '{entry['name']}' of '{mixture}' has no split '{wanted}'; it has {there}."
            f"{did_you_mean(wanted, there)}"
        )
    return wanted


def _open(
    folder: Path, name: str, num_examples: int | None, groups: _Groups, inputs_eos: bool | None
) -> RankTask:
    info = sources.read_info(folder)
    if info["kind"] != "rank":
        raise UserError(
            f"task '{name}' has no answer choices to rank; evaluate a task with an output feature "
            "'choices', such as those of 'mini_eval'"
        )
    inputs = IndexedDataset(folder / "inputs_document")
    choices = IndexedDataset(folder / "choices_document")
    answers = np.load(folder / "answers.npy")
    if not len(inputs) == choices.num_documents == len(answers):
        raise UserError(
            f"{folder} is damaged: found {len(inputs)} inputs, {choices.num_documents} groups of "
            f"choices and {len(answers)} answers; delete it and cache again"
        )
    count = len(inputs) if num_examples is None else min(num_examples, len(inputs))
    appended = dict(info["append_eos"])
    if inputs_eos is not None:
        appended["inputs"] = inputs_eos
    ends = {
        feature: [info["features"][feature]["eos_id"]] if appended[feature] else []
        for feature in ("inputs", "choices")
    }

    def ended(ids: np.ndarray, feature: str) -> np.ndarray:
        return np.concatenate([ids, ends[feature]]).astype(np.int32)

    examples = [
        (ended(inputs[at], "inputs"), [ended(one, "choices") for one in choices.document(at)])
        for at in range(count)
    ]
    _check_choices(name, examples)
    meta = _read_meta(folder / "meta.jsonl", len(inputs))[:count]
    belongings = [groups.belonging(name, fields) for fields in meta]
    return RankTask(name, examples, answers[:count], belongings, info)


def _check_choices(name: str, examples: list) -> None:
    for number, (_, choices) in enumerate(examples):
        if len(choices) < 2:
            raise UserError(
                f"task '{name}', example {number} has {len(choices)} choice: there is nothing to "
                "rank; give it two, or leave it out"
            )
        if not all(map(len, choices)):
            raise UserError(
                f"task '{name}', example {number} has an empty choice, which would always score "
                "highest; mend it or leave it out"
            )


def _read_meta(path: Path, num_examples: int) -> list[dict]:
    if not path.is_file():
        return [{}] * num_examples
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line]
    if len(lines) != num_examples:
        raise UserError(
            f"{path} is damaged: found {len(lines)} lines for {num_examples} examples; delete its "
            "folder and cache again"
        )
    return lines


class _Groups:
    """Where tasks belong whose examples do not say so: the task module's `eval_groups()`."""

    def __init__(self, module: str | None):
        self._module = module
        self._by_task: dict[str, Mapping] | None = None

    def belonging(self, task: str, fields: Mapping) -> Belonging:
        """Returns what the example's own fields say, and its task's group for the rest."""
        wanted = ("cluster", "language", "held_out_cluster", "seen_language")
        if any(field not in fields for field in wanted):
            fields = {**self._of(task), **fields}
        cluster = str(fields.get("cluster", task))
        return Belonging(
            prompt=str(fields.get("prompt", "default")),
            cluster=cluster,
            dataset=str(fields.get("dataset", cluster)),
            prompt_language=str(fields.get("prompt_language", "")),
            language=str(fields.get("language", "und")),
            held_out_cluster=bool(fields.get("held_out_cluster", False)),
            seen_language=bool(fields.get("seen_language", True)),
        )

    def _of(self, task: str) -> Mapping:
        if self._by_task is None:
            # Imports SeqIO, hence TensorFlow: only for caches without these fields.
            import seqio_tasks

            loaded = seqio_tasks.load(self._module)
            known = loaded.eval_groups() if hasattr(loaded, "eval_groups") else []
            self._by_task = {group["task"]: group for group in known}
        return self._by_task.get(task, {})
