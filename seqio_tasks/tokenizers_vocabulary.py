"""A SeqIO Vocabulary over Hugging Face `tokenizers`, for BLOOM and others with a tokenizer.json."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from seqio_tasks.tokenizer_json import TokenizerJson


class TokenizersVocabulary(seqio.Vocabulary):
    """The ids of a tokenizer.json, as they are: no BOS, no EOS, no ids moved.

    The file is read when the first id is asked for, so that tasks can be named without it.

    In arrays padding stays 0, as SeqIO and our batches fill them, although 0 may be a token here
    (BLOOM: unk 0, bos 1, eos 2, pad 3): what is real is told by lengths, segments and weights,
    never by an id.
    """

    def __init__(self, path: str | os.PathLike):
        """Takes the path of a tokenizer.json or of the folder that holds it."""
        super().__init__()
        self.path = os.fspath(path)
        self._opened: TokenizerJson | None = None

    @property
    def tokenizer(self) -> TokenizerJson:
        """The file, read; ValueError where it is missing or damaged."""
        if self._opened is None:
            self._opened = TokenizerJson(self.path)
        return self._opened

    @property
    def file_sha256(self) -> str:
        """Of the tokenizer.json: what a cache depends on."""
        return self.tokenizer.sha256

    @property
    def bos_id(self) -> int | None:
        return self.tokenizer.bos_id

    @property
    def eos_id(self) -> int:
        return self.tokenizer.eos_id

    @property
    def pad_id(self) -> int:
        """The file's own padding, 3 of BLOOM's; 0, SeqIO's, where it has none."""
        return self.tokenizer.pad_id or 0

    @property
    def unk_id(self) -> int | None:
        return self.tokenizer.unk_id

    @property
    def _base_vocab_size(self) -> int:
        return self.tokenizer.size

    def encode_all(self, texts: Sequence[str], threads: int = 1) -> list[list[int]]:
        """Returns the ids of each text, `mt0 cache`'s way: many at a call, in threads."""
        return self.tokenizer.encode_all(texts, threads)

    def _encode(self, s: str) -> list[int]:
        return self.tokenizer.encode(s)

    def _decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids)

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor | tf.RaggedTensor:
        """Ids of a text [] as [N], of texts [S] as a ragged [S, N]."""

        def encode(texts: Any) -> tuple[np.ndarray, np.ndarray]:
            listed = [text.decode("utf-8") for text in np.atleast_1d(texts).reshape(-1)]
            rows = self.encode_all(listed)
            flat_N = np.array([one for row in rows for one in row], np.int32)
            return flat_N, np.array([len(row) for row in rows], np.int64)

        s = tf.convert_to_tensor(s)
        flat_N, sizes_S = tf.numpy_function(encode, [s], (tf.int32, tf.int64), stateful=False)
        flat_N.set_shape([None])
        sizes_S.set_shape([None])
        if s.shape.rank == 0:
            return flat_N
        return tf.RaggedTensor.from_row_lengths(flat_N, sizes_S)

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        """Texts of ids [N] or [S, N]."""

        def decode(array: np.ndarray) -> np.ndarray:
            rows = array.reshape(-1, array.shape[-1])
            texts = np.array([self.decode(row.tolist()).encode() for row in rows], object)
            return texts.reshape(array.shape[:-1])

        text = tf.numpy_function(decode, [ids], tf.string, stateful=False)
        text.set_shape(ids.shape[:-1])
        return text

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, TokenizersVocabulary) and (
            self.path == other.path or self.file_sha256 == other.file_sha256
        )

    def __str__(self) -> str:
        return f"TokenizersVocabulary({self.path!r})"

    # An opened file is read again where a task is sent.
    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}
