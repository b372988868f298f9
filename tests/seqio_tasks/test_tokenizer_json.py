"""A tokenizer.json read as `tokenizers` reads it."""

import json
import os
import shutil

import pytest
from tokenizers import Tokenizer

from seqio_tasks.tokenizer_json import TokenizerJson, is_named
from tests import byte_level

MORE = [
    "",
    " ",
    "\n",
    "ქართული 한국어 \u200fעברית",
    "a\r\n\tb   c",
    "🙂🇹🇿e\u0301",
    "</s> and <unk> <s>x<pad>",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return byte_level.write(tmp_path_factory.mktemp("bloom"))


@pytest.fixture(scope="module")
def own(folder):
    return TokenizerJson(folder)


@pytest.fixture(scope="module")
def theirs(folder):
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def test_ids_are_tokenizers_own_one_by_one_and_in_batches(own, theirs):
    texts = [*byte_level.TEXTS, *MORE]
    wanted = [theirs.encode(text).ids for text in texts]
    assert [own.encode(text) for text in texts] == wanted
    assert own.encode_all(texts) == wanted == own.encode_all(texts, threads=2)
    assert max(map(max, filter(None, wanted))) < own.size == theirs.get_vocab_size()


@pytest.mark.parametrize("text", [*byte_level.TEXTS, *MORE[:-1]])
def test_round_trip(own, text):
    assert own.decode(own.encode(text)) == text


def test_special_tokens(own):
    assert (own.unk_id, own.bos_id, own.eos_id, own.pad_id) == (0, 1, 2, 3)
    # Written in a text they are tokens, as to transformers.
    assert own.encode("<unk></s>") == [0, 2]
    word = own.encode(" Dodoma")
    assert own.decode([1, *word, 2, 3, 3]) == " Dodoma"
    # Id 0 is a token, an id of a padding row of the table reads as it.
    assert own.decode([*word, 0, own.size + 7]) == " Dodoma<unk><unk>"
    assert [own.is_special(one) for one in (0, 3, 4)] == [True, True, False]
    assert (own.piece(2), own.piece(own.size)) == ("</s>", "")


def test_a_file_that_cuts_or_fills_up_is_read_without(folder, own, tmp_path):
    other = Tokenizer.from_file(str(folder / "tokenizer.json"))
    other.enable_truncation(3)
    other.enable_padding(pad_id=3, length=8)
    other.save(str(tmp_path / "tokenizer.json"))
    text = byte_level.TEXTS[0]
    found = TokenizerJson(tmp_path)
    assert found.encode(text) == own.encode(text) == found.encode_all([text, "x"])[0]


def test_other_names_come_from_the_settings_beside(folder, tmp_path):
    content = (folder / "tokenizer.json").read_text().replace("</s>", "<|end|>")
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match="has no token </s> to end a text with"):
        TokenizerJson(tmp_path)
    settings = {"eos_token": {"content": "<|end|>"}, "bos_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert TokenizerJson(tmp_path / "tokenizer.json").eos_id == 2


def test_what_is_missing_or_damaged_is_said(folder, tmp_path):
    with pytest.raises(ValueError, match="no such file; write the path of a tokenizer.json"):
        TokenizerJson(tmp_path / "nowhere" / "tokenizer.json")
    with pytest.raises(ValueError, match="tokenizer.json cannot be read"):
        TokenizerJson(tmp_path)
    whole = (folder / "tokenizer.json").read_bytes()
    for content in (whole[: len(whole) // 2], b"", b'{"model": {}}', b"version https://git-lfs"):
        (tmp_path / "tokenizer.json").write_bytes(content)
        with pytest.raises(ValueError, match="no tokenizer.json or is damaged"):
            TokenizerJson(tmp_path)


def test_which_paths_name_one(folder, tmp_path):
    assert is_named(folder) and is_named(f"{folder}/tokenizer.json") and is_named("x/y.json")
    assert not is_named(None) and not is_named("") and not is_named("gs://x/spiece.model")
    shutil.copy(folder / "tokenizer.json", tmp_path)
    (tmp_path / "spiece.model").touch()  # as an exported mT0's folder may have
    assert not is_named(tmp_path)


def test_threads_leave_the_environment_as_it_was(own, monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    own.encode_all(["a"], threads=1)
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"
    monkeypatch.delenv("TOKENIZERS_PARALLELISM")
    own.encode_all(["a"], threads=2)
    assert "TOKENIZERS_PARALLELISM" not in os.environ
