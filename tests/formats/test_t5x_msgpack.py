"""The msgpack file itself, written by msgpack: single-file form, arrays in pieces, damage."""

import ml_dtypes
import msgpack
import numpy as np
import pytest

from mt0_tpu.errors import UserError
from mt0_tpu.formats import t5x, t5x_msgpack
from tests.formats.t5x_plain import assert_same


def inline(value, code=1):
    payload = msgpack.packb((value.shape, value.dtype.name, value.tobytes()))
    return msgpack.ExtType(code, payload)


def written(tmp_path, tree, name="t5_tiny.checkpoint_0"):
    path = tmp_path / name
    path.write_bytes(msgpack.packb(tree))
    return path


def single_file(tmp_path, target, **extra):
    tree = {"version": 3, "optimizer": {"target": target, "state": {"step": 5}, **extra}}
    return written(tmp_path, tree)


def test_single_file_checkpoint(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "scale": rng.normal(size=3).astype(np.float32),
        "kernel": rng.normal(size=(300, 70)).astype(np.float32),
        "half": rng.normal(size=(2, 3)).astype(ml_dtypes.bfloat16),
        "none": np.zeros((0, 3), np.float32),
    }
    path = single_file(tmp_path, {name: inline(value) for name, value in arrays.items()})
    assert t5x.find(path) == path
    weights = t5x.open_weights(path)
    assert weights.step == 5
    assert_same({name: weights.read(name) for name in weights.tensors()}, arrays)


def test_step_as_a_scalar_extension(tmp_path):
    target = {"scale": inline(np.ones(3, np.float32))}
    state = {"step": inline(np.int32(1_000_000)[()], code=3)}
    path = single_file(tmp_path, target, state=state)
    assert t5x.open_weights(path).step == 1_000_000


def test_arrays_in_pieces(tmp_path):
    """As Flax splits arrays above 2**30 bytes."""
    value = np.arange(30, dtype=np.float32).reshape(5, 6)
    pieces = {str(i): inline(value.reshape(-1)[7 * i : 7 * i + 7]) for i in range(5)}
    chunked = {
        "__msgpack_chunked_array__": True, "shape": {"0": 5, "1": 6}, "chunks": pieces,
    }  # fmt: skip
    path = single_file(tmp_path, {"kernel": chunked})
    assert_same({"kernel": t5x.open_weights(path).read("kernel")}, {"kernel": value})
    del pieces["2"]
    with pytest.raises(UserError, match="in pieces that lacks some"):
        t5x.open_weights(single_file(tmp_path, {"kernel": chunked}))


def test_large_arrays_are_packed_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(t5x_msgpack, "_MAX_INLINE_BYTES", 40)
    value = np.arange(30, dtype=np.float32).reshape(5, 6)
    path = tmp_path / "file"
    path.write_bytes(t5x_msgpack.pack({"kernel": value}))
    plain = msgpack.unpackb(path.read_bytes())["kernel"]
    assert plain["shape"] == {"0": 5, "1": 6} and list(plain["chunks"]) == ["0", "1", "2"]
    array = t5x_msgpack.load(path)["kernel"]
    assert_same({"kernel": t5x_msgpack.read(path, array)}, {"kernel": value})


def test_every_kind_of_value(tmp_path):
    """Each of msgpack's codes for lengths and numbers."""
    tree = {
        "numbers": [0, 127, -1, -32, 200, 60_000, 70_000, 2**40, -100, -20_000, -(2**20), -(2**40)],
        "floats": [1.5, -2.25e300],
        "others": [None, True, False],
        "texts": ["", "é" * 20, "x" * 40, "x" * 300, "x" * 70_000],
        "list16": list(range(20)),
        "list32": [0] * 70_000,
        "map16": {str(i): i for i in range(20)},
        "map32": {str(i): i for i in range(70_000)},
    }
    path = written(tmp_path, tree)
    assert t5x_msgpack.load(path) == tree
    for size in (1, 2, 4, 8, 16, 60, 70_000):
        value = np.arange(size, dtype=np.uint8)
        loaded = t5x_msgpack.load(written(tmp_path, {"x": inline(value)}))["x"]
        assert_same({"x": t5x_msgpack.read(path, loaded)}, {"x": value})


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "empty"),
        (b"\xc1", "no msgpack at byte 0"),
        (msgpack.packb({1: 2}), "a key that is no text"),
        (msgpack.packb({"x": 1}) + b"xyz", "3 bytes too many"),
        (b"\x91" * 5000, "nested too deep"),
        (b"\x81\xa1x\xdf\xff\xff\xff\xff", "it ends at byte"),
        (msgpack.packb({"x": msgpack.ExtType(9, b"12345")}), "unknown kind 9"),
        (msgpack.packb({"x": msgpack.ExtType(1, msgpack.packb([1, 2]))}), "not [shape, dtype"),
        (msgpack.packb({"x": b"ab"})[:-1], "it ends at byte"),
        (msgpack.packb({"x": msgpack.ExtType(1, msgpack.packb(([5], "float32", b"ab")))}),
         "has 2 bytes"),
        (msgpack.packb({"x": msgpack.ExtType(1, msgpack.packb(([1], "float33", b"ab")))}),
         "float33"),
        (b"\x81\xa2\xff\xff\x01", "decode"),
    ],
)  # fmt: skip
def test_damage_is_told(tmp_path, content, words):
    path = tmp_path / "checkpoint"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        t5x_msgpack.load(path)
    assert words in str(caught.value) and str(path) in str(caught.value)


def test_first_key(tmp_path):
    assert t5x_msgpack.first_key(written(tmp_path, {"version": 3})) == "version"
    many = {f"key_{i}": i for i in range(20)}
    assert t5x_msgpack.first_key(written(tmp_path, many)) == "key_0"
    for other in ({}, [1], {5: 5}, "text"):
        assert t5x_msgpack.first_key(written(tmp_path, other)) is None


@pytest.mark.parametrize(
    "array, words",
    [
        ([[3.0], "float32", bytes(12)], "shape"),
        ([[], "object", bytes(8)], "'object', which are no numbers"),
        ([[], "i4,i4", bytes(8)], "'i4,i4', which are no numbers"),
        ([[1], ["float32"], bytes(4)], "no.*shape, dtype, bytes"),
        ([[2], "float32", [0, 8]], "not .shape, dtype, bytes"),
    ],
)  # fmt: skip
def test_an_array_that_lies(tmp_path, array, words):
    path = single_file(tmp_path, {"scale": msgpack.ExtType(1, msgpack.packb(array))})
    with pytest.raises(UserError, match=words):
        t5x.open_weights(path)


def test_extensions_in_each_other_end(tmp_path):
    path = tmp_path / "checkpoint"
    path.write_bytes(b"\x81\xa6target" + b"\xc9\x00\x00\x00\x04\x01" * 5000)
    with pytest.raises(UserError, match="nested too deep"):
        t5x_msgpack.load(path)


@pytest.mark.parametrize(
    "step", [-5, 2**31, float("nan"), inline(np.zeros(3, np.int32)), inline(np.float32([7]))]
)
def test_a_step_that_is_none(tmp_path, step):
    target = {"scale": inline(np.ones(3, np.float32))}
    with pytest.raises(UserError, match="state.step is .*expected a whole number from 0 to 21474"):
        t5x.open_weights(single_file(tmp_path, target, state={"step": step}))
