"""The two data sources: same examples through Python and tf.data, checks, fingerprints."""

import gzip
import json

import pytest
import seqio

from seqio_tasks.sources import JsonlDataSource, PythonDataSource


def _rows(count):
    return lambda: ({"inputs": f"in {i}", "answer": i, "choices": ["a", "b"]} for i in range(count))


def _plain(dataset):
    return [
        {
            "inputs": example["inputs"].decode(),
            "answer": int(example["answer"]),
            "choices": [choice.decode() for choice in example["choices"]],
        }
        for example in dataset.as_numpy_iterator()
    ]


def test_python_source_gives_tf_data_the_same_examples():
    source = PythonDataSource({"train": _rows(7)})
    assert isinstance(source, seqio.DataSource)
    assert _plain(source.get_dataset("train")) == list(source.python_examples("train"))
    assert source.num_input_examples("train") == 7


def test_shards_are_disjoint_and_complete():
    source = PythonDataSource({"train": _rows(7)})
    shards = [list(source.python_examples("train", i, 3)) for i in range(3)]
    assert sorted(e["answer"] for shard in shards for e in shard) == list(range(7))
    by_tf = _plain(source.get_dataset("train", shard_info=seqio.ShardInfo(1, 3)))
    assert by_tf == shards[1]
    with pytest.raises(ValueError, match="Shard 3 of 3 does not exist"):
        source.python_examples("train", 3, 3)


def test_fingerprint_follows_the_examples():
    assert (
        PythonDataSource({"train": _rows(3)}).fingerprint()
        == PythonDataSource({"train": _rows(3)}).fingerprint()
        != PythonDataSource({"train": _rows(4)}).fingerprint()
    )
    assert PythonDataSource({"train": _rows(3)}, fingerprint=lambda: "x").fingerprint() == "x"


def test_unknown_split_and_empty_split_are_refused():
    source = PythonDataSource({"train": _rows(0)})
    with pytest.raises(ValueError, match="no split 'test'"):
        list(source.python_examples("test"))
    with pytest.raises(ValueError, match="has no examples"):
        source.get_dataset("train")
    with pytest.raises(ValueError, match="write {'train'"):
        PythonDataSource({"train": [1, 2]})


def test_jsonl_reads_plain_and_compressed_files(tmp_path):
    lines = [json.dumps({"inputs": f"अ{i}", "targets": "b", "extra": 1}) for i in range(4)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines[:2]) + "\n\n", encoding="utf-8")
    with gzip.open(tmp_path / "b.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(lines[2:]))
    source = JsonlDataSource({"train": str(tmp_path / "*.jsonl*")}, fields=("inputs", "targets"))
    assert [e["inputs"] for e in source.python_examples("train")] == [f"अ{i}" for i in range(4)]
    assert source.num_input_examples("train") == 4
    got = [e["inputs"].decode() for e in source.get_dataset("train").as_numpy_iterator()]
    assert got == [f"अ{i}" for i in range(4)]
    before = source.fingerprint()
    (tmp_path / "a.jsonl").write_text(lines[0], encoding="utf-8")
    assert source.fingerprint() != before


def test_jsonl_errors_say_where(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"inputs": "a"}\nnot json\n')
    source = JsonlDataSource({"train": str(path)})
    with pytest.raises(ValueError, match=r"bad\.jsonl, line 2: not JSON"):
        list(source.python_examples("train"))
    with pytest.raises(ValueError, match="field 'targets' is missing"):
        list(JsonlDataSource({"train": str(path)}, ["targets"]).python_examples("train"))
    with pytest.raises(ValueError, match="there is no such file"):
        list(JsonlDataSource({"train": str(tmp_path / "no.jsonl")}).python_examples("train"))
