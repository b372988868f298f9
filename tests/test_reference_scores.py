"""Published scores: what stands in the tables, and that the tables agree with each other."""

import statistics
import subprocess
import sys

import pytest

from mt0_tpu import reference_scores
from mt0_tpu.reference_scores import BEST, MEDIAN, MODELS, reference_averages


def value(task, model, metric=MEDIAN):
    (score,) = [
        score
        for score in reference_scores.reference_scores(model=model, metric=metric)
        if score.task == task
    ]
    return score.value


def test_numbers_by_task():
    assert value("eval_xcopa_sw", "mT0-300M") == 50.0
    assert value("eval_super_glue_rte", "mT0-560M") == 65.7
    assert value("eval_anli_r1", "mT0-13B") == 48.0
    assert value("eval_xwinograd_jp", "BLOOMZ") > value("eval_xwinograd_jp", "BLOOM")
    # Translated prompts are tasks of their own.
    assert value("eval_xcopa_sw", "mT0-13B", BEST) >= value("eval_xcopa_sw", "mT0-13B")
    english, machine = (value(f"eval_xnli_fr{kind}", "mT0-13B") for kind in ("", "_mt"))
    assert english > machine
    (score,) = reference_scores.reference_scores("openai_humaneval", "None", "BLOOM", "Pass@1")
    assert (score.task, score.value) == ("eval_humaneval", 15.52)


def test_what_was_not_published_is_left_out():
    scores = reference_scores.reference_scores(dataset="openai_humaneval")
    assert "XGLM-7.5B" not in {score.model for score in scores}
    assert {score.model for score in reference_scores.reference_scores()} == set(MODELS)
    assert reference_scores.reference_scores(dataset="imdb") == []


def test_every_task_of_the_paper_has_published_scores():
    from seqio_tasks import evaluation_tables

    tasks = {n for n, task in evaluation_tables.tasks().items() if task.group == "paper"}
    assert {score.task for score in reference_scores.reference_scores()} == tasks | {
        "eval_humaneval"
    }


def test_averages_are_those_of_the_scores():
    from seqio_tasks import evaluation_tables

    averages = [one for one in reference_averages() if one.metric == "median"]
    assert len(averages) == 14 * len(MODELS)
    for average in averages:
        values = [
            score.value
            for score in reference_scores.reference_scores(model=average.model, metric=MEDIAN)
            if score.prompt_language == "EN"
            and (task := evaluation_tables.tasks().get(score.task))
            and task.reported_as == average.dataset
            and task.seen_language == (average.languages == "L1")
        ]
        assert len(values) == average.num_tasks
        assert statistics.fmean(values) == pytest.approx(average.value, abs=0.006)


def test_the_papers_first_table():
    found = {
        (one.dataset, one.prompt_language, one.model): one.value
        for one in reference_averages()
        if one.metric == "mean"
    }
    assert len(found) == 9 * 4 and found["xnli", "HT", "BLOOMZ-MT"] == 43.88


def test_the_published_model_of_a_size():
    assert reference_scores.model_of_size(512, 8) == "mT0-300M"
    assert reference_scores.model_of_size(4096, 24) == "mT0-13B"
    assert reference_scores.model_of_size(96, 3) is None


def test_it_needs_no_tensorflow():
    code = (
        "import sys; from mt0_tpu import reference_scores as r; assert r.reference_scores();"
        "assert not {'tensorflow', 'seqio', 'jax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
