import json

import numpy as np
import pytest

from mt0_tpu.data import indexed
from mt0_tpu.data.indexed import IndexedDataset, IndexedWriter, best_dtype
from mt0_tpu.errors import UserError


def _write(prefix, sequences, dtype=np.int32):
    with IndexedWriter(prefix, dtype) as writer:
        for sequence in sequences:
            writer.add(np.array(sequence))
    return prefix


@pytest.mark.parametrize("in_files", [False, True])
@pytest.mark.parametrize("name", ["text_int32", "text_uint16_multi"])
def test_reads_and_writes_megatrons_bytes(golden, tmp_path, name, in_files, monkeypatch):
    if in_files:  # as with many sequences
        monkeypatch.setattr(indexed, "_SPOOL_BYTES", 1)
        monkeypatch.setattr(indexed, "_CHECK_BLOCK", 5)
    prefix = golden / "megatron" / name
    content = json.loads(prefix.with_suffix(".json").read_text())
    data = IndexedDataset(prefix)
    assert str(data.dtype) == content["dtype"]
    assert data.sizes_S.tolist() == content["sizes"]
    assert data.pointers_S.tolist() == content["pointers"]
    assert data.documents_D.tolist() == content["doc_idx"]
    assert [data[i].tolist() for i in range(len(data))] == content["sequences"]

    ends = set(content["doc_idx"][1:])
    with IndexedWriter(tmp_path / "own", content["dtype"]) as writer:
        for i, sequence in enumerate(content["sequences"]):
            writer.add(np.array(sequence), end_document=i + 1 in ends)
    with IndexedWriter(tmp_path / "appended", content["dtype"]) as writer:
        writer.append(tmp_path / "own")
    for written in ("own", "appended"):
        for end in (".bin", ".idx"):
            ours = (tmp_path / f"{written}{end}").read_bytes()
            assert ours == prefix.with_suffix(end).read_bytes()


def test_documents_read_back_whole(golden):
    data = IndexedDataset(golden / "megatron" / "text_uint16_multi")
    documents = [data.document(i) for i in range(data.num_documents)]
    assert len(documents) == 21
    flat = [sequence.tolist() for document in documents for sequence in document]
    assert flat == [data[i].tolist() for i in range(len(data))]


def test_empty_sequences_and_empty_sets(tmp_path):
    data = IndexedDataset(_write(tmp_path / "a", [[], [1], []]))
    assert [data[i].tolist() for i in range(3)] == [[], [1], []]
    assert len(IndexedDataset(_write(tmp_path / "b", []))) == 0


def test_token_type_by_vocabulary():
    assert best_dtype(259) == np.uint16
    assert best_dtype(65_500) == np.int32


def _damage(path, change):
    content = bytearray(path.read_bytes())
    path.write_bytes(change(content))


@pytest.mark.parametrize(
    "end, change, words",
    [
        ("idx", lambda b: b"NO" + b[2:], "no indexed data set"),
        ("idx", lambda b: b[:9] + b"\x02" + b[10:], "version 2, expected 1"),
        ("idx", lambda b: b[:17] + b"\x63" + b[18:], "dtype code 99"),
        ("idx", lambda b: b[:-5], "found .* expected"),
        ("idx", lambda b: b[:20], "truncated: found 20 bytes"),
        ("idx", lambda b: b[:34] + b"\x07" + b[35:], "disagree at sequence 1"),
        ("idx", lambda b: b[:-8] + b"\x01" + b[-7:], "document index"),
        ("bin", lambda b: b[:-4], "found 16 bytes, expected 20"),
    ],
)
def test_damage_names_file_found_and_expected(tmp_path, end, change, words):
    prefix = _write(tmp_path / "set", [[1, 2], [3, 4, 5]])
    path = tmp_path / f"set.{end}"
    _damage(path, change)
    with pytest.raises(UserError, match=words) as error:
        IndexedDataset(prefix)
    assert str(path) in str(error.value)


def test_missing_half(tmp_path):
    prefix = _write(tmp_path / "set", [[1]])
    (tmp_path / "set.bin").unlink()
    with pytest.raises(UserError, match="set.bin is missing"):
        IndexedDataset(prefix)


def test_nothing_half_written_stays_and_nothing_is_overwritten(tmp_path):
    with pytest.raises(RuntimeError), IndexedWriter(tmp_path / "set", np.uint16) as writer:
        writer.add(np.array([1, 2]))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    prefix = _write(tmp_path / "set", [[1]])
    with pytest.raises(UserError, match="exists already"):
        IndexedWriter(prefix, np.int32)
    with pytest.raises(UserError, match="cannot hold complex128"):
        IndexedWriter(tmp_path / "other", np.complex128)
