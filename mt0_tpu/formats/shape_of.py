"""Which network a set of weights is of, read off the names and shapes of its tensors."""

from __future__ import annotations

import re

from mt0_tpu.errors import UserError
from mt0_tpu.formats.weights import TensorInfo, Weights
from mt0_tpu.models.config import T5Config

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


def shape_of(weights: Weights) -> T5Config:
    """Returns the network's configuration; what shapes do not say (dropout, dtype) is the default.

    Heads come from the relative position table, whose first axis they are. Raises UserError for
    weights that are of no encoder-decoder of ours.
    """
    tensors = weights.tensors()

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


def size_name(config: T5Config) -> str | None:
    """Returns 'mt5-small' to 'mt5-xxl', 't5_1_1-small' …, or None for no published size."""
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


def describe(config: T5Config) -> str:
    """Returns a line for people, such as 'mt5-small: 8 + 8 layers, width 512, 6 heads of 64, …'."""
    name = size_name(config)
    return (
        f"{name or 'no published size'}: {config.num_encoder_layers} + "
        f"{config.num_decoder_layers} layers, width {config.emb_dim}, {config.num_heads} heads of "
        f"{config.head_dim}, MLP {config.mlp_dim}, {config.vocab_size} rows"
    )


def _shape(
    weights: Weights, tensors: dict[str, TensorInfo], name: str, rank: int
) -> tuple[int, ...]:
    where = f"{weights.path} ({weights.kind})"
    if name not in tensors:
        found = ", ".join(list(tensors)[:3]) or "no tensors at all"
        raise UserError(
            f"{where} is of an architecture that mt0_tpu does not have: there is no {name}, only "
            f"{found} …; give the weights of a T5 or mT5"
        )
    if len(tensors[name].shape) != rank:
        raise UserError(
            f"{where} is of an architecture that mt0_tpu does not have: {name} is "
            f"{tensors[name].shape}, expected {rank} dimensions; give the weights of a T5 or mT5"
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
