"""mt0_tpu/report*.py: aggregates worked out by hand, verdicts, missing pieces, bad input."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mt0_tpu.errors import UserError
from mt0_tpu.report import terminal_summary, write_report
from mt0_tpu.report_plots import thinned
from mt0_tpu.report_runs import load_runs
from mt0_tpu.report_tables import (
    Column,
    Scores,
    cells_of,
    conclusion,
    judge,
    sampling_variance,
    score,
    verdicts,
)

SEEN = Column(("nli",), "seen", "NLI")
UNSEEN = Column(("nli",), "unseen", "NLI")
ALL = Column(("nli",), "all", "NLI")


def line(cluster="nli", language="en", prompt="p", accuracy=0.5, **changed) -> dict:
    """One line of rank.jsonl; a third is chance and 0.4 the majority's."""
    return {
        "task": f"mini_eval_{cluster}_{language}",
        "cluster": cluster,
        "language": language,
        "prompt": prompt,
        "num_examples": 100,
        "accuracy": accuracy,
        "chance": 1 / 3,
        "majority": 0.4,
        "held_out_cluster": cluster in ("nli", "completion"),
        "seen_language": language in ("en", "fr"),
        "step": 30,
    } | changed


def write_run(folder: Path, lines: list[dict] | None = None, metrics: list[dict] | None = None):
    """Makes a run folder with what is given."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("eval/rank.jsonl", lines), ("metrics.jsonl", metrics)):
        if rows is not None:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def curve_lines(steps=(10, 20, 30)) -> list[dict]:
    return [
        {
            "step": step,
            "split": "train",
            "metrics": {
                "loss_per_nonpadding_target_token": 10 / step,
                "accuracy": step / 100,
                "timing/target_tokens_per_second": 1000.0,
            },
        }
        for step in steps
    ]


def write_study(root: Path, scores: dict[str, list[tuple[float, float]]]) -> Path:
    """Makes a study: arm -> per seed (accuracy on the seen, on the unseen language)."""
    for arm, seeds in scores.items():
        for seed, (seen, unseen) in enumerate(seeds):
            lines = [
                line(cluster, language, f"p{i}", accuracy)
                for cluster in ("nli", "completion", "translation")
                for language, accuracy in (("fr", seen), ("eu", unseen))
                for i in range(2)
            ]
            write_run(root / f"seed{seed}" / arm, lines, curve_lines())
    return root


STUDY = {
    "pretrain": [(0.30, 0.30), (0.32, 0.32), (0.34, 0.34)],
    "english": [(0.50, 0.40), (0.52, 0.41), (0.51, 0.42)],
    "multilingual": [(0.70, 0.60), (0.72, 0.61), (0.71, 0.62)],
}


# ---- aggregation


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


def cells_of_dicts(lines: list[dict]):
    """cells_of lines as a file would hold them."""
    from mt0_tpu.report_runs import RankLine

    return cells_of(RankLine(**row) for row in lines)


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
    runs = load_runs([str(write_study(tmp_path, STUDY))])
    found = Scores(runs).over_seeds("multilingual", UNSEEN)
    assert found.mean == pytest.approx(0.61)
    assert found.deviation == pytest.approx(0.01)
    assert len(found.values) == 3


def test_only_the_newest_step_counts_and_a_repeated_line_its_last(tmp_path):
    lines = [
        line(accuracy=0.1, step=10),
        line(accuracy=0.2, step=20),
        line(accuracy=0.3, step=20),
    ]
    (run,) = load_runs([str(write_run(tmp_path / "a", lines))])
    assert [row.accuracy for row in run.rank] == [0.3]


# ---- verdicts


def test_judge_by_students_t_over_seeds():
    answer, mean, half = judge([(0.6, 0.5, 0.0), (0.7, 0.5, 0.0), (0.8, 0.5, 0.0)])
    # Differences 0.1 0.2 0.3: deviation 0.1, t(2 degrees, 97.5 %) = 4.302653, over sqrt 3.
    assert (answer, round(mean, 6), round(half, 6)) == ("within noise", 0.2, 0.248414)
    assert judge([(0.6, 0.2, 0.0), (0.7, 0.2, 0.0), (0.8, 0.2, 0.0)])[0] == "yes"
    assert judge([(0.2, 0.6, 0.0), (0.2, 0.7, 0.0), (0.2, 0.8, 0.0)])[0] == "no"


def test_judge_one_seed_by_the_number_of_questions():
    assert judge([(0.6, 0.5, 0.0025)]) == ("yes", pytest.approx(0.1), pytest.approx(0.098))
    assert judge([(0.59, 0.5, 0.0025)])[0] == "within noise"


@pytest.mark.parametrize(
    ("english", "word", "answer"),
    [
        ([(0.5, 0.40), (0.5, 0.41), (0.5, 0.42)], "beats", "yes"),
        ([(0.5, 0.80), (0.5, 0.81), (0.5, 0.82)], "falls behind", "no"),
        ([(0.5, 0.50), (0.5, 0.60), (0.5, 0.75)], "cannot be told from", "within noise"),
    ],
)
def test_verdict_sentences(tmp_path, english, word, answer):
    study = write_study(tmp_path, STUDY | {"english": english})
    answers, missing = verdicts(Scores(load_runs([str(study)])))
    assert answers[0].answer == answer
    assert answers[0].sentence.startswith(
        f"multilingual multitask {word} English-only multitask (unseen languages, held-out "
        "clusters): 61.0% against "
    )
    assert missing == ["scratch"]


def test_verdict_in_full(tmp_path):
    answers, _ = verdicts(Scores(load_runs([str(write_study(tmp_path, STUDY))])))
    assert answers[1].sentence == (
        "multilingual multitask beats pretrained only (all languages, held-out clusters): "
        "66.0% against 32.0%, +34.0 points."
    )
    # Differences 35, 34.5, 32.5: deviation 1.32, half width 3.29.
    assert answers[1].noise == (
        "3 seeds: +35.0, +34.5, +32.5; standard deviation 1.3; 95% interval +30.7 to +37.3."
    )
    assert conclusion(answers).endswith("shows here in full.")


def test_conclusion_is_honest_when_nothing_is_above_chance(tmp_path):
    flat = {arm: [(0.3, 0.3)] * 3 for arm in ("pretrain", "english", "multilingual")}
    answers, _ = verdicts(Scores(load_runs([str(write_study(tmp_path, flat))])))
    assert conclusion(answers).endswith("does not show here.")
    baseline = next(v for v in answers if "chance and majority" in v.sentence)
    assert baseline.answer == "no" and "against 40.0%" in baseline.sentence


def test_comparison_uses_only_what_both_arms_were_scored_on(tmp_path):
    write_study(tmp_path, {"pretrain": [(0.3, 0.3)], "multilingual": [(0.7, 0.6)]})
    extra = [line("nli", "eu", "p0", 0.6), line("nli", "xh", "p0", 1.0)]
    write_run(tmp_path / "seed0" / "multilingual", extra)
    scores = Scores(load_runs([str(tmp_path)]))
    (pair,) = scores.compare("multilingual", "pretrain", UNSEEN)
    assert pair[:2] == (pytest.approx(0.6), pytest.approx(0.3))
    assert scores.uneven()


# ---- the page


class Page(HTMLParser):
    """Checks that tags close in order, and collects the tags seen."""

    VOID = {"meta", "img", "br", "line", "rect", "circle"}

    def __init__(self, text: str):
        super().__init__()
        self.open, self.seen = [], set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def words(text: str) -> str:
    """A page's words without its tags."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text.split("</style>")[1]))


def test_study_report(tmp_path):
    study = write_study(tmp_path / "out", STUDY)
    index = Path(write_report([str(study)], str(study / "report")))
    assert index == study / "report" / "index.html"
    text = index.read_text("utf-8")
    Page(text)
    read = words(text)
    for expected in (
        "chance (untrained) 33.3 33.3 33.3 33.3 33.3 33.3",
        "majority answer 40.0 40.0",
        "multilingual multitask 71.0 &plusmn;1.0 61.0 &plusmn;1.0",
        "shows here in full",
        "Not answered here, for want of a scored arm: multilingual, no pretraining",
    ):
        assert expected in read
    assert "<b>71.0" in text and "<b>51.0" not in text
    for name in ("held_out", "trained", "curves"):
        assert (study / "report" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (study / "report" / f"{name}.svg").read_bytes().startswith(b"<?xml")
    # Self-contained: nothing is fetched.
    assert not re.search(r'src="(?!data:)|<link|@import', text)


def test_same_runs_give_the_same_bytes(tmp_path):
    study = write_study(tmp_path / "out", STUDY)
    once, again = tmp_path / "once", tmp_path / "again"
    write_report([str(study)], str(once))
    write_report([str(study)], str(again))
    write_report([str(study)], str(again))
    assert {p.name: p.read_bytes() for p in once.iterdir()} == {
        p.name: p.read_bytes() for p in again.iterdir()
    }


def test_data_is_escaped(tmp_path):
    evil = "<script>alert('&')</script>"
    run = write_run(tmp_path / "a<b> $x$", [line(evil, evil, evil, task="t"), line(evil, task="t")])
    (run / "config.gin").write_text(f"MIXTURE_OR_TASK_NAME = '{evil}'\n")
    samples = run / "eval" / "inference_eval"
    samples.mkdir()
    record = {"inputs": evil, "choices": [evil, "b"], "prediction": 0, "answer": 1, "scores": []}
    (samples / "t-30.jsonl").write_text(json.dumps(record))
    text = Path(write_report([str(run)], str(tmp_path / "report"))).read_text("utf-8")
    assert "script" not in Page(text).seen and "Some questions" in text
    assert "&lt;script&gt;alert(&#x27;&amp;&#x27;)&lt;/script&gt;" in text


def test_questions_show_what_each_arm_chose(tmp_path):
    study = write_study(tmp_path, {"pretrain": [(0.3, 0.3)], "multilingual": [(0.7, 0.6)]})
    for arm, pick in (("pretrain", 0), ("multilingual", 1)):
        folder = study / "seed0" / arm / "eval" / "inference_eval"
        folder.mkdir()
        record = {"inputs": "Is it?", "choices": ["Yes", "No"], "answer": 1, "prediction": pick}
        (folder / "mini_eval_nli_eu-30.jsonl").write_text(json.dumps(record) + "\n")
        (folder / "mini_eval_nli_eu-9.jsonl").write_text("an older step is not read\n")
    read = words(Path(write_report([str(study)], str(tmp_path / "r"))).read_text("utf-8"))
    assert "Is it? Yes &#9664; pretrained only No &#10003; &#9664; multilingual multitask" in read


# ---- what may be missing


def test_one_run_without_an_evaluation(tmp_path):
    run = write_run(tmp_path / "multilingual", metrics=curve_lines())
    text = Path(write_report([str(run)], str(tmp_path / "report"))).read_text("utf-8")
    Page(text)
    assert "No scores yet" in text and "Learning curves" in text and "By language" not in text
    assert terminal_summary([str(run)]).startswith("No scores yet")


def test_one_run_without_curves_held_out_clusters_or_unseen_languages(tmp_path):
    run = write_run(tmp_path / "mine", [line("translation", "en", "p", 0.6)])
    text = Path(write_report([str(run)], str(tmp_path / "report"))).read_text("utf-8")
    Page(text)
    assert "Learning curves" not in text and "Sensitivity" not in text
    assert "Mine beats the better of chance and majority" in text
    assert "One seed" in text


def test_an_evaluation_folder_alone_is_a_run(tmp_path):
    run = write_run(tmp_path / "multilingual", [line()])
    (loaded,) = load_runs([str(run / "eval"), str(run)])
    assert loaded.arm == "multilingual" and len(loaded.rank) == 1


def test_runs_found_once_by_study_seed_and_arm(tmp_path):
    study = write_study(tmp_path, STUDY)
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
    assert [run.arm for run in runs] == ["new/english", "old/english"]


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
    assert loaded.facts == {
        "parameters": "1,234,567",
        "TRAIN_STEPS": "30",
        "BATCH_SIZE": "8",
        "evaluated step": "30",
    }


def test_curves_survive_a_restart_a_torn_end_and_nan(tmp_path):
    run = write_run(tmp_path / "a", metrics=curve_lines((10, 20, 20)))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "split": "train", "metrics": {"accuracy": NaN}}\n')
        file.write('{"step": 40, "spl')
    (loaded,) = load_runs([str(run)])
    assert loaded.curves["train"]["accuracy"] == [(10, 0.1), (20, 0.2)]


def test_long_curves_are_averaged():
    points = [(step, float(step)) for step in range(600)]
    assert thinned(points)[:2] == [(0.5, 0.5), (2.5, 2.5)] and len(thinned(points)) == 300


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
    study = write_study(tmp_path / "out", STUDY)
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


def test_no_such_folder_suggests_the_near_one(tmp_path):
    (tmp_path / "study").mkdir()
    with pytest.raises(UserError, match="no folder .*stduy.*Did you mean 'study'"):
        load_runs([str(tmp_path / "stduy")])


def test_no_folders_and_remote_folders():
    with pytest.raises(UserError, match="no run folder"):
        load_runs([])
    with pytest.raises(UserError, match="local folders only, and gs://b/run is remote"):
        load_runs(["gs://b/run"])


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


def test_malformed_metrics_summary_and_samples(tmp_path):
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
    (run / "eval" / "summary.json").unlink()
    (run / "eval" / "inference_eval").mkdir()
    (run / "eval" / "inference_eval" / "mini_eval_nli_en-30.jsonl").write_text('{"inputs": "a"}\n')
    with pytest.raises(UserError, match=r"nli_en-30\.jsonl:1 should hold inputs, choices"):
        write_report([str(run)], str(tmp_path / "report"))


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
    # A report of ours is written anew.
    shutil.rmtree(site)
    write_report([str(run)], str(site))
    write_report([str(run)], str(site))
