"""mt0_tpu/tasks/token_text.py with the mini vocabulary, bytes, and mT5's where it is at hand."""

import pytest

from mt0_tpu.tasks.token_text import Run, TokenText, losses, marked


@pytest.fixture(scope="module")
def mini():
    from seqio_tasks import vocabularies

    return vocabularies.mini()


def test_special_tokens_stand_apart(mini):
    text = TokenText(mini)
    ids = [
        *mini.encode("one name"),
        mini.vocab_size - 1,
        *mini.encode("is"),
        mini.vocab_size - 2,
        1,
    ]
    assert text.runs(ids) == [
        Run("one name", False), Run(" ", False), Run("<extra_id_0>", True), Run(" is", False),
        Run(" ", False), Run("<extra_id_1>", True), Run("</s>", True),
    ]  # fmt: skip
    assert text.text(ids) == "one name <extra_id_0> is <extra_id_1></s>"


def test_pieces_keep_their_ids(mini):
    ids = mini.encode("Monako 7")
    tokens = TokenText(mini).tokens([*ids, 0, 1, mini.vocab_size + 5])
    assert [token.id for token in tokens[: len(ids)]] == ids
    assert "".join(token.piece for token in tokens[: len(ids)]).replace("▁", " ") == " Monako 7"
    assert [(t.piece, t.special) for t in tokens[len(ids) :]] == [
        ("<pad>", True), ("</s>", True), (f"<id {mini.vocab_size + 5}>", True),
    ]  # fmt: skip


def test_bytes_and_their_sentinels():
    import seqio

    vocabulary = seqio.ByteVocabulary(extra_ids=125)
    text = TokenText(vocabulary)
    ids = [*vocabulary.encode("é a"), 383, 382, 1]
    pieces = [token.piece for token in text.tokens(ids)]
    assert pieces == [
        "<0xC3>", "<0xA9>", "<0x20>", "a", "<extra_id_0>", "<extra_id_1>", "</s>",
    ]  # fmt: skip
    assert text.text(ids) == "é a<extra_id_0><extra_id_1></s>"


def test_ids_without_a_vocabulary():
    import seqio

    for vocabulary in (None, seqio.PassThroughVocabulary(size=250680, eos_id=2)):
        text = TokenText(vocabulary)
        assert text.text([17, 4, 2]) == "17 4 2"
        assert not text.readable


def test_marks():
    assert marked(" a  b\n\tc\u00a0d ") == "␣a␣␣b⏎⇥c⍽d␣"
    assert marked("a b") == "a b"


@pytest.mark.parametrize(
    ("source", "seen", "said"),
    [
        ("a b", "a b", []),
        ("a\nb", "a b", ["1 newline became one blank"]),
        ("a\n\n\tb  c", "a b c", [
            "2 newlines, 1 run of blanks, 1 tab became a blank each",
        ]),
        (" a", "a", ["blanks at the ends are gone"]),
        ("ﬁne ﬁr x½", "fine fir x1⁄2", ["'ﬁ' became 'fi' (2 times)", "'½' became '1⁄2'"]),
        ("a ☃ b", "a <unk> b", ["'☃' became '<unk>'"]),
        ("a b c d e", "1 2 3 4 5", [
            "'a' became '1'", "'b' became '2'", "'c' became '3'", "'d' became '4'", "1 more change",
        ]),
    ],
)  # fmt: skip
def test_losses_in_words(source, seen, said):
    assert losses(source, seen) == said


def test_what_mt5s_vocabulary_loses(shared):
    import seqio

    path = shared / "vocab" / "mt5" / "spiece.model"
    if not path.is_file():
        pytest.skip(f"MT0_SHARED: no {path}")
    vocabulary = seqio.SentencePieceVocabulary(str(path), extra_ids=0)
    source = "Question:\n\tthe  ﬁrst ½ ☃ 𓀀 …"
    seen = TokenText(vocabulary).text(vocabulary.encode(source))
    assert seen == "Question: the first 1⁄2 ☃ 𓀀 ..."
    assert losses(source, seen) == [
        "1 newline, 1 run of blanks, 1 tab became a blank each",
        "'ﬁ' became 'fi'", "'½' became '1⁄2'", "'…' became '...'",
    ]  # fmt: skip
    assert TokenText(vocabulary).text([250099, 250000]) == "<extra_id_0> <extra_id_99>"


def test_a_tokenizer_json_shows_text_and_parts_of_letters(tmp_path):
    from seqio_tasks.tokenizers_vocabulary import TokenizersVocabulary
    from tests import byte_level

    vocabulary = TokenizersVocabulary(byte_level.write(tmp_path))
    text = TokenText(vocabulary)
    ids = [*vocabulary.encode(" Dodoma ქ"), 2, 0, vocabulary.vocab_size]
    assert text.readable and text.text(ids) == f" Dodoma ქ</s><unk><id {vocabulary.vocab_size}>"
    pieces = [token.piece for token in text.tokens(ids)]
    assert pieces[-3:] == ["</s>", "<unk>", f"<id {vocabulary.vocab_size}>"]
    # ქ is three bytes of a script the tokenizer never saw; none is a letter.
    assert "".join(pieces[:-3]).startswith(" Dodoma") and "\ufffd" not in "".join(pieces)
