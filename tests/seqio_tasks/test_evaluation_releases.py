"""Rows of the data sets' own releases in the Hub's columns."""

import json

import pytest

from seqio_tasks.evaluation_releases import patterns, to_columns

STORY = {
    "InputStoryid": "a1", "InputSentence1": "s1", "InputSentence2": "s2", "InputSentence3": "s3",
    "InputSentence4": "s4", "RandomFifthSentenceQuiz1": "q1", "RandomFifthSentenceQuiz2": "q2",
    "AnswerRightEnding": "2",
}  # fmt: skip


@pytest.mark.parametrize(
    "name, label, number",
    [
        ("super_glue/cb", "contradiction", 1),
        ("super_glue/cb", "neutral", 2),
        ("super_glue/rte", "not_entailment", 1),
        ("super_glue/rte", 0, 0),
        ("anli", "c", 2),
        ("anli", "n", 1),
        ("xnli", "1", 1),
    ],
)
def test_labels_in_the_hubs_order(name, label, number):
    row = {"premise": "p", "hypothesis": "h", "label": label, "idx": 7}
    assert to_columns(name, None, row) == {**row, "label": number}


def test_xnli_has_all_languages_in_one_table():
    row = {"language": "fr", "gold_label": "neutral", "sentence1": "p", "sentence2": "h"}
    found = to_columns("xnli", "fr", row)
    assert (found["premise"], found["hypothesis"], found["label"]) == ("p", "h", 1)
    assert to_columns("xnli", "de", row) is None
    # The Hub's rows have no language.
    assert to_columns("xnli", "de", {"premise": "p", "hypothesis": "h", "label": 2})["label"] == 2


def test_anli_calls_its_premise_context():
    row = to_columns(
        "anli", "dev_r1", {"uid": "u", "context": "p", "hypothesis": "h", "label": "e"}
    )
    assert (row["premise"], row["label"]) == ("p", 0)


def test_story_cloze():
    row = to_columns("xstory_cloze", "sw", STORY)
    assert [row[f"input_sentence_{n}"] for n in range(1, 5)] == ["s1", "s2", "s3", "s4"]
    assert (row["sentence_quiz2"], row["answer_right_ending"], row["story_id"]) == ("q2", 2, "a1")
    assert to_columns("story_cloze", "2016", row) == row


def test_winogrande_keeps_its_answer_as_text():
    row = {"sentence": "_ ran", "option1": "a", "option2": "b", "answer": 2, "qID": "x-1"}
    assert to_columns("winogrande", None, row)["answer"] == "2"


def winograd(text, tokens, pronoun, at, right):
    return {
        "language": "en", "source": "original", "reference": "?", "text": text,
        "tokens": json.dumps(tokens), "pronoun": json.dumps([pronoun, [at, at + 1], [pronoun]]),
        "candidates": json.dumps(
            [["the cat", [0, 2], [], right], ["the dog", [3, 5], [], not right]]
        ),
    }  # fmt: skip


def test_xwinograds_pronoun_becomes_a_blank():
    text = 'The white cat met the dog, said "it" because it was polite.'
    tokens = ["The", "white", "cat", "met", "the", "dog", ",", "said", "``", "it", "''",
              "because", "it", "was", "polite", "."]  # fmt: skip
    row = to_columns("xwinograd", "en", winograd(text, tokens, "it", 12, False))
    assert row == {
        "sentence": 'The white cat met the dog, said "it" because _ was polite.',
        "option1": "the cat", "option2": "the dog", "answer": "2",
    }  # fmt: skip
    assert to_columns("xwinograd", "fr", winograd(text, tokens, "it", 12, False)) is None


@pytest.mark.parametrize(
    "name, row, said",
    [
        ("xcopa", {"premise": "p", "label": 0}, "it has no 'choice1', but label, premise"),
        ("super_glue/rte", {"premise": "p", "hypothesis": "h", "label": "maybe"},
         "label is 'maybe'; known are entailment, not_entailment"),
        ("super_glue/cb", {"premise": "p", "hypothesis": "h", "label": -1},
         "label is -1, as of rows whose answer is kept secret"),
        ("winogrande", {"sentence": "_", "option1": "a", "option2": "b", "answer": ""},
         "its answer is '', where 1 or 2"),
        ("xstory_cloze", {**STORY, "AnswerRightEnding": "3"}, "answer_right_ending is '3'"),
        ("xwinograd", winograd("no pronoun here", ["no"], "it", 1, True), "'it' is not in it"),
        ("xwinograd", {**winograd("it", [], "it", 0, True), "tokens": "["}, "no row of XWinograd"),
    ],
)  # fmt: skip
def test_rows_that_are_none(name, row, said):
    with pytest.raises(ValueError, match=said):
        to_columns(name, "en", row)


def test_other_data_sets_are_left_alone():
    assert to_columns("banking77", None, {"text": "x"}) == {"text": "x"}
    assert patterns("banking77", None) == ()
    # XWinograd's own table has a few of the Chinese rows alone.
    assert patterns("xwinograd", "zh") == () != patterns("xwinograd", "jp")
    assert patterns("anli", "dev_r3") == ("R3/dev.jsonl", "anli_v*/R3/dev.jsonl")
