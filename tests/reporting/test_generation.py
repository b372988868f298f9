"""mt0_tpu/reporting/generation.py: metrics of written text and code."""

from __future__ import annotations

from mt0_tpu.reporting.generation import code_references, generation
from mt0_tpu.reporting.palette import Palette
from mt0_tpu.reporting.runs import load_runs
from tests.report_folders import line, write_lines, write_run


def test_newest_metrics_of_each_run_and_none_of_rank_tasks(tmp_path):
    for name, bleu in (("a", 1.0), ("b", 7.25)):
        run = write_run(tmp_path / name, [line(task="by_rank")])
        folder = run / "eval" / "inference_eval"
        write_lines(folder / "wmt-metrics.jsonl", [{"step": s, "bleu": bleu * s} for s in (1, 2)])
        write_lines(folder / "by_rank-metrics.jsonl", [{"step": 1, "accuracy": 0.5}])
    page = generation(load_runs([str(tmp_path)]), Palette(["a", "b"]))
    assert "2.00<small>step 2</small>" in page and "14.50<small>step 2</small>" in page
    assert page.count("<svg") == 1 and "by_rank" not in page


def test_how_a_metric_was_computed_is_said_once(tmp_path):
    for name in ("a", "b"):
        row = {"step": 1, "BLEU": 3.5, "BLEU_signature": "nrefs:1|tok:13a"}
        write_lines(tmp_path / name / "inference_eval" / "wmt-metrics.jsonl", [row])
    page = generation(load_runs([str(tmp_path)]), Palette(["a", "b"]))
    assert page.count("BLEU: <code>nrefs:1|tok:13a</code>") == 1
    assert page.count("BLEU_signature") == 0


def test_published_pass_at_k():
    assert code_references("eval_humaneval", "pass@1")["BLOOMZ"] == 12.06
    assert code_references("eval_humaneval", "pass_at_100") == code_references(
        "x_HumanEval", "pass@100"
    )
    assert code_references("eval_humaneval", "pass@7") == code_references("wmt", "pass@1") == {}
