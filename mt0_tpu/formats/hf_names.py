"""The one table between our parameter names and transformers', of mT5 and BLOOM, both directions.

Our names are T5X's, and for BLOOM, which T5X does not have, made like them. transformers' PyTorch
keeps kernels as [out, in] and relative position tables as [buckets, heads]; ours are the other way
round. Its Flax MT5 has kernels as T5X has them.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

# tokenizer.json and what goes along with it.
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
# What becomes of a tensor: the last part of its name in PyTorch and Flax, and whether the axes
# are swapped there against T5X.
_EMBEDDING = ("weight", False, "embedding", False)
_SCALE = ("weight", False, "weight", False)
_KERNEL = ("weight", True, "kernel", False)
_TABLE = ("weight", True, "embedding", True)
_BIAS = ("bias", False, "bias", False)


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
_T5_ROWS = [
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


def _pair(ours: str, hf: str, kind: tuple) -> list[tuple]:
    """A kernel or scale and the bias beside it."""
    return [(f"{ours}.{kind[2] if kind is _KERNEL else 'scale'}", hf, kind),
            (f"{ours}.bias", hf, _BIAS)]  # fmt: skip


_BLOOM_PREFIX = "transformer."
_BLOOM_ROWS = [
    ("token_embedder.embedding", "word_embeddings", _EMBEDDING),
    *_pair("embedding_norm", "word_embeddings_layernorm", _SCALE),
    *_pair("decoder.decoder_norm", "ln_f", _SCALE),
    *(
        row
        for ours, hf, kind in (
            ("pre_attention_layer_norm", "input_layernorm", _SCALE),
            # Rows by head, then query, key, value: as they are, our columns.
            ("attention.query_key_value", "self_attention.query_key_value", _KERNEL),
            ("attention.out", "self_attention.dense", _KERNEL),
            ("pre_mlp_layer_norm", "post_attention_layernorm", _SCALE),
            ("mlp.wi", "mlp.dense_h_to_4h", _KERNEL),
            ("mlp.wo", "mlp.dense_4h_to_h", _KERNEL),
        )
        for row in _pair(f"decoder.layers_{{i}}.{ours}", f"h.{{i}}.{hf}", kind)
    ),
]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a tensor is under the other naming, and whether its two axes are swapped there."""

    name: str
    swapped: bool


# A whole number as str() writes it: 'layers_01' is nobody's name.
_OUR_LAYER = re.compile(r"(?<=\.layers_)(0|[1-9]\d*)(?=\.)")


class NameTable:
    """One network's names, ours and transformers'.

    Attributes:
      network: what people call it.
      aliases: PyTorch names that are the embedding once more, or are left out.
      unused: PyTorch names that nothing reads.
    """

    def __init__(
        self,
        network: str,
        rows: list[tuple],
        layer: str,
        prefix: str = "",
        aliases: tuple[str, ...] = (),
        unused: tuple[str, ...] = (),
    ):
        """`layer` is the part of a PyTorch name before a layer's number, `prefix` one that may
        be missing in front of all names."""
        self.network, self.aliases, self.unused = network, aliases, unused
        self._prefix = prefix
        self._to_torch = {ours: Place(f"{prefix}{hf}.{k[0]}", k[1]) for ours, hf, k in rows}
        self._from_torch = {p.name: Place(ours, p.swapped) for ours, p in self._to_torch.items()}
        self._from_flax = {
            f"{hf.replace('.', '/')}/{kind[2]}": Place(ours, kind[3]) for ours, hf, kind in rows
        }
        number = r"(0|[1-9]\d*)"
        self._torch_layer = re.compile(rf"(?<={re.escape(layer)}){number}(?=\.)")
        flax = re.escape(layer.replace(".", "/"))
        self._flax_layer = re.compile(rf"(?<={flax}){number}(?=/)")

    def to_torch(self, ours: str) -> Place | None:
        """The PyTorch name of a parameter, such as 'shared.weight'; None for an unknown name."""
        return _look(ours, self._to_torch, _OUR_LAYER)

    def from_torch(self, name: str) -> Place | None:
        """Our name of a PyTorch parameter; None for a name that the network does not have."""
        name = name if name.startswith(self._prefix) else self._prefix + name
        return _look(name, self._from_torch, self._torch_layer)

    def from_flax(self, name: str) -> Place | None:
        """Our name of a Flax parameter such as 'lm_head/kernel', its parts joined by '/'."""
        return _look(name, self._from_flax, self._flax_layer)


def _look(name: str, table: dict[str, Place], layer: re.Pattern) -> Place | None:
    # A name with the layer's number in it, such as block 0's relative table, comes first.
    if name in table:
        return table[name] if "{i}" not in name else None
    found = layer.search(name)
    place = table.get(layer.sub("{i}", name)) if found else None
    return place and Place(place.name.replace("{i}", found[0]), place.swapped)


MT5 = NameTable(
    "mT5",
    _T5_ROWS,
    ".block.",
    # transformers writes these beside shared.weight, as the same tensor, or not at all.
    aliases=("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
    # Written by old versions for T5; cross attention has no relative positions, so nothing reads
    # it.
    unused=("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",),
)
# The published files are of BloomModel, without the prefix; BloomForCausalLM saves with it.
BLOOM = NameTable(
    "BLOOM", _BLOOM_ROWS, f"{_BLOOM_PREFIX}h.", _BLOOM_PREFIX, aliases=("lm_head.weight",)
)


def table_of(config: Any) -> NameTable:
    """The table of a network's config."""
    return BLOOM if config.decoder_only else MT5
