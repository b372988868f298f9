"""The start rule, and what is said of folders that are no checkpoint of ours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore

from mt0_tpu import checkpoints
from mt0_tpu.checkpoints import CheckpointConfig, Checkpointer, Start, check_total_steps, find_start
from mt0_tpu.errors import UserError
from mt0_tpu.formats import own_run
from mt0_tpu.train_state import TrainState


def fake_run(folder, *steps):
    for step in steps:
        (folder / "checkpoints" / str(step) / "state").mkdir(parents=True)
    return str(folder)


def test_the_start_rule_is_an_order(tmp_path):
    own = fake_run(tmp_path / "own", 5, 20, 100)
    other = fake_run(tmp_path / "other", 7, 9)
    empty = str(tmp_path / "empty")
    assert find_start(own, other, True) == Start("resume", own, 100)
    assert find_start(empty, other, True) == Start("initial", other, 9)
    assert find_start(empty, f"{other}/checkpoints", False) == Start("initial", other, 9)
    assert find_start(empty, f"{other}/checkpoints/7", False) == Start("initial", other, 7)
    assert find_start(empty, None, True) == Start("scratch")
    with pytest.raises(UserError, match="nothing to start from"):
        find_start(empty, None, False)


def test_half_a_checkpoint_is_none(tmp_path):
    run = fake_run(tmp_path / "run", 5)
    (tmp_path / "run/checkpoints/10.orbax-checkpoint-tmp").mkdir()
    assert checkpoints.steps_of(run) == [5]


@pytest.mark.parametrize(
    "folder, kind, step",
    [
        ("t5_tiny/ckpt_legacy_float32/checkpoint_1000003", "T5X", 1000003),
        ("t5_tiny/ckpt_orbax/checkpoint_1000003", "T5X Orbax", 1000003),
        ("t5_tiny/hf", "Hugging Face", 0),
    ],
)
def test_a_run_starts_from_other_formats(golden, tmp_path, folder, kind, step):
    start = find_start(str(tmp_path), str(golden / folder), False)
    assert (start.kind, start.step, start.weights.kind) == ("foreign", step, kind)
    assert kind in str(start)


@pytest.mark.parametrize(
    "folder, said", [("rank", "holds no checkpoint that is known"), ("rink", "does not exist")]
)
def test_what_is_no_checkpoint_is_said(golden, tmp_path, folder, said):
    with pytest.raises(UserError, match=f"no checkpoint at .*{said}; give a MODEL_DIR"):
        find_start(str(tmp_path), str(golden / folder), False)


@pytest.mark.parametrize("name", ["save_every_steps", "keep_last", "keep_every_steps"])
def test_settings_must_be_positive(name):
    with pytest.raises(UserError, match=f"CheckpointConfig.{name} is 0"):
        CheckpointConfig(**{name: 0})


def drawn(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape, jnp.float32)


@pytest.mark.parametrize("shards", [1, 4])
def test_large_stacks_are_saved_by_layer_and_restored_to_the_bit(tmp_path, monkeypatch, shards):
    monkeypatch.setattr(checkpoints, "_TOGETHER_BYTES", 1 << 20)
    monkeypatch.setattr(checkpoints, "_CHUNK_BYTES", 1 << 20)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:shards]), ("model",))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "model"))
    kernel = jax.device_put(drawn(0, 6, 600, 512), place)
    layers = {"mlp": {"kernel": kernel}, "norm": {"scale": drawn(1, 6, 512)}}
    params = {"encoder": {"layers": layers}, "token_embedder": {"embedding": drawn(2, 1000, 512)}}
    state = TrainState(jnp.asarray(7, jnp.int32), params, {"v": drawn(3, 4)})
    checkpointer = Checkpointer(str(tmp_path), CheckpointConfig())
    checkpointer.save(state, {})
    checkpointer.wait()
    base = {"driver": "file", "path": f"{tmp_path}/checkpoints/7/state/"}

    def chunks(name):
        place = {"driver": "ocdbt", "base": base, "path": f"params.{name}/"}
        opened = tensorstore.open({"driver": "zarr", "kvstore": place}, open=True).result()
        return opened.chunk_layout.read_chunk.shape

    assert chunks("encoder.layers.mlp.kernel") == (1, 600 // max(2, shards), 512)
    assert chunks("encoder.layers.norm.scale") == (6, 512)
    assert chunks("token_embedder.embedding") == (500, 512)
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    restored, _ = checkpointer.restore(7, abstract)
    checkpointer.close()
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    read = own_run.open_weights(tmp_path).read("encoder.layers_4.mlp.kernel")
    np.testing.assert_array_equal(read, layers["mlp"]["kernel"][4])


@pytest.mark.parametrize("kind", ["initial", "foreign"])
def test_steps_of_a_pretraining_that_the_start_does_not_know(kind):
    start = Start(kind, "there/hf")
    said = "TRAIN_STEPS is 1,007,000, and there/hf names no step.*TRAIN_STEPS_RELATIVE = 7000 for"
    with pytest.raises(UserError, match=said):
        check_total_steps(start, 1_007_000, None)
    # What is meant is clear in all of these.
    check_total_steps(start, 1_007_000, 7000)
    check_total_steps(start, 7000, None)
    check_total_steps(Start(kind, "there/t5x", 1_000_000), 1_007_000, None)
    check_total_steps(Start("scratch"), 1_007_000, None)
    check_total_steps(Start("resume", "run", 0), 1_007_000, None)


def test_a_remote_model_dir_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="mount the bucket"):
        checkpoints.check_model_dir("gs://bucket/run", 1)
    assert not list(tmp_path.iterdir())  # pathlib would make a folder called gs:
