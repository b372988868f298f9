"""transformers' config.json of a BLOOM, read and written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mt0_tpu.errors import UserError
from mt0_tpu.models.config import BloomConfig

# bos, eos and padding of every published BLOOM.
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
# What was called otherwise in the published files than it is now.
_NAMES = {
    "hidden_size": ("hidden_size", "n_embed"),
    "n_head": ("n_head", "num_attention_heads"),
    "n_layer": ("n_layer", "num_hidden_layers"),
}


def network(path: Path, found: Mapping[str, Any]) -> BloomConfig:
    """The network that a config.json of model_type 'bloom' describes.

    `pretraining_tp` and `slow_but_exact` change the order of sums, and nothing else is computed.

    Raises UserError where it is none of ours, naming the field.
    """
    if not found.get("tie_word_embeddings", True):
        raise UserError(
            f"{path} has tie_word_embeddings false: BLOOM's head is its embedding, and a network "
            "with a head of its own is not read"
        )
    width = _field(path, found, "hidden_size")
    inner = found.get("n_inner")
    if inner not in (None, 4 * width):
        raise UserError(
            f"{path} has n_inner {inner!r} and hidden_size {width!r}: BLOOM's feed-forward layers "
            f"are four times as wide as its stream, in transformers too; write {4 * width} or null"
        )
    return _checked(path, found, width)


def _checked(path: Path, found: Mapping[str, Any], width: Any) -> BloomConfig:
    try:
        return BloomConfig(
            vocab_size=_field(path, found, "vocab_size"),
            emb_dim=width,
            num_heads=_field(path, found, "n_head"),
            num_layers=_field(path, found, "n_layer"),
            layer_norm_epsilon=found.get("layer_norm_epsilon", 1e-5),
            residual_post_layernorm=found.get("apply_residual_connection_post_layernorm", False),
            dropout_rate=_dropout(path, found),
        )
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} describes no network of ours: {error}") from None


def _field(path: Path, found: Mapping[str, Any], name: str) -> Any:
    there = {one: found[one] for one in _NAMES.get(name, (name,)) if one in found}
    if not there:
        raise UserError(f"{path} lacks '{name}': fetch it again, or write it in")
    if len(set(map(repr, there.values()))) > 1:
        said = " and ".join(f"{one} {value!r}" for one, value in there.items())
        raise UserError(f"{path} has {said}, which mean the same; leave the wrong one out")
    return next(iter(there.values()))


def _dropout(path: Path, found: Mapping[str, Any]) -> float:
    rates = [found.get(f"{where}_dropout", 0.0) for where in ("hidden", "attention")]
    if rates[0] != rates[1]:
        raise UserError(
            f"{path} has hidden_dropout {rates[0]!r} and attention_dropout {rates[1]!r}, where "
            "ours is one rate; make them equal (a run's own rate is DROPOUT_RATE)"
        )
    return rates[0]


def config_json(network: BloomConfig, dtype: str, ids: Mapping[str, int] = IDS) -> dict[str, Any]:
    """What config.json says of a network; UserError for one that transformers cannot describe."""
    if network.inputs_bidirectional_attention or network.mlp_dim != 4 * network.emb_dim:
        raise UserError(
            "transformers' BLOOM is causal throughout with feed-forward layers four times its "
            f"width; this network has inputs_bidirectional_attention "
            f"{network.inputs_bidirectional_attention}, emb_dim {network.emb_dim} and mlp_dim "
            f"{network.mlp_dim}, and there it would compute something else"
        )
    return {
        "architectures": ["BloomForCausalLM"],
        "model_type": "bloom",
        "vocab_size": network.vocab_size,
        "hidden_size": network.emb_dim,
        "n_layer": network.num_layers,
        "n_head": network.num_heads,
        "layer_norm_epsilon": network.layer_norm_epsilon,
        "apply_residual_connection_post_layernorm": network.residual_post_layernorm,
        "hidden_dropout": network.dropout_rate,
        "attention_dropout": network.dropout_rate,
        "attention_softmax_in_fp32": True,
        "initializer_range": 0.02,
        **ids,
        "pretraining_tp": 1,
        "slow_but_exact": False,
        "seq_length": 2048,
        "tie_word_embeddings": True,
        "use_cache": True,
        # The name of before transformers 5, which newer versions read as well.
        "torch_dtype": dtype,
    }
