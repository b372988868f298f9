"""What a checkpoint is saved as, and which settings of saving are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore

from mt0_tpu import checkpoints
from mt0_tpu.checkpoints import CheckpointConfig, Checkpointer
from mt0_tpu.errors import UserError
from mt0_tpu.formats import own_run
from mt0_tpu.train_state import TrainState


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
