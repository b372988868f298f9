"""BLOOMZ's rule of text: a blank comes before what the network is to write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf


class BlankBefore:
    """Puts one blank before targets and choices; it stands before `tokenize`.

    In byte-level BPE the blank belongs to the word after it, so " Paris" behind a question is one
    token more often than "Paris". Inputs stay as they are.

    Args:
      fields: those it is put before, texts or lists of texts; one that is absent is left alone.
    """

    def __init__(self, fields: Sequence[str] = ("targets", "choices")):
        self.fields = tuple(fields)

    def __call__(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """The step for tf.data."""

        def put(example: dict[str, Any]) -> dict[str, Any]:
            there = [name for name in self.fields if name in example]
            return {**example, **{name: " " + example[name] for name in there}}

        return dataset.map(put)

    def numpy_map(self, example: dict[str, Any]) -> dict[str, Any]:
        """The step for one plain example, as `mt0 cache` runs it."""

        def put(value: Any) -> Any:
            if isinstance(value, list | tuple):
                return [put(one) for one in value]
            # What is no text is left to `tokenize`, which says so.
            return " " + value if isinstance(value, str) else value

        return {**example, **{name: put(example[name]) for name in self.fields if name in example}}
