"""Reading T5X's own checkpoints: golden ones to the bit, and every damage in one sentence."""

import json
import shutil

import ml_dtypes
import msgpack
import numpy as np
import pytest

from mt0_tpu.errors import UserError
from mt0_tpu.formats import t5x
from tests.formats.t5x_plain import assert_same, everything, read_legacy, without_placeholders

STEP = 1_000_003
KERNEL = "target.decoder.logits_dense.kernel"


def opened(path):
    found = t5x.find(path)
    assert found is not None
    return t5x.open_weights(found)


@pytest.fixture
def damaged(golden, tmp_path):
    """A copy of the golden checkpoint that may be broken."""
    folder = tmp_path / f"checkpoint_{STEP}"
    source = golden / "t5_tiny" / "ckpt_legacy_float32" / folder.name
    shutil.copytree(source, folder, copy_function=shutil.copyfile)
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755)
    return folder


def refused(path, *words):
    with pytest.raises(UserError) as caught:
        opened(path)
    text = str(caught.value)
    assert "\n" not in text and str(path) in text
    for word in words:
        assert word in text, text


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_golden_tiny_is_read_to_the_bit(golden, kind):
    folder = golden / "t5_tiny" / f"ckpt_legacy_{kind}"
    weights = opened(folder)
    found = everything(weights)
    assert (weights.kind, weights.step) == ("T5X", STEP)
    assert len(weights.tensors()) == len(weights.state_tensors()) == 52
    assert_same(found, without_placeholders(read_legacy(folder / f"checkpoint_{STEP}")))
    assert found[KERNEL].dtype == (np.float32 if kind == "float32" else ml_dtypes.bfloat16)


def test_golden_bfloat16_is_golden_float32_rounded(golden):
    wide = opened(golden / "t5_tiny" / "ckpt_legacy_float32")
    narrow = opened(golden / "t5_tiny" / "ckpt_legacy_bfloat16")
    expected = {name: wide.read(name).astype(ml_dtypes.bfloat16) for name in wide.tensors()}
    assert_same({name: narrow.read(name) for name in narrow.tensors()}, expected)


def test_golden_factored_is_read_to_the_bit(golden):
    """Zstd, several chunks an array, factored statistics."""
    folder = golden / "t5_factored"
    expected = dict(np.load(folder / "expected.npz"))
    assert len(expected) == 146
    found = everything(opened(folder))
    assert_same(found, without_placeholders(expected))
    assert "state.param_states.decoder.logits_dense.kernel.v_row" in found
    assert "state.param_states.decoder.logits_dense.kernel.v" not in found


def test_the_path_may_be_file_folder_or_parent(golden, damaged):
    for path in (damaged, damaged / "checkpoint", damaged.parent):
        assert t5x.find(path) == damaged
    (damaged.parent / "checkpoint_1000010.tmp-1700000000").mkdir()
    assert t5x.find(damaged.parent) == damaged
    shutil.copytree(golden / "t5_factored" / "checkpoint_2", damaged.parent / "checkpoint_2")
    assert t5x.find(damaged.parent) == damaged, "the latest is of the highest number"


def test_what_is_no_t5x_checkpoint_is_not_found(golden, tmp_path):
    assert t5x.find(tmp_path) is None
    assert t5x.find(tmp_path / "absent") is None
    for path in (golden / "t5_tiny" / "ckpt_orbax", golden / "t5_tiny" / "hf"):
        assert t5x.find(path) is None
    # TensorFlow's file of the same name.
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-1000000"\n')
    assert t5x.find(tmp_path) is None


def test_a_checkpoint_may_be_moved_and_named_anything(damaged, tmp_path):
    moved = tmp_path / "a folder, with %20"
    damaged.rename(moved)
    assert opened(moved).read("encoder.encoder_norm.scale").shape == (64,)


def repacked(folder, change):
    """Rewrites the msgpack file after `change` of its tree; extensions stay as they are."""
    file = folder / "checkpoint"
    tree = msgpack.unpackb(file.read_bytes())
    change(tree)
    file.chmod(0o644)
    file.write_bytes(msgpack.packb(tree))


def test_missing_state_is_no_state(damaged):
    repacked(damaged, lambda tree: tree["optimizer"]["state"].pop("param_states"))
    weights = opened(damaged)
    assert weights.state_tensors() == {} and weights.step == STEP
    repacked(damaged, lambda tree: tree["optimizer"].pop("state"))
    assert opened(damaged).step is None


def test_nil_leaves_and_mutables_are_passed_over(damaged):
    def change(tree):
        state = tree["optimizer"]["state"]["param_states"]
        state["decoder"]["logits_dense"]["kernel"] = None
        tree["optimizer"]["flax_mutables"] = {}
        tree["optimizer"]["state"]["step"] = 7

    repacked(damaged, change)
    weights = opened(damaged)
    assert weights.step == 7
    assert len(weights.state_tensors()) == 51


def test_specs_as_written_on_gcs_and_by_old_tensorstore(damaged):
    def change(tree):
        kernel = tree["optimizer"]["target"]["decoder"]["logits_dense"]["kernel"]
        kernel["kvstore"] = {"driver": "gcs", "bucket": "t5x-dummy-bucket"}
        kernel["path"] = KERNEL
        scale = tree["optimizer"]["target"]["decoder"]["decoder_norm"]["scale"]
        scale["kvstore"] = {"driver": "gfile", "path": "target.decoder.decoder_norm.scale"}

    expected = read_legacy(damaged)
    repacked(damaged, change)
    weights = opened(damaged)
    assert_same({KERNEL: weights.read("decoder.logits_dense.kernel")}, {KERNEL: expected[KERNEL]})
    assert weights.tensors()["decoder.decoder_norm.scale"].shape == (64,)


@pytest.mark.parametrize(
    "version, words", [(2, "version 2"), (1, "version 1"), (4, "version 4"), ("x", "'x'")]
)
def test_other_versions_are_refused(damaged, version, words):
    repacked(damaged, lambda tree: tree.update(version=version))
    refused(damaged, words, "only version 3")


def test_no_version_is_refused(damaged):
    repacked(damaged, lambda tree: tree.pop("version"))
    refused(damaged, "version 0", "only version 3")


def test_missing_header(damaged):
    (damaged / KERNEL / ".zarray").unlink()
    refused(damaged, KERNEL, "no file .zarray")


def test_header_of_another_zarr(damaged):
    header = damaged / KERNEL / ".zarray"
    header.chmod(0o644)
    header.write_text(header.read_text().replace('"zarr_format":2', '"zarr_format":3'))
    refused(damaged, KERNEL, "zarr v2")
    header.write_text("{")
    refused(damaged, KERNEL, "zarr v2")


def test_missing_chunk_and_missing_folder(damaged):
    (damaged / KERNEL / "0.0").unlink()
    refused(damaged, KERNEL, "lacks 1 of 1 chunks", "0.0")
    shutil.rmtree(damaged / KERNEL)
    refused(damaged, "lacks the folder", KERNEL)


def test_truncated_chunk(damaged):
    chunk = damaged / KERNEL / "0.0"
    chunk.chmod(0o644)
    chunk.write_bytes(chunk.read_bytes()[:-100])
    weights = opened(damaged)
    assert weights.read("encoder.encoder_norm.scale").shape == (64,)
    with pytest.raises(UserError, match="is damaged .*copy the checkpoint again") as caught:
        weights.read("decoder.logits_dense.kernel")
    assert KERNEL in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [20, 1000, 20_000, -1])
def test_truncated_msgpack(damaged, keep):
    file = damaged / "checkpoint"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:keep])
    refused(damaged, "msgpack", "it ends at byte", "copy the checkpoint again")


def test_wrong_shape(damaged):
    def change(tree):
        kernel = tree["optimizer"]["target"]["decoder"]["logits_dense"]["kernel"]
        kernel["metadata"]["shape"] = [64, 640]

    repacked(damaged, change)
    refused(damaged, KERNEL, "(64, 512)", "(64, 640)")


def test_half_written_folder(damaged):
    half = damaged.with_name(f"{damaged.name}.tmp-1700000000")
    damaged.rename(half)
    refused(half, "never finished")
    with pytest.raises(UserError, match="never finished"):
        opened(half.parent)


def test_arrays_without_the_file(damaged):
    (damaged / "checkpoint").unlink()
    refused(damaged, "no file 'checkpoint'")


def test_parameters_of_whole_numbers(damaged):
    def change(tree):
        payload = msgpack.packb(((2,), "int32", bytes(8)))
        tree["optimizer"]["target"]["extra"] = {"scale": msgpack.ExtType(1, payload)}

    repacked(damaged, change)
    refused(damaged, "extra.scale is int32", "float32")


def test_no_parameters(damaged):
    repacked(damaged, lambda tree: tree["optimizer"].update(target={}))
    refused(damaged, "no parameters")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"shape": [10**9, 10**9], "chunks": [1, 1]}, "1000000000000000000 chunks"),
        ({"shape": [10**9, 10**9], "chunks": [1, 1], "fill_value": 0}, "1000000000000000000 chunk"),
        ({"dimension_separator": 5}, "AttributeError"),
        ({"chunks": [10**12, 64]}, "chunks (1000000000000, 64) of"),
    ],
)  # fmt: skip
def test_a_header_that_lies(damaged, change, words):
    header = damaged / KERNEL / ".zarray"
    header.write_text(json.dumps(json.loads(header.read_text()) | change))
    refused(damaged, "is not zarr v2's", words)


def test_a_file_of_no_bytes(damaged):
    (damaged / "checkpoint").write_bytes(b"")
    refused(damaged, "cannot be read as T5X's msgpack file")


def test_a_chunk_that_is_lost_later_is_no_zeros(damaged):
    weights = opened(damaged)
    (damaged / KERNEL / "0.0").unlink()
    with pytest.raises(UserError, match=f"{KERNEL} is damaged"):
        weights.read(KERNEL.removeprefix("target."))
