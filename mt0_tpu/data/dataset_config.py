"""What a job reads: mixture, split, lengths, batch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

from mt0_tpu.errors import UserError, did_you_mean

FEATURES = ("inputs", "targets")
ENCODER_DECODER, DECODER_ONLY = LAYOUTS = ("encoder_decoder", "decoder_only")
_OVERLONG = ("trim", "drop")


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
    """The data of one job; checks itself.

    Attributes:
        mixture_or_task_name: a SeqIO Task or Mixture.
        task_feature_lengths: tokens in a row's inputs and targets, final EOS included; None, which
            cuts nothing, only where a job takes no rows of it (T5X's infer_eval). A decoder-only
            row has room for both together, as T5X's has; {'decoder': 2048} gives its length alone,
            however a pair divides it.
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
        overlong: 'trim' cuts an example longer than the row as T5X does, 'drop' leaves it out. Of
            {'decoder': N} it is the inputs that are cut, unless the targets fill the row.
        layout: 'encoder_decoder' or 'decoder_only'; None is the model's (see `for_model`).
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
    layout: str | None = None

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
        if self.layout is not None and self.layout not in LAYOUTS:
            near = did_you_mean(str(self.layout), LAYOUTS)
            raise UserError(
                f"layout is {self.layout!r}; write '{ENCODER_DECODER}', '{DECODER_ONLY}' or None "
                f"for the model's.{near}"
            )

    def _check_lengths(self):
        lengths = self.task_feature_lengths
        example = "{'inputs': 1024, 'targets': 256}"
        if lengths is None:
            return
        if not isinstance(lengths, Mapping):
            raise UserError(f"task_feature_lengths is {lengths!r}; write {example}")
        if "decoder" in lengths and self.layout == ENCODER_DECODER:
            raise UserError(
                f"task_feature_lengths is {dict(lengths)}, a row of a decoder-only model; an "
                f"encoder and a decoder have a row each: write {example}"
            )
        decoder_only = set(lengths) == {"decoder"}
        for name, value in lengths.items():
            if name not in FEATURES and not decoder_only:
                if name == "decoder":
                    raise UserError(
                        f"task_feature_lengths is {dict(lengths)}; write {example} or, for a "
                        "decoder-only model, {'decoder': 2048}: one of them gives the row's length"
                    )
                near = did_you_mean(str(name), FEATURES)
                raise UserError(f"task_feature_lengths names {name!r}; write {example}.{near}")
            # Two: one token and its EOS.
            if not _is_integer(value) or value < 2:
                raise UserError(
                    f"task_feature_lengths[{name!r}] is {value!r}; it must be at least 2 tokens"
                )
        for name in () if decoder_only else FEATURES:
            if name not in lengths:
                raise UserError(f"task_feature_lengths lacks {name!r}; write {example}")

    def for_model(self, decoder_only: bool) -> DatasetConfig:
        """Returns this config with the layout of a model's rows; UserError where it says another.

        Args:
          decoder_only: of the network's config.
        """
        layout = DECODER_ONLY if decoder_only else ENCODER_DECODER
        if self.layout not in (None, layout):
            raise UserError(
                f"DatasetConfig.layout is '{self.layout}', and the model reads '{layout}' rows; "
                "leave layout out: it follows from the model"
            )
        return dataclasses.replace(self, layout=layout)

    @property
    def decoder_only(self) -> bool:
        """Whether inputs and targets share one row."""
        return self.layout == DECODER_ONLY or "decoder" in (self.task_feature_lengths or ())

    @property
    def decoder_length(self) -> int:
        """Positions of a decoder-only row."""
        if self.task_feature_lengths and "decoder" in self.task_feature_lengths:
            return self.task_feature_lengths["decoder"]
        return self.inputs_length + self.targets_length

    @property
    def row_lengths(self) -> tuple[int, int]:
        """Positions of a row's two sides; a decoder-only row has one, the second."""
        if self.decoder_only:
            return 0, self.decoder_length
        return self.inputs_length, self.targets_length

    @property
    def inputs_length(self) -> int:
        return self._length("inputs")

    @property
    def targets_length(self) -> int:
        return self._length("targets")

    def _length(self, name: str) -> int:
        if "decoder" in (self.task_feature_lengths or ()):
            raise UserError(
                f"task_feature_lengths is {dict(self.task_feature_lengths)}, and here {name} have "
                "a length of their own; write TASK_FEATURE_LENGTHS = {'inputs': 1024, "
                "'targets': 256}"
            )
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
