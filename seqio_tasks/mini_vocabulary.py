"""Builds the mini vocabulary: `python -m seqio_tasks.mini_vocabulary` writes mini.model.

A SentencePiece model laid out as mT5's: pad 0, eos 1, unk 2, no bos, then the 256 bytes
(so nothing is unknown), the pieces, and 100 sentinels at the top, `<extra_id_0>` with the highest
id, counting down. Its text is mini-xP3's own; its hash is kept in the file's trainer spec.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from seqio_tasks import mini_facts as facts
from seqio_tasks import mini_pretraining, mini_rows

PATH = Path(__file__).with_name("mini.model")
PIECES = 4096
SENTINELS = 100
# Of each, per language: enough for the pieces, little enough for a build of some seconds.
_LINES, _ROWS = 700, 60
# Code points, in SentencePiece's own notation: every blank and line end is a space, direction
# marks go. mT5's NFKC table would treble the file, and CLDR's text is composed already.
_NORMALIZATION = "".join(
    [f"{code}\t20\n" for code in ("9", "A", "D", "A0", "2009", "202F", "3000")]
    + [f"{code}\t\n" for code in ("200B", "200E", "200F", "FEFF")]
)


def training_text() -> Iterator[str]:
    """The lines that the pieces are learnt from: raw text, and prompted rows of seen languages."""
    for language in facts.LANGUAGES:
        yield from mini_pretraining.lines(language)[:_LINES]
        if language in facts.SEEN_LANGUAGES:
            for cluster in mini_rows.CLUSTERS:
                for row in mini_rows.rows(cluster, language)[:_ROWS]:
                    yield f"{row.inputs} {row.targets}"


def text_hash() -> str:
    """SHA-256 of the training text."""
    digest = hashlib.sha256()
    for line in training_text():
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def build() -> bytes:
    """The serialized model; the same bytes for the same text and SentencePiece release."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    written = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        rules = Path(folder, "rules.tsv")
        rules.write_text(_NORMALIZATION)
        _train(sentencepiece.SentencePieceTrainer, written, str(rules))
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(written.getvalue())
    for number in reversed(range(SENTINELS)):
        piece = model.pieces.add()
        # With the word mark, as in mT5's file: a sentinel is found at the start of a word.
        piece.piece, piece.score = f"▁<extra_id_{number}>", 0.0
        piece.type = sentencepiece_model_pb2.ModelProto.SentencePiece.USER_DEFINED
    model.trainer_spec.vocab_size = len(model.pieces)
    del model.trainer_spec.input[:]
    model.trainer_spec.input.append(f"sha256:{text_hash()}")
    model.normalizer_spec.ClearField("normalization_rule_tsv")
    model.normalizer_spec.name = "mini"
    return model.SerializeToString(deterministic=True)


def _train(trainer, written: io.BytesIO, rules: str) -> None:
    trainer.train(
        sentence_iterator=iter(training_text()),
        model_writer=written,
        # At this size BPE gives a seventh fewer tokens than mT5's unigram model, ten times sooner.
        model_type="bpe",
        vocab_size=PIECES - SENTINELS,
        byte_fallback=True,
        character_coverage=0.999,
        normalization_rule_tsv=rules,
        split_digits=True,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )


def recorded_hash(path: Path = PATH) -> str:
    """The hash of the training text that a model file names."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(path.read_bytes())
    return model.trainer_spec.input[0].removeprefix("sha256:")


def main() -> None:
    """Writes mini.model beside this file, whole or not at all."""
    data = build()
    half = PATH.with_suffix(".model.tmp")
    half.write_bytes(data)
    os.replace(half, PATH)
    print(f"{PATH.name}: {len(data):,} bytes, text {recorded_hash()[:12]}", file=sys.stderr)


if __name__ == "__main__":
    main()
