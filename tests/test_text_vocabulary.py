"""Text to ids: the same as SeqIO's, and the right refusals."""

import json

import pytest

from mt0_tpu import text_vocabulary
from mt0_tpu.errors import UserError


def test_mt5_gives_seqios_ids(shared):
    words = text_vocabulary.open_vocabulary(str(shared / "vocab" / "mt5"))
    assert (words.size, words.eos_id) == (250100, 1)
    folder = shared / "golden" / "seqio"
    texts = [json.loads(line) for line in (folder / "lines.jsonl").read_text().splitlines()]
    ids = [json.loads(line) for line in (folder / "ids.jsonl").read_text().splitlines()]
    for text, wanted in zip(texts, ids, strict=True):
        for side in ("inputs", "targets"):
            assert words.encode(text[side]) == wanted[side]
            assert words.decode([*wanted[side], 1, 77]) == wanted[f"{side}_decoded"]
    text_vocabulary.check_size(words, 250112, "mt5")
    with pytest.raises(UserError, match="250100 ids, but the model's embedding has only 32128"):
        text_vocabulary.check_size(words, 32128, "mt5")
    # A row of padding that an untrained model may draw.
    assert "⁇" in words.decode([250111])


def test_bytes():
    words = text_vocabulary.open_vocabulary("byt5")
    assert words.encode("aé") == [100, 198, 172]
    assert words.decode([100, 198, 172, 1, 100]) == "aé"
    assert words.decode([0, 100, 198, 300]) == "a"
    text_vocabulary.check_size(words, 384, "byt5")
    with pytest.raises(UserError, match="another vocabulary"):
        text_vocabulary.check_size(words, 4096, "byt5")


def test_mini_is_found_without_seqio():
    words = text_vocabulary.open_vocabulary("mini")
    assert words.decode(words.encode("Paris")) == "Paris"


def test_what_is_no_vocabulary(tmp_path):
    file = tmp_path / "words.model"
    file.write_text("no model")
    with pytest.raises(UserError, match="not a SentencePiece model"):
        text_vocabulary.open_vocabulary(str(file))
    with pytest.raises(UserError, match="no vocabulary 'minni'.* Did you mean 'mini'"):
        text_vocabulary.open_vocabulary("minni")
