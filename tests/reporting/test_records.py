"""mt0_tpu/reporting/records.py: jsonl files that are torn, repeated or malformed."""

from __future__ import annotations

import json

import pytest

from mt0_tpu.errors import UserError
from mt0_tpu.report import write_report
from mt0_tpu.reporting.records import RankLine, read_curves, read_task_metrics
from mt0_tpu.reporting.runs import load_runs
from tests.report_folders import line, write_lines, write_run


def test_curves_survive_a_restart_a_torn_end_and_nan(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [
        {"step": step, "split": "train", "metrics": {"accuracy": value}}
        for step, value in ((20, 0.3), (10, 0.1), (20, 0.2), (30, float("nan")))
    ]
    write_lines(path, rows)
    with path.open("a") as file:
        file.write('{"step": 40, "spl')
    assert read_curves(path) == {"train": {"accuracy": [(10, 0.1), (20, 0.2)]}}


def test_metrics_of_tasks_keep_their_numbers_alone(tmp_path):
    rows = [{"step": 2, "bleu": 1, "text": "x", "list": [1], "ok": True}, {"step": 1, "bleu": 0.5}]
    write_lines(tmp_path / "a-b-metrics.jsonl", rows)
    write_lines(tmp_path / "a-000001.jsonl", [{"inputs": "not metrics"}])
    assert read_task_metrics([tmp_path]) == {"a-b": {"bleu": [(1, 0.5), (2, 1.0)]}}
    write_lines(tmp_path / "c-metrics.jsonl", [{"bleu": 1}])
    with pytest.raises(UserError, match=r"c-metrics\.jsonl:1 should hold a step"):
        read_task_metrics([tmp_path])


def test_a_line_without_data_set_has_its_cluster_and_translated_prompts_are_apart():
    old = line("nli")
    assert RankLine(**old).group("dataset") == "nli"
    new = RankLine(**old, dataset="xnli", prompt_language="EN")
    assert (new.group("cluster"), new.group("dataset")) == ("nli", "xnli")
    assert RankLine(**old, dataset="xnli", prompt_language="MT").group("dataset") == "xnli@MT"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"task": "x"', r"rank\.jsonl:2 is not a line of JSON"),
        ("[1]", r"rank\.jsonl:2 should hold a JSON object"),
        ('{"task": "x"}', r"rank\.jsonl:2 lacks 'cluster'"),
        (
            json.dumps(line(accuracy="0.5")),
            r"rank\.jsonl:2: accuracy should be a number and is \"0\.5\"",
        ),
        (json.dumps(line(accuracy=50)), r"rank\.jsonl:2: accuracy should lie between 0 and 1"),
        (json.dumps(line(accuracy=float("nan"))), r"rank\.jsonl:2: accuracy should lie between"),
        (json.dumps(line(num_examples=True)), r"rank\.jsonl:2: num_examples should be an integer"),
        (
            json.dumps(line(seen_language="yes")),
            r"rank\.jsonl:2: seen_language should be true or false",
        ),
    ],
)
def test_malformed_rank_line_names_file_and_line(tmp_path, text, message):
    run = write_run(tmp_path / "a", [line()])
    with (run / "eval" / "rank.jsonl").open("a") as file:
        file.write(text + "\n")
    with pytest.raises(UserError, match=message):
        write_report([str(run)], str(tmp_path / "report"))


def test_malformed_metrics_and_summary(tmp_path):
    run = write_run(tmp_path / "a", [line()])
    (run / "metrics.jsonl").write_text('{"step": "x", "split": "train", "metrics": {}}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl:1 should hold step"):
        load_runs([str(run)])
    (run / "metrics.jsonl").write_text("nonsense\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl:1 is not a line of JSON"):
        load_runs([str(run)])
    (run / "metrics.jsonl").unlink()
    (run / "eval" / "summary.json").write_text("{")
    with pytest.raises(UserError, match=r"summary\.json is not JSON"):
        load_runs([str(run)])
