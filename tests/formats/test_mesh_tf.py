"""Mesh-TensorFlow checkpoints, written here by TensorFlow itself."""

import os
import re

import numpy as np
import pytest

from mt0_tpu.errors import UserError
from mt0_tpu.formats import mesh_tf
from mt0_tpu.models import names
from tests.tiny import TINY

TOWERS = {
    "encoder": ("attention", "", "pre_attention_layer_norm pre_mlp_layer_norm"),
    "decoder": (
        "self_attention",
        "encoder_decoder_attention",
        "pre_self_attention_layer_norm pre_cross_attention_layer_norm pre_mlp_layer_norm",
    ),
}


def variables_of(params):
    """{Mesh variable: array} from {T5X name: array}, the table of the facts the other way."""
    found = {"shared/embedding": params["token_embedder.embedding"]}
    found["decoder/logits/kernel"] = params["decoder.logits_dense.kernel"]
    for tower, (own, cross, norms) in TOWERS.items():
        found[f"{tower}/rms_norm/scale"] = params[f"{tower}.{tower}_norm.scale"]
        table = f"{tower}/block_000/layer_000/SelfAttention/relative_attention_bias"
        found[table] = params[f"{tower}.relpos_bias.rel_embedding"]
        for block in range(2):
            here = f"{tower}/block_{block:03d}"
            last = len(norms.split()) - 1
            for layer, norm in enumerate(norms.split()):
                scale = params[f"{tower}.layers_{block}.{norm}.scale"]
                found[f"{here}/layer_{layer:03d}/layer_norm/scale"] = scale
            for at, ours, theirs in ((0, own, "SelfAttention"), (1, cross, "EncDecAttention")):
                for letter, word in zip("qkvo", "query key value out".split(), strict=True):
                    if ours:
                        kernel = params[f"{tower}.layers_{block}.{ours}.{word}.kernel"]
                        found[f"{here}/layer_{at:03d}/{theirs}/{letter}"] = kernel
            for word in ("wi_0", "wi_1", "wo"):
                kernel = params[f"{tower}.layers_{block}.mlp.{word}.kernel"]
                found[f"{here}/layer_{last:03d}/DenseReluDense/{word}/kernel"] = kernel
    return found


def save(prefix, variables):
    import tensorflow as tf

    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(variables),
        shape_and_slices=[""] * len(variables),
        tensors=[tf.constant(array) for array in variables.values()],
    )


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(3)
    return {
        name: rng.normal(size=leaf.shape).astype(np.float32)
        for name, leaf in names.expected(TINY).items()
    }


@pytest.fixture(scope="module")
def checkpoint(params, tmp_path_factory):
    variables = variables_of(params)
    assert len(variables) == len(params)
    slots = {f"{name}_slot_v": np.square(array) for name, array in variables.items()}
    kernel = "encoder/block_001/layer_001/DenseReluDense/wo/kernel"
    square = "decoder/block_000/layer_001/EncDecAttention/o"
    for name, short, long in ((kernel, 64, 128), (square, 64, 64)):
        del slots[f"{name}_slot_v"]
        slots[f"{name}_slot_vr"] = np.full(short, 2.0, np.float32)
        slots[f"{name}_slot_vc"] = np.full(long, 3.0, np.float32)
    prefix = tmp_path_factory.mktemp("mesh") / "model.ckpt-1000000"
    save(prefix, variables | slots | {"global_step": np.asarray(1000000, np.int64)})
    return prefix


def test_found_by_content_as_folder_prefix_or_file(checkpoint, tmp_path, golden):
    data = f"{checkpoint}.data-00000-of-00001"
    for path in (checkpoint.parent, checkpoint, f"{checkpoint}.index", data):
        assert mesh_tf.find(path) == checkpoint
    (tmp_path / "model.ckpt-7.index").write_bytes(b"shared/embedding but no table")
    assert mesh_tf.find(tmp_path) is None
    assert mesh_tf.find(tmp_path / "nothing") is None
    assert mesh_tf.find(golden / "t5_tiny" / "hf") is None


def test_other_tables_of_tensorflow_are_not_it(tmp_path):
    # T5X keeps the state of its data pipeline so.
    save(tmp_path / "train_ds-000-of-001", {"iterator": np.zeros(3)})
    assert mesh_tf.find(tmp_path) is None


def test_the_latest_of_a_folder(checkpoint, tmp_path):
    for step in (9, 1000, 500):
        for path in checkpoint.parent.glob("model.ckpt-*"):
            link = tmp_path / path.name.replace("1000000", str(step))
            link.symlink_to(path)
    assert mesh_tf.find(tmp_path).name == "model.ckpt-1000"


def test_every_parameter_is_read_to_the_bit(checkpoint, params):
    weights = mesh_tf.open_weights(checkpoint)
    assert weights.step == 1000000 and weights.kind == "Mesh TensorFlow"
    assert weights.tensors().keys() == params.keys()
    for name, array in params.items():
        assert weights.tensors()[name].shape == array.shape
        np.testing.assert_array_equal(weights.read(name), array)


def test_slots_are_adafactors_statistics(checkpoint, params):
    weights = mesh_tf.open_weights(checkpoint)
    found = weights.state_tensors()
    assert found.keys() == {f"{n}.{k}" for n in params for k in ("v_row", "v_col", "v", "m")}
    name = "encoder.encoder_norm.scale"
    np.testing.assert_array_equal(weights.read_state(f"{name}.v"), np.square(params[name]))
    np.testing.assert_array_equal(weights.read_state(f"{name}.v_row"), np.zeros(1))
    wide = "encoder.layers_1.mlp.wo.kernel"
    assert found[f"{wide}.v_row"].shape == (64,) and found[f"{wide}.v_col"].shape == (128,)
    np.testing.assert_array_equal(weights.read_state(f"{wide}.v_row"), np.full(64, 2.0))
    # Of a square matrix the two change places.
    square = "decoder.layers_0.encoder_decoder_attention.out.kernel"
    np.testing.assert_array_equal(weights.read_state(f"{square}.v_row"), np.full(64, 3.0))
    np.testing.assert_array_equal(weights.read_state(f"{square}.v_col"), np.full(64, 2.0))
    with pytest.raises(KeyError):
        weights.read_state("nothing.v")


def test_without_slots_and_step(tmp_path, params):
    save(tmp_path / "model.ckpt-5", variables_of(params))
    weights = mesh_tf.open_weights(tmp_path)
    assert weights.state_tensors() == {} and weights.step is None


def test_other_spellings_of_norms_and_t5_1_0():
    assert mesh_tf.t5x_name("encoder/final_layer_norm/scale") == "encoder.encoder_norm.scale"
    norm = "decoder/block_011/layer_002/rms_norm/scale"
    assert mesh_tf.t5x_name(norm) == "decoder.layers_11.pre_mlp_layer_norm.scale"
    wide = "encoder/block_003/layer_001/DenseReluDense/wi/kernel"
    assert mesh_tf.t5x_name(wide) == "encoder.layers_3.mlp.wi.kernel"


def test_another_network_is_refused(tmp_path, params):
    table = "encoder/block_001/layer_000/SelfAttention/relative_attention_bias"
    expert = "encoder/block_000/layer_001/moe/wi/kernel"
    extra = {name: np.zeros((4, 32), np.float32) for name in (table, expert)}
    save(tmp_path / "model.ckpt-5", variables_of(params) | extra)
    with pytest.raises(UserError, match=f"network that mt0_tpu does not have: {expert}, {table}"):
        mesh_tf.open_weights(tmp_path)


def copied(checkpoint, folder):
    for path in checkpoint.parent.glob("model.ckpt-*"):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder / checkpoint.name


def test_a_missing_data_file_is_named(checkpoint, tmp_path):
    prefix = copied(checkpoint, tmp_path)
    data = tmp_path / f"{prefix.name}.data-00000-of-00001"
    data.rename(tmp_path / f"{prefix.name}.data-00001-of-00002")
    match = re.escape("data-00000-of-00002 is missing (1 of 2 data files are there)")
    with pytest.raises(UserError, match=match):
        mesh_tf.open_weights(prefix)
    (tmp_path / f"{prefix.name}.data-00001-of-00002").unlink()
    with pytest.raises(UserError, match="data-00000-of-00001 is missing"):
        mesh_tf.open_weights(prefix)


def test_a_truncated_data_file_is_a_sentence(checkpoint, tmp_path):
    prefix = copied(checkpoint, tmp_path)
    data = tmp_path / f"{prefix.name}.data-00000-of-00001"
    os.truncate(data, data.stat().st_size // 2)
    with pytest.raises(UserError, match="is damaged: .* cannot be read .*copy it anew"):
        weights = mesh_tf.open_weights(prefix)
        for name in weights.tensors():
            weights.read(name)


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match="no Mesh TensorFlow checkpoint at"):
        mesh_tf.open_weights(tmp_path)
