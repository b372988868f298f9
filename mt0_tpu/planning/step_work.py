"""What one device computes, and moves through its memory, in a training step: by formula.

In parts that are bound by different things: attention's pairs and whatever is no product by HBM,
wide kernels by products. The bytes are what compiled programs were found to move (libtpu 0.0.42:
mT5-small on v5e-8 and v4-8, BLOOM-560m on v5e-8, BLOOM-176b on v5p-128), to some tens of per cent.

Tensors of one device: pairs of positions and heads, tokens of all layers, logits.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from mt0_tpu.planning import model_flops

# Bytes of one pair and head: float32 logits written and read by the softmax, probabilities in
# bfloat16. Rematerialisation makes them a second time.
_PAIR_ONCE, _PAIR_BACKWARD = 17, 26
# How often a [token, width] array of the residual stream is written or read, with the norms in
# float32, by policy.
_STREAM = {"none": 65, "minimal": 75, "full": 97}
# The same of what enters and leaves the kernels, for one pass.
_INNER = 4
# Bytes of one logit, forward and backward: float32, in blocks.
_LOGIT = 48


@dataclasses.dataclass(frozen=True)
class Part:
    """Operations that are alike, all of a step."""

    flops: float
    hbm_bytes: float


def parts(config: Any, one: Any, devices: int, state: tuple[float, float]) -> list[Part]:
    """Returns attention's pairs, the kernels' products, the stream, the head, the update.

    Args:
      config: a T5Config or BloomConfig.
      one: an analytic_model.Candidate.
      state: bytes of parameters and of optimizer state on one device.
    """
    rows = one.rows / one.batch_ways
    item = 2 if config.dtype == "bfloat16" else 4
    whole = model_flops.forward_flops(config, one.rows, one.inputs, one.targets) / devices
    pairs = rows * _pairs(config, one.inputs, one.targets) * _cut(config.num_heads, one.tensor)
    logits = rows * one.targets * _cut(config.vocab_size, one.tensor)
    pair_flops, head_flops = 4 * config.head_dim * pairs, 2 * config.emb_dim * logits
    tokens = rows * _tokens(config, one.inputs, one.targets)
    inner, kernels = _inner_and_kernels(config, one)
    times = 4 if one.remat_policy == "full" else 3
    attention_times = 3 if one.remat_policy == "none" else 4
    width = config.emb_dim / (one.tensor if one.sequence_parallel else 1)
    parameters, optimizer = state
    return [
        Part(
            attention_times * pair_flops,
            pairs * ((attention_times - 2) * _PAIR_ONCE + _PAIR_BACKWARD),
        ),
        Part(
            times * (whole - pair_flops - head_flops),
            times * item * (_INNER * tokens * inner + one.num_microbatches * kernels),
        ),
        Part(0.0, _STREAM[one.remat_policy] * item * tokens * width),
        Part(3 * head_flops, _LOGIT * logits),
        # Every microbatch adds to the gradients; the update reads and writes everything.
        Part(0.0, 3 * one.num_microbatches * parameters + 2 * (2 * parameters + optimizer)),
    ]


def seconds(found: list[Part], flops_per_s: float, hbm_bytes_per_s: float) -> float:
    """Returns what the parts take one after the other, each at the longer of its two peaks."""
    return sum(max(p.flops / flops_per_s, p.hbm_bytes / hbm_bytes_per_s) for p in found)


def _cut(size: int, ways: int) -> float:
    return size / ways if size % ways == 0 else size


def _pairs(config: Any, inputs: int, targets: int) -> int:
    """Of one row and head, over all layers."""
    if config.decoder_only:
        return config.num_layers * targets**2
    decoder = targets * (targets + inputs)
    return config.num_encoder_layers * inputs**2 + config.num_decoder_layers * decoder


def _tokens(config: Any, inputs: int, targets: int) -> int:
    """Of one row, over all layers."""
    if config.decoder_only:
        return config.num_layers * targets
    return config.num_encoder_layers * inputs + config.num_decoder_layers * targets


def _inner_and_kernels(config: Any, one: Any) -> tuple[float, float]:
    """Returns (elements between the kernels of one token and layer, elements of all kernels)."""
    joined = _cut(config.num_heads * config.head_dim, one.tensor)
    mlp = _cut(config.mlp_dim, one.tensor)
    if config.decoder_only:
        layer = 4 * joined + 2 * mlp
        return layer, config.num_layers * config.emb_dim * layer
    into = len(config.mlp_activations) + 1
    encoder, decoder = 4 * joined + into * mlp, 8 * joined + into * mlp
    layers = config.num_encoder_layers * encoder + config.num_decoder_layers * decoder
    return encoder, config.emb_dim * layers
