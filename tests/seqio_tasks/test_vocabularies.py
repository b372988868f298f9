"""Vocabularies: the mini model in every script, mT5's facts on the real file."""

import pytest

from seqio_tasks import mini_facts, mini_vocabulary, vocabularies

SENTENCE = "Hello, world! Habari ya dunia?"


def test_mini_layout_is_mt5s():
    vocabulary = vocabularies.mini()
    tokenizer = vocabulary.tokenizer
    assert vocabulary.vocab_size == mini_vocabulary.PIECES == 4096
    ids = (tokenizer.pad_id(), tokenizer.eos_id(), tokenizer.unk_id(), tokenizer.bos_id())
    assert ids == (0, 1, 2, -1)
    assert tokenizer.id_to_piece(3) == "<0x00>" and tokenizer.id_to_piece(258) == "<0xFF>"
    assert [tokenizer.id_to_piece(4095 - n) for n in (0, 1, 99)] == [
        f"▁<extra_id_{n}>" for n in (0, 1, 99)
    ]
    ids = vocabulary.encode("<extra_id_0> and <extra_id_1>")
    assert (ids[0], ids[-1]) == (4095, 4094)


@pytest.mark.parametrize("language", mini_facts.LANGUAGES)
def test_mini_round_trip(language):
    vocabulary = vocabularies.mini()
    # Direction marks are dropped by design; every other character comes back.
    text = (
        ", ".join(mini_facts.names(language).values()).replace("\u200e", "").replace("\u200f", "")
    )
    ids = vocabulary.encode(text)
    assert 2 not in ids
    assert vocabulary.decode(ids) == " ".join(text.split())


def test_mini_bytes_cover_what_it_never_saw():
    vocabulary = vocabularies.mini()
    for text in ("ქართული 한국어", "🙂 ∑", "ꙮ"):
        assert 2 not in vocabulary.encode(text)
        assert vocabulary.decode(vocabulary.encode(text)) == text


def test_mini_turns_line_ends_into_blanks():
    vocabulary = vocabularies.mini()
    assert vocabulary.encode("a\n\tb\u00a0 c") == vocabulary.encode("a b c")


def test_mini_model_is_of_todays_text():
    assert mini_vocabulary.PATH.stat().st_size < 200_000
    assert mini_vocabulary.recorded_hash() == mini_vocabulary.text_hash(), (
        "rows or facts changed: run python -m seqio_tasks.mini_vocabulary"
    )


@pytest.mark.slow
def test_mini_model_is_rebuilt_to_the_byte():
    assert mini_vocabulary.build() == mini_vocabulary.PATH.read_bytes()


def test_mini_encodes_the_same_in_tensorflow():
    vocabulary = vocabularies.mini()
    text = "Tanzania na Uganda = तंज़ानिया, 中国"
    assert vocabulary.encode_tf(text).numpy().tolist() == vocabulary.encode(text)


def test_missing_mini_model_says_how_to_build_it(monkeypatch, tmp_path):
    monkeypatch.setattr(vocabularies, "MINI_PATH", tmp_path / "mini.model")
    with pytest.raises(ValueError, match="python -m seqio_tasks.mini_vocabulary"):
        vocabularies.mini()


def test_mt5_facts(shared, monkeypatch):
    path = shared / "vocab" / "mt5" / "spiece.model"
    monkeypatch.setenv("MT0_VOCABULARY", str(path))
    vocabulary = vocabularies.mt5()
    assert vocabulary.vocab_size == vocabularies.MT5_PIECES == 250_100
    assert vocabularies.MT5_EMBEDDING_ROWS == -(-vocabularies.MT5_PIECES // 128) * 128
    assert vocabulary.encode(SENTENCE)[:7] == [30273, 261, 4836, 309, 259, 154056, 627][:6] + [
        vocabulary.encode(SENTENCE)[6]
    ]
    assert vocabulary.tokenizer.piece_to_id("▁<extra_id_0>") == 250_099
    assert vocabulary.tokenizer.piece_to_id("▁<extra_id_99>") == 250_000
    assert vocabulary.decode(vocabulary.encode("a\nb")) == "a b"


def test_mt5_default_is_the_public_file(monkeypatch):
    monkeypatch.delenv("MT0_VOCABULARY", raising=False)
    assert vocabularies.mt5().sentencepiece_model_file == vocabularies.MT5_PATH
    assert vocabularies.mt5("x.model").sentencepiece_model_file == "x.model"


def test_byt5_ids_are_bytes_plus_three():
    assert vocabularies.byt5().encode("aé") == [ord("a") + 3, 0xC3 + 3, 0xA9 + 3]
    assert vocabularies.byt5().vocab_size == 384


def test_output_features_have_eos_as_asked():
    vocabulary = vocabularies.mini()
    features = vocabularies.output_features(vocabulary, inputs_eos=False)
    assert (features["inputs"].add_eos, features["targets"].add_eos) == (False, True)
    assert vocabularies.rank_features(vocabulary)["choices"].rank == 2
