import json

import ml_dtypes
import numpy as np
import pytest
from flax import serialization, traverse_util

from mt0_tpu.errors import UserError
from mt0_tpu.formats import hf_names, huggingface
from mt0_tpu.formats.flax_msgpack import FlaxFile, looks_like

from .hf_folders import t5x_arrays, torch_arrays, write_config


def flax_arrays(arrays):
    """{'shared/embedding': array, …}, by a rule of the test's own: kernels lie as T5X's do."""
    found = {}
    for name, stored in torch_arrays(arrays).items():
        stem = name.removesuffix(".weight").replace(".", "/")
        if stem == "shared" or stem.endswith("relative_attention_bias"):
            found[f"{stem}/embedding"] = stored
        elif stem.endswith("norm"):
            found[f"{stem}/weight"] = stored
        else:
            found[f"{stem}/kernel"] = stored.T
    return found


def save(path, flat):
    path.write_bytes(serialization.to_bytes(traverse_util.unflatten_dict(flat, sep="/")))


def equal(weights, arrays):
    assert set(weights.tensors()) == set(arrays)
    for name, array in arrays.items():
        read = weights.read(name)
        assert (read.shape, read.dtype) == (array.shape, array.dtype), name
        assert read.tobytes() == array.tobytes(), name
    return True


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_a_folder_of_flax(tmp_path, dtype):
    arrays = t5x_arrays(dtype=dtype)
    write_config(tmp_path)
    save(tmp_path / "flax_model.msgpack", flax_arrays(arrays))
    assert huggingface.find(tmp_path) == tmp_path
    assert equal(huggingface.open_weights(tmp_path), arrays)


def test_every_flax_name_is_known():
    assert all(hf_names.MT5.from_flax(name) for name in flax_arrays(t5x_arrays()))
    assert hf_names.MT5.from_flax("lm_head.weight") is None


def test_arrays_in_pieces(tmp_path, monkeypatch):
    arrays = t5x_arrays()
    write_config(tmp_path)
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 100)
    save(tmp_path / "flax_model.msgpack", flax_arrays(arrays))
    assert b"chunked" in (tmp_path / "flax_model.msgpack").read_bytes()
    assert equal(huggingface.open_weights(tmp_path), arrays)


def test_shards(tmp_path):
    arrays = t5x_arrays()
    flat = flax_arrays(arrays)
    write_config(tmp_path)
    weight_map = {}
    for i in range(2):
        shard = f"flax_model-{i + 1:05}-of-00002.msgpack"
        part = dict(list(flat.items())[i::2])
        save(tmp_path / shard, part)
        weight_map |= dict.fromkeys(part, shard)
    index = json.dumps({"weight_map": weight_map})
    (tmp_path / "flax_model.msgpack.index.json").write_text(index)
    assert equal(huggingface.open_weights(tmp_path), arrays)
    (tmp_path / "flax_model-00002-of-00002.msgpack").unlink()
    with pytest.raises(UserError, match="00002.msgpack is missing"):
        huggingface.open_weights(tmp_path)


def test_a_file_cut_anywhere_is_refused(tmp_path):
    path = tmp_path / "x.msgpack"
    save(path, {"a/kernel": np.ones((2, 3), np.float32), "b": np.ones(2, np.float32)})
    assert looks_like(path) and set(FlaxFile(path).tensors()) == {"a/kernel", "b"}
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(UserError, match="cut short") as caught:
            FlaxFile(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("value", [3, "text", np.ones(2, np.int32), [np.ones(2, np.float32)]])
def test_what_is_no_parameter(tmp_path, value):
    path = tmp_path / "x.msgpack"
    path.write_bytes(serialization.msgpack_serialize({"a": {"b": value}}))
    with pytest.raises(UserError, match="a/b is .*save the model's params alone"):
        FlaxFile(path)
