"""Rows of raw data from files of every kind, good and bad."""

import bz2
import gzip
import json
import sys
import types

import pyarrow
import pyarrow.parquet
import pytest

from seqio_tasks.raw_rows import RawSplit, find_local, hub_splits

ROWS = [{"a": "x", "n": 1}, {"a": "é 中", "n": 2}]


def rows(path, on_bad=None, **options):
    return list(RawSplit("d", None, "train", files=(str(path),), **options).rows(on_bad))


def test_json_lines_plain_and_compressed(tmp_path):
    text = "\n".join(json.dumps(row) for row in ROWS) + "\n\n"
    (tmp_path / "a.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "c.json.bz2").write_bytes(bz2.compress(text.encode()))
    for name in ("a.jsonl", "b.jsonl.gz", "c.json.bz2"):
        assert rows(tmp_path / name) == ROWS


def test_json_lists_and_nested_squad(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    assert rows(tmp_path / "a.json") == ROWS
    squad = {"data": [{"title": "T", "paragraphs": [{"context": "c", "qas": [
        {"id": "1", "question": "q", "answers": [{"text": "x", "answer_start": 4}]}
    ]}]}]}  # fmt: skip
    (tmp_path / "s.json").write_text(json.dumps(squad))
    assert rows(tmp_path / "s.json") == [
        {"id": "1", "title": "T", "context": "c", "question": "q",
         "answers": {"text": ["x"], "answer_start": [4]}}
    ]  # fmt: skip


def test_parquet(tmp_path):
    nested = [{"a": "x", "answers": {"text": ["y"]}}, {"a": None, "answers": {"text": []}}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(nested), tmp_path / "a.parquet")
    assert rows(tmp_path / "a.parquet") == nested


def test_tables_with_and_without_a_head(tmp_path):
    (tmp_path / "a.tsv").write_text('a\tn\nx "quoted\t1\ny\t2\n')
    assert rows(tmp_path / "a.tsv") == [{"a": 'x "quoted', "n": "1"}, {"a": "y", "n": "2"}]
    typed = {"columns": ("b", "m:int")}
    assert rows(tmp_path / "a.tsv", header=True, **typed)[0] == {"b": 'x "quoted', "m": 1}
    (tmp_path / "b.csv").write_text('"p, q",2\n')
    assert rows(tmp_path / "b.csv", **typed) == [{"b": "p, q", "m": 2}]


def test_lines_and_line_aligned_files(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    assert rows(tmp_path / "a.txt") == [{"text": "one"}, {"text": "two"}]
    (tmp_path / "x.en").write_text("one\ntwo\n")
    (tmp_path / "x.fr").write_text("un\ndeux\n")
    files = {"source": str(tmp_path / "x.en"), "target": str(tmp_path / "x.fr")}
    split = RawSplit("d", None, "train", files=files, constants={"pair": "en-fr"})
    assert list(split.rows())[1] == {"source": "two", "target": "deux", "pair": "en-fr"}
    (tmp_path / "x.fr").write_text("un\n")
    with pytest.raises(ValueError, match="ends before line 2"):
        list(split.rows())


def test_several_files_are_read_in_the_order_of_their_names(tmp_path):
    for name in "ba":
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"a": name}) + "\n")
    assert [row["a"] for row in rows(tmp_path / "*.jsonl")] == ["a", "b"]


def test_bad_rows_are_told_with_their_place_or_stop(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{broken\n[1]\n{"a": 2}\n')
    (tmp_path / "t.tsv").write_text("x\t1\ny\nz\tnot\n")
    told = []
    assert [row["a"] for row in rows(tmp_path / "a.jsonl", lambda *bad: told.append(bad))] == [1, 2]
    assert [where.rsplit("/")[-1] for where, _ in told] == ["a.jsonl, line 2", "a.jsonl, line 3"]
    told.clear()
    typed = {"columns": ("b", "m:int")}
    assert rows(tmp_path / "t.tsv", lambda *bad: told.append(bad), **typed) == [{"b": "x", "m": 1}]
    assert "1 cells where there are 2" in told[0][1] and "line 3" in told[1][0]
    with pytest.raises(ValueError, match="a.jsonl, line 2: not JSON"):
        rows(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    "content, what",
    [
        (gzip.compress(b"{}", mtime=0), "gzip"),
        (b"PAR1abc", "a parquet file"),
        (b"\xff\xfe{}", "utf-8"),
    ],
)
def test_what_a_file_is_not_is_said(tmp_path, content, what):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=what):
        rows(tmp_path / "a.jsonl")


def test_missing_files_and_unknown_endings(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        rows(tmp_path / "no.jsonl")
    (tmp_path / "a.xlsx").write_text("x")
    with pytest.raises(ValueError, match="'.xlsx'; write one of .jsonl"):
        rows(tmp_path / "a.xlsx")
    (tmp_path / "p.parquet").write_text("no")
    with pytest.raises(ValueError, match="no parquet file"):
        rows(tmp_path / "p.parquet")
    with pytest.raises(ValueError, match="Column 'n:date'"):
        RawSplit("d", None, "train", columns=("n:date",))


def test_the_fingerprint_follows_the_files_and_how_they_are_read(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("x\t1\n")
    split = RawSplit("d", None, "train", files=(str(path),), columns=("a", "b"))
    first = split.fingerprint()
    assert (
        first == RawSplit("d", None, "train", files=(str(path),), columns=("a", "b")).fingerprint()
    )
    assert (
        first != RawSplit("d", None, "train", files=(str(path),), columns=("b", "a")).fingerprint()
    )
    path.write_text("x\t1\ny\t2\n")
    assert first != split.fingerprint()


def test_a_folder_is_read_by_its_layout(tmp_path):
    for name in ("imdb/train.jsonl", "GEM/xlsum/hindi/test.jsonl.gz", "imdb/notes.md",
                 "xnli/sw/train-00000-of-00002.jsonl",
                 "xnli/sw/train-00001-of-00002.jsonl"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}\n")
    found = {split.name: len(split.files) for split in find_local(tmp_path, ("GEM/xlsum",))}
    assert found == {"imdb train": 1, "GEM/xlsum/hindi test": 1, "xnli/sw train": 2}
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no data"):
        find_local(tmp_path / "empty")
    with pytest.raises(ValueError, match="no folder"):
        find_local(tmp_path / "none")


def test_the_hub_needs_its_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"pip install .\[hf\]"):
        list(RawSplit("imdb", None, "train").rows())


def test_the_hubs_rows_and_splits_come_through_the_library(monkeypatch):
    asked = []
    library = types.ModuleType("datasets")
    library.load_dataset = lambda *a, **k: asked.append((a, k)) or ROWS
    library.get_dataset_split_names = lambda *a: ["train", "test"]
    monkeypatch.setitem(sys.modules, "datasets", library)
    assert list(RawSplit("xnli", "sw", "test").rows()) == ROWS
    # Nothing that would let the data set's own code run.
    assert asked == [(("xnli", "sw"), {"split": "test"})]
    assert hub_splits("xnli", "sw") == ["train", "test"]

    def scripted(*arguments, **options):
        raise RuntimeError("Dataset scripts are no longer supported, but found xnli.py")

    library.load_dataset = scripted
    with pytest.raises(ValueError, match="scripts are no longer supported.*download it as jsonl"):
        list(RawSplit("xnli", "sw", "test").rows())
