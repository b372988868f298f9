"""What we write as T5X is what T5X writes: golden to the byte, read by another reader."""

import json
import os
import weakref

import ml_dtypes
import numpy as np
import pytest

from mt0_tpu.errors import UserError
from mt0_tpu.formats import t5x, t5x_content, t5x_orbax_writer, t5x_writer
from tests.formats.t5x_plain import (
    HeldWeights,
    assert_same,
    everything,
    read_legacy,
    without_placeholders,
)

STEP = 1_000_003


def golden_folder(golden, kind):
    return golden / "t5_tiny" / f"ckpt_legacy_{kind}" / f"checkpoint_{STEP}"


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def held(step=None, **parameters):
    return HeldWeights(parameters, step=step)


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_golden_again(golden, tmp_path, kind):
    """Files, msgpack bytes and .zarray bytes are those of T5X; arrays are equal to the bit."""
    source = golden_folder(golden, kind)
    copy = tmp_path / source.name
    t5x_writer.write(t5x.open_weights(source), copy, dtype=kind, with_state=True)
    assert files(copy) == files(source)
    for name in files(source):
        if name == "checkpoint" or name.endswith(".zarray"):
            assert (copy / name).read_bytes() == (source / name).read_bytes(), name
    assert_same(read_legacy(copy), read_legacy(source))


def test_float32_written_as_bfloat16_is_goldens_bfloat16(golden, tmp_path):
    wide = t5x.open_weights(golden_folder(golden, "float32"))
    t5x_writer.write(wide, tmp_path / "narrow", dtype="bfloat16", with_state=True)
    assert_same(read_legacy(tmp_path / "narrow"), read_legacy(golden_folder(golden, "bfloat16")))


def test_factored_state_again(golden, tmp_path):
    weights = t5x.open_weights(golden / "t5_factored" / "checkpoint_2")
    t5x_writer.write(weights, tmp_path / "copy", with_state=True)
    expected = dict(np.load(golden / "t5_factored" / "expected.npz"))
    assert_same(read_legacy(tmp_path / "copy"), expected)
    assert files(tmp_path / "copy") >= {"state.param_states.decoder.decoder_norm.scale.v/0"}
    # Factored statistics are inline, as T5X has them.
    assert not any("v_row" in name or "v_col" in name for name in files(tmp_path / "copy"))
    again = everything(t5x.open_weights(tmp_path / "copy"))
    assert_same(again, without_placeholders(expected))


def test_parameters_alone(golden, tmp_path):
    source = golden_folder(golden, "float32")
    t5x_writer.write(t5x.open_weights(source), tmp_path / "checkpoint_7")
    expected = read_legacy(source)
    kept = {n: x for n, x in expected.items() if n.startswith("target.") or n == "state.step"}
    assert_same(read_legacy(tmp_path / "checkpoint_7"), kept)
    assert t5x.open_weights(tmp_path / "checkpoint_7").state_tensors() == {}


@pytest.mark.parametrize(
    "shape, itemsize, chunks",
    [
        ((250112, 512), 4, (31264, 512)),
        ((250112, 2048), 4, (7816, 2048)),
        ((4096, 250112), 4, (4096, 3908)),
        ((4096, 10240), 4, (4096, 2560)),
        ((4096, 10240), 2, (4096, 5120)),
        ((512, 1024), 4, (512, 1024)),
        ((), 4, ()),
        ((2**24 + 1,), 4, ((2**24 + 1) // 97,)),
    ],
)
def test_chunks_are_t5xs(shape, itemsize, chunks):
    assert t5x_content.chunk_shape(shape, itemsize) == chunks


def test_several_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(t5x_content, "MAX_CHUNK_BYTES", 100)
    value = np.arange(96, dtype=np.float32).reshape(8, 12)
    t5x_writer.write(held(kernel=value), tmp_path / "out")
    header = json.loads((tmp_path / "out" / "target.kernel" / ".zarray").read_text())
    assert header["chunks"] == [4, 6]
    assert files(tmp_path / "out" / "target.kernel") == {".zarray", "0.0", "0.1", "1.0", "1.1"}
    assert_same({"k": read_legacy(tmp_path / "out")["target.kernel"]}, {"k": value})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("writer", [t5x_writer, t5x_orbax_writer])
def test_one_tensor_at_a_time(tmp_path, writer, dtype):
    """No tensor that was read is alive when the next one is."""

    class Watched(HeldWeights):
        given = None

        def read(self, name):
            assert self.given is None or self.given() is None, f"one is held while {name} is read"
            value = super().read(name).copy()
            self.given = weakref.ref(value)
            return value

        read_state = read

    names = [f"p{i}" for i in range(4)]
    parameters = {name: np.full(5, 3, np.float32) for name in names}
    weights = Watched(parameters | {f"{name}.v": parameters[name] for name in names})
    weights.tensors = lambda: HeldWeights(parameters).tensors()
    weights.state_tensors = lambda: {f"{n}.v": x for n, x in weights.tensors().items()}
    writer.write(weights, tmp_path / "out", dtype=dtype, with_state=True)
    assert weights.reads == names + [f"{name}.v" for name in names]


def test_half_floats_and_views(tmp_path):
    """bfloat16 widens exactly; a transposed view is written in C order."""
    narrow = np.arange(6, dtype=np.float32).reshape(2, 3).astype(ml_dtypes.bfloat16)
    turned = np.arange(6, dtype=np.float32).reshape(2, 3).T
    t5x_writer.write(held(narrow=narrow, turned=turned, step=3), tmp_path / "out")
    found = read_legacy(tmp_path / "out")
    assert_same(
        found,
        {
            "target.narrow": narrow.astype(np.float32),
            "target.turned": np.array(turned, order="C"),
            "state.step": np.asarray(3, np.int32),
        },
    )


def test_a_failure_leaves_nothing_and_keeps_the_old(tmp_path):
    class Broken(HeldWeights):
        def read(self, name):
            if name == "b":
                raise UserError("b is damaged")
            return super().read(name)

    there = tmp_path / "there"
    t5x_writer.write(held(scale=np.ones(2, np.float32)), there)
    ones = np.ones(2, np.float32)
    for destination in (there, tmp_path / "new"):
        with pytest.raises(UserError, match="b is damaged"):
            t5x_writer.write(Broken({"a": ones, "b": ones}), destination, overwrite=True)
    assert os.listdir(tmp_path) == ["there"]
    assert read_legacy(there)["target.scale"].tolist() == [1.0, 1.0]


def test_what_cannot_be_written(tmp_path):
    ones = np.ones(2, np.float32)
    with pytest.raises(UserError, match="'float16'; write float32 or bfloat16"):
        t5x_writer.write(held(scale=ones), tmp_path / "out", dtype="float16")
    with pytest.raises(UserError, match="1 of 2 parameters, such as b; convert without"):
        weights = HeldWeights({"a": ones, "b": ones}, {"a.v": ones})
        t5x_writer.write(weights, tmp_path / "out", with_state=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="could not be written .*name another destination"):
        t5x_writer.write(held(scale=ones), tmp_path / "file" / "out")
    assert os.listdir(tmp_path) == ["file"]
