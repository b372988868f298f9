"""Which network a set of weights is of, read off the names and shapes of its tensors."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from mt0_tpu.errors import UserError
from mt0_tpu.formats.weights import TensorInfo, Weights
from mt0_tpu.models.config import BloomConfig, T5Config
from mt0_tpu.models.networks import NetworkConfig

_LAYER = re.compile(r"(encoder|decoder)\.layers_(\d+)\.")
# (emb_dim, num_heads, head_dim, mlp_dim, layers of each tower) of T5 1.1 and mT5 alike.
_SIZES = {
    (512, 6, 64, 1024, 8): "small",
    (768, 12, 64, 2048, 12): "base",
    (1024, 16, 64, 2816, 24): "large",
    (2048, 32, 64, 5120, 24): "xl",
    (4096, 64, 64, 10240, 24): "xxl",
}
_FAMILIES = {250112: "mt5", 32128: "t5_1_1"}
# (emb_dim, num_heads, layers) of the published BLOOMs.
_BLOOM_SIZES = {
    (1024, 16, 24): "560m",
    (1536, 16, 24): "1b1",
    (2048, 16, 24): "1b7",
    (2560, 32, 30): "3b",
    (4096, 32, 30): "7b1",
    (14336, 112, 70): "176b",
}
_BLOOM_ROWS = 250880
# Only BLOOM's network has it.
_BLOOM_TENSOR = "embedding_norm.scale"


def shape_of(weights: Weights) -> NetworkConfig:
    """Returns the network's configuration; what shapes do not say (dropout, dtype) is the default.

    mT5's heads come from the relative position table, whose first axis they are. BLOOM's are in no
    shape: they come from the weights' own `config`, else from the published sizes.

    Raises UserError for weights that are of no network of ours.
    """
    tensors = weights.tensors()
    if is_bloom(weights):
        return _bloom(weights, tensors)

    def shape(name: str, rank: int) -> tuple[int, ...]:
        return _shape(weights, tensors, name, rank)

    vocab_size, emb_dim = shape("token_embedder.embedding", 2)
    num_heads, buckets = shape("encoder.relpos_bias.rel_embedding", 2)
    joined = shape("encoder.layers_0.attention.query.kernel", 2)[1]
    if joined % num_heads:
        raise UserError(
            f"{weights.path} ({weights.kind}): the attention kernels are {joined} wide, which "
            f"{num_heads} heads (encoder.relpos_bias.rel_embedding) do not divide; these tensors "
            "are of different networks"
        )
    count, mlp_dim = _mlp(weights, tensors)
    return T5Config(
        vocab_size=vocab_size,
        emb_dim=emb_dim,
        num_heads=num_heads,
        head_dim=joined // num_heads,
        mlp_dim=mlp_dim,
        num_encoder_layers=_layers(weights, tensors, "encoder"),
        num_decoder_layers=_layers(weights, tensors, "decoder"),
        # Shapes tell gated from not; which function it is has always been gelu or relu there.
        mlp_activations=("gelu", "linear") if count == 2 else ("relu",),
        logits_via_embedding="decoder.logits_dense.kernel" not in tensors,
        relative_attention_num_buckets=buckets,
    )


def is_bloom(weights: Weights) -> bool:
    """Whether weights are of BLOOM's network."""
    return _BLOOM_TENSOR in weights.tensors()


def bloom(weights: Weights, told: Mapping[str, Any]) -> BloomConfig:
    """Returns a BLOOM's configuration from shapes and what is told beside them.

    Args:
      weights: of its network.
      told: fields of BloomConfig, num_heads at least.
    """
    tensors = weights.tensors()
    vocab_size, emb_dim = _shape(weights, tensors, "token_embedder.embedding", 2)
    wi = _shape(weights, tensors, "decoder.layers_0.mlp.wi.kernel", 2)
    shapes = {
        "vocab_size": vocab_size,
        "emb_dim": emb_dim,
        "num_layers": _layers(weights, tensors, "decoder"),
        "mlp_dim": wi[1],
    }
    try:
        return BloomConfig(**{**told, **shapes})
    except (ValueError, TypeError) as error:
        raise UserError(f"{weights.path} ({weights.kind}) is no network of ours: {error}") from None


def _bloom(weights: Weights, tensors: dict[str, TensorInfo]) -> BloomConfig:
    if isinstance(weights.config, BloomConfig):
        return bloom(weights, dataclasses.asdict(weights.config))
    emb_dim = _shape(weights, tensors, "token_embedder.embedding", 2)[1]
    layers = _layers(weights, tensors, "decoder")
    heads = [size[1] for size in _BLOOM_SIZES if (size[0], size[2]) == (emb_dim, layers)]
    if not heads:
        raise UserError(
            f"{weights.path} ({weights.kind}) is a BLOOM {emb_dim} wide with {layers} layers, no "
            "published size, and nothing says how many heads it has: give the MODEL_DIR whose "
            "config.gin names network.BloomConfig.num_heads"
        )
    return bloom(weights, {"num_heads": heads[0]})


def size_name(config: NetworkConfig) -> str | None:
    """Returns 'mt5-small', 't5_1_1-xxl', 'bloom-560m' …, or None for no published size."""
    if config.decoder_only:
        size = (config.emb_dim, config.num_heads, config.num_layers)
        published = (config.vocab_size, config.mlp_dim) == (_BLOOM_ROWS, 4 * config.emb_dim)
        return f"bloom-{_BLOOM_SIZES[size]}" if published and size in _BLOOM_SIZES else None
    layers = config.num_encoder_layers
    size = (config.emb_dim, config.num_heads, config.head_dim, config.mlp_dim, layers)
    published = (
        size in _SIZES
        and layers == config.num_decoder_layers
        and len(config.mlp_activations) == 2
        and not config.logits_via_embedding
        and config.vocab_size in _FAMILIES
    )
    return f"{_FAMILIES[config.vocab_size]}-{_SIZES[size]}" if published else None


def describe(config: NetworkConfig) -> str:
    """Returns a line for people, such as 'mt5-small: 8 + 8 layers, width 512, 6 heads of 64, …'."""
    name = size_name(config)
    layers = (
        f"{config.num_layers}"
        if config.decoder_only
        else f"{config.num_encoder_layers} + {config.num_decoder_layers}"
    )
    return (
        f"{name or 'no published size'}: {layers} layers, width {config.emb_dim}, "
        f"{config.num_heads} heads of {config.head_dim}, MLP {config.mlp_dim}, "
        f"{config.vocab_size} rows"
    )


def _shape(
    weights: Weights, tensors: dict[str, TensorInfo], name: str, rank: int
) -> tuple[int, ...]:
    where = f"{weights.path} ({weights.kind})"
    if name not in tensors:
        found = ", ".join(list(tensors)[:3]) or "no tensors at all"
        raise UserError(
            f"{where} is of an architecture that mt0_tpu does not have: there is no {name}, only "
            f"{found} …; give the weights of a T5, mT5 or BLOOM"
        )
    if len(tensors[name].shape) != rank:
        raise UserError(
            f"{where} is of an architecture that mt0_tpu does not have: {name} is "
            f"{tensors[name].shape}, expected {rank} dimensions; give the weights of a T5, mT5 "
            "or BLOOM"
        )
    return tensors[name].shape


def _mlp(weights: Weights, tensors: dict[str, TensorInfo]) -> tuple[int, int]:
    """Returns (number of kernels into the feed-forward layer, its width)."""
    layer = "encoder.layers_0.mlp"
    if f"{layer}.wi.kernel" in tensors:
        return 1, _shape(weights, tensors, f"{layer}.wi.kernel", 2)[1]
    _shape(weights, tensors, f"{layer}.wi_1.kernel", 2)
    return 2, _shape(weights, tensors, f"{layer}.wi_0.kernel", 2)[1]


def _layers(weights: Weights, tensors: dict[str, TensorInfo], tower: str) -> int:
    matches = (_LAYER.match(name) for name in tensors)
    there = {int(match[2]) for match in matches if match and match[1] == tower}
    missing = sorted(set(range(max(there, default=0) + 1)) - there)
    if missing:
        raise UserError(
            f"{weights.path} ({weights.kind}) is not whole: {tower}.layers_{missing[0]} is "
            "missing; copy it anew"
        )
    return len(there)
