import json
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from mt0_tpu.errors import UserError
from mt0_tpu.formats import detect, hf_names, huggingface
from mt0_tpu.models import names

from .hf_folders import (
    NETWORK,
    save_legacy_torch,
    save_torch,
    t5x_arrays,
    tensors,
    torch_arrays,
    write_config,
)  # fmt: skip


def save_safetensors(path, arrays):
    save_file(arrays, path, metadata={"format": "pt"})


def save_bin(path, arrays):
    save_torch(path, tensors(arrays))


def save_legacy_bin(path, arrays):
    save_legacy_torch(path, tensors(arrays))


KINDS = [
    ("model.safetensors", save_safetensors),
    ("pytorch_model.bin", save_bin),
    ("pytorch_model.bin", save_legacy_bin),
]


def equal(weights, arrays):
    found = weights.tensors()
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        read = weights.read(name)
        assert (read.shape, read.dtype) == (array.shape, array.dtype), name
        assert read.tobytes() == array.tobytes(), name
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype.name), name
    return True


def opened(folder):
    root = huggingface.find(folder)
    assert root is not None
    return huggingface.open_weights(root)


def test_the_golden_folder_is_params_npz(golden):
    with np.load(golden / "t5_tiny" / "params.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    weights = opened(golden / "t5_tiny" / "hf")
    assert equal(weights, arrays)
    config = weights.config
    assert (config.num_heads, config.head_dim, config.mlp_dim) == (4, 16, 128)
    assert (config.mlp_activations, config.dropout_rate) == (("gelu", "linear"), 0.0)


def test_every_name_has_its_place_and_comes_back():
    for name in names.expected(NETWORK):
        place = hf_names.MT5.to_torch(name)
        assert hf_names.MT5.from_torch(place.name) == hf_names.Place(name, place.swapped)
    far = "decoder.layers_11.encoder_decoder_attention.out.kernel"
    place = hf_names.MT5.to_torch(far)
    assert place.name == "decoder.block.11.layer.1.EncDecAttention.o.weight" and place.swapped
    flax = hf_names.MT5.from_flax("decoder/block/11/layer/1/EncDecAttention/o/kernel")
    assert (flax.name, flax.swapped) == (far, False)


@pytest.mark.parametrize(
    "name",
    ["encoder.block.01.layer.0.SelfAttention.q.weight", "encoder.block.{i}.layer.0.layer_norm",
     "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight", "lm_head.bias",
     "encoder.block.{i}.layer.0.layer_norm.weight", ""],
)  # fmt: skip
def test_names_that_are_none(name):
    assert hf_names.MT5.from_torch(name) is None


@pytest.mark.parametrize("name,save", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_one_file_of_any_kind(tmp_path, name, save, dtype):
    arrays = t5x_arrays(dtype=dtype)
    write_config(tmp_path)
    save(tmp_path / name, torch_arrays(arrays))
    assert equal(opened(tmp_path), arrays)
    assert equal(opened(tmp_path / name), arrays)
    assert detect.find(tmp_path)[0] == "huggingface"


def sharded(folder, name, save, arrays, count=3):
    """Writes arrays in shards with an index."""
    write_config(folder)
    stem, suffix = name.rsplit(".", 1)
    weight_map = {}
    for i in range(count):
        shard = f"{stem}-{i + 1:05}-of-{count:05}.{suffix}"
        part = dict(list(arrays.items())[i::count])
        save(folder / shard, part)
        weight_map |= dict.fromkeys(part, shard)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / f"{name}.index.json").write_text(json.dumps(index))
    return weight_map


@pytest.mark.parametrize("name,save", KINDS[:2])
def test_shards_with_an_index(tmp_path, name, save):
    arrays = t5x_arrays()
    sharded(tmp_path, name, save, torch_arrays(arrays))
    assert equal(opened(tmp_path), arrays)


def refused(folder, match):
    with pytest.raises(UserError, match=match) as caught:
        weights = opened(folder)
        for name in weights.tensors():
            weights.read(name)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


@pytest.mark.parametrize("name,save", KINDS[:2])
def test_a_shard_that_is_missing_or_cut_short(tmp_path, name, save):
    weight_map = sharded(tmp_path, name, save, torch_arrays(t5x_arrays()))
    shard = tmp_path / sorted(set(weight_map.values()))[1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-40])
    refused(tmp_path, "cut short")
    shard.unlink()
    refused(tmp_path, f"{shard.name} is missing, one of the 3 files")


def test_an_index_that_is_wrong(tmp_path):
    weight_map = sharded(tmp_path, *KINDS[0], torch_arrays(t5x_arrays()))
    index = tmp_path / "model.safetensors.index.json"
    first = weight_map["shared.weight"]
    other = next(shard for shard in weight_map.values() if shard != first)
    index.write_text(json.dumps({"weight_map": weight_map | {"shared.weight": other}}))
    refused(tmp_path, f"places shared.weight in {other}, which does not have it")
    index.write_text(json.dumps({"weight_map": weight_map | {"shared.weight": "../x"}}))
    refused(tmp_path, "no file beside it")
    index.write_text('{"weight_map": {"a": 3}}')
    refused(tmp_path, "names 3, which is no file beside it")
    for text in ("{", "[]", '{"weight_map": 3}', "", '{"weight_map": {"a": 3, "b": "c"}}'):
        index.write_text(text)
        refused(tmp_path, "damaged")


@pytest.mark.parametrize(
    "changes,match",
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2': only mT5's network .* and BLOOM's"),
        ({"model_type": "umt5"}, "model_type 'umt5'"),
        ({"model_type": "t5", "tie_word_embeddings": True, "feed_forward_proj": "relu"}, "T5 1.0"),
        ({"model_type": "t5", "tie_word_embeddings": True}, "the head tied to the embedding"),
        ({"model_type": "t5", "scale_decoder_outputs": True}, "the head tied to the embedding"),
        ({"feed_forward_proj": "relu"}, "feed_forward_proj 'relu'"),
        ({"layer_norm_epsilon": 1e-5}, "layer_norm_epsilon is 1e-05"),
        ({"decoder_start_token_id": 1}, "decoder_start_token_id 1 instead of 0"),
        ({"d_model": "wide"}, "emb_dim is 'wide'"),
        ({"vocab_size": 23}, "(shared|lm_head).weight has 24 rows, expected 23"),
        ({"num_heads": 3}, "does not hold the network"),
        ({"num_layers": 3}, r"encoder.block.2.layer.0.* is missing"),
        ({"num_layers": 1}, r"encoder.block.1.* is of no layer"),
    ],
)
def test_what_is_no_mt5(tmp_path, changes, match):
    write_config(tmp_path, **changes)
    save_safetensors(tmp_path / "model.safetensors", torch_arrays(t5x_arrays()))
    refused(tmp_path, match)


def test_rows_that_differ_between_embedding_and_head(tmp_path):
    arrays = torch_arrays(t5x_arrays())
    arrays["lm_head.weight"] = arrays["lm_head.weight"][:20]
    write_config(tmp_path)
    save_safetensors(tmp_path / "model.safetensors", arrays)
    refused(tmp_path, "lm_head.weight has 20 rows, expected 24")


def test_a_folder_without_weights_or_configuration(tmp_path):
    assert huggingface.find(tmp_path) is None
    assert huggingface.find(tmp_path / "nothing") is None
    write_config(tmp_path)
    refused(tmp_path, "holds no weights: expected model.safetensors")
    (tmp_path / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1\n")
    refused(tmp_path, "pointer of Git LFS")
    (tmp_path / "pytorch_model.bin").unlink()
    save_safetensors(tmp_path / "model.safetensors", torch_arrays(t5x_arrays()))
    (tmp_path / "config.json").write_text('{"vocab_size": ')
    refused(tmp_path, "config.json is damaged")
    (tmp_path / "config.json").unlink()
    refused(tmp_path, "config.json is missing")


def test_copies_of_the_embedding(tmp_path):
    arrays = t5x_arrays()
    stored = torch_arrays(arrays)
    shared = stored["shared.weight"]
    write_config(tmp_path)
    path = tmp_path / "model.safetensors"
    save_safetensors(path, stored | dict.fromkeys(hf_names.MT5.aliases, shared))
    assert equal(opened(tmp_path), arrays)
    without = {name: array for name, array in stored.items() if name != "shared.weight"}
    save_safetensors(path, without | {"encoder.embed_tokens.weight": shared})
    assert equal(opened(tmp_path), arrays)
    save_safetensors(path, stored | {"decoder.embed_tokens.weight": shared + 1})
    refused(tmp_path, "decoder.embed_tokens.weight differs from shared.weight")


def test_one_storage_under_three_names_is_read_once(tmp_path):
    arrays = t5x_arrays()
    state = tensors(torch_arrays(arrays))
    state |= dict.fromkeys(hf_names.MT5.aliases, state["shared.weight"])
    write_config(tmp_path)
    save_torch(tmp_path / "pytorch_model.bin", state)
    assert equal(opened(tmp_path), arrays)


def test_an_untied_head_counts_whatever_the_configuration_says(tmp_path):
    """transformers 5 writes tie_word_embeddings true for every mT5, and reads it as we do."""
    arrays = t5x_arrays()
    write_config(tmp_path, tie_word_embeddings=True)
    save_safetensors(tmp_path / "model.safetensors", torch_arrays(arrays))
    assert equal(opened(tmp_path), arrays)


def test_a_tied_head_is_refused(tmp_path):
    write_config(tmp_path, tie_word_embeddings=True)
    stored = torch_arrays(t5x_arrays())
    path = tmp_path / "pytorch_model.bin"
    state = tensors(stored)
    save_torch(path, state | {"lm_head.weight": state["shared.weight"]})
    refused(tmp_path, "no lm_head.weight of its own")
    del stored["lm_head.weight"]
    save_bin(path, stored)
    refused(tmp_path, "no lm_head.weight of its own")


def test_t5_of_version_1_1_is_the_same_network(tmp_path):
    arrays = t5x_arrays()
    save_safetensors(tmp_path / "model.safetensors", torch_arrays(arrays))
    write_config(tmp_path, model_type="t5")
    assert equal(opened(tmp_path), arrays)
    write_config(tmp_path, model_type="t5", tie_word_embeddings=True, scale_decoder_outputs=False)
    assert equal(opened(tmp_path), arrays)


def test_an_unknown_name(tmp_path):
    write_config(tmp_path)
    stored = torch_arrays(t5x_arrays()) | {"classifier.weight": np.zeros(3, np.float32)}
    save_safetensors(tmp_path / "model.safetensors", stored)
    refused(tmp_path, "classifier.weight is no parameter of mT5")


@pytest.mark.parametrize(
    "header",
    [b"{", b"[]", b'{"a": 3}', b'{"a": {"dtype": "F8", "shape": [1], "data_offsets": [0, 1]}}',
     b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
     b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}}',
     b'{"a": {"dtype": "F32", "shape": [1.5], "data_offsets": [0, 6]}}',
     b'{"a": {"dtype": "F32", "shape": [Infinity], "data_offsets": [0, 4]}}',
     b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, '
     b'"b": {"dtype": "F32", "shape": [1], "data_offsets": [2, 6]}}'],
)  # fmt: skip
def test_a_damaged_safetensors_header(tmp_path, header):
    write_config(tmp_path)
    header = header.ljust(64)
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    refused(tmp_path, "header is damaged|no weights of a kind")


def test_a_safetensors_file_cut_anywhere(tmp_path):
    write_config(tmp_path)
    path = tmp_path / "model.safetensors"
    save_safetensors(path, torch_arrays(t5x_arrays()))
    whole = path.read_bytes()
    for end in (0, 5, 9, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(UserError, match="cut short|is empty|no weights of a kind"):
            huggingface.open_weights(tmp_path)


def test_find_goes_by_content(tmp_path):
    write_config(tmp_path / "a")
    save_safetensors(tmp_path / "a" / "other-name.dat", torch_arrays(t5x_arrays()))
    assert huggingface.find(tmp_path / "a" / "other-name.dat") is not None
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "config.json").write_text('{"name": "no model"}')
    (tmp_path / "b" / "model.safetensors").write_text("no tensors")
    assert huggingface.find(tmp_path / "b") is None
    assert huggingface.find(tmp_path / "b" / "model.safetensors") is None


def test_whole_numbers_are_no_weights(tmp_path):
    write_config(tmp_path)
    arrays = torch_arrays(t5x_arrays())
    name = "encoder.block.0.layer.1.DenseReluDense.wo.weight"
    arrays[name] = arrays[name].astype(np.int8)
    save_bin(tmp_path / "pytorch_model.bin", arrays)
    refused(tmp_path, f"{name} is int8, where one of float64, .*quantized")


def test_a_configuration_of_a_billion_layers_is_refused_at_once(tmp_path):
    write_config(tmp_path, num_layers=10**9)
    save_safetensors(tmp_path / "model.safetensors", torch_arrays(t5x_arrays()))
    refused(tmp_path, "tensors, which are no 1000000001 layers")


def test_a_kind_of_layer_that_is_no_text(tmp_path):
    write_config(tmp_path, feed_forward_proj=["gated-gelu"])
    refused(tmp_path, "describes T5 1.0")
