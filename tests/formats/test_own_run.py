"""Our own runs: read a tensor at a time, and written so that our Checkpointer restores them."""

import dataclasses
import json
import os
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mt0_tpu import checkpoints, partitioning, run_folder, train_state
from mt0_tpu.checkpoints import CheckpointConfig, Checkpointer
from mt0_tpu.errors import UserError
from mt0_tpu.formats import own_run
from mt0_tpu.formats.weights import TensorInfo, Weights
from mt0_tpu.models import names
from mt0_tpu.models.t5 import T5
from mt0_tpu.optimizers import Adafactor, AdamW
from tests.tiny import TINY

# Wide enough to be factored; attention's kernels are square, the embedding long, wo wide.
WIDE = dataclasses.replace(
    TINY, vocab_size=160, emb_dim=128, num_heads=4, head_dim=32, mlp_dim=144,
    num_encoder_layers=2, num_decoder_layers=3,
)  # fmt: skip


def drawn(tree, seed):
    """The same shapes, every element another number."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), tree)


def a_state(config, optimizer):
    model = T5(config)
    shapes, _ = train_state.abstract_state(model, optimizer)
    opt_state = drawn(shapes.opt_state, 2)
    if not isinstance(optimizer, AdamW):
        flat, tree = jax.tree_util.tree_flatten(opt_state)
        flat = [jnp.zeros_like(leaf) if leaf.shape == (1,) else leaf for leaf in flat]
        opt_state = jax.tree_util.tree_unflatten(tree, flat)
    return train_state.TrainState(jnp.asarray(41, jnp.int32), drawn(shapes.params, 1), opt_state)


def save(folder, state):
    checkpointer = Checkpointer(str(folder), CheckpointConfig())
    checkpointer.save(state, {"loader": 1})
    checkpointer.wait()
    checkpointer.close()


@pytest.fixture(scope="module")
def state():
    return a_state(WIDE, Adafactor())


@pytest.fixture(scope="module")
def run(state, tmp_path_factory):
    """A run as training saves it."""
    folder = tmp_path_factory.mktemp("saved") / "run"
    save(folder, state)
    return folder


def restored(folder, like, step=41):
    checkpointer = Checkpointer(str(folder), CheckpointConfig(), read_only=True)
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), like
    )
    try:
        return checkpointer.restore(step, abstract)
    finally:
        checkpointer.close()


def same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_it_is_found_at_every_level_and_by_content(run, tmp_path, golden):
    step = run / "checkpoints" / "41"
    for path in (run, run / "checkpoints", step, step / "state"):
        assert own_run.find(path) == step
    assert own_run.find(tmp_path) is None
    assert own_run.find(tmp_path / "nothing") is None
    for other in ("ckpt_orbax/checkpoint_1000003", "ckpt_legacy_float32/checkpoint_1000003", "hf"):
        assert own_run.find(golden / "t5_tiny" / other) is None
    moved = tmp_path / "downloaded"
    moved.symlink_to(step)
    assert own_run.find(moved) == moved


def test_the_latest_of_several_is_read(run, tmp_path):
    for step in (9, 100, 41):
        target = tmp_path / "checkpoints" / str(step)
        target.parent.mkdir(exist_ok=True)
        target.symlink_to(run / "checkpoints" / "41")
    (tmp_path / "checkpoints" / "200.orbax-checkpoint-tmp").mkdir()
    assert own_run.find(tmp_path).name == "100"


def test_half_a_checkpoint_is_said_to_be_one(run, tmp_path):
    half = tmp_path / "checkpoints" / "200.orbax-checkpoint-tmp"
    half.mkdir(parents=True)
    for path in (tmp_path, half.parent):
        with pytest.raises(UserError, match="200.orbax-checkpoint-tmp is half-written: its save"):
            own_run.find(path)
    (half / "state").symlink_to(run / "checkpoints" / "41" / "state")
    with pytest.raises(UserError, match="200.orbax-checkpoint-tmp is half-written"):
        own_run.find(half)


def test_reading_is_unstacking(run, state):
    weights = own_run.open_weights(run)
    assert weights.step == 41
    wanted = names.unstack(state.params)
    assert {n: i.shape for n, i in weights.tensors().items()} == {
        name: leaf.shape for name, leaf in wanted.items()
    }
    for name, leaf in wanted.items():
        assert weights.tensors()[name] == TensorInfo(leaf.shape, "float32")
        np.testing.assert_array_equal(weights.read(name), leaf)


def test_reading_the_state(run, state):
    weights = own_run.open_weights(run)
    found = weights.state_tensors()
    assert len(found) == 4 * len(weights.tensors())
    mlp = "decoder.layers_2.mlp.wo.kernel"
    assert found[f"{mlp}.v_row"].shape == (128,) and found[f"{mlp}.v"].shape == (1,)
    saved = state.opt_state["decoder"]["layers"]["mlp"]["wo"]["kernel"]
    np.testing.assert_array_equal(weights.read_state(f"{mlp}.v_col"), saved["v_col"][2])
    norm = "encoder.layers_1.pre_mlp_layer_norm.scale"
    saved = state.opt_state["encoder"]["layers"]["pre_mlp_layer_norm"]["scale"]
    np.testing.assert_array_equal(weights.read_state(f"{norm}.v"), saved["v"][1])
    assert found[f"{norm}.m"].shape == (1,)


def test_statistics_factored_by_name_get_the_names_of_the_shorter_and_the_longer(tmp_path):
    # out is (128, 96 * 2): by name v_row is as long as embed, which here is the longer.
    config = dataclasses.replace(WIDE, emb_dim=192)
    state = a_state(config, Adafactor(factor_by_name=True))
    save(tmp_path, state)
    (tmp_path / "config.gin").write_text("# x\nadafactor.Adafactor.factor_by_name = True\n")
    weights = own_run.open_weights(tmp_path)
    name = "encoder.layers_1.attention.out.kernel"
    assert weights.tensors()[name].shape == (128, 192)
    assert weights.state_tensors()[f"{name}.v_row"].shape == (128,)
    saved = state.opt_state["encoder"]["layers"]["attention"]["out"]["kernel"]
    np.testing.assert_array_equal(weights.read_state(f"{name}.v_row"), saved["v_col"][1])


def test_adamw_has_no_state_to_convert(tmp_path):
    save(tmp_path / "run", a_state(TINY, AdamW()))
    weights = own_run.open_weights(tmp_path / "run")
    assert weights.state_tensors() == {}
    with pytest.raises(UserError, match="holds no Adafactor statistics"):
        own_run.write(weights, tmp_path / "new", with_state=True)


def test_what_is_written_is_restored_to_the_bit(run, state, tmp_path):
    own_run.write(own_run.open_weights(run), tmp_path / "new", with_state=True)
    again, position = restored(tmp_path / "new", state)
    same(state, again)
    assert position == {}
    same(state.params, checkpoints.restore_params(str(tmp_path / "new"), WIDE))
    assert os.listdir(tmp_path) == ["new"]


def test_it_has_the_files_and_the_tree_that_orbax_writes(run, tmp_path):
    own_run.write(own_run.open_weights(run), tmp_path / "new", with_state=True)
    theirs, ours = (folder / "checkpoints" / "41" for folder in (run, tmp_path / "new"))

    def trees(step):
        tree = json.loads((step / "state" / "_METADATA").read_text())
        return {k: v["key_metadata"] for k, v in tree.pop("tree_metadata").items()}, tree

    assert trees(ours) == trees(theirs)
    about = [json.loads((one / "_CHECKPOINT_METADATA").read_text()) for one in (ours, theirs)]
    assert about[0].keys() == about[1].keys()
    assert about[0]["item_handlers"] == about[1]["item_handlers"]
    for name in ("commit_success.txt", "position/metadata", "state/manifest.ocdbt"):
        assert (ours / name).is_file() and (theirs / name).is_file()


def test_a_run_goes_on_in_a_written_folder(run, state, tmp_path):
    own_run.write(own_run.open_weights(run), tmp_path / "new", with_state=True)
    checkpointer = Checkpointer(str(tmp_path / "new"), CheckpointConfig(keep_last=2))
    checkpointer.save(state.replace(step=jnp.asarray(42, jnp.int32)), {})
    checkpointer.close()
    assert run_folder.steps_of(tmp_path / "new") == [41, 42]


def test_parameters_alone_in_bfloat16(run, state, tmp_path):
    own_run.write(own_run.open_weights(run), tmp_path / "new", dtype="bfloat16", step=7)
    weights = own_run.open_weights(tmp_path / "new")
    assert weights.step == 7 and weights.state_tensors() == {}
    assert {info.dtype for info in weights.tensors().values()} == {"bfloat16"}
    rounded = jax.tree.map(lambda a: a.astype(jnp.bfloat16).astype(jnp.float32), state.params)
    same(rounded, checkpoints.restore_params(str(tmp_path / "new"), WIDE))
    # And once more, now a layer a chunk and bfloat16 into float32.
    own_run.write(weights, tmp_path / "third")
    same(rounded, checkpoints.restore_params(str(tmp_path / "third"), WIDE))


class Spying(Weights):
    """Weights by hand, which count how much of them is alive."""

    kind, path, step = "by hand", "nowhere", None

    def __init__(self, arrays, damaged=None):
        self.arrays, self.damaged, self.order = arrays, damaged, []

    def tensors(self):
        return {n: TensorInfo(a.shape, a.dtype.name) for n, a in self.arrays.items()}

    def read(self, name):
        if name == self.damaged:
            raise UserError(f"{name} is damaged")
        self.order.append(name)
        return self.arrays[name]


def by_hand(**changes):
    arrays = {
        name: np.full(leaf.shape, i, np.float32)
        for i, (name, leaf) in enumerate(names.expected(TINY).items())
    }
    return arrays | changes


def test_each_tensor_is_read_once_layers_in_order_and_zeros_are_kept(tmp_path):
    arrays = dict(reversed(by_hand().items()))
    arrays["encoder.encoder_norm.scale"] = np.zeros(64, np.float32)
    weights = Spying(arrays)
    own_run.write(weights, tmp_path / "new")
    assert sorted(weights.order) == sorted(arrays)
    found = own_run.open_weights(tmp_path / "new")
    assert found.step == 0
    for name, array in arrays.items():
        np.testing.assert_array_equal(found.read(name), array)


def test_arrays_of_many_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr("mt0_tpu.formats.own_run_writing._CHUNK_BYTES", 5 * 64 * 4)
    monkeypatch.setattr("mt0_tpu.formats.own_run_writing._TOGETHER_BYTES", 64 * 128)
    rng = np.random.default_rng(0)
    arrays = {n: rng.normal(size=a.shape).astype(np.float32) for n, a in by_hand().items()}
    own_run.write(Spying(arrays), tmp_path / "new")
    tree = checkpoints.restore_params(str(tmp_path / "new"), TINY)
    same(names.stack(arrays, TINY), tree)


def test_large_stacks_have_a_chunk_a_layer(tmp_path, monkeypatch):
    monkeypatch.setattr("mt0_tpu.formats.own_run_writing._TOGETHER_BYTES", 64 * 128)
    monkeypatch.setattr(own_run, "_HELD_BYTES", 0)
    arrays = by_hand()
    own_run.write(Spying(arrays), tmp_path / "new")
    same(names.stack(arrays, TINY), checkpoints.restore_params(str(tmp_path / "new"), TINY))
    weights = own_run.open_weights(tmp_path / "new")
    chunk = weights._stores["params.encoder.layers.mlp.wo.kernel"].chunk_layout.read_chunk
    assert chunk.shape == (1, 128, 64)
    # In an order that never finds a stack kept.
    for name in sorted(arrays, key=lambda name: name.split(".")[1:]):
        np.testing.assert_array_equal(weights.read(name), arrays[name])


def test_no_more_than_two_layers_are_alive(tmp_path, monkeypatch):
    monkeypatch.setattr("mt0_tpu.formats.own_run_writing._TOGETHER_BYTES", 0)
    alive, most = weakref.WeakSet(), []

    class Counting(Spying):
        def read(self, name):
            array = super().read(name).copy()
            owner = np.ndarray.__new__(Owned, array.shape, array.dtype, array)
            alive.add(owner)
            most.append(len(alive))
            return owner

    own_run.write(Counting(by_hand()), tmp_path / "new")
    assert len(most) == 52 and max(most) <= 2


class Owned(np.ndarray):
    """An array that can be weakly referenced and hashed by identity."""

    __hash__ = object.__hash__

    def __eq__(self, other):
        return self is other


def test_a_failure_leaves_nothing_behind(tmp_path):
    with pytest.raises(UserError, match="wo.kernel is damaged"):
        own_run.write(Spying(by_hand(), damaged="decoder.layers_1.mlp.wo.kernel"), tmp_path / "new")
    assert os.listdir(tmp_path) == []


def test_what_does_not_fit_together_is_said(run, tmp_path):
    arrays = by_hand()
    del arrays["decoder.layers_0.mlp.wo.kernel"]
    with pytest.raises(UserError, match=r"decoder.layers.mlp.wo.kernel lacks layer 0 of 2"):
        own_run.write(Spying(arrays), tmp_path / "new")
    odd = by_hand(**{"decoder.layers_1.mlp.wo.kernel": np.zeros((2, 2), np.float32)})
    with pytest.raises(UserError, match="layers of different shapes"):
        own_run.write(Spying(odd), tmp_path / "new")
    with pytest.raises(UserError, match="dtype is 'float16'; write 'float32' or 'bfloat16'"):
        own_run.write(Spying(arrays), tmp_path / "new", dtype="float16")
    weights = own_run.open_weights(run)
    weights._state["token_embedder.embedding.v_row"] = ("step", None)
    with pytest.raises(UserError, match=r"v_row of token_embedder.embedding is .*expected \(128,"):
        own_run.write(weights, tmp_path / "new", with_state=True)
    assert os.listdir(tmp_path) == []


@pytest.fixture
def copy(run, tmp_path):
    own_run.write(own_run.open_weights(run), tmp_path / "copy")
    return tmp_path / "copy" / "checkpoints" / "41"


@pytest.mark.parametrize("part", ["_METADATA", "manifest.ocdbt"])
def test_a_missing_part_is_named(copy, part):
    (copy / "state" / part).unlink()
    with pytest.raises(UserError, match=f"is not whole: it has no state/{part}"):
        own_run.open_weights(own_run.find(copy))


def test_metadata_of_another_kind(copy):
    (copy / "state" / "_METADATA").write_text("{\"('params',)\": 1}")
    with pytest.raises(UserError, match="_METADATA cannot be understood"):
        own_run.open_weights(copy)


def test_a_truncated_file_is_a_sentence(copy):
    files = sorted((copy / "state" / "d").iterdir(), key=lambda path: path.stat().st_size)
    os.truncate(files[-1], files[-1].stat().st_size // 2)
    with pytest.raises(UserError, match="is damaged: .* cannot be .*copy it anew"):
        weights = own_run.open_weights(copy)
        for name in weights.tensors():
            weights.read(name)


def test_a_lost_piece_does_not_read_as_zeros(copy):
    import tensorstore

    base = {"driver": "file", "path": f"{copy}/state/"}
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
    store.write(b"params.encoder.encoder_norm.scale/0", None).result()
    weights = own_run.open_weights(copy)
    with pytest.raises(UserError, match="encoder_norm.scale cannot be read"):
        weights.read("encoder.encoder_norm.scale")
    store.write(b"params.encoder.encoder_norm.scale/.zarray", None).result()
    with pytest.raises(UserError, match="encoder_norm.scale is in _METADATA but cannot be opened"):
        own_run.open_weights(copy)


@pytest.mark.parametrize("form", ["ckpt_legacy_float32", "ckpt_orbax"])
def test_a_checkpoint_of_t5x_becomes_ours_with_its_state(golden, tmp_path, form):
    from mt0_tpu.formats import detect

    source = golden / "t5_tiny" / form / "checkpoint_1000003"
    own_run.write(detect.open_any(source), tmp_path / "new", with_state=True)
    shapes, _ = train_state.abstract_state(T5(TINY), Adafactor())
    state, _ = restored(tmp_path / "new", shapes, step=1000003)
    assert int(state.step) == 1000003
    theirs = detect.open_any(source)
    ours = names.unstack(state.params)
    assert ours.keys() == theirs.tensors().keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs.read(name))
    second = state.opt_state["decoder"]["layers"]["mlp"]["wo"]["kernel"]["v"][1]
    assert float(jnp.max(second)) > 0
    np.testing.assert_array_equal(second, theirs.read_state("decoder.layers_1.mlp.wo.kernel.v"))


def test_it_is_restored_over_a_mesh(run, state, tmp_path):
    own_run.write(own_run.open_weights(run), tmp_path / "new")
    mesh = partitioning.make_mesh(partitioning.MeshConfig(data=2, fsdp=2, tensor=2))
    params = checkpoints.restore_params(str(tmp_path / "new"), WIDE, mesh)
    same(state.params, params)
    assert len(params["token_embedder"]["embedding"].sharding.device_set) == 8
