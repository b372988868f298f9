"""Scores of data sets out of lines of rank.jsonl, and published ones beside them."""

import statistics

import pytest

from mt0_tpu import rank_results, reference_scores


def line(task, language, prompt, accuracy, dataset="xcopa", seen=True, **fields):
    return {
        "task": task, "cluster": "c", "language": language, "prompt": prompt, "dataset": dataset,
        "prompt_language": "EN", "accuracy": accuracy, "chance": 0.5, "majority": 0.6,
        "held_out_cluster": True, "seen_language": seen, **fields,
    }  # fmt: skip


def copa(language, accuracies, seen=True, **fields):
    task = f"eval_xcopa_{language}"
    return [
        line(task, language, str(n), accuracy, seen=seen, **fields)
        for n, accuracy in enumerate(accuracies)
    ]


LINES = [
    *copa("sw", (0.1, 0.9, 0.4)),
    *copa("id", (0.6, 0.8)),
    *copa("et", (0.3,), seen=False),
    *[line(f"eval_anli_r{n}", "en", "p", accuracy, "anli", chance=1 / 3)
      for n, accuracy in enumerate((0.3, 0.4, 0.5), start=1)],
]  # fmt: skip


def by_place(lines):
    return {(s["dataset"], s["languages"]): s for s in rank_results.dataset_scores(lines)}


def test_median_over_prompts_then_mean_over_languages():
    scores = by_place(LINES)
    assert list(scores) == [
        ("anli", "L1"), ("anli", "all"), ("xcopa", "L1"), ("xcopa", "L2"), ("xcopa", "all"),
    ]  # fmt: skip
    seen = scores["xcopa", "L1"]
    assert seen["median"] == pytest.approx((0.4 + 0.7) / 2)
    assert seen["mean"] == pytest.approx((1.4 / 3 + 0.7) / 2)
    assert seen["max"] == pytest.approx((0.9 + 0.8) / 2)
    assert (seen["num_languages"], seen["chance"], seen["majority"]) == (2, 0.5, 0.6)
    assert seen["tasks"] == ["eval_xcopa_id", "eval_xcopa_sw"]
    assert scores["xcopa", "all"]["median"] == pytest.approx((0.4 + 0.7 + 0.3) / 3)
    # ANLI's rounds are one language and three tasks.
    rounds = scores["anli", "L1"]
    assert (rounds["num_languages"], rounds["median"]) == (1, pytest.approx(0.4))


def test_translated_prompts_are_apart():
    lines = [*copa("sw", (0.5,)), *copa("sw", (0.7,), prompt_language="MT")]
    scores = rank_results.dataset_scores(lines)
    assert [(s["prompt_language"], s["median"]) for s in scores if s["languages"] == "all"] == [
        ("EN", 0.5), ("MT", 0.7),
    ]  # fmt: skip


def test_lines_that_name_no_data_set_go_by_their_cluster():
    lines = copa("sw", (0.5,))
    del lines[0]["dataset"], lines[0]["prompt_language"]
    assert by_place(lines)["c", "all"]["prompt_language"] == ""


def test_published_scores_are_of_the_languages_scored():
    text = rank_results.dataset_table(rank_results.dataset_scores(LINES), own="mT0-300M")
    rows = {row.split()[0] + " " + row.split()[1]: row.split() for row in text.splitlines()[1:]}
    values = [
        score.value
        for score in reference_scores.reference_scores("xcopa", model="mT0-13B")
        if score.metric == reference_scores.MEDIAN and score.task in ("eval_xcopa_sw",
                                                                      "eval_xcopa_id")
    ]  # fmt: skip
    head = text.splitlines()[0].split()
    assert head == [
        "data", "set", "median", "mean", "max", "chance", "majority", "mT0-300M", "mT0-1.2B",
        "mT0-13B", "BLOOMZ-7.1B",
    ]  # fmt: skip
    # The name has two blanks in it: 'xcopa L1 (2)'.
    seen = dict(zip(head[2:], rows["xcopa L1"][3:], strict=True))
    assert seen["median"] == "55.0" and seen["chance"] == "50.0"
    assert seen["mT0-13B"] == f"{statistics.fmean(values):.1f}"
    assert "xcopa L2" in rows and not any("all" in key.split() for key in rows)


def test_an_untrained_network_beside():
    scores = rank_results.dataset_scores(copa("sw", (0.5,)))
    untrained = rank_results.dataset_scores(copa("sw", (0.25,)))
    text = rank_results.dataset_table(scores, untrained=untrained, models=())
    assert text.splitlines()[0].split()[-1] == "untrained"
    assert text.splitlines()[1].split()[-1] == "25.0"
    # Of other languages there is nothing to compare with.
    other = rank_results.dataset_scores(copa("id", (0.25,)))
    text = rank_results.dataset_table(scores, untrained=other, models=())
    assert text.splitlines()[1].split()[-1] == "-"


def test_no_table_without_a_data_set_of_the_paper():
    mine = [line("mini_eval_nli_sw", "sw", "p", 0.5, "nli")]
    assert rank_results.dataset_table(rank_results.dataset_scores(mine)) == ""
