"""mt0_tpu/reporting/prompts.py: a prompt's accuracy over languages and seeds."""

from __future__ import annotations

import pytest

from mt0_tpu.reporting.prompts import prompt_accuracies
from mt0_tpu.reporting.runs import load_runs
from tests.report_folders import line, write_run, write_study


def test_means_over_languages_and_seeds(tmp_path):
    for seed, (en, fr) in enumerate(((0.1, 0.3), (0.5, 0.7))):
        lines = [line(prompt="p", accuracy=en), line(language="fr", prompt="p", accuracy=fr)]
        lines.append(line(prompt="q", accuracy=0.9))
        write_run(tmp_path / f"seed{seed}" / "mine", lines)
    found = prompt_accuracies(load_runs([str(tmp_path)]), "dataset")
    assert found == {"nli": {"mine": {"p": pytest.approx(40), "q": pytest.approx(90)}}}


def test_a_prompt_is_one_in_all_languages_that_it_was_translated_to(tmp_path):
    lines = [
        line(language=language, prompt=f"can we infer_{language}mt", accuracy=accuracy)
        for language, accuracy in (("fr", 0.2), ("sw", 0.4))
    ]
    found = prompt_accuracies(load_runs([str(write_run(tmp_path / "a", lines))]), "cluster")
    assert found["nli"]["a"] == {"can we infer": pytest.approx(30)}


def test_arms_of_a_study(tmp_path):
    found = prompt_accuracies(load_runs([str(write_study(tmp_path))]), "cluster")
    assert list(found["nli"]) == ["pretrain", "english", "multilingual"]
    assert found["nli"]["pretrain"] == {"p0": pytest.approx(32), "p1": pytest.approx(32)}
