"""mt0_tpu/reporting/samples.py: which predictions a reader is shown."""

from __future__ import annotations

from mt0_tpu.reporting.runs import load_runs
from mt0_tpu.reporting.samples import Question, Written, sample_questions, sample_written
from tests.report_folders import line, write_lines, write_run, write_study


def record(inputs: str, prediction: int, **changed) -> dict:
    return {
        "inputs": inputs,
        "choices": ["Yes", "No"],
        "answer": 1,
        "prediction": prediction,
        "prompt": "p",
    } | changed


def test_the_first_right_and_the_first_wrong_of_the_newest_step(tmp_path):
    study = write_study(tmp_path, {"pretrain": [(0.3, 0.3)], "multilingual": [(0.7, 0.6)]})
    for arm, picks in (("pretrain", (0, 0, 1)), ("multilingual", (1, 1, 0))):
        folder = study / "seed0" / arm / "eval" / "inference_eval"
        rows = [record(f"question {i}", pick) for i, pick in enumerate(picks)]
        write_lines(folder / "mini_eval_nli_eu-000030.jsonl", rows)
        (folder / "mini_eval_nli_eu-9.jsonl").write_text("an older step is not read\n")
    lead, questions = sample_questions(load_runs([str(study)]))
    assert lead == "multilingual"
    task, choices = "mini_eval_nli_eu", ("Yes", "No")
    assert questions == [
        Question(task, "p", "question 0", choices, 1, {"pretrain": 0, "multilingual": 1}),
        Question(task, "p", "question 2", choices, 1, {"pretrain": 1, "multilingual": 0}),
    ]


def test_another_question_of_another_run_is_not_compared(tmp_path):
    for name, inputs in (("a", "one"), ("b", "other")):
        run = write_run(tmp_path / name, [line()])
        rows = [record(inputs, 1), record("same", 1, choices=["Yes", "Nope" + name])]
        write_lines(run / "eval" / "inference_eval" / "mini_eval_nli_en-30.jsonl", rows)
    _, (question,) = sample_questions(load_runs([str(tmp_path)]))
    assert (question.inputs, question.picks) == ("other", {"b": 1})


def test_languages_of_several_scripts(tmp_path):
    lines, folder = [], tmp_path / "run"
    for cluster in ("nli", "completion", "other"):
        for language in ("ar", "en", "zh"):
            lines.append(line(cluster, language, seen_language=True))
            path = folder / "eval" / "inference_eval" / f"mini_eval_{cluster}_{language}-30.jsonl"
            write_lines(path, [record("q", 1)])
    _, questions = sample_questions(load_runs([str(write_run(folder, lines))]))
    assert [question.task[-2:] for question in questions] == ["en", "ar", "zh"]


def test_untrained_predictions_are_those_of_step_0(tmp_path):
    run = write_run(tmp_path / "run", [line(step=0), line(step=30)])
    folder = run / "eval" / "inference_eval"
    write_lines(folder / "mini_eval_nli_en-000000.jsonl", [record("q", 0)])
    write_lines(folder / "mini_eval_nli_en-000030.jsonl", [record("q", 1)])
    _, (question,) = sample_questions(load_runs([str(run)]))
    assert question.picks == {"untrained": 0, "run": 1}


def test_one_text_that_is_the_target_and_one_that_is_not(tmp_path):
    rows = [
        {"inputs": {"inputs_pretokenized": "a"}, "target": "x", "prediction": "y"},
        {"inputs": "b", "target": "x", "prediction": "z"},
        {"inputs": "c", "target": "x", "prediction": [" x", "other"]},
        {"no": "record of text"},
    ]
    folder = tmp_path / "run" / "inference_eval"
    write_lines(folder / "translate-000007.jsonl", rows)
    write_lines(folder / "scored-7.jsonl", [{"inputs": "a", "target": "b", "score": -1.25}])
    write_lines(folder / "translate-metrics.jsonl", [{"step": 7, "bleu": 1.0}])
    assert sample_written(load_runs([str(tmp_path / "run")])) == (
        [
            Written("scored", "a", "b", {"run": "log-probability -1.250"}),
            Written("translate", "c", "x", {"run": " x"}),
            Written("translate", "a", "x", {"run": "y"}),
        ],
        0,
    )
