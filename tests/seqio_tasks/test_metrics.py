"""Metrics in SeqIO's form."""

import pytest

from seqio_tasks import metrics


def test_exact_and_normalized_match():
    targets, predictions = ["Kenya", "yes", "हाँ"], ["Kenya", " Yes.", "हाँ।"]
    assert metrics.exact_match(targets, predictions) == {"exact_match": pytest.approx(1 / 3)}
    assert metrics.normalized_match(targets, predictions) == {"normalized_match": 1.0}


def test_rank_accuracy_takes_the_first_of_equals():
    scores = [[-1.0, -2.0], [-3.0, -3.0], [-3.0, -3.0], [-9.0, -2.0, -1.0]]
    assert metrics.rank_accuracy([0, 0, 1, 2], scores) == {"rank_accuracy": 0.75}


def test_chance_and_majority():
    assert metrics.chance([2, 2, 4]) == pytest.approx((0.5 + 0.5 + 0.25) / 3)
    assert metrics.majority([0, 0, 1]) == pytest.approx(2 / 3)


def test_unequal_lengths_and_no_choices_are_refused():
    with pytest.raises(ValueError, match="2 targets but 1 results"):
        metrics.exact_match(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="no choices"):
        metrics.rank_accuracy([0], [[]])
