"""Writes a folder that transformers loads: weights of an MT5 or BLOOM, configuration, tokenizer."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mt0_tpu.errors import UserError, did_you_mean
from mt0_tpu.formats import hf_bloom, hf_names, huggingface, shape_of, sound, whole_folder
from mt0_tpu.formats.byte_progress import ByteProgress
from mt0_tpu.formats.model_card import ModelCard
from mt0_tpu.formats.safetensors_file import SafetensorsWriter, num_bytes, row_blocks
from mt0_tpu.formats.weights import TensorInfo, Weights
from mt0_tpu.models.networks import NetworkConfig
from mt0_tpu.text_vocabulary import TokenizerJsonText

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
# Most published BLOOMs are stored so; mT5's values overflow it.
_FLOAT16 = {"float16": np.dtype(np.float16)}
SHARD_BYTES = 5 * 10**9
# What `write` writes, and what transformers, torch and the Hub's own tools put beside it.
_FOREIGN = whole_folder.entry_beside(
    "config.json", "generation_config.json", "README.md", "*.safetensors", "*.index.json",
    "pytorch_model*.bin", "flax_model*.msgpack", "spiece.model", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
_SPECIAL = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def write(
    weights: Weights,
    destination: Path,
    *,
    dtype: str = "float32",
    with_state: bool = False,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda text: None,
    config: NetworkConfig | None = None,
    vocabulary: str | Path | None = None,
    card: ModelCard | None = None,
    shard_bytes: int = SHARD_BYTES,
    allow_not_finite: bool = False,
) -> None:
    """Writes the folder; about one tensor is in memory, and it takes its name when it is whole.

    Args:
      weights: what to write, under our names.
      destination: a folder that is not there yet.
      dtype: of the weights, 'float32', 'bfloat16' or, of a BLOOM, 'float16' (rounded to nearest,
        ties to even).
      with_state: must be False: transformers keeps no statistics of an optimizer.
      overwrite: replaces a destination that holds such a folder and nothing else.
      say: takes lines of progress.
      config: the network; None reads it off the weights' own, else off their shapes.
      vocabulary: for the tokenizer's files, mT5's SentencePiece model, or BLOOM's tokenizer.json or
        the folder it lies in; None leaves these out. Of a SentencePiece model a BLOOM takes the
        special tokens' ids alone.
      card: for README.md.
      shard_bytes: of tensors in one file at most, an index beside the files where there are
        several; a tensor that is larger has a file of its own.
      allow_not_finite: writes NaN and infinities too.

    Raises UserError for a wrong option, a network that transformers does not have, a vocabulary
    that does not fit, NaN weights, and a destination that must not be replaced.
    """
    destination = Path(destination)
    _check_options(dtype, with_state, shard_bytes)
    network = sound.check_tensors(weights, config or weights.config)
    _check_float16(dtype, network)
    words = sound.check_words(vocabulary, network) if vocabulary is not None else None
    description = config_json(network, dtype, _ids(weights, words, vocabulary))
    with whole_folder.appearing(destination, overwrite, _FOREIGN) as folder:
        table = hf_names.table_of(network)
        _write_weights(weights, table, folder, dtype, shard_bytes, allow_not_finite, say)
        _write_json(folder / huggingface.CONFIG, description)
        tokens = {key: value for key, value in description.items() if key.endswith("_token_id")}
        _write_json(folder / "generation_config.json", dict(sorted(tokens.items())))
        if words is not None:
            _copy_tokenizer(folder, Path(vocabulary))
        # No class of transformers' gives a BLOOM the ids of a SentencePiece model.
        elif vocabulary is not None and not network.decoder_only:
            _write_tokenizer(folder, Path(vocabulary), say)
        facts = {
            "Parameters": f"{sum(math.prod(i.shape) for i in weights.tensors().values()):,}",
            "Network": shape_of.describe(network),
            "Weights": dtype, "Training step": weights.step,
            "Converted from": f"{weights.kind}, {Path(weights.path).name}",
        }  # fmt: skip
        _write_text(folder / "README.md", (card or ModelCard()).text(facts, network.decoder_only))


def _check_options(dtype: str, with_state: bool, shard_bytes: int) -> None:
    known = DTYPES | _FLOAT16
    if dtype not in known:
        raise UserError(
            f"dtype {dtype!r}: write one of {', '.join(known)}.{did_you_mean(dtype, known)}"
        )
    if with_state:
        raise UserError(
            "a Hugging Face folder holds no optimizer state: write it without, or convert to orbax "
            "or t5x"
        )
    if shard_bytes < 1:
        raise UserError(f"shard_bytes is {shard_bytes}: write a number of bytes such as 5000000000")


def _check_float16(dtype: str, network: NetworkConfig) -> None:
    if dtype in _FLOAT16 and not network.decoder_only:
        raise UserError("dtype 'float16': mT5 overflows it; write one of float32, bfloat16")


def _ids(weights: Weights, words: TokenizerJsonText | None, vocabulary) -> dict[str, int]:
    """A BLOOM's special tokens: the vocabulary's, else its folder's, else the published ones."""
    if words is not None:
        return {name: one for name, one in words.special_ids().items() if one is not None}
    if vocabulary is not None:  # a SentencePiece model laid out as mT5's
        return {"eos_token_id": sound.EOS_ID, "pad_token_id": sound.PAD_ID}
    return getattr(weights, "ids", None) or hf_bloom.IDS


def config_json(
    network: NetworkConfig, dtype: str, ids: Mapping[str, int] = hf_bloom.IDS
) -> dict[str, Any]:
    """What config.json says of a network; UserError for one that transformers cannot describe.

    `ids` are a BLOOM's special tokens, such as {'eos_token_id': 2}.
    """
    if network.decoder_only:
        return hf_bloom.config_json(network, dtype, ids)
    projections = {ours: theirs for theirs, ours in huggingface.ACTIVATIONS.items()}
    if network.mlp_activations not in projections or network.logits_via_embedding:
        raise UserError(
            f"a network with mlp_activations {network.mlp_activations} and logits_via_embedding "
            f"{network.logits_via_embedding} is no mT5: ('gelu', 'linear') and False can be written"
        )
    return {
        "architectures": ["MT5ForConditionalGeneration"],
        "model_type": "mt5",
        "vocab_size": network.vocab_size,
        "d_model": network.emb_dim,
        "d_kv": network.head_dim,
        "d_ff": network.mlp_dim,
        "num_layers": network.num_encoder_layers,
        "num_decoder_layers": network.num_decoder_layers,
        "num_heads": network.num_heads,
        "feed_forward_proj": projections[network.mlp_activations],
        "is_encoder_decoder": True,
        "layer_norm_epsilon": 1e-6,
        "relative_attention_num_buckets": network.relative_attention_num_buckets,
        "relative_attention_max_distance": network.relative_attention_max_distance,
        "dropout_rate": network.dropout_rate,
        "initializer_factor": 1.0,
        "pad_token_id": sound.PAD_ID,
        "eos_token_id": sound.EOS_ID,
        "decoder_start_token_id": sound.PAD_ID,
        "tie_word_embeddings": False,
        "tokenizer_class": "T5Tokenizer",
        "use_cache": True,
        # The name of before transformers 5, which newer versions read as well.
        "torch_dtype": dtype,
    }


def _copy_tokenizer(folder: Path, given: Path) -> None:
    """tokenizer.json and what lies beside it; transformers wants to be told the special tokens."""
    source = given if given.is_dir() else given.parent
    for name in hf_names.TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    if not given.is_dir():  # it may be called otherwise
        shutil.copyfile(given, folder / "tokenizer.json")
    if not (folder / "tokenizer_config.json").exists():
        names = {"bos_token": "<s>", **_SPECIAL}
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "padding_side": "left"}
        _write_json(folder / "tokenizer_config.json", settings | names)


def _write_tokenizer(folder: Path, spiece: Path, say: Callable[[str], None]) -> None:
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString(spiece.read_bytes())
    kind = model.trainer_spec.ModelType.Name(model.trainer_spec.model_type)
    if kind != "UNIGRAM":
        say(
            f"convert: {spiece} is a {kind} model, and transformers' T5Tokenizer cuts text as "
            "unigram models do: give its pieces ids by sentencepiece itself"
        )
    shutil.copyfile(spiece, folder / "spiece.model")
    _write_json(folder / "special_tokens_map.json", _SPECIAL)
    # The sentinels are pieces of the model itself, so none is added.
    tokenizer = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "legacy": True}
    _write_json(folder / "tokenizer_config.json", tokenizer | _SPECIAL)


def _write_weights(
    weights: Weights,
    table: hf_names.NameTable,
    folder: Path,
    dtype: str,
    shard_bytes: int,
    allow_not_finite: bool,
    say: Callable[[str], None],
) -> None:
    """model.safetensors, or its shards and their index."""
    sources = {}
    infos = {}
    for name, info in weights.tensors().items():
        place = table.to_torch(name)
        assert place is not None, name  # its names were checked
        sources[place.name] = (name, place.swapped)
        infos[place.name] = TensorInfo(info.shape[::-1] if place.swapped else info.shape, dtype)
    shards = list(_shards({name: infos[name] for name in sorted(infos)}, shard_bytes))
    total = sum(map(num_bytes, infos.values()))
    progress = ByteProgress(total, say)
    for number, shard in enumerate(shards, start=1):
        path = folder / _shard_name(number, len(shards))
        with SafetensorsWriter(path, shard, {"format": "pt"}) as writer:
            for name, info in shard.items():
                source, swapped = sources[name]
                array = _read(weights, source, allow_not_finite)
                writer.put(name, _cast(source, array.T if swapped else array, dtype))
                del array  # before the next is read
                progress.add(num_bytes(info))
    if len(shards) > 1:
        files = {
            name: _shard_name(number, len(shards))
            for number, shard in enumerate(shards, start=1)
            for name in shard
        }
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(files.items()))}
        _write_json(folder / "model.safetensors.index.json", index)


def _read(weights: Weights, name: str, allow_not_finite: bool) -> np.ndarray:
    array = weights.read(name)
    if not allow_not_finite:
        sound.check_values(name, array, f"{weights.path} ({weights.kind})")
    return array


def _cast(name: str, array: np.ndarray, dtype: str) -> Iterator[np.ndarray]:
    kind = (DTYPES | _FLOAT16)[dtype]
    for block in row_blocks(array):
        with np.errstate(over="ignore"):
            cast = block.astype(kind, copy=False)
        if dtype in _FLOAT16 and not np.array_equal(np.isfinite(cast), np.isfinite(block)):
            raise UserError(
                f"{name} holds values beyond float16's range, 65504; write bfloat16 or float32"
            )
        yield cast


def _shards(infos: dict[str, TensorInfo], shard_bytes: int) -> Iterator[dict[str, TensorInfo]]:
    shard: dict[str, TensorInfo] = {}
    for name, info in infos.items():
        if shard and sum(map(num_bytes, shard.values())) + num_bytes(info) > shard_bytes:
            yield shard
            shard = {}
        shard[name] = info
    yield shard


def _shard_name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05}-of-{count:05}.safetensors"


def _write_json(path: Path, content: dict[str, Any]) -> None:
    _write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _write_text(path: Path, text: str) -> None:
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
