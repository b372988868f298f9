"""T5's span corruption as a step of a SeqIO task, for this trainer and for plain SeqIO alike.

The trainer of mt0_tpu does not call the step: it reads `draw_step` and corrupts cached text itself.
Stock SeqIO calls it. Both draw from one distribution (Raffel et al. 2020, 3.1.4), not the same
numbers.

Dims: N tokens of a document, K noise spans.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import seqio
import tensorflow as tf


class SpanCorruption:
    """Masks random spans of `targets`: `inputs` keep the rest, `targets` get the spans.

    `draw_step` says what the trainer does to each text whenever it is drawn (sentinels are the
    vocabulary's `<extra_id_0>` downward). The step belongs after `CacheDatasetPlaceholder`, so
    that a cache holds raw text and every epoch is corrupted anew, and before
    `append_eos_after_trim`.

    Args:
      noise_density: share of the tokens that is masked.
      mean_noise_span_length: tokens of a masked span on average.

    Raises:
      ValueError: a share outside (0, 1), or spans shorter than one token.
    """

    def __init__(self, noise_density: float = 0.15, mean_noise_span_length: float = 3.0):
        if not 0 < noise_density < 1:
            raise ValueError(f"noise_density is {noise_density}; it lies between 0 and 1.")
        if mean_noise_span_length < 1:
            raise ValueError(
                f"mean_noise_span_length is {mean_noise_span_length}; it is at least 1."
            )
        self.draw_step = {
            "name": "span_corruption",
            "noise_density": noise_density,
            "mean_noise_span_length": mean_noise_span_length,
        }

    def __call__(
        self,
        dataset: tf.data.Dataset,
        output_features: Mapping[str, seqio.Feature],
        sequence_length: Mapping[str, int] | None = None,
    ) -> tf.data.Dataset:
        """Corrupts each example of tf.data; documents too long for a row are cut into several.

        Args:
          dataset: examples with token ids in `targets`; `inputs` are replaced.
          output_features: the task's; the last id of the vocabulary is the first sentinel.
          sequence_length: tokens of a row, EOS included; without it nothing is cut.

        Returns:
          One example a chunk, seeded as SeqIO seeds its own steps (`map_seed_manager`). Texts of
          fewer than two tokens are left out: there is nothing to keep or nothing to mask.
        """
        if sequence_length is not None:
            rooms = [
                sequence_length[name] - bool(output_features[name].add_eos)
                for name in ("inputs", "targets")
            ]
            dataset = dataset.flat_map(_Chunks(self.longest(*rooms)))
        dataset = dataset.filter(lambda example: tf.size(example["targets"]) > 1)
        first_sentinel = int(output_features["targets"].vocabulary.vocab_size) - 1

        def corrupted(example: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
            inputs, targets = self.corrupt(example["targets"], first_sentinel, seed)
            return {**example, "inputs": inputs, "targets": targets}

        return seqio.map_over_dataset(corrupted, num_seeds=1)(dataset)

    def noise(self, length: int) -> tuple[int, int]:
        """Returns (masked tokens, spans) of a text of two tokens or more: T5's two roundings."""
        tokens = round(length * self.draw_step["noise_density"])
        tokens = min(max(tokens, 1), length - 1)
        spans = round(tokens / self.draw_step["mean_noise_span_length"])
        # Every span needs a kept token before it: only dense noise can run short of those.
        return tokens, min(max(spans, 1), length - tokens)

    def longest(self, inputs_room: int, targets_room: int) -> int:
        """Returns the longest text whose inputs and targets fit, EOS not counted.

        Raises:
          ValueError: not even two tokens fit.
        """
        length = 1
        while True:
            tokens, spans = self.noise(length + 1)
            if length + 1 - tokens + spans > inputs_room or tokens + spans > targets_room:
                break
            length += 1
        if length < 2:
            raise ValueError(
                f"Rows of {inputs_room} inputs and {targets_room} targets are too short for span "
                "corruption; give longer sequence lengths."
            )
        return length

    def corrupt(
        self, tokens_N: tf.Tensor, first_sentinel: int, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns (inputs, targets) of one text of two tokens or more, without EOS.

        Kept and masked spans come by turns, a kept one first; every way to cut is equally likely.

        Args:
          tokens_N: int32 ids.
          first_sentinel: the id that stands for the first span; the next ones count down.
          seed: two integers that decide where the noise falls.
        """
        length = tf.size(tokens_N)
        masked, spans = self._noise_tensors(length)
        seeds = tf.random.experimental.stateless_split(seed, 2)
        masked_K = _cut(masked, spans, seeds[0])
        kept_K = _cut(length - masked, spans, seeds[1])
        sizes = tf.reshape(tf.stack([kept_K, masked_K], axis=1), [-1])
        pieces = tf.RaggedTensor.from_row_lengths(tokens_N, sizes)
        sentinels_K = tf.cast(first_sentinel - tf.range(spans), tokens_N.dtype)[:, None]
        inputs = tf.concat([pieces[0::2], sentinels_K], axis=1)
        targets = tf.concat([sentinels_K, pieces[1::2]], axis=1)
        return inputs.flat_values, targets.flat_values

    def _noise_tensors(self, length: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`noise` for a length that is known only while the data flows."""
        # float64, as Python rounds: T5's lengths hang on the half-way cases.
        exact = tf.cast(length, tf.float64)
        tokens = tf.cast(tf.round(exact * self.draw_step["noise_density"]), length.dtype)
        tokens = tf.clip_by_value(tokens, 1, length - 1)
        exact = tf.cast(tokens, tf.float64) / self.draw_step["mean_noise_span_length"]
        spans = tf.cast(tf.round(exact), length.dtype)
        return tokens, tf.clip_by_value(spans, 1, length - tokens)


class _Chunks:
    """Cuts a document's `targets` into rows, as the trainer does: each token is read once."""

    def __init__(self, size: int):
        self._size = size

    def __call__(self, example: Mapping[str, Any]) -> tf.data.Dataset:
        tokens_N, size = example["targets"], self._size
        # At least one: an empty text goes on, and the filter after this counts it out.
        count = tf.maximum(-(-tf.size(tokens_N) // size), 1)

        def chunk(index: tf.Tensor) -> dict[str, Any]:
            start = tf.cast(index, tf.int32) * size
            return {**example, "targets": tokens_N[start : start + size]}

        return tf.data.Dataset.range(tf.cast(count, tf.int64)).map(chunk)


def _cut(total: tf.Tensor, parts: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Cuts `total` into `parts` positive parts, every way equally likely; returns their sizes."""
    # The first parts-1 of the total-1 places between tokens, in a random order.
    order = tf.random.stateless_uniform([total - 1], seed, None, None, tf.int32)
    places = tf.argsort(order)[: parts - 1] + 1
    ends = tf.concat([[0], tf.sort(places), [total]], axis=0)
    return ends[1:] - ends[:-1]
