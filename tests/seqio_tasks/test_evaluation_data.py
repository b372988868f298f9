"""Where the evaluation's rows are found."""

import gzip
import os

import pytest

from seqio_tasks import evaluation_data, evaluation_tables
from tests.seqio_tasks.evaluation_folders import copa_row, write_rows

STORY_HEAD = ("InputStoryid,InputSentence1,InputSentence2,InputSentence3,InputSentence4,"
              "RandomFifthSentenceQuiz1,RandomFifthSentenceQuiz2,AnswerRightEnding\n")  # fmt: skip


def task(name):
    return evaluation_tables.tasks()[name]


def rows(name):
    return list(evaluation_data.rows_of(task(name)).rows())


def refused(match, name):
    with pytest.raises(ValueError, match=match) as caught:
        rows(name)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(name)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MT0_EVAL_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    "path",
    [
        "xcopa/sw/validation.jsonl",
        "cambridgeltl/xcopa/sw/validation.jsonl",
        "xcopa/sw/val.sw.jsonl",
        "xcopa/data/sw/val.sw.jsonl",
        "sw/val.sw.jsonl",
        "data/sw/val.sw.jsonl",
        "xcopa/sw/validation-00000-of-00001.jsonl",
    ],
)
def test_files_as_the_hub_or_the_release_calls_them(folder, path):
    write_rows(folder / path, 3)
    assert [row["idx"] for row in rows("eval_xcopa_sw")] == [0, 1, 2]
    assert evaluation_data.find(task("eval_xcopa_id")) is None


def test_other_releases(folder):
    write_rows(folder / "old" / "RTE" / "val.jsonl", [
        {"premise": "p", "hypothesis": "h", "label": "entailment", "idx": 0}])  # fmt: skip
    write_rows(folder / "anli_v1.0" / "R2" / "dev.jsonl", [
        {"uid": "a", "context": "p", "hypothesis": "h", "label": "c"}])  # fmt: skip
    (folder / "XNLI-1.0").mkdir()
    (folder / "XNLI-1.0" / "xnli.dev.tsv").write_text(
        'language\tgold_label\tsentence1\tsentence2\tpairID\n'
        'de\tneutral\tp\t"h\t1\nfr\tentailment\tq\ti\t1\n'
    )  # fmt: skip
    (folder / "cloze_test_val__spring2016 - cloze_test_ALL_val.csv").write_text(
        STORY_HEAD + '1,"a, b",c,d,e,f,g,2\n'
    )
    (folder / "spring2016.val.sw.tsv.split_20_80_eval.tsv").write_text(
        STORY_HEAD.replace(",", "\t") + "1\ta\tb\tc\td\te\tf\t1\n"
    )
    (row,) = rows("eval_super_glue_rte")
    assert row["label"] == 0
    assert rows("eval_anli_r2")[0]["label"] == 2
    assert [row["hypothesis"] for row in rows("eval_xnli_de")] == ['"h']
    assert rows("eval_story_cloze_2016")[0]["input_sentence_1"] == "a, b"
    assert rows("eval_xstory_cloze_sw")[0]["answer_right_ending"] == 1


def test_anlis_rounds_are_splits_on_the_hub(folder):
    row = {"uid": "a", "premise": "p", "hypothesis": "h", "label": 1}
    write_rows(folder / "anli" / "dev_r3.jsonl", [row])
    assert rows("eval_anli_r3") == [row]


def test_packed_files_and_shards(folder):
    both = [copa_row(0), copa_row(1)]
    for number, row in enumerate(both):
        path = folder / "xcopa" / "sw" / f"validation-0000{number}-of-00002.jsonl"
        packed = gzip.compress(write_rows(path, [row]).read_bytes())
        path.rename(path.with_name(path.name + ".gz")).write_bytes(packed)
    assert rows("eval_xcopa_sw") == both


def test_the_first_place_counts_and_a_list_is_one(folder, monkeypatch):
    write_rows(folder / "first" / "xcopa" / "sw" / "validation.jsonl", 1)
    write_rows(folder / "second" / "elsewhere.jsonl", 2)
    listed = folder / "second" / "mine.toml"
    listed.write_text(
        '[[data]]\ndataset = "xcopa"\nsubset = "sw"\nsplit = "validation"\n'
        'files = "elsewhere.jsonl"\n'
    )
    places = [str(folder / "first"), str(listed)]
    for order, number in ((places, 1), (places[::-1], 2)):
        monkeypatch.setenv("MT0_EVAL_DIR", os.pathsep.join(order))
        assert len(rows("eval_xcopa_sw")) == number


def test_by_default_a_folder_in_the_data_dir(tmp_path, monkeypatch):
    monkeypatch.delenv("MT0_EVAL_DIR", raising=False)
    monkeypatch.setenv("MT0_DATA_DIR", str(tmp_path))
    assert evaluation_data.find(task("eval_xcopa_sw")) is None  # no folder yet, no error
    write_rows(tmp_path / "evaluation" / "xcopa" / "sw" / "validation.jsonl", 2)
    assert len(rows("eval_xcopa_sw")) == 2
    monkeypatch.setenv("MT0_DATA_DIR", "gs://bucket/data")
    assert evaluation_data.places() == []


def test_two_files_of_one_split(folder):
    write_rows(folder / "xcopa" / "sw" / "validation.jsonl", 2)
    write_rows(folder / "xcopa" / "sw" / "validation.jsonl.gz", 2)
    refused("eval_xcopa_sw: 2 files could be its rows: .*MT0_EVAL_DIR", "eval_xcopa_sw")
    for below in ("a", "b"):
        write_rows(folder / below / "xcopa" / "id" / "validation.jsonl", 2)
    refused("2 files could be its rows", "eval_xcopa_id")


def test_rows_that_cannot_be_scored(folder):
    path = folder / "xcopa" / "sw" / "validation.jsonl"
    write_rows(path, [copa_row(0), copa_row(1), copa_row(0)])
    refused(f"{path}, row 3: its idx 0 is that of row 1 too; leave one out", "eval_xcopa_sw")
    write_rows(path, [copa_row(0), copa_row(1, label=-1)])
    refused(f"{path}, row 2: its label is -1", "eval_xcopa_sw")
    write_rows(path, [])
    refused(f"{path} has no row of 'sw'", "eval_xcopa_sw")


def test_a_place_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("MT0_EVAL_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="MT0_EVAL_DIR names .*nowhere, and there is no such"):
        evaluation_data.find(task("eval_xcopa_sw"))


class FakeDatasets:
    """The `datasets` library as far as it is used."""

    def __init__(self):
        self.asked = []

    def load_dataset(self, dataset, subset, split):
        self.asked.append((dataset, subset, split))
        if dataset != "anli":
            raise RuntimeError("no such data set")
        return [{"uid": str(n), "premise": "p", "hypothesis": "h", "label": n} for n in range(3)]


def test_what_lies_nowhere_comes_from_the_hub(folder, monkeypatch):
    from seqio_tasks import raw_rows

    library = FakeDatasets()
    monkeypatch.setattr(raw_rows, "_datasets", lambda: library)
    evaluation_data.rows_of(task("eval_anli_r1"))
    assert library.asked == []  # only when rows are read
    assert [row["label"] for row in rows("eval_anli_r1")] == [0, 1, 2]
    assert library.asked == [("anli", None, "dev_r1")]
    refused(
        f"eval_xcopa_sw: no file of xcopa/sw validation in {folder} .*and xcopa/sw validation "
        "cannot be had from the Hub", "eval_xcopa_sw",
    )  # fmt: skip


def test_the_fingerprint_follows_the_file(folder):
    path = write_rows(folder / "xcopa" / "sw" / "validation.jsonl", 2)
    split = evaluation_data.rows_of(task("eval_xcopa_sw"))
    before = split.fingerprint()
    assert [file.url for file in split.line_files()] == [str(path)]
    write_rows(path, 3)
    assert split.fingerprint() != before


def test_the_shared_folders_as_they_are(shared, monkeypatch):
    monkeypatch.setenv("MT0_EVAL_DIR", str(shared / "data"))
    found = [t for t in evaluation_tables.tasks().values() if t.prompt_language == "EN"]
    found = {t.name: rows(t.name) for t in found if evaluation_data.find(t)}
    assert len(found) == 14
    assert len(found["eval_super_glue_rte"]) == 277 and len(found["eval_super_glue_cb"]) == 56
    assert all(len(found[name]) == 100 for name in found if "copa" in name)
