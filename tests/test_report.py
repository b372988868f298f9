"""mt0_tpu/report.py: the page from run folders, what may be missing, the last screen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mt0_tpu.errors import UserError
from mt0_tpu.report import terminal_summary, write_report
from tests import report_folders
from tests.report_folders import curve_lines, line, write_lines, write_run, write_study
from tests.strict_html import StrictPage


def written(*runs: Path, output: Path) -> StrictPage:
    """Writes a report of runs; returns its page, checked."""
    index = Path(write_report([str(run) for run in runs], str(output)))
    assert index == output / "index.html" and [p.name for p in output.iterdir()] == ["index.html"]
    page = StrictPage(index.read_text("utf-8"))
    page.assert_no_missing_numbers()
    return page


def test_report_of_a_study(tmp_path):
    page = written(write_study(tmp_path / "out"), output=tmp_path / "out" / "report")
    for expected in (
        "chance (untrained) 33.3 33.3 33.3 33.3 33.3 33.3",
        "majority answer 40.0 40.0",
        "multilingual multitask 71.0 ±1.0 61.0 ±1.0",
        "shows here in full",
        "Not answered here, for want of a scored arm: multilingual, no pretraining",
        "Multilingual multitask beats English-only multitask",
    ):
        assert expected in page.text
    bold = (tmp_path / "out" / "report" / "index.html").read_text("utf-8")
    assert "<b>71.0" in bold and "<b>51.0" not in bold


def test_a_page_of_everything(tmp_path):
    runs = report_folders.write_two_runs(tmp_path / "runs")
    page = written(*runs, output=tmp_path / "report")
    assert page.ids == [
        "tasks", "languages", "prompts", "by-language", "checkpoints", "generation", "curves",
        "samples", "texts", "runs", "method",
    ]  # fmt: skip
    # Seven data sets as bars, three as seen and unseen, seven by prompt and by step, three curves
    # of training and three of generation.
    assert len(page.charts) == 7 + 3 + 7 + 7 + 3 + 3
    for words in (
        "2 runs;",
        "untrained",
        "mT0-300M *",
        "mT0-13B",
        "BLOOMZ",
        "arXiv 2211.01786",
        "chrf",
        "pass@10",
    ):
        assert words in page.text
    assert (tmp_path / "report" / "index.html").stat().st_size < 300_000


def test_other_letters_stay_whole(tmp_path):
    runs = report_folders.write_two_runs(tmp_path / "runs")
    write_report([str(run) for run in runs], str(tmp_path / "report"))
    text = (tmp_path / "report" / "index.html").read_text("utf-8")
    assert '<pre dir="auto">القطة نائمة' in text
    assert '<td dir="auto">البحر هادئ.</td>' in text and "सुप्रभात" in text
    assert "<bdi>打开了雨伞。</bdi>" in text


def test_same_runs_give_the_same_bytes(tmp_path):
    runs = [str(run) for run in report_folders.write_two_runs(tmp_path / "runs")]
    once = Path(write_report(runs, str(tmp_path / "once"))).read_bytes()
    write_report(runs, str(tmp_path / "again"))
    assert Path(write_report(runs, str(tmp_path / "again"))).read_bytes() == once


def test_data_is_escaped(tmp_path):
    evil = "<script>alert('&')</script>\x00"
    run = write_run(tmp_path / "a<b> $x$", [line(evil, evil, evil, task="t"), line(evil, task="t")])
    (run / "config.gin").write_text(f"MIXTURE_OR_TASK_NAME = '{evil}'\n")
    record = {"inputs": evil, "choices": [evil, "b"], "prediction": 0, "answer": 1, "scores": []}
    write_lines(run / "eval" / "inference_eval" / "t-30.jsonl", [record])
    text = {"inputs": evil, "target": evil, "prediction": evil}
    write_lines(run / "eval" / "inference_eval" / "u-30.jsonl", [text])
    page = written(run, output=tmp_path / "report")
    assert "samples" in page.ids and "texts" in page.ids
    assert "<script>alert('&')</script>\ufffd" in page.text


def test_long_texts_and_many_tasks_are_cut(tmp_path):
    run = tmp_path / "run"
    folder = run / "inference_eval"
    for number in range(70):
        write_lines(folder / f"task_{number:02d}-metrics.jsonl", [{"step": 1, "bleu": 1.5}])
        row = {"inputs": "word " * 4000, "target": "x" * 9000, "prediction": "y" * 9000}
        write_lines(folder / f"task_{number:02d}-000001.jsonl", [row] * 50)
    page = written(run, output=tmp_path / "report")
    assert "10 more tasks are left out" in page.text and "62 more tasks left out" in page.text
    assert (tmp_path / "report" / "index.html").stat().st_size < 60_000


# ---- what may be missing


def test_a_run_without_an_evaluation(tmp_path):
    run = write_run(tmp_path / "multilingual", metrics=curve_lines(1.0, 40))
    page = written(run, output=tmp_path / "report")
    assert page.ids == ["curves", "runs", "absent"]
    assert "No scores yet" in page.text and "`mt0 eval` writes" in page.text
    assert terminal_summary([str(run)]).startswith("No scores yet")


def test_a_run_without_curves_held_out_clusters_or_unseen_languages(tmp_path):
    run = write_run(tmp_path / "mine", [line("translation", "en", "p", 0.6)])
    page = written(run, output=tmp_path / "report")
    assert page.ids == ["tasks", "runs", "method", "absent"]
    assert "mine beats the better of chance and majority" in page.text
    assert "One seed" in page.text and "no run has a metrics.jsonl" in page.text


def test_evaluation_during_training_alone(tmp_path):
    folder = tmp_path / "run" / "inference_eval"
    rows = [{"step": step, "bleu": float(step), "note": "text", "off": None} for step in (1, 2)]
    write_lines(folder / "my_translation-metrics.jsonl", rows)
    for given in (tmp_path / "run", folder):
        page = written(given, output=tmp_path / "report")
        assert page.ids == ["generation", "runs", "absent"] and len(page.charts) == 1
        assert "bleu 2.00 step 2" in page.text


def test_output_folder_of_evaluation_alone(tmp_path):
    run = report_folders.write_everything(tmp_path / "run", 0.2, 512, 0.001, right=True)
    shutil.move(run / "eval", tmp_path / "scores")
    page = written(tmp_path / "scores", output=tmp_path / "report")
    assert "curves" not in page.ids and "samples" in page.ids and "checkpoints" in page.ids
    assert "scored: x" in page.text


@pytest.mark.parametrize("missing", ["metrics.jsonl", "config.gin", "model-info.txt", "eval"])
def test_any_part_may_be_gone(tmp_path, missing):
    runs = report_folders.write_two_runs(tmp_path / "runs")
    gone = runs[0] / missing
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    written(*runs, output=tmp_path / "report")


# ---- the last screen


@pytest.mark.parametrize("clusters", [["nli"], [f"a_long_name_of_a_cluster_{i}" for i in range(9)]])
def test_terminal_summary_fits_a_screen(tmp_path, clusters):
    deep = tmp_path / ("d" * 60)
    for seed in range(3):
        for arm in ("pretrain", "scratch", "english", "multilingual", *"abcdefgh"):
            rows = [
                line(c, lang, "p", 0.5, held_out_cluster=True)
                for c in clusters
                for lang in ("en", "eu")
            ]
            write_run(deep / f"seed{seed}" / arm, rows)
    text = terminal_summary([str(deep)])
    assert len(text.splitlines()) <= 25
    assert max(map(len, text.splitlines())) <= 100


def test_terminal_summary_says_where_and_what(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = write_study(tmp_path / "out")
    write_report([str(study)], str(study / "report"))
    (study / "seed0" / "multilingual" / "checkpoints").mkdir()
    lines = terminal_summary([str(study)]).splitlines()
    assert "multilingual multitask          71.0 ±1.0  61.0 ±1.0" in "\n".join(lines)
    assert "report: out/report/index.html" in lines
    assert "model: out/seed0/multilingual/checkpoints" in lines
    assert (
        "yes: multilingual beats English-only (unseen languages, held-out clusters): +20.0 ± 0.0"
        in lines
    )


# ---- bad input


def test_nothing_found_names_the_folder_and_what_was_looked_for(tmp_path):
    with pytest.raises(UserError, match=r"Found no run in .*looked for metrics\.jsonl"):
        write_report([str(tmp_path)], str(tmp_path / "report"))
    assert not (tmp_path / "report").exists()


def test_output_folder_that_cannot_be_or_holds_another_page(tmp_path):
    run = write_run(tmp_path / "a", [line()])
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written to .*file"):
        write_report([str(run)], str(tmp_path / "file"))
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text("<h1>mine</h1>")
    with pytest.raises(UserError, match="not a report of ours"):
        write_report([str(run)], str(site))
    assert [p.name for p in site.iterdir()] == ["index.html"]
    # A report of ours is written anew, in a folder or as a file.
    for output in (tmp_path / "new", tmp_path / "new" / "page.html"):
        for _ in range(2):
            written_to = write_report([str(run)], str(output))
        assert Path(written_to).is_file()
    assert {p.name for p in (tmp_path / "new").iterdir()} == {"index.html", "page.html"}


def test_a_malformed_prediction_names_file_and_line(tmp_path):
    run = write_run(tmp_path / "a", [line()])
    path = run / "eval" / "inference_eval" / "mini_eval_nli_en-30.jsonl"
    write_lines(path, [{"inputs": "a"}])
    with pytest.raises(UserError, match=r"nli_en-30\.jsonl:1 should hold inputs, choices"):
        write_report([str(run)], str(tmp_path / "report"))
    path.write_text(json.dumps({"inputs": "a"})[:-1] + "\n")
    with pytest.raises(UserError, match=r"nli_en-30\.jsonl:1 is not a line of JSON"):
        write_report([str(run)], str(tmp_path / "report"))
