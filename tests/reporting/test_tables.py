"""mt0_tpu/reporting/tables.py: aggregates worked out by hand."""

from __future__ import annotations

import pytest

from mt0_tpu.reporting.records import RankLine
from mt0_tpu.reporting.runs import load_runs
from mt0_tpu.reporting.tables import Column, Scores, cells_of, group_title, sampling_variance, score
from tests.report_folders import line, rank_lines, write_lines, write_run, write_study

SEEN = Column(("nli",), "seen", "NLI")
UNSEEN = Column(("nli",), "unseen", "NLI")
ALL = Column(("nli",), "all", "NLI")


def cells_of_dicts(lines: list[dict]):
    """cells_of lines as a file would hold them."""
    return cells_of(RankLine(**row) for row in lines)


def test_median_over_prompts_then_mean_over_languages_then_over_clusters():
    def rows(cluster, language, accuracies):
        return [line(cluster, language, f"p{i}", a) for i, a in enumerate(accuracies)]

    lines = [
        *rows("nli", "en", [0.1, 0.5, 0.9]),  # median 0.5
        *rows("nli", "fr", [0.2, 0.4, 0.6, 0.8]),  # median 0.5
        *rows("nli", "eu", [0.2, 0.3, 1.0]),  # median 0.3
        *rows("completion", "en", [0.8]),
    ]
    cells = cells_of_dicts(lines)
    assert cells["nli", "eu"].low == 0.2 and cells["nli", "eu"].high == 1.0
    assert score(cells, SEEN) == pytest.approx(0.5)
    assert score(cells, UNSEEN) == pytest.approx(0.3)
    assert score(cells, ALL) == pytest.approx((0.5 + 0.5 + 0.3) / 3)
    both = Column(("nli", "completion"), "seen", "")
    assert score(cells, both) == pytest.approx((0.5 + 0.8) / 2)
    assert score(cells, Column(("absent",), "all", "")) is None


def test_two_tasks_of_one_cluster_and_language_are_averaged():
    cells = cells_of_dicts([line(task="a", accuracy=0.2), line(task="b", accuracy=0.6)])
    assert cells["nli", "en"].median == pytest.approx(0.4)
    assert cells["nli", "en"].num_examples == 200


def test_sampling_variance_counts_questions_once_however_many_prompts():
    lines = [
        line("nli", language, prompt, 0.5) for language in ("en", "fr") for prompt in ("p", "q")
    ]
    # Two languages of 100 questions at p = 0.5: (0.0025 + 0.0025) / 2**2.
    assert sampling_variance(cells_of_dicts(lines), SEEN) == pytest.approx(0.00125)


def test_mean_and_sample_deviation_over_seeds(tmp_path):
    runs = load_runs([str(write_study(tmp_path))])
    found = Scores(runs).over_seeds("multilingual", UNSEEN)
    assert found.mean == pytest.approx(0.61)
    assert found.deviation == pytest.approx(0.01)
    assert len(found.values) == 3


def test_comparison_uses_only_what_both_arms_were_scored_on(tmp_path):
    write_study(tmp_path, {"pretrain": [(0.3, 0.3)], "multilingual": [(0.7, 0.6)]})
    extra = [line("nli", "eu", "p0", 0.6), line("nli", "xh", "p0", 1.0)]
    write_run(tmp_path / "seed0" / "multilingual", extra)
    scores = Scores(load_runs([str(tmp_path)]))
    (pair,) = scores.compare("multilingual", "pretrain", UNSEEN)
    assert pair[:2] == (pytest.approx(0.6), pytest.approx(0.3))
    assert scores.uneven()


def test_by_data_set_and_by_cluster(tmp_path):
    write_lines(tmp_path / "a" / "eval" / "rank.jsonl", rank_lines(0.5, 1))
    runs = load_runs([str(tmp_path / "a")])
    assert Scores(runs).groups == ("coreference_resolution", "nli", "sentence_completion")
    by_dataset = Scores(runs, "dataset")
    assert "super_glue/rte" in by_dataset.groups and "xcopa" in by_dataset.groups
    column = Column(("xwinograd",), "unseen", "")
    assert by_dataset.languages(column) == ["ja", "ru"]
    # Chance and the share of the rest that the made-up skill knows, 0.6 of it unseen.
    found = by_dataset.over_seeds("a", column).mean
    assert found == pytest.approx(0.5 + 0.5 * 0.5 * 0.6, abs=0.03)


def test_titles():
    names = ("nli", "super_glue/rte", "xcopa@MT", "my_cluster", "a@b")
    assert [group_title(name) for name in names] == [
        "NLI",
        "RTE",
        "XCOPA, machine-translated prompts",
        "my cluster",
        "a",
    ]
