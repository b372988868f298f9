"""What a row costs a T5 network, in multiplications and additions of its matrix products.

Forward pass alone: the backward pass takes twice as many, so ratios between row lengths are the
same in training. Left out is what is no product of matrices (norms, softmax, dropout, lookups).
Attention is counted as it is computed, over the whole row: the mask between the segments of a
packed row and the causal mask save nothing. The head is counted once for every real target
token, as mt0_tpu computes it; stock T5X computes it for every place of the row, padding included.

Dims: n examples.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import numpy as np

from mt0_tpu.errors import UserError, did_you_mean


@dataclasses.dataclass(frozen=True)
class NetworkSize:
    """The numbers of a T5 network that its products depend on.

    Attributes:
        name: of the published size, such as 'large'.
        width: of the residual stream.
        attention: heads × width of a head.
        mlp: width of the feed-forward layer.
        mlp_kernels: its matrices; three where it is gated.
        encoder_layers, decoder_layers: how many.
        vocabulary: columns of the head.
    """

    name: str
    width: int
    attention: int
    mlp: int
    mlp_kernels: int
    encoder_layers: int
    decoder_layers: int
    vocabulary: int

    def encoder(self, inputs: np.ndarray) -> np.ndarray:
        """Returns the operations of encoder rows of `inputs` tokens."""
        inputs = np.asarray(inputs, np.float64)
        token = 2 * self.width * (4 * self.attention + self.mlp_kernels * self.mlp)
        # Scores and weighted values: 2 × 2 operations for each pair of tokens and channel.
        return self.encoder_layers * inputs * (token + 4 * self.attention * inputs)

    def decoder(self, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Returns the operations of decoder rows, the head left out."""
        inputs, targets = np.asarray(inputs, np.float64), np.asarray(targets, np.float64)
        # Self-attention has four kernels, cross-attention two over targets and two over inputs.
        token = 2 * self.width * (6 * self.attention + self.mlp_kernels * self.mlp)
        pairs = 4 * self.attention * targets * (targets + inputs)
        keys_values = 4 * self.width * self.attention * inputs
        return self.decoder_layers * (targets * token + pairs + keys_values)

    def head(self, targets: np.ndarray) -> np.ndarray:
        """Returns the operations of the logits of `targets` tokens."""
        return 2 * self.width * self.vocabulary * np.asarray(targets, np.float64)

    def examples(self, inputs_n: np.ndarray, targets_n: np.ndarray) -> float:
        """Returns the operations of examples that each had a row of just their own lengths."""
        each_n = self.encoder(inputs_n) + self.decoder(inputs_n, targets_n) + self.head(targets_n)
        return float(each_n.sum())


def network_size(name: str) -> NetworkSize:
    """Returns the size that gin/models/mt5/NAME.gin sets; UserError where there is none."""
    from mt0_tpu.gin_config import gin_folder

    folder = gin_folder() / "models" / "mt5"
    path = folder / f"{name}.gin"
    if not path.is_file():
        known = sorted(file.stem for file in folder.glob("*.gin"))
        raise UserError(
            f"there is no network size '{name}'; write one of {', '.join(known)}."
            f"{did_you_mean(name, known)}"
        )
    fields = _assignments(path)
    return NetworkSize(
        name=name,
        width=fields["emb_dim"],
        attention=fields["num_heads"] * fields["head_dim"],
        mlp=fields["mlp_dim"],
        mlp_kernels=len(fields["mlp_activations"]) + 1,
        encoder_layers=fields["num_encoder_layers"],
        decoder_layers=fields["num_decoder_layers"],
        vocabulary=fields["vocab_size"],
    )


def _assignments(path: Path) -> dict:
    """Returns the T5Config parameters that a gin file sets to plain values."""
    pattern = re.compile(r"^network\.T5Config\.(\w+) *= *(.+?) *$", re.M)
    found = pattern.findall(path.read_text(encoding="utf-8"))
    return {name: ast.literal_eval(value) for name, value in found}
