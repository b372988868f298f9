import numpy as np
import pytest

from mt0_tpu.tasks import text_keys
from mt0_tpu.tasks.text_keys import Keyer, units


def keys(text, **options):
    return set(Keyer()([text], **options).keys_K.tolist())


def words(count, first=0):
    return " ".join(f"word{i}" for i in range(first, first + count))


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Hello,  WORLD! It's", ["hello", "world", "\0", "it", "s"]),
        ("ﬁne — Straße", ["fine", "strasse"]),
        ("गाँव में पानी है।", ["गाँव", "में", "पानी", "है", "\0"]),
        ("水龙头。", ["水", "龙", "头", "\0"]),
        ("ab水 c", ["ab", "水", "c"]),
        ("ผู้ chair", ["ผ", "ู", "้", "\0", "chair"]),
    ],
)
def test_units(text, expected):
    assert units(text) == expected


def test_a_passage_has_the_same_keys_wherever_it_stands():
    passage = words(20)
    here = keys(f"Some text before. {passage} and after it more of that kind")
    there = keys(f"Quite another beginning of a text: it says {passage.upper()}!")
    assert len(here & there) == 20 - 13 + 1
    assert not keys(words(12) + " other " + words(5, 12)) & keys(words(12) + " thing " + words(9))


def test_windows_do_not_reach_into_the_next_text():
    found = Keyer()([words(8), words(8, 8)])
    assert not (found.keys_K[~found.whole_K]).size
    assert set(found.texts_K.tolist()) == {0, 1}


def test_short_sentences_and_texts_are_found_whole():
    sentence = "The man turned on the faucet."
    assert keys(sentence) <= keys(f"Premise: {sentence} What came of it?")
    assert keys("这个男人拧开了水龙头。") & keys("句子：这个男人拧开了水龙头。然后？")
    assert keys("ผู้ชายเปิดก๊อกน้ำ") & keys("ผู้ชายเปิดก๊อกน้ำ What came of it?")
    for short in ("Yes.", "I do it.", "Extraordinarily uninteresting.", "", " \n "):
        assert not keys(short)


def test_characters_count_for_half_a_word():
    han = "".join(chr(0x4E00 + i) for i in range(40))
    found = Keyer()([han])
    assert (~found.whole_K).sum() == 40 - 26 + 1
    assert (found.spans_K[~found.whole_K] @ [-1, 1] == 26).all()


def test_spans_name_the_units_of_a_key():
    found = Keyer()(["nothing here yet", f"one two. {words(14)}"])
    window = found.spans_K[~found.whole_K & (found.texts_K == 1)]
    assert window[0].tolist() == [0, 13] and window[-1].tolist() == [3, 16]


def test_template_words_do_not_make_a_window():
    keyer = Keyer()
    question = "which of these two did somebody say when he came home that evening"
    template = np.unique(keyer.shingles([question])[0])
    text = f"Paris and Rome and Oslo. {question}?"
    assert (~keyer([text]).whole_K).any()
    found = keyer([text], template)
    assert found.whole_K.all()  # three names are not half of a window
    assert keyer([question], template).keys_K.size == 1  # the very same text remains one
    story = words(13)
    assert (~keyer([f"{story}. {question}?"], template).whole_K).sum() == 1 + 13 // 2


def test_shares_are_of_what_is_no_template():
    keyer = Keyer()
    template = np.unique(keyer.shingles(["what came of that"])[0])
    text = "A man turned on the faucet. Water came out of it. What came of that?"
    found = keyer([text], template)
    assert sorted(found.shares_K[found.whole_K]) == pytest.approx([5 / 11, 6 / 11, 1])
    assert found.weights_T.tolist() == [22]


def test_keys_do_not_depend_on_the_words_seen_before(monkeypatch):
    monkeypatch.setattr(text_keys, "_MOST_WORDS_KEPT", 5)
    keyer = Keyer()
    first = keyer([words(20)]).keys_K
    keyer([words(30, 50)])
    assert (keyer([words(20)]).keys_K == first).all()
    assert len(np.unique(keyer([words(3000)]).keys_K)) == 3000 - 12 + 1
