"""The tiny BLOOMs all tests share: golden/bloom_tiny, of 4 heads and of 6."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mt0_tpu.formats.safetensors_file import SafetensorsFile
from mt0_tpu.models import names
from mt0_tpu.models.config import BloomConfig

TINY_BLOOM = BloomConfig(vocab_size=512, emb_dim=64, num_heads=4, num_layers=2, dtype="float32")
SIX_HEADS = BloomConfig(vocab_size=512, emb_dim=48, num_heads=6, num_layers=2, dtype="float32")
GOLDEN = {"heads4": TINY_BLOOM, "heads6": SIX_HEADS}

_LAYER = {
    "input_layernorm": "pre_attention_layer_norm",
    "self_attention.query_key_value": "attention.query_key_value",
    "self_attention.dense": "attention.out",
    "post_attention_layernorm": "pre_mlp_layer_norm",
    "mlp.dense_h_to_4h": "mlp.wi",
    "mlp.dense_4h_to_h": "mlp.wo",
}


def load_params(golden: Path, size: str = "heads4") -> Any:
    """Returns golden bloom_tiny/<size>/model.safetensors as our stacked tree of jax arrays."""
    file = SafetensorsFile(golden / "bloom_tiny" / size / "model.safetensors")
    flat = {_our_name(name): _oriented(name, file.read(name)) for name in file.tensors()}
    return jax.tree.map(jnp.asarray, names.stack(flat, GOLDEN[size]))


def _our_name(name: str) -> str:
    path = name.removeprefix("transformer.")
    if path == "word_embeddings.weight":
        return "token_embedder.embedding"
    path = path.replace("word_embeddings_layernorm.", "embedding_norm.")
    path = path.replace("ln_f.", "decoder.decoder_norm.")
    kernel = "dense" in name or "query_key_value" in name
    path = path.replace(".weight", ".kernel" if kernel else ".scale")
    if path.startswith("h."):
        _, layer, rest = path.split(".", 2)
        module, leaf = rest.rsplit(".", 1)
        return f"decoder.layers_{layer}.{_LAYER[module]}.{leaf}"
    return path


def _oriented(name: str, array: np.ndarray) -> np.ndarray:
    """Torch stores a kernel [out, in]; the token table is [V, D] in both."""
    return array.T if array.ndim == 2 and "embeddings" not in name else array


def load_outputs(golden: Path, size: str = "heads4") -> dict[str, np.ndarray]:
    """Returns what Hugging Face computed: headsN/batches_and_outputs.npz."""
    with np.load(golden / "bloom_tiny" / size / "batches_and_outputs.npz") as archive:
        return dict(archive)
