"""mt0_tpu/reporting/runs.py: which folders are runs, and what is read of them."""

from __future__ import annotations

import json

import pytest

from mt0_tpu.errors import UserError
from mt0_tpu.reporting.runs import load_runs
from tests.report_folders import line, write_lines, write_run, write_study


def test_only_the_newest_step_counts_and_a_repeated_line_its_last(tmp_path):
    lines = [
        line(accuracy=0.1, step=10),
        line(accuracy=0.2, step=20),
        line(accuracy=0.3, step=20),
    ]
    (run,) = load_runs([str(write_run(tmp_path / "a", lines))])
    assert [row.accuracy for row in run.rank] == [0.3]


def test_an_evaluation_folder_alone_is_a_run(tmp_path):
    run = write_run(tmp_path / "multilingual", [line()])
    (loaded,) = load_runs([str(run / "eval"), str(run)])
    assert loaded.arm == "multilingual" and len(loaded.rank) == 1


def test_runs_found_once_by_study_seed_and_arm(tmp_path):
    study = write_study(tmp_path)
    (study / "cache" / "train").mkdir(parents=True)
    names = [str(study), str(study / "seed1"), str(study / "seed2" / "english")]
    runs = load_runs(names)
    assert [(run.arm, run.seed) for run in runs] == [
        (arm, seed) for arm in ("pretrain", "english", "multilingual") for seed in range(3)
    ]


def test_two_studies_do_not_mix(tmp_path):
    for name in ("old", "new"):
        write_study(tmp_path / name, {"english": [(0.5, 0.5)]})
    runs = load_runs([str(tmp_path / "old"), str(tmp_path / "new")])
    assert [run.arm for run in runs] == ["old/english", "new/english"]


def test_two_runs_of_one_arm_and_seed_are_not_merged(tmp_path):
    write_study(tmp_path, {"english": [(0.5, 0.5)]})
    write_run(tmp_path / "english", [line()])
    with pytest.raises(UserError, match="english are both seed 0 of english"):
        load_runs([str(tmp_path)])


def test_facts_of_a_run(tmp_path):
    run = write_run(tmp_path / "a", [line()])
    (run / "model-info.txt").write_text("Variable x\nTotal number of parameters: 1234567\n")
    (run / "config.gin").write_text("# c\nTRAIN_STEPS = 30\nBATCH_SIZE = 8\ntrain.x = 1\n")
    (run / "eval" / "summary.json").write_text('{"checkpoint": "x", "step": 30, "groups": []}')
    (loaded,) = load_runs([str(run)])
    assert (loaded.parameters, loaded.checkpoint) == ("1,234,567", "x")
    assert loaded.config.macros == {"TRAIN_STEPS": "30", "BATCH_SIZE": "8"}
    assert loaded.scored_steps == [30]


def test_an_evaluation_alone_has_its_own_config(tmp_path):
    write_lines(tmp_path / "scores" / "rank.jsonl", [line()])
    (tmp_path / "scores" / "eval.mini_eval.gin").write_text("BATCH_SIZE = 32\n")
    (loaded,) = load_runs([str(tmp_path / "scores")])
    assert loaded.config.macros == {"BATCH_SIZE": "32"}


def test_runs_stand_in_the_order_they_were_given(tmp_path):
    names = [str(write_run(tmp_path / name, [line()])) for name in ("b", "a", "multilingual")]
    assert [run.arm for run in load_runs(names)] == ["multilingual", "b", "a"]


def test_each_task_counts_by_its_own_newest_step(tmp_path):
    lines = [line(step=10), line(step=20), line("completion", step=10)]
    (run,) = load_runs([str(write_run(tmp_path / "a", lines))])
    assert sorted((row.cluster, row.step) for row in run.rank) == [("completion", 10), ("nli", 20)]
    assert len(run.history) == 3 and run.scored_steps == [10, 20]


def test_scores_of_training_and_of_other_folders_are_joined_and_those_of_eval_count(tmp_path):
    run = write_run(tmp_path / "a", [line(accuracy=0.9)], [])
    write_lines(run / "inference_eval" / "rank.jsonl", [line(accuracy=0.1), line("qa")])
    write_lines(run / "eval_paper" / "rank.jsonl", [line("completion", accuracy=0.2)])
    (loaded,) = load_runs([str(run)])
    found = {row.cluster: row.accuracy for row in loaded.rank}
    assert found == {"nli": 0.9, "qa": 0.5, "completion": 0.2}


def test_scores_of_a_checkpoint_that_lie_elsewhere_are_its_runs(tmp_path):
    run = write_run(tmp_path / "run", [line(accuracy=0.9)], [])
    scores = tmp_path / "scores"
    write_lines(scores / "rank.jsonl", [line("completion"), line(accuracy=0.1)])
    write_lines(scores / "inference_eval" / "text-metrics.jsonl", [{"step": 30, "bleu": 2}])
    summary = {"checkpoint": str(run / "checkpoints" / "30"), "step": 30}
    (scores / "summary.json").write_text(json.dumps(summary))
    (loaded,) = load_runs([str(scores), str(run)])
    assert (loaded.arm, loaded.evaluations) == ("run", (scores,))
    assert {row.cluster: row.accuracy for row in loaded.rank} == {"nli": 0.9, "completion": 0.5}
    assert loaded.task_metrics == {"text": {"bleu": [(30, 2.0)]}}
    # Without its run it stands for itself.
    assert [one.arm for one in load_runs([str(scores)])] == ["scores"]


def test_step_0_of_a_trained_run_is_an_arm_of_its_own(tmp_path):
    lines = [line(accuracy=0.3, step=0), line(accuracy=0.6)]
    names = [str(write_run(tmp_path / name, lines)) for name in ("a", "b")]
    runs = load_runs(names)
    assert [(run.arm, run.rank[0].accuracy) for run in runs] == [
        ("untrained", 0.3),
        ("a", 0.6),
        ("b", 0.6),
    ]
    # A run that was scored at step 0 alone is no other than itself.
    alone = load_runs([str(write_run(tmp_path / "c", lines[:1]))])
    assert [run.arm for run in alone] == ["c"]


def test_no_such_folder_suggests_the_near_one(tmp_path):
    (tmp_path / "study").mkdir()
    with pytest.raises(UserError, match="no folder .*stduy.*Did you mean 'study'"):
        load_runs([str(tmp_path / "stduy")])


def test_no_folders_and_remote_folders():
    with pytest.raises(UserError, match="no run folder"):
        load_runs([])
    with pytest.raises(UserError, match="local folders only, and gs://b/run is remote"):
        load_runs(["gs://b/run"])
