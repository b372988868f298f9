"""mt0_tpu/reporting/steps.py: scores by checkpoint."""

from __future__ import annotations

import pytest

from mt0_tpu.reporting.palette import Palette
from mt0_tpu.reporting.runs import load_runs
from mt0_tpu.reporting.steps import by_step, checkpoints
from tests.report_folders import line, write_run


def test_scores_of_each_step_by_step(tmp_path):
    lines = [
        line(accuracy=0.5, step=20),
        line(accuracy=0.9, step=20, prompt="q"),
        line(accuracy=0.2, step=3),
        line("completion", accuracy=0.4, step=3),
    ]
    (run,) = load_runs([str(write_run(tmp_path / "a", lines))])
    found = by_step(run)
    assert list(found) == [3, 20]
    assert found[3] == {"completion": pytest.approx(40), "nli": pytest.approx(20)}
    assert found[20] == {"nli": pytest.approx(70)}
    page = checkpoints([run], Palette(["a"]))
    # completion has one step alone: no curve of it, but a cell.
    assert page.count("<svg") == 1 and "NLI, percent by step: a 20.0 at 3, 70.0 at 20" in page
    assert "<td>40.0</td>" in page


@pytest.mark.parametrize(("count", "said"), [(100, False), (50, True)])
def test_fewer_questions_are_told(tmp_path, count, said):
    lines = [line(step=1, num_examples=count), line(step=2)]
    page = checkpoints(load_runs([str(write_run(tmp_path / "a", lines))]), Palette(["a"]))
    assert ("fewer questions" in page) == said


def test_one_step_is_no_comparison(tmp_path):
    runs = load_runs([str(write_run(tmp_path / "a", [line()]))])
    assert checkpoints(runs, Palette(["a"])) == ""
