"""What `mt0 tasks` prints: names, rendered examples, lengths in the cache.

SeqIO, hence TensorFlow, is imported only by what asks its registry.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mt0_tpu.data.dataset_config import cache_path
from mt0_tpu.errors import UserError, did_you_mean

PERCENTILES = (50, 95, 99, 100)
# Plain fields an example may carry, shown before its texts.
SHOWN_FIELDS = ("prompt", "cluster", "language")


def print_list(patterns: Sequence[str], module: str | None = None) -> None:
    """Prints every mixture with its number of tasks, then every task, one a line.

    `patterns` keeps the names that contain one of them; none keeps all.
    """
    seqio = _registered(module)

    def kept(names: Sequence[str]) -> list[str]:
        return [n for n in sorted(names) if not patterns or any(p in n for p in patterns)]

    mixtures, tasks = kept(seqio.MixtureRegistry.names()), kept(seqio.TaskRegistry.names())
    if not mixtures and not tasks:
        known = [*seqio.MixtureRegistry.names(), *seqio.TaskRegistry.names()]
        hint = did_you_mean(patterns[0], known) if patterns else ""
        raise UserError(f"no task or mixture matches {', '.join(patterns) or 'anything'}.{hint}")
    for name in mixtures:
        print(f"mixture {name}  {len(seqio.MixtureRegistry.get(name).tasks)} tasks")
    for name in tasks:
        print(f"task    {name}  {' '.join(seqio.TaskRegistry.get(name).splits)}")


def print_examples(name: str, split: str, num_examples: int, module: str | None = None) -> None:
    """Prints the texts of the first examples of a split, of a mixture's tasks in turn."""
    seqio = _registered(module)
    known = [*seqio.MixtureRegistry.names(), *seqio.TaskRegistry.names()]
    if name not in known:
        raise UserError(
            f"no task or mixture is called '{name}'; `mt0 tasks list` has them."
            + did_you_mean(name, known)
        )
    found = seqio.get_mixture_or_task(name)
    tasks = [task for task in getattr(found, "tasks", [found]) if split in task.splits]
    if not tasks:
        splits = {
            known_split for task in getattr(found, "tasks", [found]) for known_split in task.splits
        }
        raise UserError(f"'{name}' has no split '{split}'; it has {', '.join(sorted(splits))}.")
    streams = [_examples(task, split) for task in tasks[:num_examples]]
    for task, example in itertools.islice(_in_turn(streams), num_examples):
        print(f"── {task.name} [{split}]")
        for field in SHOWN_FIELDS:
            if field in example:
                print(f"{field}: {_text(example[field])}")
        for feature in task.output_features:
            shown = example.get(f"{feature}_pretokenized", example[feature])
            print(f"{feature}: {_text(shown)}")


def print_stats(name: str, split: str, cache_dir: str | None = None) -> None:
    """Prints examples, tokens and token-length percentiles of each cached task of a mixture."""
    from mt0_tpu.data import sources
    from mt0_tpu.data.indexed import IndexedDataset

    root = cache_path(cache_dir)
    path = sources.mixture_file(root, name)
    if not path.is_file():
        raise UserError(
            f"'{name}' is not cached in {root}; run `mt0 cache --mixture {name} --cache_dir {root}`"
        )
    heads = "".join(f"{f'p{percentile}':>8}" for percentile in PERCENTILES)
    print(f"{'examples':>10}{'tokens':>14}{'mean':>8}{heads}  feature of task")
    for entry in sources.read_json(path)["tasks"]:
        if split not in entry["splits"]:
            continue
        folder = sources.task_folder(root, entry["name"], split)
        sources.read_info(folder)
        for index in sorted(folder.glob("*_document.idx")):
            sizes = np.asarray(IndexedDataset(index.with_suffix("")).sizes_S)
            feature = index.stem.removesuffix("_document")
            print(f"{_row(sizes)}  {feature} of {entry['name']}")


def _row(sizes: np.ndarray) -> str:
    if not len(sizes):
        return f"{0:>10}{0:>14}" + f"{'-':>8}" * (1 + len(PERCENTILES))
    percentiles = np.percentile(sizes, PERCENTILES)
    return f"{len(sizes):>10}{sizes.sum():>14}{sizes.mean():>8.1f}" + "".join(
        f"{value:>8.0f}" for value in percentiles
    )


def _registered(module: str | None) -> Any:
    """SeqIO, after the embedded tasks and the user's have been registered."""
    import seqio_tasks

    try:
        seqio_tasks.load(module)
    except ValueError as error:
        raise UserError(str(error)) from error
    import seqio

    return seqio


def _examples(task: Any, split: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    dataset = task.get_dataset(split=split, shuffle=False, sequence_length=None)
    for example in dataset.as_numpy_iterator():
        yield task, example


def _in_turn(streams: Sequence[Iterator]) -> Iterator:
    streams = list(streams)
    while streams:
        for stream in list(streams):
            try:
                yield next(stream)
            except StopIteration:
                streams.remove(stream)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray):
        return " | ".join(_text(item) for item in value.tolist())
    return str(value)
