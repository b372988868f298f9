"""T5X's two formats read with msgpack and tensorstore alone, and Weights from a dict."""

import json

import ml_dtypes
import msgpack
import numpy as np
import tensorstore

from mt0_tpu.formats.weights import TensorInfo, Weights


def read_legacy(folder):
    """{dotted name: array} of a checkpoint folder; nothing of mt0_tpu is used."""

    def array(code, payload):
        assert code in (1, 3)
        shape, dtype, data = msgpack.unpackb(payload)
        dtype = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
        return np.frombuffer(data, dtype).reshape(shape)

    def flatten(node, path):
        if isinstance(node, dict) and "driver" not in node:
            for key, child in node.items():
                yield from flatten(child, [*path, key])
        elif isinstance(node, dict):
            store = {"driver": "file", "path": str(folder / node["kvstore"]["path"])}
            spec = {"driver": "zarr", "kvstore": store}
            value = tensorstore.open(spec, open=True).result().read().result()
            assert list(value.shape) == node["metadata"]["shape"]
            assert value.dtype.name == node["dtype"]
            yield ".".join(path), value
        else:
            yield ".".join(path), node

    tree = msgpack.unpackb((folder / "checkpoint").read_bytes(), ext_hook=array)
    assert tree["version"] == 3 and set(tree) == {"version", "optimizer"}
    return dict(flatten(tree["optimizer"], []))


def read_orbax(folder):
    """{dotted name: array} of a checkpoint folder in Orbax form."""
    store = {"driver": "ocdbt", "base": f"file://{folder}/state/"}
    keys = json.loads((folder / "state" / "_METADATA").read_text())["tree_metadata"].values()
    names = [".".join(part["key"] for part in key["key_metadata"]) for key in keys]
    specs = {n: {"driver": "zarr", "kvstore": {**store, "path": f"{n}/"}} for n in names}
    return {n: tensorstore.open(s, open=True).result().read().result() for n, s in specs.items()}


def assert_same(found, expected):
    """The same names, shapes, dtypes and bits."""
    assert found.keys() == expected.keys()
    for name, want in expected.items():
        have = found[name]
        assert (have.shape, have.dtype) == (want.shape, want.dtype), name
        assert have.tobytes() == want.tobytes(), name


def everything(weights):
    """{T5X's full name: array} of Weights, each tensor as its listing says."""
    found = {"state.step": np.asarray(weights.step, np.int32)}
    for name, info in weights.tensors().items():
        value = found[f"target.{name}"] = weights.read(name)
        assert (value.shape, value.dtype.name) == (info.shape, info.dtype), name
    for name, info in weights.state_tensors().items():
        value = found[f"state.param_states.{name}"] = weights.read_state(name)
        assert (value.shape, value.dtype.name) == (info.shape, info.dtype), name
    return found


def without_placeholders(arrays):
    """The arrays but Adafactor's (1,) zeros, which must be zeros."""
    unused = {n: x for n, x in arrays.items() if n.startswith("state.") and x.shape == (1,)}
    assert unused and not any(np.any(value) for value in unused.values())
    return {name: value for name, value in arrays.items() if name not in unused}


class HeldWeights(Weights):
    """Weights of dicts, counting the tensors that are read."""

    kind, path = "held", "memory"

    def __init__(self, parameters, state=None, step=None):
        self._parameters, self._state, self.step = parameters, state or {}, step
        self.reads = []

    def tensors(self):
        return {n: TensorInfo(x.shape, x.dtype.name) for n, x in self._parameters.items()}

    def read(self, name):
        self.reads.append(name)
        return self._parameters[name]

    def state_tensors(self):
        return {n: TensorInfo(x.shape, x.dtype.name) for n, x in self._state.items()}

    def read_state(self, name):
        self.reads.append(name)
        return self._state[name]
