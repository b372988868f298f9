"""T5X's Orbax form: golden to the bit, equal to the legacy form, and each kind of damage."""

import json
import shutil

import numpy as np
import orbax.checkpoint as ocp
import pytest

from mt0_tpu.errors import UserError
from mt0_tpu.formats import t5x, t5x_orbax
from tests.formats.t5x_plain import assert_same, everything, read_orbax, without_placeholders

STEP = 1_000_003
KERNEL = "target.decoder.logits_dense.kernel"


@pytest.fixture
def source(golden):
    return golden / "t5_tiny" / "ckpt_orbax" / f"checkpoint_{STEP}"


@pytest.fixture
def damaged(source, tmp_path):
    folder = tmp_path / source.name
    shutil.copytree(source, folder, copy_function=shutil.copyfile)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    return folder


def refused(path, *words):
    found = t5x_orbax.find(path)
    assert found is not None
    with pytest.raises(UserError) as caught:
        t5x_orbax.open_weights(found)
    text = str(caught.value)
    assert "\n" not in text and str(path) in text
    for word in words:
        assert word in text, text


def test_golden_is_read_to_the_bit(golden, source):
    weights = t5x_orbax.open_weights(t5x_orbax.find(source.parent))
    assert (weights.kind, weights.step) == ("T5X Orbax", STEP)
    found = everything(weights)
    assert len(found) == 1 + 52 + 52
    assert_same(found, without_placeholders(read_orbax(source)))
    legacy = t5x.open_weights(golden / "t5_tiny" / "ckpt_legacy_float32" / source.name)
    assert_same(found, everything(legacy))


def test_the_path_may_be_the_store_or_a_parent(damaged):
    for path in (damaged, damaged / "state", damaged.parent):
        assert t5x_orbax.find(path) == damaged
    moved = damaged.with_name("a folder, with %20")
    damaged.rename(moved)
    assert t5x_orbax.open_weights(t5x_orbax.find(moved)).step == STEP


def test_other_orbax_folders_are_not_found(tmp_path, golden):
    """Our own runs are Orbax too; their trees have no 'target'."""
    handler = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    handler.save(tmp_path / "1" / "state", {"params": {"scale": np.ones(3)}, "step": 1})
    assert t5x_orbax.find(tmp_path / "1") is None
    assert t5x_orbax.find(golden / "t5_tiny" / "ckpt_legacy_float32") is None
    assert t5x_orbax.find(tmp_path / "absent") is None


def test_without_ocdbt(tmp_path):
    """Orbax's older form: the same arrays in folders."""
    tree = {"target": {"norm": {"scale": np.arange(3.0, dtype=np.float32)}},
            "state": {"step": np.asarray(9, np.int32), "param_states": {}}}  # fmt: skip
    handler = ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False))
    handler.save(tmp_path / "checkpoint_9" / "state", tree)
    weights = t5x_orbax.open_weights(t5x_orbax.find(tmp_path))
    assert weights.step == 9
    assert_same({"x": weights.read("norm.scale")}, {"x": tree["target"]["norm"]["scale"]})
    shutil.rmtree(tmp_path / "checkpoint_9" / "state" / "target.norm.scale")
    refused(tmp_path / "checkpoint_9", "target.norm.scale", "no file .zarray")


def test_half_written(damaged):
    half = damaged.with_name(f"{damaged.name}.orbax-checkpoint-tmp-1700000000")
    damaged.rename(half)
    refused(half, "never finished")


def test_missing_parts(damaged):
    manifest = damaged / "state" / "manifest.ocdbt"
    kept = manifest.read_bytes()
    manifest.unlink()
    refused(damaged, "no manifest.ocdbt")
    manifest.write_bytes(kept[:50])
    refused(damaged, "state is damaged")
    manifest.write_bytes(kept)
    (damaged / "state" / "_METADATA").unlink()
    refused(damaged, "_METADATA", "Orbax's tree")


def test_truncated_tree_and_unknown_arrays(damaged):
    file = damaged / "state" / "_METADATA"
    text = file.read_text()
    file.write_text(text[:5000])
    refused(damaged, "_METADATA", "Orbax's tree")
    file.write_text(text.replace("('target', 'decoder', 'decoder_norm', 'scale')", "target"))
    refused(damaged, "keys that are no tuples")
    file.write_text(text.replace("('target', 'decoder', 'decoder_norm'", "('target', 'd', 'x'"))
    refused(damaged, "target.d.x.scale", "no file .zarray")
    file.write_text(json.dumps({**json.loads(text), "use_zarr3": True}))
    refused(damaged, "zarr3")


def test_truncated_data(damaged):
    """What the tree of the store needs is whole, the arrays' bytes are cut."""
    for data in (damaged / "state" / "ocdbt.process_0" / "d").iterdir():
        data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    weights = t5x_orbax.open_weights(t5x_orbax.find(damaged))
    with pytest.raises(UserError, match="is damaged .*copy the checkpoint again"):
        everything(weights)
