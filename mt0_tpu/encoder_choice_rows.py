"""Rows in which choices are a decoder's, beside an encoder row that holds their inputs.

Each input is an encoder segment, each of its choices a decoder segment that looks at it.

Letters: B rows, T encoder length, S decoder length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mt0_tpu.models.config import T5Config
from mt0_tpu.text_vocabulary import EOS_ID

__all__ = ["EOS_ID", "features", "hidden", "row_cost", "row_tokens"]


def row_tokens(ids: np.ndarray, choices: Sequence[np.ndarray]) -> int:
    """Returns how much of an encoder row an example takes."""
    del choices
    return len(ids)


def row_cost(config: T5Config, encoder: int, decoder: int) -> float:
    """Multiply-adds of one row without the head, whose work does not depend on the packing."""
    joined = config.num_heads * config.head_dim
    attend = 4 * config.emb_dim * joined
    feed = (len(config.mlp_activations) + 1) * config.emb_dim * config.mlp_dim
    # Two products a pair of positions, and an exponential worth about eight.
    pair = 2 * joined + 8 * config.num_heads
    encode = encoder * (attend + feed + encoder * pair)
    decode = decoder * (1.5 * attend + feed + (decoder + encoder) * pair)
    cross = encoder * attend / 2
    return config.num_encoder_layers * encode + config.num_decoder_layers * (decode + cross)


def features(
    shape: tuple[int, int, int], rows: Sequence[np.ndarray], examples: Sequence
) -> dict[str, np.ndarray]:
    """Returns the arrays of a batch of shape (B, T, S), but for the decoder's targets."""
    batch_rows, encoder_length, decoder_length = shape
    tokens_BT, encoder_ids_BT = np.zeros((2, batch_rows, encoder_length), np.int32)
    inputs_BS, ids_BS, cross_BS = np.zeros((3, batch_rows, decoder_length), np.int32)
    for row, members in enumerate(rows):
        at_input = at_choice = segment = 0
        for encoder_segment, member in enumerate(members, start=1):
            ids, choices = examples[member]
            where = slice(at_input, at_input + len(ids))
            tokens_BT[row, where], encoder_ids_BT[row, where] = ids, encoder_segment
            at_input = where.stop
            for choice in choices:
                segment += 1
                where = slice(at_choice, at_choice + len(choice))
                inputs_BS[row, where.start + 1 : where.stop] = choice[:-1]
                ids_BS[row, where], cross_BS[row, where] = segment, encoder_segment
                at_choice = where.stop
    return {
        "encoder_input_tokens": tokens_BT,
        "encoder_segment_ids": encoder_ids_BT,
        "decoder_input_tokens": inputs_BS,
        "decoder_segment_ids": ids_BS,
        "decoder_cross_ids": cross_BS,
    }


def hidden(run: Callable, batch: dict):
    """Returns [B, S, D], what predicts each target.

    Args:
      run: applies a method of the network to its parameters.
    """
    encoder_ids_BT = batch["encoder_segment_ids"]
    encoded_BTD = run(batch["encoder_input_tokens"], encoder_ids_BT, method="encode")
    return run(
        encoded_BTD,
        encoder_ids_BT,
        batch["decoder_input_tokens"],
        batch["decoder_segment_ids"],
        batch["decoder_cross_ids"],
        method="decode",
    )
