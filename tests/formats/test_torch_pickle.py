import collections
import os
import pickle
import pickletools
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

from mt0_tpu.errors import UserError
from mt0_tpu.formats.torch_pickle import TorchFile, looks_like

from .hf_folders import Strided, save_archive, save_legacy_torch, save_torch, tensors

SAVERS = [save_torch, save_legacy_torch]
ARRAYS = {
    "a": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b": np.array([1.5, -2, 3], ml_dtypes.bfloat16),
    "c": np.array(7, np.float16),
    "none": np.zeros((0, 4), np.float32),
}


@pytest.mark.parametrize("save", SAVERS)
def test_tensors_are_read_to_the_bit(tmp_path, save):
    path = tmp_path / "x.bin"
    save(path, tensors(ARRAYS))
    assert looks_like(path)
    file = TorchFile(path)
    assert {n: (i.shape, i.dtype) for n, i in file.tensors().items()} == {
        n: (a.shape, a.dtype.name) for n, a in ARRAYS.items()
    }
    for name, array in ARRAYS.items():
        found = file.read(name)
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        assert found.tobytes() == array.tobytes()


@pytest.mark.parametrize("save", SAVERS)
def test_views_of_one_storage(tmp_path, save):
    storage = np.arange(12, dtype=np.float32)
    state = collections.OrderedDict(
        whole=Strided("0", storage, (3, 4)),
        again=Strided("0", storage, (3, 4)),
        transposed=Strided("0", storage, (4, 3), strides=(1, 4)),
        row=Strided("0", storage, (4,), offset=4),
    )
    save(tmp_path / "x.bin", state)
    file = TorchFile(tmp_path / "x.bin")
    whole = storage.reshape(3, 4)
    np.testing.assert_array_equal(file.read("transposed"), whole.T)
    np.testing.assert_array_equal(file.read("row"), whole[1])
    assert file.same("whole", "again") and not file.same("whole", "row")


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def dotted(module, name):
    """A pickle of protocol 4 that asks for module.name, dots in the name allowed, and calls it."""

    def text(value):
        return b"\x8c" + bytes([len(value)]) + value.encode()

    return b"\x80\x04" + text(module) + text(name) + b"\x93)R."


HOSTILE = {
    "system": pickle.dumps({"a": Calls(os.system, "touch PATH")}, protocol=2),
    "eval": pickle.dumps(Calls(eval, "open('PATH', 'w')"), protocol=2),
    "getattr": pickle.dumps({"a": Calls(getattr, "x", "upper")}, protocol=2),
    "class": b"cbuiltins\n__import__\n(S'os'\ntR.",
    "dotted": dotted("torch._utils", "_rebuild_tensor_v2.__globals__.get"),
    "ours": dotted("collections", "OrderedDict.fromkeys"),
    "instance": b"(ios\nsystem\n.",
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_something_is_refused(tmp_path, name, legacy, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = []
    monkeypatch.setattr(os, "system", ran.append)
    hostile = HOSTILE[name]
    if legacy:
        save_legacy_torch(tmp_path / "x.bin", tensors({}))
        begun = (tmp_path / "x.bin").read_bytes()
        start = begun.index(b"ccollections") - 2
        (tmp_path / "x.bin").write_bytes(begun[:start] + hostile)
    else:
        save_archive(tmp_path / "x.bin", hostile, {})
    with pytest.raises(UserError, match="asks for '.*nothing of it was run") as caught:
        TorchFile(tmp_path / "x.bin")
    assert "\n" not in str(caught.value)
    assert not ran and not (tmp_path / "PATH").exists()


def test_the_refusal_names_the_function(tmp_path):
    save_archive(tmp_path / "x.bin", HOSTILE["system"], {})
    with pytest.raises(UserError, match=r"asks for 'posix\.system'|asks for 'nt\.system'"):
        TorchFile(tmp_path / "x.bin")


@pytest.mark.parametrize("save", SAVERS)
def test_a_file_cut_anywhere_is_refused(tmp_path, save):
    path = tmp_path / "x.bin"
    save(path, tensors(ARRAYS | {"z": np.ones(5, np.float32)}))
    whole = path.read_bytes()
    for end in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:end])
        with pytest.raises(UserError, match="cut short|fetch it again"):
            TorchFile(path)


def test_a_storage_that_is_shorter_than_its_tensor(tmp_path):
    storage = np.zeros(12, np.float32)
    state = {"a": Strided("0", storage, (3, 4), offset=1)}
    save_torch(tmp_path / "x.bin", state)
    with pytest.raises(UserError, match="a needs 13 numbers, found 12"):
        TorchFile(tmp_path / "x.bin")


def test_a_storage_that_is_missing(tmp_path):
    save_torch(tmp_path / "x.bin", tensors({"a": np.zeros(3, np.float32)}))
    data = (tmp_path / "x.bin").read_bytes().replace(b"archive/data/0", b"archive/data/1")
    (tmp_path / "x.bin").write_bytes(data)
    with pytest.raises(UserError, match="lacks the numbers of a"):
        TorchFile(tmp_path / "x.bin")


@pytest.mark.parametrize("shape", [(-1, 3), (1 << 60,), (True,), ("3",)])
def test_sizes_that_are_none(tmp_path, shape):
    strides = (1,) * len(shape)
    state = {"a": Strided("0", np.zeros(3, np.float32), shape, strides=strides)}
    save_torch(tmp_path / "x.bin", state)
    with pytest.raises(UserError, match="for a size"):
        TorchFile(tmp_path / "x.bin")


@pytest.mark.parametrize("value", [[1, 2], {"a": 1}, {3: 4}, {"model": {}}])
def test_what_is_no_dict_of_tensors(tmp_path, value):
    save_archive(tmp_path / "x.bin", pickle.dumps(value, protocol=2), {})
    with pytest.raises(UserError, match="state_dict"):
        TorchFile(tmp_path / "x.bin")


def test_big_endian_is_refused(tmp_path):
    save_torch(tmp_path / "x.bin", tensors(ARRAYS))
    data = (tmp_path / "x.bin").read_bytes()
    import zipfile
    import zlib

    crc = [struct.pack("<I", zlib.crc32(text)) for text in (b"little", b"bigbig")]
    data = data.replace(crc[0], crc[1]).replace(b"byteorderlittle", b"byteorderbigbig")
    (tmp_path / "x.bin").write_bytes(data)
    assert zipfile.ZipFile(tmp_path / "x.bin").read("archive/byteorder") == b"bigbig"
    with pytest.raises(UserError, match="big endian"):
        TorchFile(tmp_path / "x.bin")


def test_other_files_are_not_taken_for_one(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    (tmp_path / "x.txt").write_text("hello")
    assert not looks_like(tmp_path / "x.zip") and not looks_like(tmp_path / "x.txt")


@pytest.mark.parametrize(
    "change", [{"strides": (-1000, 1)}, {"offset": -5}, (None, {"offset": -5})]
)
def test_a_tensor_keeps_what_was_checked(tmp_path, change):
    """BUILD would set fields past the checks: strides then read memory outside the file."""
    save_torch(tmp_path / "x.bin", tensors({"a": np.ones((3, 4), np.float32)}))
    with zipfile.ZipFile(tmp_path / "x.bin") as archive:
        pickled = archive.read("archive/data.pkl")
    # The calls in it: the outer map, the tensor's map of hooks, the tensor.
    call = [at for code, _, at in pickletools.genops(pickled) if code.name == "REDUCE"][2] + 1
    build = pickle.dumps(change, protocol=2)[2:-1] + pickle.BUILD
    hostile = pickled[:call] + build + pickled[call:]
    save_archive(tmp_path / "x.bin", hostile, {"0": np.ones(12, np.float32)})
    with pytest.raises(UserError, match="fields set on a tensor"):
        TorchFile(tmp_path / "x.bin")


def test_a_memo_of_gigabytes_is_not_made(tmp_path):
    hostile = b"\x80\x02}" + pickle.LONG_BINPUT + struct.pack("<I", 2**31 - 1) + b"."
    save_archive(tmp_path / "x.bin", hostile, {})
    with pytest.raises(UserError, match="a memo at index 2147483647"):
        TorchFile(tmp_path / "x.bin")
