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
      inputs, targets: positions of a row's two sides, the second the head's; of a decoder-only
        row in training the second is all of it.
    """
    if config.decoder_only:
        length = inputs + targets
        return float(rows * (length * _decoder_only_token(config, length) + _head(config, targets)))
    size = _size(config)
    return float(rows * (size.encoder(inputs) + size.decoder(inputs, targets) + size.head(targets)))


def decode_flops(config: Any, rows: int, inputs: int, targets: int) -> float:
    """Returns 2 x multiply-adds of writing `targets` tokens, the inputs having been read."""
    if config.decoder_only:
        token = _decoder_only_token(config, inputs + targets)
        return float(rows * (targets * token + _head(config, targets)))
    size = _size(config)
    # The keys and values of the inputs are there.
    keys_values = size.decoder(inputs, 0)
    return float(rows * (size.decoder(inputs, targets) - keys_values + size.head(targets)))


def _size(config: Any) -> NetworkSize:
    return NetworkSize(
        name="",
        width=config.emb_dim,
        attention=config.num_heads * config.head_dim,
        mlp=config.mlp_dim,
        mlp_kernels=len(config.mlp_activations) + 1,
        encoder_layers=config.num_encoder_layers,
        decoder_layers=config.num_decoder_layers,
        vocabulary=config.vocab_size,
    )


def _decoder_only_token(config: Any, length: int) -> float:
    """Four square kernels and two of the MLP; scores and weighted values of `length` positions."""
    width = config.emb_dim
    return config.num_layers * (2 * width * (4 * width + 2 * config.mlp_dim) + 4 * width * length)


def _head(config: Any, targets: int) -> float:
    return 2.0 * config.emb_dim * config.vocab_size * targets
