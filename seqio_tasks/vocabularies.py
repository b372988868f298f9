"""Vocabularies and output features."""

from __future__ import annotations

import os
from pathlib import Path

import seqio

from seqio_tasks import tokenizer_json
from seqio_tasks.bloomz_text import BlankBefore
from seqio_tasks.tokenizers_vocabulary import TokenizersVocabulary

# The public file that mT5 and mT0 were trained with: 250,100 pieces (pad 0, eos 1, unk 2, no bos,
# sentinels `<extra_id_0>` = 250099 counting down to 250000). The networks' embedding tables have
# 250,112 rows, the next multiple of 128; the last twelve belong to no piece.
MT5_PATH = "gs://t5-data/vocabs/mc4.250000.100extra/sentencepiece.model"
MT5_PIECES = 250_100
MT5_EMBEDDING_ROWS = 250_112
# BLOOM's tokenizer.json: unk 0, bos 1, eos 2, pad 3; its networks have 250,880 rows.
BLOOM_PIECES = 250_680
BLOOM_EMBEDDING_ROWS = 250_880
MINI_PATH = Path(__file__).with_name("mini.model")


def mt5(path: str | None = None) -> seqio.SentencePieceVocabulary:
    """mT5's vocabulary, from `path`, else $MT0_VOCABULARY, else the public bucket.

    Its sentinels are pieces of the file itself, hence `extra_ids=0`. It turns newlines and runs of
    blanks into one blank.
    """
    return seqio.SentencePieceVocabulary(
        path or os.environ.get("MT0_VOCABULARY") or MT5_PATH, extra_ids=0
    )


def bloom(path: str | None = None) -> TokenizersVocabulary:
    """BLOOM's vocabulary, from `path`, else $MT0_VOCABULARY: a tokenizer.json or its folder.

    ValueError where neither names one; a file that is not there is missed when it is read.
    """
    path = path or os.environ.get("MT0_VOCABULARY")
    if not path:
        raise ValueError(
            "BLOOM's vocabulary is a file of yours; write the path of its tokenizer.json, or of "
            "the folder that holds it, in MT0_VOCABULARY (it lies beside the weights, e.g. in "
            "bigscience/bloom-560m)."
        )
    return TokenizersVocabulary(path)


def named(path: str | None = None) -> seqio.Vocabulary:
    """The vocabulary that `path`, else $MT0_VOCABULARY, names.

    BLOOM's where that is a tokenizer.json or a folder that holds one, else mT5's.
    """
    path = path or os.environ.get("MT0_VOCABULARY")
    return bloom(path) if tokenizer_json.is_named(path) else mt5(path)


def text_steps(vocabulary: seqio.Vocabulary) -> tuple[BlankBefore, ...]:
    """The steps before `tokenize` that a vocabulary's texts take.

    With BLOOM's, as published for BLOOMZ: a blank before targets and choices, inputs as they are.
    """
    return (BlankBefore(),) if isinstance(vocabulary, TokenizersVocabulary) else ()


def inputs_eos(vocabulary: seqio.Vocabulary) -> bool:
    """Whether training inputs end in EOS: mT5's do, BLOOM's go on into the targets.

    MT0_INPUTS_EOS=0 or 1 decides otherwise.
    """
    said = os.environ.get("MT0_INPUTS_EOS")
    if said:
        return said.lower() not in ("0", "false", "no")
    return not isinstance(vocabulary, TokenizersVocabulary)


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
