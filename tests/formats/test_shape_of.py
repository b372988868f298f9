"""A network's numbers from its tensors alone."""

import dataclasses

import numpy as np
import pytest

from mt0_tpu.errors import UserError
from mt0_tpu.formats.shape_of import describe, shape_of, size_name
from mt0_tpu.models.t5 import T5Config
from tests.formats.made import Made, made
from tests.tiny import TINY

MT5_SMALL = T5Config(
    vocab_size=250112, emb_dim=512, num_heads=6, head_dim=64, mlp_dim=1024,
    num_encoder_layers=8, num_decoder_layers=8,
)  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_decoder_layers": 3, "num_heads": 2, "mlp_dim": 96},
        {"mlp_activations": ("relu",), "logits_via_embedding": True},
        {"relative_attention_num_buckets": 16},
    ],
)
def test_the_numbers_come_back(changes):
    config = dataclasses.replace(TINY, dropout_rate=0.1, dtype="bfloat16", **changes)
    assert shape_of(made(config)) == config


def test_published_sizes_have_names():
    assert size_name(MT5_SMALL) == "mt5-small"
    assert size_name(shape_of(made(MT5_SMALL))) == "mt5-small"
    xxl = dataclasses.replace(
        MT5_SMALL, emb_dim=4096, num_heads=64, mlp_dim=10240,
        num_encoder_layers=24, num_decoder_layers=24,
    )  # fmt: skip
    assert size_name(xxl) == "mt5-xxl"
    assert size_name(dataclasses.replace(MT5_SMALL, vocab_size=32128)) == "t5_1_1-small"
    assert size_name(dataclasses.replace(MT5_SMALL, num_decoder_layers=7)) is None
    assert size_name(dataclasses.replace(MT5_SMALL, logits_via_embedding=True)) is None
    assert size_name(TINY) is None
    assert describe(MT5_SMALL).startswith("mt5-small: 8 + 8 layers, width 512, 6 heads of 64")
    assert describe(TINY).startswith("no published size: 2 + 2 layers")


def test_other_architectures_are_refused():
    with pytest.raises(UserError, match="no token_embedder.embedding, only bert.pooler"):
        shape_of(Made({"bert.pooler": np.zeros((2, 2))}))
    with pytest.raises(UserError, match="only no tensors at all"):
        shape_of(Made({}))
    table = {"encoder.relpos_bias.rel_embedding": np.zeros((5, 32), np.float32)}
    with pytest.raises(UserError, match="64 wide, which 5 heads .* do not divide"):
        shape_of(made(TINY, **table))
    table = {"encoder.relpos_bias.rel_embedding": np.zeros((4, 2, 32), np.float32)}
    with pytest.raises(UserError, match=r"is \(4, 2, 32\), expected 2 dimensions"):
        shape_of(made(TINY, **table))


def test_a_missing_layer_is_named():
    weights = made(dataclasses.replace(TINY, num_decoder_layers=3))
    weights.arrays = {n: a for n, a in weights.arrays.items() if "decoder.layers_1" not in n}
    with pytest.raises(UserError, match="decoder.layers_1 is missing"):
        shape_of(weights)
