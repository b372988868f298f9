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


def test_a_tokenizer_json_gives_its_own_ids_without_seqio(tmp_path):
    from tokenizers import Tokenizer

    from tests import byte_level

    folder = byte_level.write(tmp_path / "bloom")
    theirs = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for name in (folder, folder / "tokenizer.json"):
        words = text_vocabulary.open_vocabulary(str(name))
        assert (words.size, words.eos_id) == (theirs.get_vocab_size(), 2)
        for text in byte_level.TEXTS:
            assert words.encode(text) == theirs.encode(text).ids
            assert words.decode([*words.encode(text), 2, 9, 0]) == text
    # Id 0 is a token of BLOOM's, no padding.
    assert words.decode([0, *words.encode("Ja")]) == "<unk>Ja"
    assert text_vocabulary.content([0, 5, 2, 7], 2, pad_id=None) == [0, 5]
    assert (words.target_prefix, words.inputs_eos, words.choices_eos) == (" ", False, False)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        text_vocabulary.open_vocabulary(str(folder))
