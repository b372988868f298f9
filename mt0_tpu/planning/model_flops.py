"""Matrix products a step needs by the network's formula, whatever a program makes of it.

What model FLOPs utilisation (MFU) is measured against: forward, and twice that backward; nothing
recomputed, attention over whole rows, the head at every target position.
"""

from __future__ import annotations

from typing import Any

from mt0_tpu.tasks.network_cost import NetworkSize


def forward_flops(config: Any, rows: int, inputs: int, targets: int) -> float:
    """Returns 2 x multiply-adds of `rows` full rows, forward.

    Args:
      config: a T5Config or BloomConfig.
      inputs, targets: positions of a row's two sides; a decoder-only row has the second alone.
    """
    if config.decoder_only:
        return float(rows * _decoder_only_row(config, targets))
    size = NetworkSize(
        name="",
        width=config.emb_dim,
        attention=config.num_heads * config.head_dim,
        mlp=config.mlp_dim,
        mlp_kernels=len(config.mlp_activations) + 1,
        encoder_layers=config.num_encoder_layers,
        decoder_layers=config.num_decoder_layers,
        vocabulary=config.vocab_size,
    )
    row = size.encoder(inputs) + size.decoder(inputs, targets) + size.head(targets)
    return float(rows * row)


def _decoder_only_row(config: Any, length: int) -> float:
    """Four square kernels and two of the MLP; scores and weighted values of all pairs; the head."""
    width = config.emb_dim
    token = 2 * width * (4 * width + 2 * config.mlp_dim) + 4 * width * length
    return length * (config.num_layers * token + 2 * width * config.vocab_size)
