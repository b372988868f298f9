"""The one table between T5X's parameter names and those of transformers' MT5, both directions.

transformers' PyTorch MT5 keeps kernels as [out, in] and relative position tables as
[buckets, heads]; T5X has both the other way round. Its Flax MT5 has kernels as T5X has them.
"""

from __future__ import annotations

import dataclasses
import re

# What becomes of a tensor: the last part of its name in PyTorch and Flax, and whether the axes
# are swapped there against T5X.
_EMBEDDING = ("weight", False, "embedding", False)
_SCALE = ("weight", False, "weight", False)
_KERNEL = ("weight", True, "kernel", False)
_TABLE = ("weight", True, "embedding", True)

# transformers writes these beside shared.weight, as the same tensor, or not at all.
ALIASES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
# Written by old versions for T5; cross attention has no relative positions, so nothing reads it.
UNUSED = ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)


def _attention(t5x: str, hf: str) -> list[tuple]:
    letters = {"query": "q", "key": "k", "value": "v", "out": "o"}
    return [(f"{t5x}.{name}.kernel", f"{hf}.{letter}", _KERNEL) for name, letter in letters.items()]


def _tower(t5x: str, layers: list[tuple]) -> list[tuple]:
    rows = [
        (
            f"{t5x}.relpos_bias.rel_embedding",
            f"{t5x}.block.0.layer.0.SelfAttention.relative_attention_bias",
            _TABLE,
        ),
        (f"{t5x}.{t5x}_norm.scale", f"{t5x}.final_layer_norm", _SCALE),
    ]
    here = (f"{t5x}.layers_{{i}}", f"{t5x}.block.{{i}}")
    for number, (norm, attention, hf) in enumerate(layers):
        sublayer = f"{here[1]}.layer.{number}"
        rows.append((f"{here[0]}.{norm}.scale", f"{sublayer}.layer_norm", _SCALE))
        if attention is not None:
            rows += _attention(f"{here[0]}.{attention}", f"{sublayer}.{hf}")
            continue
        rows += [
            (f"{here[0]}.mlp.{name}.kernel", f"{sublayer}.{hf}.{name}", _KERNEL)
            for name in ("wi_0", "wi_1", "wo")
        ]
    return rows


_MLP = ("pre_mlp_layer_norm", None, "DenseReluDense")
_ROWS = [
    ("token_embedder.embedding", "shared", _EMBEDDING),
    ("decoder.logits_dense.kernel", "lm_head", _KERNEL),
    *_tower("encoder", [("pre_attention_layer_norm", "attention", "SelfAttention"), _MLP]),
    *_tower(
        "decoder",
        [
            ("pre_self_attention_layer_norm", "self_attention", "SelfAttention"),
            ("pre_cross_attention_layer_norm", "encoder_decoder_attention", "EncDecAttention"),
            _MLP,
        ],
    ),
]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a tensor is under the other naming, and whether its two axes are swapped there."""

    name: str
    swapped: bool


_TO_TORCH = {t5x: Place(f"{hf}.{kind[0]}", kind[1]) for t5x, hf, kind in _ROWS}
_FROM_TORCH = {place.name: Place(t5x, place.swapped) for t5x, place in _TO_TORCH.items()}
_FROM_FLAX = {f"{hf.replace('.', '/')}/{kind[2]}": Place(t5x, kind[3]) for t5x, hf, kind in _ROWS}

# A whole number as str() writes it: 'layers_01' is nobody's name.
_T5X_LAYER = re.compile(r"(?<=\.layers_)(0|[1-9]\d*)(?=\.)")
_TORCH_LAYER = re.compile(r"(?<=\.block\.)(0|[1-9]\d*)(?=\.)")
_FLAX_LAYER = re.compile(r"(?<=/block/)(0|[1-9]\d*)(?=/)")


def to_torch(t5x: str) -> Place | None:
    """The PyTorch name of a T5X parameter, such as 'shared.weight'; None for a name not T5's."""
    return _look(t5x, _TO_TORCH, _T5X_LAYER)


def from_torch(name: str) -> Place | None:
    """The T5X name of a PyTorch parameter; None for a name that MT5 does not have."""
    return _look(name, _FROM_TORCH, _TORCH_LAYER)


def from_flax(name: str) -> Place | None:
    """The T5X name of a Flax parameter such as 'lm_head/kernel', its parts joined by '/'."""
    return _look(name, _FROM_FLAX, _FLAX_LAYER)


def _look(name: str, table: dict[str, Place], layer: re.Pattern) -> Place | None:
    # A name with the layer's number in it, such as block 0's relative table, comes first.
    if name in table:
        return table[name] if "{i}" not in name else None
    found = layer.search(name)
    place = table.get(layer.sub("{i}", name)) if found else None
    return place and Place(place.name.replace("{i}", found[0]), place.swapped)
