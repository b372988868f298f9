"""Reads a folder of transformers' MT5 or BLOOM: config.json and the weights, of any of three kinds.

The weights are model.safetensors, pytorch_model.bin or flax_model.msgpack, each in one file or in
several with an index of JSON beside them. In this order the first that is there is read.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mt0_tpu.errors import UserError
from mt0_tpu.formats import (
    flax_msgpack,
    hf_bloom,
    hf_names,
    safetensors_file,
    sound,
    torch_pickle,
)
from mt0_tpu.formats.weights import TensorInfo, Weights
from mt0_tpu.models import names
from mt0_tpu.models.config import T5Config
from mt0_tpu.models.networks import NetworkConfig

CONFIG = "config.json"
# Kinds of feed-forward layer and what T5X calls them; transformers' 'gelu' here is the tanh form.
ACTIVATIONS = {
    "gated-gelu": ("gelu", "linear"),
    "gated-relu": ("relu", "linear"),
    "gated-silu": ("silu", "linear"),
}
_OUR_EPSILON = 1e-6
# Pieces in rows of the embedding.
_ROWS = {"mT5": "250100 pieces in 250112", "BLOOM": "250680 ids in 250880"}
_DTYPES = ("float64", "float32", "float16", "bfloat16")


class _File(Protocol):
    """What the readers of single files have in common."""

    def tensors(self) -> dict[str, TensorInfo]: ...
    def read(self, name: str) -> np.ndarray: ...
    def same(self, name: str, other: str) -> bool: ...


# name in one file, ending of the index: its reader, its test by content, whose names it has.
_KINDS: dict[str, tuple[Callable[[Path], _File], Callable[[Path], bool], str]] = {
    "model.safetensors": (safetensors_file.SafetensorsFile, safetensors_file.looks_like, "torch"),
    "pytorch_model.bin": (torch_pickle.TorchFile, torch_pickle.looks_like, "torch"),
    "flax_model.msgpack": (flax_msgpack.FlaxFile, flax_msgpack.looks_like, "flax"),
}


def find(path: Path) -> Path | None:
    """The folder or the file of weights to read at a path; None where nothing is transformers'.

    A folder counts by a config.json that names a model_type, or by weights that are what their
    names say; a file counts by its content and by the config.json beside it.
    """
    if path.is_dir():
        if _is_config(path / CONFIG):
            return path
        for name, (_, looks_like, _) in _KINDS.items():
            file = path / name
            if (path / f"{name}.index.json").is_file() or (file.is_file() and looks_like(file)):
                return path
        return None
    if not path.is_file():
        return None
    if path.name == CONFIG and _is_config(path):
        return path.parent
    # A map of msgpack may be T5X's too; only its folder tells.
    known = any(looks_like(path) for _, looks_like, _ in _KINDS.values())
    return path if known and _is_config(path.parent / CONFIG) else None


def _is_config(path: Path) -> bool:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and "model_type" in found


def open_weights(path: Path) -> HuggingFaceWeights:
    """Opens what `find` found, every name and shape checked; UserError for another network."""
    root = path if path.is_dir() else path.parent
    described = _description(root)
    config = _config_of(root / CONFIG, described)
    files, names_of = _files(path) if path.is_dir() else _single(path)
    if config.decoder_only and names_of == "flax":
        raise UserError(
            f"{path} holds BLOOM in Flax's layout, which is not read: fetch model.safetensors or "
            "pytorch_model.bin beside its config.json"
        )
    ids = {name: described[name] for name in hf_bloom.IDS if described.get(name) is not None}
    return HuggingFaceWeights(path, config, files, names_of, ids)


def read_config(root: Path) -> NetworkConfig:
    """The network that a folder's config.json describes.

    Raises UserError where there is none, and for an architecture that is not ours.
    """
    return _config_of(root / CONFIG, _description(root))


def _config_of(path: Path, found: dict[str, Any]) -> NetworkConfig:
    if found.get("model_type") == "bloom":
        return hf_bloom.network(path, found)
    _check_architecture(path, found)
    return _network(path, found)


def _description(root: Path) -> dict[str, Any]:
    path = root / CONFIG
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("no JSON object")
    except FileNotFoundError:
        raise UserError(f"{path} is missing: fetch the folder again, {CONFIG} included") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): fetch it again") from None
    return found


def _check_architecture(path: Path, found: dict[str, Any]) -> None:
    kind = found.get("model_type")
    if kind not in ("mt5", "t5"):
        raise UserError(
            f"{path} describes model_type {kind!r}: only mT5's network is read (model_type 'mt5', "
            "and 't5' of version 1.1), and BLOOM's ('bloom')"
        )
    # For mT5 only the weights tell: transformers 5 writes tie_word_embeddings true for all of them.
    # T5 1.0 divides what goes into its tied head; version 5 says so under a name of its own.
    tied = kind == "t5" and found.get(
        "scale_decoder_outputs", found.get("tie_word_embeddings", True)
    )
    projection = str(found.get("feed_forward_proj", "gated-gelu" if kind == "mt5" else "relu"))
    if tied or projection not in ACTIVATIONS:
        head = "tied to the embedding" if tied else "its own"
        raise UserError(
            f"{path} describes T5 1.0 (feed_forward_proj {projection!r}, the head {head}): only "
            "mT5's network is read, with feed_forward_proj 'gated-gelu' and a head of its own"
        )
    epsilon = found.get("layer_norm_epsilon", _OUR_EPSILON)
    if epsilon != _OUR_EPSILON:
        raise UserError(
            f"{path}: layer_norm_epsilon is {epsilon!r}, where mT5's network has {_OUR_EPSILON}"
        )
    sound.check_ids(
        str(path),
        pad=found.get("pad_token_id"),
        eos=found.get("eos_token_id"),
        decoder_start=found.get("decoder_start_token_id"),
    )


def _network(path: Path, found: dict[str, Any]) -> T5Config:
    try:
        return T5Config(
            vocab_size=found["vocab_size"],
            emb_dim=found["d_model"],
            num_heads=found["num_heads"],
            head_dim=found["d_kv"],
            mlp_dim=found["d_ff"],
            num_encoder_layers=found["num_layers"],
            num_decoder_layers=found.get("num_decoder_layers") or found["num_layers"],
            mlp_activations=ACTIVATIONS[found.get("feed_forward_proj", "gated-gelu")],
            dropout_rate=found.get("dropout_rate", 0.1),
            relative_attention_num_buckets=found.get("relative_attention_num_buckets", 32),
            relative_attention_max_distance=found.get("relative_attention_max_distance", 128),
        )
    except KeyError as error:
        raise UserError(f"{path} lacks {error}: fetch it again, or write it in") from None
    except ValueError as error:
        raise UserError(f"{path} describes no network of ours: {error}") from None


def _single(path: Path) -> tuple[dict[str, _File], str]:
    """{name: the file that has it}, of one file, and whose names they are."""
    for reader, looks_like, names_of in _KINDS.values():
        if looks_like(path):
            file = reader(path)
            return dict.fromkeys(file.tensors(), file), names_of
    if not path.stat().st_size:
        raise UserError(f"{path} is empty: fetch it again")
    raise UserError(
        f"{path} holds no weights of a kind that is read (safetensors, PyTorch, Flax); where it "
        "is a pointer of Git LFS, fetch the file itself"
    )


def _files(root: Path) -> tuple[dict[str, _File], str]:
    for name in _KINDS:
        if (root / name).is_file():
            return _single(root / name)
        index = root / f"{name}.index.json"
        if index.is_file():
            return _sharded(index)
    raise UserError(
        f"{root} holds no weights: expected {', '.join(_KINDS)} or one of these in shards with its "
        "index; fetch the folder again"
    )


def _sharded(index: Path) -> tuple[dict[str, _File], str]:
    try:
        listed = json.loads(index.read_bytes())["weight_map"]
        shards = sorted(set(listed.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index} is damaged ({error}): fetch it again") from None
    files: dict[str, _File] = {}
    names_of = "torch"
    for shard in shards:
        if not isinstance(shard, str) or os.path.basename(shard) != shard:
            raise UserError(f"{index} names {shard!r}, which is no file beside it")
        path = index.parent / shard
        if not path.is_file():
            raise UserError(
                f"{path} is missing, one of the {len(shards)} files that {index.name} names: fetch "
                "the folder again"
            )
        found, names_of = _single(path)
        files |= {name: file for name, file in found.items() if listed.get(name) == shard}
    lacking = sorted(set(listed) - set(files))
    if lacking:
        raise UserError(
            f"{index} places {lacking[0]} in {listed[lacking[0]]}, which does not have it "
            f"({len(lacking)} such names): fetch the folder again"
        )
    return files, names_of


class HuggingFaceWeights(Weights):
    """The parameters of a folder under our names; kernels and tables are views, transposed.

    Attributes:
      config: the network that config.json describes.
      ids: the special tokens' ids that it names.
    """

    kind = "Hugging Face"

    def __init__(
        self,
        path: Path,
        config: NetworkConfig,
        files: dict[str, _File],
        names_of: str,
        ids: dict[str, int],
    ):
        """`names_of` is 'torch' or 'flax', whose names the files have."""
        self.path, self.config, self.ids = str(path), config, ids
        self._files = files
        self._table = hf_names.table_of(config)
        from_name = self._table.from_flax if names_of == "flax" else self._table.from_torch
        self._aliases = [name for name in self._table.aliases if name in files]
        self._places: dict[str, tuple[str, bool]] = {}
        unknown = []
        for name in files:
            place = from_name(name)
            if place is None and name not in (*self._table.aliases, *self._table.unused):
                unknown.append(name)
            elif place is not None:
                self._check_once(name, place.name)
                self._places[place.name] = (name, place.swapped)
        # Where the embedding was left out as a duplicate, an alias stands for it.
        if self._aliases and "token_embedder.embedding" not in self._places:
            self._places["token_embedder.embedding"] = (self._aliases[0], False)
        self._check(unknown)

    def _check_once(self, name: str, ours: str) -> None:
        if ours in self._places:
            raise UserError(
                f"{self.path} has both {self._places[ours][0]} and {name}, names of one tensor; "
                "fetch the folder again"
            )

    def _check(self, unknown: list[str]) -> None:
        heads = [("token_embedder.embedding", 0)]
        # A list of what a billion layers would have is not made.
        if self.config.decoder_only:
            layers = self.config.num_layers
        else:
            self._check_head()
            heads.append(("decoder.logits_dense.kernel", 1))
            layers = self.config.num_encoder_layers + self.config.num_decoder_layers
        if layers > len(self._files):
            raise UserError(
                f"{self.path} has {len(self._files)} tensors, which are no {layers} layers as its "
                f"{CONFIG} says; fetch the folder again"
            )
        found, wanted = self.tensors(), names.expected(self.config)
        for name, axis in heads:
            shape = found[name].shape if name in found else ()
            if len(shape) == 2 and shape[axis] != self.config.vocab_size:
                raise UserError(
                    f"{self.path}: {self._places[name][0]} has {shape[axis]} rows, expected "
                    f"{self.config.vocab_size} by {CONFIG}'s vocab_size; the vocabulary of "
                    f"{self._table.network} has {_ROWS[self._table.network]} rows: take both files "
                    "from one folder"
                )
        wrong = [f"{self._shown(name)} is missing" for name in wanted if name not in found]
        wrong += [f"{name} is no parameter of {self._table.network}" for name in unknown]
        wrong += [f"{self._places[name][0]} is of no layer" for name in found if name not in wanted]
        wrong += [
            f"{self._shown(name)} is {found[name].shape} where {leaf.shape} is expected (in our "
            "axes)"
            for name, leaf in wanted.items()
            if name in found and found[name].shape != leaf.shape
        ]
        wrong += [
            f"{self._places[name][0]} is {info.dtype}, where one of {', '.join(_DTYPES)} is read "
            "(quantized weights cannot be)"
            for name, info in found.items()
            if info.dtype not in _DTYPES
        ]
        if wrong:
            more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise UserError(
                f"{self.path} does not hold the network of its {CONFIG}: "
                f"{'; '.join(wrong[:3])}{more}; fetch the folder again"
            )

    def _check_head(self) -> None:
        """A head that is the embedding is left out by transformers, or is the same storage."""
        head, _ = self._places.get("decoder.logits_dense.kernel", ("", False))
        embedding, _ = self._places.get("token_embedder.embedding", ("", False))
        file = self._files.get(head)
        if embedding and (
            file is None or (file is self._files[embedding] and file.same(head, embedding))
        ):
            raise UserError(
                f"{self.path} has no lm_head.weight of its own: the head is tied to the embedding, "
                "where mT5's is not, or the folder is not whole; give the weights of an mT5"
            )

    def tensors(self) -> dict[str, TensorInfo]:
        """{our name: what it is}, axes as ours."""
        found = {}
        for name, (stored, swapped) in self._places.items():
            info = self._infos(self._files[stored])[stored]
            found[name] = TensorInfo(info.shape[::-1] if swapped else info.shape, info.dtype)
        return found

    @functools.cached_property
    def _known(self) -> dict[int, dict[str, TensorInfo]]:
        return {}

    def _infos(self, file: _File) -> dict[str, TensorInfo]:
        if id(file) not in self._known:
            self._known[id(file)] = file.tensors()
        return self._known[id(file)]

    def read(self, name: str) -> np.ndarray:
        """One parameter as stored; UserError where the file is damaged, KeyError if unknown."""
        stored, swapped = self._places[name]
        array = self._files[stored].read(stored)
        if name == "token_embedder.embedding":
            self._check_aliases(stored, array)
        return array.T if swapped else array

    def _check_aliases(self, stored: str, array: np.ndarray) -> None:
        """A tower or head with an embedding of its own is another network than ours."""
        for alias in self._aliases:
            file = self._files[alias]
            if alias == stored or (file is self._files[stored] and file.same(alias, stored)):
                continue
            other = file.read(alias)
            if other.dtype != array.dtype or not np.array_equal(other, array, equal_nan=True):
                one = "both towers" if self._table is hf_names.MT5 else "input and head"
                raise UserError(
                    f"{self.path}: {alias} differs from {stored}, where {self._table.network} has "
                    f"one embedding for {one}; export the model again without changing one of "
                    "them alone"
                )

    def _shown(self, name: str) -> str:
        place = self._table.to_torch(name)
        return place.name if place else name
