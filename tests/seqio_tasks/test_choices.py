"""Choices as SeqIO sees them: the right one as targets, or one example each."""

import numpy as np
import pytest
import seqio
import tensorflow as tf

from mt0_tpu.data import task_definition, tokenizing
from seqio_tasks import choices, vocabularies
from seqio_tasks.sources import PythonDataSource

ROWS = [
    {"inputs": "q0", "choices": ["a", "b"], "answer": 1, "language": "sw"},
    {"inputs": "q1", "choices": ["a", "b", "c"], "answer": 0, "language": "sw"},
]


def dataset(rows=ROWS):
    return PythonDataSource({"test": lambda: rows}).get_dataset("test", shuffle=False)


def test_the_right_choice_becomes_the_targets():
    step = choices.RightChoice()
    assert [step.numpy_map(row)["targets"] for row in ROWS] == ["b", "a"]
    assert [e["targets"].decode() for e in step(dataset()).as_numpy_iterator()] == ["b", "a"]
    assert "targets" not in ROWS[0]


def test_an_answer_beyond_the_choices_is_left_for_the_cache_and_stops_tf_data():
    wrong = {**ROWS[0], "answer": 2}
    assert "targets" not in choices.RightChoice().numpy_map(wrong)
    with pytest.raises(tf.errors.InvalidArgumentError):
        list(choices.RightChoice()(dataset([wrong])).as_numpy_iterator())


def test_each_choice_is_an_example():
    found = list(choices.each_choice(dataset()).as_numpy_iterator())
    assert [(e["inputs"].decode(), e["targets"].decode()) for e in found] == [
        ("q0", "a"), ("q0", "b"), ("q1", "a"), ("q1", "b"), ("q1", "c"),
    ]  # fmt: skip
    facts = [choices.choice_facts("text", example=e, is_target=True) for e in found]
    assert facts == [(0, 0, 2, 1), (0, 1, 2, 1), (1, 0, 3, 0), (1, 1, 3, 0), (1, 2, 3, 0)]
    assert choices.choice_facts("text", example=found[0]) == "text"
    assert all("choices" not in e and e["language"] == b"sw" for e in found)


def test_accuracy_ranks_the_choices_of_a_question():
    targets = [(0, 0, 2, 1), (0, 1, 2, 1), (1, 0, 3, 0), (1, 1, 3, 0), (1, 2, 3, 0)]
    assert choices.choice_accuracy(targets, [-3.0, -1.0, -2.0, -5.0, -4.0]) == {
        "rank_accuracy": 1.0
    }
    assert choices.choice_accuracy(targets, [-1.0, -3.0, -2.0, -5.0, -4.0]) == {
        "rank_accuracy": 0.5
    }
    # The second question was cut off after two of its three choices.
    assert choices.choice_accuracy(targets[:4], [-3.0, -1.0, -5.0, -2.0]) == {"rank_accuracy": 1.0}
    # The first of equals, as everywhere.
    assert choices.choice_accuracy(targets[:2], [-1.0, -1.0]) == {"rank_accuracy": 0.0}


def test_a_cache_holds_the_same_with_and_without_the_step():
    found = []
    for steps in ([], [choices.RightChoice()]):
        task = seqio.Task(
            "test_choices",
            source=PythonDataSource({"test": lambda: ROWS}),
            preprocessors=[*steps, seqio.preprocessors.tokenize, seqio.CacheDatasetPlaceholder()],
            output_features=vocabularies.rank_features(vocabularies.mini()),
        )
        definition = task_definition.define(task)
        assert definition.plain and definition.kind == "rank"
        found += tokenizing.encoded(definition, "test")
    without, with_step = found
    assert set(without.flat) == {"inputs", "choices"} == set(with_step.flat)
    for name in without.flat:
        np.testing.assert_array_equal(without.flat[name], with_step.flat[name])
        np.testing.assert_array_equal(without.sizes[name], with_step.sizes[name])
    assert (without.groups, without.answers) == (with_step.groups, with_step.answers)
    assert without.meta == with_step.meta == [{"language": "sw"}] * 2
