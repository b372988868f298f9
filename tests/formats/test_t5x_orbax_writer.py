"""What we write in T5X's Orbax form: golden's layout, read by tensorstore and by Orbax itself."""

import json
import os

import numpy as np
import orbax.checkpoint as ocp
import pytest

from mt0_tpu.errors import UserError
from mt0_tpu.formats import t5x, t5x_content, t5x_orbax, t5x_orbax_writer
from tests.formats.t5x_plain import (
    HeldWeights,
    assert_same,
    everything,
    read_legacy,
    read_orbax,
    without_placeholders,
)

STEP = 1_000_003


@pytest.fixture
def source(golden):
    return golden / "t5_tiny" / "ckpt_orbax" / f"checkpoint_{STEP}"


@pytest.fixture
def copy(source, tmp_path):
    copy = tmp_path / source.name
    t5x_orbax_writer.write(t5x_orbax.open_weights(source), copy, with_state=True)
    return copy


def files(folder):
    """Names of all files; those of the stores, which are drawn by chance, as one."""
    return {
        str(path.relative_to(folder)) if path.parent.name != "d" else str(path.parent)[-1:]
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_golden_again(source, copy):
    assert files(copy) == files(source)
    for name in ("state/_METADATA", "state/array_metadatas/process_0"):
        assert (copy / name).read_bytes() == (source / name).read_bytes(), name
    for name in ("_CHECKPOINT_METADATA", "state/_sharding"):
        ours, theirs = (json.loads((at / name).read_bytes()) for at in (copy, source))
        assert ours.keys() == theirs.keys()
        if name == "_CHECKPOINT_METADATA":
            assert ours["item_handlers"] == theirs["item_handlers"]
    assert_same(read_orbax(copy), read_orbax(source))


def test_zarr_headers_are_goldens(source, copy):
    def headers(folder):
        import tensorstore

        store = {"driver": "ocdbt", "base": f"file://{folder}/state/"}
        opened = tensorstore.KvStore.open(store).result()
        keys = opened.list().result()
        return {key: opened[key] if key.endswith(b".zarray") else b"" for key in keys}

    assert headers(copy) == headers(source)


def test_the_folder_may_be_moved(copy, source):
    moved = copy.with_name("elsewhere")
    copy.rename(moved)
    assert_same(read_orbax(moved), read_orbax(source))
    assert_same(
        everything(t5x_orbax.open_weights(t5x_orbax.find(moved))),
        without_placeholders(read_orbax(source)),
    )


def test_orbax_restores_it(copy):
    handler = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    tree = handler.restore(copy / "state")
    assert int(tree["state"]["step"]) == STEP
    expected = read_orbax(copy)
    scale = np.asarray(tree["target"]["decoder"]["decoder_norm"]["scale"])
    np.testing.assert_array_equal(scale, expected["target.decoder.decoder_norm.scale"])


def test_bfloat16_from_the_legacy_form(golden, tmp_path):
    wide = t5x.open_weights(golden / "t5_tiny" / "ckpt_legacy_float32" / f"checkpoint_{STEP}")
    t5x_orbax_writer.write(wide, tmp_path / "out", dtype="bfloat16", with_state=True)
    narrow = golden / "t5_tiny" / "ckpt_legacy_bfloat16" / f"checkpoint_{STEP}"
    assert_same(read_orbax(tmp_path / "out"), read_legacy(narrow))


def test_parameters_alone_in_several_chunks_and_commits(tmp_path, monkeypatch):
    monkeypatch.setattr(t5x_content, "MAX_CHUNK_BYTES", 8000)
    monkeypatch.setattr(t5x_orbax_writer, "_COMMIT_BYTES", 10_000)
    rng = np.random.default_rng(0)
    values = {f"p{i}.kernel": rng.normal(size=(96, 64)).astype(np.float32) for i in range(4)}
    t5x_orbax_writer.write(HeldWeights(values, step=4), tmp_path / "out")
    expected = {f"target.{name}": value for name, value in values.items()}
    expected["state.step"] = np.asarray(4, np.int32)
    assert_same(read_orbax(tmp_path / "out"), expected)
    data = list((tmp_path / "out" / "state" / "ocdbt.process_0" / "d").iterdir())
    assert len(data) > 4
    # The checkpoint's own store refers to these files, and holds no copy of the values.
    own = (tmp_path / "out" / "state" / "d").iterdir()
    assert sum(path.stat().st_size for path in own) < 5000
    weights = t5x_orbax.open_weights(tmp_path / "out")
    assert weights.step == 4 and weights.state_tensors() == {}


def test_refusals(tmp_path):
    weights = HeldWeights({"scale": np.ones(2, np.float32)})
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="there exists; name another folder"):
        t5x_orbax_writer.write(weights, tmp_path / "there")
    with pytest.raises(UserError, match="convert without optimizer state"):
        t5x_orbax_writer.write(weights, tmp_path / "out", with_state=True)
    assert os.listdir(tmp_path) == ["there"]
    t5x_orbax_writer.write(weights, tmp_path / "there", overwrite=True)
    assert os.listdir(tmp_path) == ["there"]
    assert t5x_orbax.open_weights(tmp_path / "there").step == 0
