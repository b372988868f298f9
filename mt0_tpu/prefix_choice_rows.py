"""Rows in which choices follow their input, for a network that is a decoder alone.

An input is a segment, each of its choices another one that sees the input as well, at positions
that go on from it. The input's last token predicts the first token of every choice, so a choice
takes one token less than it has.

Letters: B rows, T row length, S targets of a row: the tokens of its choices, end to end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from mt0_tpu.models.config import BloomConfig

EOS_ID = None  # each vocabulary has its own

_OF_THE_NETWORK = (
    "decoder_input_tokens",
    "decoder_segment_ids",
    "decoder_cross_ids",
    "decoder_positions",
    "decoder_causal_attention",
)


def row_tokens(ids: np.ndarray, choices: Sequence[np.ndarray]) -> int:
    """Returns how much of a row an example takes."""
    return len(ids) + sum(len(choice) - 1 for choice in choices)


def row_cost(config: BloomConfig, length: int, targets: int) -> float:
    """Multiply-adds of one row without the head, whose work does not depend on the packing."""
    del targets
    token = 4 * config.emb_dim**2 + 2 * config.emb_dim * config.mlp_dim
    # Two products a pair of positions, and an exponential worth about eight.
    pair = 2 * config.emb_dim + 8 * config.num_heads
    return config.num_layers * length * (token + length * pair)


def features(
    shape: tuple[int, int, int], rows: Sequence[np.ndarray], examples: Sequence
) -> dict[str, np.ndarray]:
    """Returns the arrays of a batch of shape (B, T, S), but for the targets.

    `predicted_at` [B, S] is where in its row the hidden state of each target is.
    """
    batch_rows, length, targets = shape
    tokens_BT, ids_BT, cross_BT, position_BT, inputs_BT = np.zeros(
        (5, batch_rows, length), np.int32
    )
    predicted_at_BS = np.zeros((batch_rows, targets), np.int32)
    for row, members in enumerate(rows):
        at = at_target = segment = 0
        for member in members:
            ids, choices = examples[member]
            segment, of_input = segment + 1, segment + 1
            where, last = slice(at, at + len(ids)), at + len(ids) - 1
            tokens_BT[row, where], ids_BT[row, where], inputs_BT[row, where] = ids, of_input, 1
            position_BT[row, where] = np.arange(len(ids))
            at = where.stop
            for choice in choices:
                segment += 1
                where = slice(at, at + len(choice) - 1)
                tokens_BT[row, where] = choice[:-1]
                ids_BT[row, where], cross_BT[row, where] = segment, of_input
                position_BT[row, where] = np.arange(len(ids), len(ids) + len(choice) - 1)
                predicted_at_BS[row, at_target] = last
                after = slice(at_target + 1, at_target + len(choice))
                predicted_at_BS[row, after] = np.arange(where.start, where.stop)
                at, at_target = where.stop, after.stop
    arrays = (tokens_BT, ids_BT, cross_BT, position_BT, inputs_BT)
    named = dict(zip(_OF_THE_NETWORK, arrays, strict=True))
    return {**named, "predicted_at": predicted_at_BS}


def hidden(run: Callable, batch: dict):
    """Returns [B, S, D], what predicts each target.

    Args:
      run: applies a method of the network to its parameters.
    """
    hidden_BTD = run({name: batch[name] for name in _OF_THE_NETWORK})
    return jnp.take_along_axis(hidden_BTD, batch["predicted_at"][:, :, None], axis=1)
