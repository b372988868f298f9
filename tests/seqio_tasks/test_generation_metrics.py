"""BLEU, chrF and ROUGE in SeqIO's form; the numbers are those of the named tools."""

import statistics

import pytest

from seqio_tasks import metrics
from seqio_tasks.generation_metrics import (
    PromptedTarget,
    PromptedTargets,
    bleu,
    bleu_for,
    chrf,
    over_prompts,
    rouge,
    rouge_of,
    words,
)

TARGETS = ["The cat sat on the mat.", "There is a dog in the garden."]
CLOSE = ["The cat sat on a mat.", "A dog is in the garden."]


def test_bleu_and_chrf_are_sacrebleus_with_their_signatures():
    # The numbers that sacrebleu 2.6.0's command line prints for these lines.
    found = {**bleu(TARGETS, CLOSE), **chrf(TARGETS, CLOSE)}
    assert found["BLEU"] == pytest.approx(44.0272, abs=1e-4)
    assert found["chrF2"] == pytest.approx(61.3074, abs=1e-4)
    signature = found["BLEU_signature"].textdata
    assert signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert "nc:6|nw:0" in found["chrF2_signature"].textdata
    assert chrf(TARGETS, CLOSE, word_order=2).keys() == {"chrF2++", "chrF2++_signature"}
    assert bleu(TARGETS, TARGETS)["BLEU"] == pytest.approx(100)
    assert metrics.bleu is bleu and metrics.rouge is rouge


def test_several_references_of_varying_number():
    targets = [[TARGETS[0], CLOSE[0]], TARGETS[1]]
    both = [CLOSE[0], TARGETS[1]]
    assert bleu(targets, both)["BLEU"] == pytest.approx(100)
    assert bleu(TARGETS, both)["BLEU"] < 90
    assert bleu(targets, both)["BLEU_signature"].textdata.startswith("nrefs:var|")
    assert rouge(targets, both)["rougeL"] == pytest.approx(100)


def test_a_language_is_cut_into_words_as_it_needs():
    chinese, other = ["这是一个很小的测试句子"], ["这是一个很大的测试句子"]
    assert bleu(chinese, other)["BLEU"] == 0.0  # one word to '13a'
    assert bleu_for("zh")(chinese, other)["BLEU"] > 40
    assert "tok:char" in bleu_for("th")(chinese, other)["BLEU_signature"].textdata
    assert "tok:13a" in bleu_for("pt-BR")(TARGETS, CLOSE)["BLEU_signature"].textdata


@pytest.mark.parametrize("language", ["ja", "ko"])
def test_a_missing_package_is_named(language, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=rf"pip install 'sacrebleu\[{language}\]'"):
        bleu_for(language)


@pytest.mark.parametrize("metric", [bleu, chrf, rouge])
def test_what_cannot_be_scored(metric):
    with pytest.raises(ValueError, match="nothing to score"):
        metric([], [])
    with pytest.raises(ValueError, match="2 targets but 1 results"):
        metric(TARGETS, ["one"])
    with pytest.raises(ValueError, match="Prediction 1 is a list"):
        metric(TARGETS, ["one", ["two", "three"]])
    with pytest.raises(ValueError, match="Target 0 is"):
        metric([[], "b"], ["one", "two"])
    numbers = metric(TARGETS, ["", ""])
    assert [value for value in numbers.values() if isinstance(value, float)] == pytest.approx(
        [0.0] * (4 if metric is rouge else 1)
    )


def test_an_unknown_tokenizer():
    with pytest.raises(ValueError, match="tokenize is 'zhh'; write one of 13a, intl"):
        bleu(TARGETS, CLOSE, tokenize="zhh")


# rouge_score 0.1.2: (reference, prediction) -> F1 of rouge1, rouge2, rougeL, rougeLsum.
ROUGE_SCORE = [
    ("The cat sat on the mat.",
     "On the mat, a cat sat!",
     (0.833333, 0.6, 0.5, 0.5)),
    ("one",
     "",
     (0.0, 0.0, 0.0, 0.0)),
    ("x_y x_y\nx_y 12 ran dog cat ran\nmat, far-away",
     "mat, ! cat a far-away cat ! . cat",
     (0.380952, 0.105263, 0.285714, 0.380952)),
    ("on\n12\nIt's x_y mat, on cat on far-away far-away",
     'a ! x_y ran cat the\non\nthe mat, far-away\nran',
     (0.538462, 0.166667, 0.461538, 0.538462)),
    ("far-away\ndog dog\nran on\nsat a .",
     "the a 12 cat x_y sat sat a x_y ran",
     (0.3, 0.111111, 0.2, 0.3)),
    ('the\nsat far-away\n12 ran on sat cat',
     "It's\n! a 12 ! a . far-away",
     (0.375, 0.142857, 0.25, 0.375)),
    ("cat far-away mat, 12 It's the far-away It's . It's ran\ncat",
     "a cat 12 ran It's far-away x_y\nthe",
     (0.592593, 0.16, 0.444444, 0.518519)),
    ("sat x_y !\nfar-away x_y\nran the sat sat the far-away\ndog .",
     "the 12 ran dog ! sat far-away\n12 far-away\na cat 12",
     (0.571429, 0.153846, 0.357143, 0.5)),
]  # fmt: skip


@pytest.mark.parametrize("reference, prediction, expected", ROUGE_SCORE)
def test_rouge_is_rouge_scores_on_english(reference, prediction, expected):
    assert tuple(rouge_of(reference, prediction).values()) == pytest.approx(expected, abs=1e-6)


def test_words_of_other_scripts():
    assert words("यह एक परीक्षण है।") == ["यह", "एक", "परीक्षण", "है"]
    assert words("这是 GPT-4。") == ["这", "是", "gpt", "4"]
    assert words("မြန်မာ") == ["မြ", "န်", "မာ"]
    assert words("Été à l’école") == ["été", "à", "l", "école"]
    for text in ("यह एक परीक्षण है", "这是一个测试", "Это тест", "ภาษาไทย"):
        assert rouge([text], [text]) == dict.fromkeys(
            ("rouge1", "rouge2", "rougeL", "rougeLsum"), pytest.approx(100)
        )
    assert rouge(["这是一个测试"], ["那是两个考试"])["rouge1"] == pytest.approx(50)


def test_prompts_are_scored_apart():
    scored = over_prompts(rouge)
    hits = {"a": 1, "b+c": 1, "d": 0}
    targets = [PromptedTarget("yes it is", prompt) for prompt in hits]
    targets[1] = PromptedTargets(["no", "yes it is"], "b+c")
    found = scored(targets, ["yes it is" if hit else "never" for hit in hits.values()])
    assert found["rougeL"] == statistics.median([100, 100, 0])
    assert found["rougeL/a"] == found["rougeL/b_c"] == 100 and found["rougeL/d"] == 0
    assert "BLEU_signature" in over_prompts(bleu)(targets, ["x"] * 3)
    with pytest.raises(ValueError, match="nothing to score"):
        scored([], [])
