"""mt0_tpu/tasks/network_cost.py: counts worked out by hand, sizes as the gin files say."""

import numpy as np
import pytest

from mt0_tpu.errors import UserError
from mt0_tpu.tasks.network_cost import NetworkSize, network_size

TINY = NetworkSize("tiny", 2, 3, 5, 3, 1, 1, 7)


def test_encoder_by_hand():
    # 4 tokens: 4 kernels of 2 × 3 and 3 of 2 × 5, each 2 operations; 16 pairs of 3 channels, twice.
    assert TINY.encoder(4) == 4 * 2 * (4 * 6 + 3 * 10) + 2 * 2 * 16 * 3


def test_decoder_by_hand():
    kernels = 2 * (4 * 6 + 2 * 6 + 3 * 10)  # self, cross queries and output, feed-forward
    pairs = 2 * 2 * (2 * 2 + 2 * 4) * 3
    assert TINY.decoder(4, 2) == 2 * kernels + 4 * 2 * (2 * 6) + pairs
    assert TINY.head(2) == 2 * 2 * 2 * 7


def test_examples_are_summed():
    lengths = np.array([4, 4]), np.array([2, 2])
    assert TINY.examples(*lengths) == 2 * (TINY.encoder(4) + TINY.decoder(4, 2) + TINY.head(2))


def test_agrees_with_the_compiler():
    """XLA counts the operations of the very network; it adds norms, softmax and the like."""
    import jax
    import jax.numpy as jnp

    from mt0_tpu.models.config import T5Config
    from mt0_tpu.models.t5 import T5

    size = NetworkSize("x", 64, 64, 128, 3, 1, 1, 512)
    config = T5Config(512, 64, 4, 16, 128, 1, 1, dtype="float32", dropout_rate=0.0)
    model = T5(config)
    batch = {
        "encoder_input_tokens": jnp.ones((1, 96), jnp.int32),
        "decoder_input_tokens": jnp.ones((1, 48), jnp.int32),
        "decoder_target_tokens": jnp.ones((1, 48), jnp.int32),
    }
    parameters = jax.eval_shape(model.init, jax.random.key(0), batch)

    def forward(parameters):
        hidden = model.apply(parameters, batch)
        return model.apply(parameters, hidden, method="logits")

    found = jax.jit(forward).lower(parameters).compile().cost_analysis()["flops"]
    counted = float(size.encoder(96) + size.decoder(96, 48) + size.head(48))
    assert counted == pytest.approx(found, rel=0.1)


def test_published_sizes_come_from_the_gin_files():
    xl = network_size("xl")
    assert (xl.width, xl.attention, xl.mlp, xl.mlp_kernels) == (2048, 2048, 5120, 3)
    assert (xl.encoder_layers, xl.decoder_layers, xl.vocabulary) == (24, 24, 250112)


def test_no_such_size():
    with pytest.raises(UserError, match="no network size 'lagre'.*Did you mean 'large'"):
        network_size("lagre")
