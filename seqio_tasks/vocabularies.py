"""Vocabularies and output features."""

from __future__ import annotations

import os
from pathlib import Path

import seqio

# The public file that mT5 and mT0 were trained with: 250,100 pieces (pad 0, eos 1, unk 2, no bos,
# sentinels `<extra_id_0>` = 250099 counting down to 250000). The networks' embedding tables have
# 250,112 rows, the next multiple of 128; the last twelve belong to no piece.
MT5_PATH = "gs://t5-data/vocabs/mc4.250000.100extra/sentencepiece.model"
MT5_PIECES = 250_100
MT5_EMBEDDING_ROWS = 250_112
MINI_PATH = Path(__file__).with_name("mini.model")


def mt5(path: str | None = None) -> seqio.SentencePieceVocabulary:
    """mT5's vocabulary, from `path`, else $MT0_VOCABULARY, else the public bucket.

    Its sentinels are pieces of the file itself, hence `extra_ids=0`. It turns newlines and runs of
    blanks into one blank.
    """
    return seqio.SentencePieceVocabulary(
        path or os.environ.get("MT0_VOCABULARY") or MT5_PATH, extra_ids=0
    )


def byt5(extra_ids: int = 125) -> seqio.ByteVocabulary:
    """UTF-8 bytes, id = byte + 3; 384 ids with the released models' 125 extra ones."""
    return seqio.ByteVocabulary(extra_ids=extra_ids)


def mini() -> seqio.SentencePieceVocabulary:
    """The embedded model of mini-xP3, laid out as mT5's: see `seqio_tasks.mini_vocabulary`."""
    if not MINI_PATH.is_file():
        raise ValueError(
            f"The mini vocabulary is missing at {MINI_PATH}; "
            "write it with: python -m seqio_tasks.mini_vocabulary"
        )
    return seqio.SentencePieceVocabulary(str(MINI_PATH), extra_ids=0)


def output_features(
    vocabulary: seqio.Vocabulary, inputs_eos: bool = True, targets_eos: bool = True
) -> dict[str, seqio.Feature]:
    """Features of a text-to-text task.

    `inputs_eos` says whether the encoder's text ends in EOS. T5 and mT5 pretrained with it, T0
    and the published evaluation of mT0 go without, and mT0's training code was never published.
    """
    return {
        "inputs": seqio.Feature(vocabulary, add_eos=inputs_eos, required=False),
        "targets": seqio.Feature(vocabulary, add_eos=targets_eos),
    }


def rank_features(
    vocabulary: seqio.Vocabulary, inputs_eos: bool = True, choices_eos: bool = True
) -> dict[str, seqio.Feature]:
    """Features of a rank-classification task: an input and a ragged list of choices.

    The index of the right choice stays a plain int field, `answer`, of every example. EOS on the
    choices, as in the published evaluation of mT0. `targets` may be absent: it is the right
    choice once more (see `choices.RightChoice`), for SeqIO's own feature converters.
    """
    return {
        "inputs": seqio.Feature(vocabulary, add_eos=inputs_eos),
        "choices": seqio.Feature(vocabulary, add_eos=choices_eos, rank=2),
        "targets": seqio.Feature(vocabulary, add_eos=choices_eos, required=False),
    }
