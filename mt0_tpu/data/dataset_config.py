"""What a job reads: mixture, split, lengths, batch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

from mt0_tpu.errors import UserError, did_you_mean

FEATURES = ("inputs", "targets")
_OVERLONG = ("trim", "drop")


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
    """The data of one job; checks itself.

    Attributes:
        mixture_or_task_name: a SeqIO Task or Mixture.
        task_feature_lengths: tokens in a row's inputs and targets, final EOS included; None, which
            cuts nothing, only where a job takes no rows of it (T5X's infer_eval).
        split: the split to read.
        batch_size: rows in a batch, over all hosts.
        pack: several examples in a row, told apart by segment ids.
        shuffle: whether examples come in a seeded order or the cache's.
        seed: decides the order and every random draw.
        use_cached: None or False caches what is missing first; True fails instead.
        cache_dir: where caches live; default $MT0_CACHE_DIR, else ~/.cache/mt0_tpu. Of a remote
            folder (gs://…) every host keeps a local copy (see remote_cache).
        module: the Python module that registers the mixture, where it is not one of ours.
        data_dir: where released files lie, a folder or an address; None is $MT0_DATA_DIR.
        window_examples: examples planned together; more packs tighter and costs memory.
        overlong: 'trim' cuts an example longer than the row as T5X does, 'drop' leaves it out.
    """

    mixture_or_task_name: str
    task_feature_lengths: Mapping[str, int] | None
    split: str = "train"
    batch_size: int = 128
    pack: bool = True
    shuffle: bool = True
    seed: int = 0
    use_cached: bool | None = None
    cache_dir: str | None = None
    module: str | None = None
    data_dir: str | None = None
    window_examples: int = 16384
    overlong: str = "trim"

    def __post_init__(self):
        if not self.mixture_or_task_name or not isinstance(self.mixture_or_task_name, str):
            raise UserError(
                f"mixture_or_task_name is {self.mixture_or_task_name!r}; name a SeqIO task or "
                "mixture, such as 'mini_multilingual'"
            )
        self._check_lengths()
        for name in ("batch_size", "window_examples"):
            value = getattr(self, name)
            if not _is_integer(value) or value < 1:
                raise UserError(f"{name} is {value!r}; it must be a whole number of at least 1")
        if not (self.data_dir is None or (isinstance(self.data_dir, str) and self.data_dir)):
            raise UserError(
                f"data_dir is {self.data_dir!r}; name a folder, an address or 'hf://', or None"
            )
        if not _is_integer(self.seed):
            raise UserError(f"seed is {self.seed!r}; it must be a whole number")
        if self.overlong not in _OVERLONG:
            near = did_you_mean(str(self.overlong), _OVERLONG)
            raise UserError(f"overlong is {self.overlong!r}; write 'trim' or 'drop'.{near}")

    def _check_lengths(self):
        lengths = self.task_feature_lengths
        example = "{'inputs': 1024, 'targets': 256}"
        if lengths is None:
            return
        if not isinstance(lengths, Mapping):
            raise UserError(f"task_feature_lengths is {lengths!r}; write {example}")
        for name, value in lengths.items():
            if name not in FEATURES:
                near = did_you_mean(str(name), FEATURES)
                raise UserError(f"task_feature_lengths names {name!r}; write {example}.{near}")
            # Two: one token and its EOS.
            if not _is_integer(value) or value < 2:
                raise UserError(
                    f"task_feature_lengths[{name!r}] is {value!r}; it must be at least 2 tokens"
                )
        for name in FEATURES:
            if name not in lengths:
                raise UserError(f"task_feature_lengths lacks {name!r}; write {example}")

    @property
    def inputs_length(self) -> int:
        return self._length("inputs")

    @property
    def targets_length(self) -> int:
        return self._length("targets")

    def _length(self, name: str) -> int:
        if self.task_feature_lengths is None:
            raise UserError(
                "task_feature_lengths is None, and rows have a length; write TASK_FEATURE_LENGTHS "
                "= {'inputs': 1024, 'targets': 256}"
            )
        return self.task_feature_lengths[name]

    @property
    def cache_path(self) -> Path:
        """The cache folder, defaults resolved; of a remote one the local copy."""
        return cache_path(self.cache_dir)


def cache_path(cache_dir: str | None) -> Path:
    """Returns the folder caches are read from: the argument, $MT0_CACHE_DIR or ~/.cache/mt0_tpu.

    Caches are memory-mapped, so of a remote folder it is the local copy, there or not.
    """
    url = remote_url(cache_dir)
    if url:
        from mt0_tpu.data import remote_cache

        return remote_cache.local_root(url)
    return Path(_chosen(cache_dir)).expanduser()


def remote_url(cache_dir: str | None) -> str | None:
    """Returns the address caches live at, where that is a remote folder."""
    chosen = _chosen(cache_dir)
    return chosen.rstrip("/") if "://" in chosen else None


def _chosen(cache_dir: str | None) -> str:
    return str(cache_dir or os.environ.get("MT0_CACHE_DIR") or "~/.cache/mt0_tpu")


def _is_integer(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
