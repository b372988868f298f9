"""mt0_tpu/reporting/references.py: published scores of just what was scored."""

from __future__ import annotations

import pytest

from mt0_tpu import reference_scores
from mt0_tpu.reporting.config import RunConfig
from mt0_tpu.reporting.records import RankLine
from mt0_tpu.reporting.references import SHOWN, References, published_size
from mt0_tpu.reporting.runs import load_runs
from mt0_tpu.reporting.tables import Column, Scores
from tests.report_folders import line, rank_lines, write_run


def scored(folder, lines) -> tuple[References, Scores]:
    (run,) = load_runs([str(write_run(folder / "run", lines))])
    return References(run.rank), Scores([run], "dataset")


def test_models_shown_are_published():
    assert set(SHOWN) <= set(reference_scores.MODELS)


def test_whole_data_sets_have_the_published_averages(tmp_path):
    references, scores = scored(tmp_path, rank_lines(0.1, 1))
    published = {
        (a.dataset, a.languages): a.value
        for a in reference_scores.reference_averages()
        if a.model == "mT0-13B" and a.metric == "median"
    }
    for dataset, split, languages in (
        ("xcopa", "seen", "L1"),
        ("xcopa", "unseen", "L2"),
        ("xnli", "unseen", "L2"),
        ("xwinograd", "seen", "L1"),
        ("super_glue/rte", "seen", "L1"),
    ):
        found = references.score(scores, Column((dataset,), split, ""), "mT0-13B")
        assert found == pytest.approx(published[dataset, languages], abs=0.006)


def test_a_part_of_the_languages_is_compared_with_that_part(tmp_path):
    lines = [row for row in rank_lines(0.1, 1) if row["task"] in ("eval_xcopa_sw", "eval_xcopa_zh")]
    references, scores = scored(tmp_path, lines)
    both = [
        score.value
        for language in ("sw", "zh")
        for score in reference_scores.reference_scores("xcopa", language, "mT0-1.2B", "Median acc.")
        if score.prompt_language == "EN"
    ]
    assert len(both) == 2
    column = Column(("xcopa",), "seen", "")
    assert references.score(scores, column, "mT0-1.2B") == pytest.approx(sum(both) / 2)


def test_nothing_is_said_of_tasks_that_were_not_published(tmp_path):
    references, scores = scored(tmp_path, [line()])
    assert not references
    # A column that is published in part has no score.
    half = [line(task="eval_xcopa_sw", language="sw"), line(task="mine", language="fr")]
    references, scores = scored(tmp_path / "half", half)
    assert references and references.of_language("nli", "sw", "BLOOMZ") is not None
    assert references.score(scores, Column(("nli",), "all", ""), "BLOOMZ") is None


def test_translated_prompts_have_scores_of_their_own():
    def value(task: str, prompts: str) -> float:
        row = line(task=task, language="sw") | {"dataset": "xcopa", "prompt_language": prompts}
        group = "xcopa" if prompts == "EN" else f"xcopa@{prompts}"
        return References([RankLine(**row)]).of_language(group, "sw", "mT0-13B")

    assert value("eval_xcopa_sw", "EN") != value("eval_xcopa_sw_mt", "MT")


@pytest.mark.parametrize(
    ("emb_dim", "layers", "model"),
    [("512", "8", "mT0-300M"), ("4096", "24", "mT0-13B"), ("96", "3", None), ("%X", "8", None)],
)
def test_published_model_of_a_runs_size(emb_dim, layers, model):
    names = {"network.T5Config.emb_dim": emb_dim, "network.T5Config.num_encoder_layers": layers}
    assert published_size(RunConfig({}, names)) == model
    assert published_size(RunConfig()) is None
