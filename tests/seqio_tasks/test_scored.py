"""Rank tasks in the form that stock SeqIO's Evaluator scores."""

import numpy as np
import pytest
import seqio

from seqio_tasks import metrics, scored, task_facts, vocabularies
from seqio_tasks.sources import PythonDataSource


def evaluated(name, score):
    """The metrics that SeqIO's own Evaluator gives when `score` is the model."""
    evaluator = seqio.Evaluator(
        name,
        seqio.EncDecFeatureConverter(pack=False),
        eval_split="validation",
        use_memory_cache=False,
    )
    future, _ = evaluator.evaluate(
        compute_metrics=True,
        score_fn=lambda dataset: [(int(i), score(x)) for i, x in dataset.as_numpy_iterator()],
    )
    return future.result()[name]


def test_every_rank_task_of_mini_has_a_scored_form():
    rank = seqio.get_mixture_or_task("mini_eval")
    forms = seqio.get_mixture_or_task("mini_eval_scored")
    assert [task.name + "_scored" for task in rank.tasks] == [task.name for task in forms.tasks]
    assert scored.add_scored("mini_eval") == "mini_eval_scored"
    assert len(seqio.get_mixture_or_task("mini_eval_scored").tasks) == len(rank.tasks)
    facts = task_facts.facts("mini_eval_nli_sw_scored")
    assert facts == task_facts.facts("mini_eval_nli_sw") and facts["language"] == "sw"


def test_seqios_evaluator_gives_the_accuracy_of_ranking():
    name = "mini_eval_closed_book_qa_sw"
    rows = list(seqio.TaskRegistry.get(name).source.python_examples("validation"))
    vocabulary = vocabularies.mini()

    def score(features):
        # A model that likes short answers with small ids.
        return -float(features["decoder_target_tokens"].sum())

    def of(choice):
        return -float(np.sum([*vocabulary.encode(choice), 1]))

    expected = metrics.rank_accuracy(
        [row["answer"] for row in rows], [[of(choice) for choice in row["choices"]] for row in rows]
    )
    found = evaluated(name + "_scored", score)
    assert {key: pytest.approx(value) for key, value in expected.items()} == found
    assert 0 < expected["rank_accuracy"] < 1


def test_other_tasks_are_refused():
    with pytest.raises(ValueError, match="'mini_pretrain' ranks no choices"):
        scored.add_scored("mini_pretrain")
    rows = [{"inputs": [5], "choices": [[5], [6]], "answer": 0}]
    seqio.TaskRegistry.add(
        "test_scored_ids",
        source=PythonDataSource({"validation": lambda: rows}),
        preprocessors=[seqio.preprocessors.append_eos],
        output_features=vocabularies.rank_features(vocabularies.mini()),
    )
    try:
        with pytest.raises(ValueError, match="no step seqio.preprocessors.tokenize"):
            scored.add_scored("test_scored_ids")
    finally:
        seqio.TaskRegistry.remove("test_scored_ids")
