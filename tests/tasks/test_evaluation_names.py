import pytest

from mt0_tpu.tasks.evaluation_names import BENCHMARK, EVALUATION, HELD_OUT, findings, grouped


def kinds(name="task", files=(), **facts):
    return [(f.kind, f.split) for f in findings(name, facts, files)]


@pytest.mark.parametrize(
    "facts, kind",
    [
        ({"dataset": "xcopa", "config": "id", "source_split": "validation"}, EVALUATION),
        ({"dataset": "xcopa", "config": "id", "source_split": "test"}, HELD_OUT),
        ({"dataset": "Muennighoff/xwinograd", "config": "en", "source_split": "test"}, EVALUATION),
        ({"dataset": "super_glue", "config": "copa", "source_split": "train"}, HELD_OUT),
        ({"dataset": "anli", "config": None, "source_split": "dev_r2"}, EVALUATION),
        ({"dataset": "hellaswag", "cluster": "sentence_completion"}, HELD_OUT),
        ({"dataset": "facebook/flores", "config": "a-b", "source_split": "devtest"}, BENCHMARK),
        ({"dataset": "mlqa", "config": "mlqa.ar.ar", "source_split": "test"}, BENCHMARK),
        ({"dataset": "glue", "config": "cola", "source_split": "validation"}, EVALUATION),
        ({"cluster": "nli"}, HELD_OUT),
        ({"dataset": "super_glue", "config": "boolq", "source_split": "train"}, None),
        ({"dataset": "glue", "config": "mrpc", "source_split": "train"}, None),
        ({"dataset": "commonsense_qa", "source_split": "train"}, None),
        ({"dataset": "imdb", "config": "None", "source_split": "unknown"}, None),
        ({"cluster": "translation", "language": "sw"}, None),
        ({}, None),
    ],
)
def test_what_facts_say(facts, kind):
    assert [k for k, _ in kinds(**facts)] == ([kind] if kind else [])


def test_an_unknown_split_of_an_evaluation_set_is_said_to_be_unknown():
    (finding,) = findings("t", {"dataset": "xnli", "config": "fr"})
    assert finding.kind == EVALUATION and "not known" in finding.why and finding.split == ""


@pytest.mark.parametrize(
    "file, expected",
    [
        ("xp3_facebook_flores_eng_Latn-twi_Latn_dev_in-eng_Latn-twi_Latn", (BENCHMARK, "dev")),
        ("xp3_xcopa_zh_validation_best_option", (EVALUATION, "validation")),
        ("xp3_GEM_xlsum_swahili_train_doc_to_summary", None),
        ("merged_sw", None),
        ("my_own_file", None),
    ],
)
def test_file_names_say_it_too(file, expected):
    found = kinds(files=[f"/data/xp3all/tw/{file}.jsonl.gz"])
    assert found == ([expected] if expected else [])


def test_merged_collections_are_known_by_language():
    swahili = findings("xp3_sw", {"collection": "xp3", "language": "sw"})
    assert [f.dataset for f in swahili] == ["facebook/flores", "xp3"]
    assert "issue 22" in swahili[0].why and "UNVERIFIED" in swahili[1].why
    # Modern Standard Arabic is not among the pairs.
    arabic = findings("xp3_ar", {"collection": "xp3", "language": "ar"})
    assert [f.dataset for f in arabic] == ["xp3"]
    assert findings("p3", {"collection": "p3", "language": "en"}) == []


def test_tasks_with_the_same_finding_are_one_line_worst_first():
    found = [
        *findings("b1", {"dataset": "facebook/flores", "source_split": "dev"}),
        *findings("a", {"dataset": "xcopa", "source_split": "validation"}),
        *findings("b2", {"dataset": "facebook/flores", "source_split": "dev"}),
    ]
    assert [(f.kind, tasks) for f, tasks in grouped(found)] == [
        (EVALUATION, ["a"]), (BENCHMARK, ["b1", "b2"]),
    ]  # fmt: skip
