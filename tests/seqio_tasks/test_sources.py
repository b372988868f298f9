"""The two data sources: same examples through Python and tf.data, checks, fingerprints."""

import gzip
import json
import zlib

import pytest
import seqio

from seqio_tasks import line_files
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


FIELDS = ("inputs", "targets")
GOOD = b'{"inputs": "a", "targets": "b"}'
BAD = {
    b"not json": "not JSON",
    b'{"inputs": "a", "targets": "b"': "not JSON",
    b'["a", "b"]': "is not an object",
    b'"text"': "is not an object",
    b'{"inputs": "a"}': "field 'targets' is missing",
    b'{"inputs": "a", "targets": null}': "field 'targets' is None, no string",
    b'{"inputs": "a", "targets": 3}': "field 'targets' is 3, no string",
    b'{"inputs": "\xff", "targets": "b"}': "not UTF-8",
    b'{"inputs": "a", "targets": "\\ud83d"}': "half a surrogate pair",
}


@pytest.mark.parametrize("line", BAD, ids=repr)
def test_a_bad_line_stops_with_its_place(tmp_path, line):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(GOOD + b"\n\n" + line + b"\n" + GOOD)
    source = JsonlDataSource({"train": str(path)}, FIELDS)
    with pytest.raises(ValueError, match=rf"bad\.jsonl, line 3: .*{BAD[line]}.*MT0_BAD_LINES"):
        list(source.python_examples("train"))


def test_bad_lines_are_skipped_and_counted_on_demand(tmp_path, monkeypatch):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b"\n".join([GOOD, *BAD, b'{"inputs": " ", "targets": "b"}', GOOD]))
    source = JsonlDataSource({"train": str(path)}, FIELDS, bad_lines="skip")
    assert list(source.python_examples("train")) == [{"inputs": "a", "targets": "b"}] * 2
    tally = source.take_tally()
    assert (tally.bad, tally.empty, tally.num_bytes) == (len(BAD), 1, path.stat().st_size)
    file, offset, why = tally.first_bad[1]
    assert source.where("train", file.url, offset, why).startswith(f"{path}, line 3: not JSON")
    assert (source.take_tally().bad, len(tally.first_bad)) == (0, 3)
    assert source.num_input_examples("train") == 2 and source.tally.bad == 0
    # Empty texts are left out in either mode, as a user's variable may ask for the other.
    monkeypatch.setenv("MT0_BAD_LINES", "skip")
    from_environment = JsonlDataSource({"train": str(path)}, FIELDS)
    assert from_environment.fingerprint() == source.fingerprint()
    assert len(list(from_environment.python_examples("train"))) == 2
    with pytest.raises(ValueError, match="bad_lines is 'ignore'; write 'stop' or 'skip'"):
        JsonlDataSource({"train": str(path)}, bad_lines="ignore")


def test_through_tf_data_bad_lines_are_counted_once(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b"\n".join([b"no", GOOD, GOOD]))
    source = JsonlDataSource({"train": str(path)}, FIELDS, bad_lines="skip")
    assert len(list(source.get_dataset("train", shuffle=False))) == 2
    assert source.take_tally().bad == 1


def test_mixed_fields_are_refused_unless_some_are_named(tmp_path):
    path = tmp_path / "mixed.jsonl"
    path.write_text('{"a": "1", "b": 2}\n{"b": 3, "a": "1"}\n{"a": "1", "c": 2}\n')
    with pytest.raises(ValueError, match=r"line 3: its fields are \['a', 'c'\], the first line's"):
        list(JsonlDataSource({"train": str(path)}).python_examples("train"))
    skipping = JsonlDataSource({"train": str(path)}, bad_lines="skip")
    assert len(list(skipping.python_examples("train"))) == 2
    assert len(list(JsonlDataSource({"train": str(path)}, ["a"]).python_examples("train"))) == 3


def test_paths_may_be_found_late(tmp_path):
    path = tmp_path / "later.jsonl"
    source = JsonlDataSource({"train": lambda: [str(path)]}, FIELDS)
    path.write_bytes(GOOD)
    assert len(list(source.python_examples("train"))) == 1
    with pytest.raises(ValueError, match="there is no such file"):
        list(JsonlDataSource({"train": str(tmp_path / "no.jsonl")}).python_examples("train"))


def _numbered(path, count):
    lines = [json.dumps({"inputs": f"é{i}", "targets": f"{i}"}) for i in range(count)]
    path.write_text("\n".join([*lines, lines[7]]), encoding="utf-8")
    return lines


def test_validation_is_held_out_by_the_line_itself(tmp_path, monkeypatch):
    lines = _numbered(tmp_path / "a.jsonl", 400)
    paths = {"train": str(tmp_path / "a.jsonl")}
    source = JsonlDataSource(paths, FIELDS, validation_one_in=5)
    assert source.splits == ("train", "validation")
    held = [e["targets"] for e in source.python_examples("validation")]
    kept = [e["targets"] for e in source.python_examples("train")]
    assert held == [t for t in [*map(str, range(400)), "7"]
                    if zlib.crc32(lines[int(t)].encode()) % 5 == 0]  # fmt: skip
    assert sorted(held + kept) == sorted([*map(str, range(400)), "7"])
    assert not set(held) & set(kept) and 40 < len(held) < 120
    # However the file is cut.
    monkeypatch.setattr(line_files, "RANGE_BYTES", 1000)
    count = len(source.ranges("validation"))
    assert count > 10
    examples = [e for i in range(count) for e in source.range_examples("validation", i)]
    assert [e["targets"] for e in examples] == held
    assert source.fingerprint() != JsonlDataSource(paths, FIELDS).fingerprint()
    for wrong in ({"validation_one_in": 1}, {"validation_one_in": 2.5}):
        with pytest.raises(ValueError, match="write a whole number from 2 on"):
            JsonlDataSource(paths, FIELDS, **wrong)
    with pytest.raises(ValueError, match="name 'train' alone"):
        JsonlDataSource({**paths, "validation": "b"}, validation_one_in=5)


@pytest.mark.parametrize("hosts", [2, 1000])
def test_hosts_of_stock_t5x_share_a_file(tmp_path, monkeypatch, hosts):
    _numbered(tmp_path / "a.jsonl", 100)
    monkeypatch.setattr(line_files, "RANGE_BYTES", 200)
    source = JsonlDataSource({"train": str(tmp_path / "a.jsonl")}, FIELDS)
    assert 2 < len(source.list_shards("train")) < 1000
    assert source.num_input_bytes("train") == (tmp_path / "a.jsonl").stat().st_size
    read = [
        example["targets"].decode()
        for host in range(0, hosts, 1 if hosts < 10 else 50)
        for example in source.get_dataset(
            "train", shuffle=False, shard_info=seqio.ShardInfo(host, hosts)
        ).as_numpy_iterator()
    ]
    expected = [*map(str, range(100)), "7"]
    if hosts < 10:
        assert sorted(read) == sorted(expected)
    else:
        assert read == expected[::50]
