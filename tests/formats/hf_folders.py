"""A tiny network in transformers' names, and PyTorch's file layouts written without PyTorch."""

import collections
import io
import json
import pickle
import struct
import sys
import types
import zipfile
from unittest import mock

import numpy as np

from mt0_tpu.formats import hf_names
from mt0_tpu.formats.weights import TensorInfo, Weights
from mt0_tpu.models import names
from mt0_tpu.models.config import T5Config

NETWORK = T5Config(
    vocab_size=24, emb_dim=8, num_heads=2, head_dim=3, mlp_dim=12, num_encoder_layers=2,
    num_decoder_layers=1, dropout_rate=0.1,
)  # fmt: skip
CONFIG = {
    "model_type": "mt5", "vocab_size": 24, "d_model": 8, "d_kv": 3, "d_ff": 12, "num_layers": 2,
    "num_decoder_layers": 1, "num_heads": 2, "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
}  # fmt: skip
STORAGES = {"float32": "FloatStorage", "bfloat16": "BFloat16Storage", "float16": "HalfStorage",
            "int8": "CharStorage"}  # fmt: skip


def t5x_arrays(seed=0, dtype=np.float32):
    """{T5X name: array} of the tiny network."""
    random = np.random.default_rng(seed)
    return {
        name: random.standard_normal(leaf.shape).astype(dtype)
        for name, leaf in names.expected(NETWORK).items()
    }


def torch_arrays(arrays):
    """The same in transformers' names and axes."""
    found = {}
    for name, array in arrays.items():
        place = hf_names.MT5.to_torch(name)
        found[place.name] = np.ascontiguousarray(array.T) if place.swapped else array
    return found


def write_config(folder, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))


class InMemory(Weights):
    """Weights that are arrays already."""

    kind = "test"
    path = "memory"

    def __init__(self, arrays, step=None):
        self.arrays, self.step = arrays, step

    def tensors(self):
        return {name: TensorInfo(a.shape, a.dtype.name) for name, a in self.arrays.items()}

    def read(self, name):
        return self.arrays[name]


class Strided:
    """A tensor as torch pickles it: a storage, where it begins there, its shape and strides."""

    def __init__(self, key, storage, shape, offset=0, strides=None):
        self.key, self.storage, self.shape, self.offset = key, storage, shape, offset
        self.strides = strides or tuple(
            int(np.prod(shape[i + 1 :], dtype=int)) for i in range(len(shape))
        )

    def __reduce_ex__(self, protocol):
        rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2
        hooks = collections.OrderedDict()
        return rebuild, (self.as_storage(), self.offset, self.shape, self.strides, False, hooks)

    def as_storage(self):
        return _Stored(self)


class _Stored:
    def __init__(self, tensor):
        self.tensor = tensor


class _TorchPickler(pickle.Pickler):
    legacy = False

    def persistent_id(self, value):
        if not isinstance(value, _Stored):
            return None
        storage = value.tensor.storage
        kind = getattr(sys.modules["torch"], STORAGES[storage.dtype.name])
        pid = ("storage", kind, value.tensor.key, "cpu", storage.size)
        return (*pid, None) if self.legacy else pid


class _LegacyPickler(_TorchPickler):
    legacy = True


def _modules():
    """Modules of torch's names, so that pickle writes the names that torch's files have."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def _rebuild_tensor_v2(*arguments):
        raise AssertionError("only pickled")

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = (
        "torch._utils", "_rebuild_tensor_v2",
    )  # fmt: skip
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    torch._utils = utils
    for name in STORAGES.values():
        setattr(torch, name, type(name, (), {"__module__": "torch", "__qualname__": name}))
    return mock.patch.dict(sys.modules, {"torch": torch, "torch._utils": utils})


def _pickled(value, pickler=_TorchPickler):
    file = io.BytesIO()
    with _modules():
        pickler(file, protocol=2).dump(value)
    return file.getvalue()


def tensors(arrays):
    """A state_dict of arrays, each with a storage of its own."""
    return collections.OrderedDict(
        (name, Strided(str(i), array.reshape(-1), array.shape))
        for i, (name, array) in enumerate(arrays.items())
    )


def _storages(state):
    return {tensor.key: tensor.storage for tensor in state.values()}


def save_torch(path, state):
    """Writes a state_dict of Strided as torch.save does: a zip, members stored and aligned."""
    with_metadata = collections.OrderedDict(state)
    with_metadata._metadata = {"": {"version": 1}}
    save_archive(path, _pickled(with_metadata), _storages(state))


def save_archive(path, pickled, storages):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", "little")
        for key, storage in storages.items():
            member = zipfile.ZipInfo(f"archive/data/{key}")
            member.extra = struct.pack("<2sH", b"FB", 20) + b"Z" * 20
            archive.writestr(member, storage.tobytes())
        archive.writestr("archive/version", "3\n")


def save_legacy_torch(path, state):
    """Writes a state_dict as torch did before 1.6."""
    storages = _storages(state)
    with path.open("wb") as file:
        file.write(pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2))
        file.write(pickle.dumps(1001, protocol=2))
        file.write(pickle.dumps({"protocol_version": 1001, "little_endian": True}, protocol=2))
        file.write(_pickled(state, _LegacyPickler))
        file.write(pickle.dumps(list(storages), protocol=2))
        for storage in storages.values():
            file.write(struct.pack("<q", storage.size) + storage.tobytes())
