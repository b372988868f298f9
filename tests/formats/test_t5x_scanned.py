"""Scanned trees, built here from golden unscanned ones, come out as these."""

import msgpack
import numpy as np
import pytest

from mt0_tpu.errors import UserError
from mt0_tpu.formats import t5x, t5x_content, t5x_writer
from tests.formats.t5x_plain import HeldWeights, assert_same, everything

HEADS, HEAD_DIM = 4, 16
EMBED = 64


def stacked(layers, rest):
    """scalable_t5's array of a tower's layers: heads not joined, layers at axis 1."""
    if rest.endswith(("query.kernel", "key.kernel", "value.kernel")):
        layers = [x.reshape(x.shape[0], HEADS, -1) for x in layers]
    if rest.endswith("out.kernel"):
        layers = [x.reshape(HEADS, -1, x.shape[1]) for x in layers]
    return np.stack(layers, axis=1)


def scan(flat, num_layers):
    """{unscanned name: array} to {scanned name: array}."""
    found = {}
    for name, value in flat.items():
        tower, *rest = name.split(".")
        if rest[0] == "relpos_bias":
            repeated = np.repeat(value[:, None], num_layers, axis=1)
            found[".".join([tower, tower, *rest])] = repeated
        elif rest[0] == "layers_0":
            end = ".".join(rest[1:])
            layers = [flat[f"{tower}.layers_{i}.{end}"] for i in range(num_layers)]
            found[f"{tower}.{tower}.{end}"] = stacked(layers, end)
        elif not rest[0].startswith("layers_"):
            found[name] = value
    return found


def write_inline(path, target, param_states=None, step=3):
    """A single-file checkpoint, with msgpack alone."""

    def nested(flat):
        tree = {}
        for name, value in flat.items():
            *path, last = name.split(".")
            node = tree
            for key in path:
                node = node.setdefault(key, {})
            payload = msgpack.packb((value.shape, value.dtype.name, value.tobytes()))
            node[last] = msgpack.ExtType(1, payload)
        return tree

    state = {"step": step, "param_states": nested(param_states or {})}
    tree = {"version": 3, "optimizer": {"target": nested(target), "state": state}}
    path.write_bytes(msgpack.packb(tree))
    return t5x.find(path)


@pytest.fixture
def flat(golden):
    return dict(np.load(golden / "t5_tiny" / "params.npz"))


def test_golden_scanned_and_back(flat, tmp_path):
    scanned = scan(flat, 2)
    assert scanned["encoder.encoder.attention.out.kernel"].shape == (HEADS, 2, HEAD_DIM, EMBED)
    assert scanned["decoder.decoder.mlp.wo.kernel"].shape == (128, 2, EMBED)
    weights = t5x.open_weights(write_inline(tmp_path / "file", scanned))
    assert (weights.kind, weights.step) == ("T5X (scanned)", 3)
    assert_same({name: weights.read(name) for name in weights.tensors()}, flat)
    assert weights.state_tensors() == {}
    everything(weights)


def test_layers_are_cut_out_of_zarr_chunks(flat, tmp_path, monkeypatch):
    """From array folders with several chunks, as large checkpoints have them."""
    monkeypatch.setattr(t5x_content, "MAX_CHUNK_BYTES", 3000)
    t5x_writer.write(HeldWeights(scan(flat, 2), step=1), tmp_path / "scanned")
    weights = t5x.open_weights(tmp_path / "scanned")
    assert_same({name: weights.read(name) for name in weights.tensors()}, flat)


def test_unequal_tables_are_refused(flat, tmp_path):
    scanned = scan(flat, 2)
    scanned["decoder.decoder.relpos_bias.rel_embedding"][1, 1, 5] += 1
    path = write_inline(tmp_path / "file", scanned)
    with pytest.raises(UserError, match="layers of decoder.decoder.relpos_bias.* differ") as caught:
        t5x.open_weights(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_not_scanned_at_axis_one_is_refused(flat, tmp_path):
    scanned = scan(flat, 2)
    name = "encoder.encoder.mlp.wo.kernel"
    turned = {**scanned, name: np.moveaxis(scanned[name], 1, 0)}
    with pytest.raises(UserError, match="no one number of layers at axis 1.*param_scan_axis"):
        t5x.open_weights(write_inline(tmp_path / "file", turned))
    unknown = {**scanned, "encoder.encoder.mlp.gate.kernel": np.ones((3, 2, 3), np.float32)}
    with pytest.raises(UserError, match="gate.kernel of shape .* is not what scalable_t5 stores"):
        t5x.open_weights(write_inline(tmp_path / "file", unknown))


def statistics(scanned, rng):
    """Adafactor's state of a scanned tree: rows run over embed, columns over the others."""
    layouts = {
        "query.kernel": "eLhd", "key.kernel": "eLhd", "value.kernel": "eLhd", "out.kernel": "hLde",
        "wi_0.kernel": "eLf", "wi_1.kernel": "eLf", "wo.kernel": "fLe", "embedding": "Ve",
        "logits_dense.kernel": "eV",
    }  # fmt: skip
    found = {}
    for name, value in scanned.items():
        layout = next((x for end, x in layouts.items() if name.endswith(f".{end}")), None)
        slots = dict.fromkeys(("v_row", "v_col", "v", "m"), np.zeros(1, np.float32))
        if layout is None or name.endswith("rel_embedding"):
            slots["v"] = rng.random(value.shape).astype(np.float32)
            if name.endswith("rel_embedding"):
                slots["v"] = np.repeat(slots["v"][:, :1], value.shape[1], axis=1)
        else:
            dims = dict(zip(layout, value.shape, strict=True))
            row = [n for d, n in dims.items() if d in "eL"]
            col = [n for d, n in dims.items() if d != "e"]
            slots["v_row"] = rng.random(row).astype(np.float32)
            slots["v_col"] = rng.random(col).astype(np.float32)
        found |= {f"{name}.{slot}": x for slot, x in slots.items()}
    return found


def test_scanned_state(flat, tmp_path):
    """v_row belongs to the shorter dim, and of equal ones to the first."""
    scanned = scan(flat, 2)
    state = statistics(scanned, np.random.default_rng(0))
    weights = t5x.open_weights(write_inline(tmp_path / "file", scanned, state))
    found = weights.state_tensors()

    def same(name, want):
        assert found[name].shape == want.shape
        np.testing.assert_array_equal(weights.read_state(name), want)

    at = "decoder.decoder.self_attention"
    for i in range(2):
        layer = f"decoder.layers_{i}.self_attention"
        # (64 embed, 64 joined): embed is the first dim of query and the second of out.
        same(f"{layer}.query.kernel.v_row", state[f"{at}.query.kernel.v_row"][:, i])
        same(f"{layer}.query.kernel.v_col", state[f"{at}.query.kernel.v_col"][i].reshape(-1))
        same(f"{layer}.out.kernel.v_row", state[f"{at}.out.kernel.v_col"][:, i].reshape(-1))
        same(f"{layer}.out.kernel.v_col", state[f"{at}.out.kernel.v_row"][i])
        # (128 MLP, 64 embed): embed is the shorter.
        mlp = f"encoder.layers_{i}.mlp.wo.kernel"
        same(f"{mlp}.v_row", state["encoder.encoder.mlp.wo.kernel.v_row"][i])
        same(f"{mlp}.v_col", state["encoder.encoder.mlp.wo.kernel.v_col"][:, i])
        norm = "pre_mlp_layer_norm.scale.v"
        same(f"encoder.layers_{i}.{norm}", state[f"encoder.encoder.{norm}"][:, i])
    same("token_embedder.embedding.v_row", state["token_embedder.embedding.v_row"])
    table = "relpos_bias.rel_embedding.v"
    same(f"encoder.{table}", state[f"encoder.encoder.{table}"][:, 0])
    # 14 + 22 kernels and two vocabulary tables are factored; 12 norms and two tables have v.
    assert len(found) == 38 * 2 + 14
    everything(weights)


def test_scanned_state_of_another_shape_is_refused(flat, tmp_path):
    scanned = scan(flat, 2)
    state = statistics(scanned, np.random.default_rng(0))
    state["encoder.encoder.mlp.wo.kernel.v_row"] = np.zeros((3, 64), np.float32)
    with pytest.raises(UserError, match=r"wo.kernel.v_row has the shape \(3, 64\)"):
        t5x.open_weights(write_inline(tmp_path / "file", scanned, state))
