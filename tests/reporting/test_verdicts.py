"""mt0_tpu/reporting/verdicts.py: what is said of a difference, and when."""

from __future__ import annotations

import pytest

from mt0_tpu.reporting.runs import load_runs
from mt0_tpu.reporting.tables import Scores
from mt0_tpu.reporting.verdicts import conclusion, judge, verdicts
from tests.report_folders import STUDY, line, write_run, write_study


def test_judge_by_students_t_over_seeds():
    answer, mean, half = judge([(0.6, 0.5, 0.0), (0.7, 0.5, 0.0), (0.8, 0.5, 0.0)])
    # Differences 0.1 0.2 0.3: deviation 0.1, t(2 degrees, 97.5 %) = 4.302653, over sqrt 3.
    assert (answer, round(mean, 6), round(half, 6)) == ("within noise", 0.2, 0.248414)
    assert judge([(0.6, 0.2, 0.0), (0.7, 0.2, 0.0), (0.8, 0.2, 0.0)])[0] == "yes"
    assert judge([(0.2, 0.6, 0.0), (0.2, 0.7, 0.0), (0.2, 0.8, 0.0)])[0] == "no"


def test_judge_one_seed_by_the_number_of_questions():
    assert judge([(0.6, 0.5, 0.0025)]) == ("yes", pytest.approx(0.1), pytest.approx(0.098))
    assert judge([(0.59, 0.5, 0.0025)])[0] == "within noise"


@pytest.mark.parametrize(
    ("english", "word", "answer"),
    [
        ([(0.5, 0.40), (0.5, 0.41), (0.5, 0.42)], "beats", "yes"),
        ([(0.5, 0.80), (0.5, 0.81), (0.5, 0.82)], "falls behind", "no"),
        ([(0.5, 0.50), (0.5, 0.60), (0.5, 0.75)], "cannot be told from", "within noise"),
    ],
)
def test_verdict_sentences(tmp_path, english, word, answer):
    study = write_study(tmp_path, STUDY | {"english": english})
    answers, missing = verdicts(Scores(load_runs([str(study)])))
    assert answers[0].answer == answer
    assert answers[0].sentence.startswith(
        f"Multilingual multitask {word} English-only multitask (unseen languages, held-out "
        "clusters): 61.0% against "
    )
    assert missing == ["scratch"]


def test_verdict_in_full(tmp_path):
    answers, _ = verdicts(Scores(load_runs([str(write_study(tmp_path))])))
    assert answers[1].sentence == (
        "Multilingual multitask beats pretrained only (all languages, held-out clusters): "
        "66.0% against 32.0%, +34.0 points."
    )
    # Differences 35, 34.5, 32.5: deviation 1.32, half width 3.29.
    assert answers[1].noise == (
        "3 seeds: +35.0, +34.5, +32.5; standard deviation 1.3; 95% interval +30.7 to +37.3."
    )
    assert conclusion(answers).endswith("shows here in full.")


def test_conclusion_is_honest_when_nothing_is_above_chance(tmp_path):
    flat = {arm: [(0.3, 0.3)] * 3 for arm in ("pretrain", "english", "multilingual")}
    answers, _ = verdicts(Scores(load_runs([str(write_study(tmp_path, flat))])))
    assert conclusion(answers).endswith("does not show here.")
    baseline = next(v for v in answers if "chance and majority" in v.sentence)
    assert baseline.answer == "no" and "against 40.0%" in baseline.sentence


def test_runs_of_ones_own_are_compared_with_the_best_of_them(tmp_path):
    for name, accuracy in (("small", 0.5), ("large", 0.9), ("medium", 0.6)):
        write_run(tmp_path / name, [line(accuracy=accuracy)])
    answers, _ = verdicts(Scores(load_runs([str(tmp_path)])))
    assert [answer.sentence.split(" (")[0] for answer in answers] == [
        "large beats medium",
        "large beats small",
        "small beats the better of chance and majority",
        "medium beats the better of chance and majority",
        "large beats the better of chance and majority",
    ]
    assert not any(answer.decisive for answer in answers)
