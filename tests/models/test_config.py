"""Configs refuse what would fail later, saying what to write instead."""

import dataclasses

import jax.numpy as jnp
import pytest

from tests.tiny import TINY
from tests.tiny_bloom import TINY_BLOOM


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("num_heads", 0, "T5Config.num_heads is 0: write a whole number of at least 1."),
        ("emb_dim", 64.0, "T5Config.emb_dim is 64.0: write a whole number"),
        ("vocab_size", True, "T5Config.vocab_size is True"),
        ("dropout_rate", 1.0, r"T5Config.dropout_rate is 1.0: write a number in \[0, 1\)"),
        ("dropout_rate", "0.1", "T5Config.dropout_rate is '0.1'"),
        ("dtype", "float16", "mT5 overflows float16; write 'bfloat16' or 'float32'"),
        ("dtype", jnp.float16, "mT5 overflows float16"),
        ("dtype", "bfloat", "T5Config.dtype is 'bfloat'.*Did you mean 'bfloat16'"),
        ("remat_policy", "ful", "'minimal', 'full', 'minimal_offload'. Did you mean 'full'"),
        ("attention_query_block", 0, "T5Config.attention_query_block is 0: write a whole number"),
        ("mlp_activations", "gelu", r"write a tuple of names such as \('gelu', 'linear'\)"),
        ("mlp_activations", (), "write a tuple of names"),
        ("mlp_activations", ("gellu", "linear"), "Did you mean 'gelu'"),
        ("relative_attention_num_buckets", 30, "write a multiple of 4 buckets"),
        ("relative_attention_max_distance", 16, "distance above half of it"),
    ],
)
def test_bad_values_raise_a_message(field, value, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **{field: value})


def test_values_as_gin_hands_them_over_are_normalised():
    config = dataclasses.replace(TINY, mlp_activations=["gelu", "linear"], dtype=jnp.bfloat16)
    assert config.mlp_activations == ("gelu", "linear")
    assert config.dtype == "bfloat16"
    assert hash(config) == hash(dataclasses.replace(TINY, dtype="bfloat16"))


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("num_layers", 0, "BloomConfig.num_layers is 0: write a whole number of at least 1."),
        ("num_heads", 5, "emb_dim is 64 and num_heads 5.*multiple of num_heads"),
        ("mlp_dim", 2.5, "BloomConfig.mlp_dim is 2.5: write a whole number"),
        ("layer_norm_epsilon", 0.0, "BloomConfig.layer_norm_epsilon is 0.0: write a number > 0"),
        ("residual_post_layernorm", "no", "residual_post_layernorm is 'no': write True or False"),
        ("dropout_rate", -0.1, "BloomConfig.dropout_rate is -0.1"),
        ("dtype", "float16", "BloomConfig.dtype is 'float16': .*loss scaling.*'bfloat16'"),
        ("remat_policy", "minimum", "BloomConfig.remat_policy.*Did you mean 'minimal'"),
    ],
)
def test_bloom_checks_itself_too(field, value, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY_BLOOM, **{field: value})


def test_the_mlp_of_bloom_is_four_times_as_wide_unless_said():
    assert (TINY_BLOOM.mlp_dim, TINY_BLOOM.head_dim) == (256, 16)
    assert dataclasses.replace(TINY_BLOOM, mlp_dim=100).mlp_dim == 100
