"""Byte ranges of files: every line in exactly one, whatever the cut; what is no JSON lines."""

import gzip
import lzma
import zipfile

import pytest

from seqio_tasks import line_files
from seqio_tasks.line_files import Tally, find, lines, ranges

# No line end at the end, an empty line, a carriage return, a line of several bytes a character.
CONTENT = b'{"a": 1}\n\n{"b": "\xe0\xa4\x85"}\r\n{"c": 2}\n{"d": ""}'
LINES = [b'{"a": 1}', b"", b'{"b": "\xe0\xa4\x85"}', b'{"c": 2}', b'{"d": ""}']


def read(pieces, tally=None):
    return [line for piece in pieces for _, line in lines(piece, tally or Tally())]


@pytest.fixture
def file(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(CONTENT)
    return str(tmp_path / "a.jsonl")


@pytest.mark.parametrize("most", range(1, len(CONTENT) + 2))
def test_ranges_end_to_end_are_the_file(file, most):
    found = ranges(find([file], "train"), most)
    tally = Tally()
    assert read([piece for pieces in found for piece in pieces], tally) == LINES
    assert tally.num_bytes == len(CONTENT)
    assert max(sum(piece.num_bytes for piece in pieces) for pieces in found) <= most
    offsets = [begin for pieces in found for p in pieces for begin, _ in lines(p, Tally())]
    assert offsets == [0, 9, 10, 24, 33]


def test_small_files_share_a_range_and_compressed_ones_are_whole(tmp_path, file):
    with gzip.open(tmp_path / "b.jsonl.gz", "wb") as stream:
        stream.write(CONTENT * 100)
    with lzma.open(tmp_path / "c.jsonl.xz", "wb") as stream:
        stream.write(b"x\n")
    files = find([str(tmp_path / "*.jsonl*")], "train")
    assert [found.name for found in files] == ["a.jsonl", "b.jsonl.gz", "c.jsonl.xz"]
    ((piece_a, piece_b, piece_c),) = ranges(files)
    assert [p.end for p in (piece_a, piece_b, piece_c)] == [None] * 3
    assert len(ranges(files, 20)) == 3 + 2  # a in three, b and c alone
    tally = Tally()
    assert len(read([piece_b], tally)) == 100 * 4 + 1
    assert tally.num_bytes == files[1].size


def test_a_member_of_a_zip(tmp_path, file):
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.write(file, "inside/a.jsonl")
    (found,) = find([f"zip://inside/a.jsonl::{tmp_path / 'z.zip'}"], "train")
    assert (found.name, found.whole) == ("a.jsonl", True)
    assert read(ranges([found])[0]) == LINES
    with pytest.raises(ValueError, match="there is no such file"):
        find([f"zip://b.jsonl::{tmp_path / 'z.zip'}"], "train")


def test_remote_files_are_cut_alike(file):
    import fsspec

    with fsspec.open("memory://line_files/a.jsonl", "wb") as stream:
        stream.write(CONTENT)
    found = find(["memory://line_files/*.jsonl"], "train")
    cut = ranges(found, 7)
    assert len(cut) > 3
    assert read([piece for pieces in cut for piece in pieces]) == LINES
    with pytest.raises(ValueError, match="there is no such file"):
        find(["memory://line_files/b.jsonl"], "train")


@pytest.mark.parametrize(
    "content, kind",
    [
        (gzip.compress(CONTENT, mtime=0), "gzip data"),
        (b"PAR1\x15\x04", "a parquet file"),
        (b"PK\x03\x04....", "a zip archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a git-lfs pointer"),
    ],
)
@pytest.mark.parametrize("most", [None, 3])
def test_other_data_is_named(tmp_path, content, kind, most):
    (tmp_path / "x.jsonl").write_bytes(content)
    cut = ranges(find([str(tmp_path / "x.jsonl")], "train"), most)
    # The last range as well: which process meets it first is chance.
    for pieces in (cut[0], cut[-1]):
        with pytest.raises(ValueError, match=rf"x\.jsonl was given as JSON lines and is {kind}"):
            read(pieces)


def test_what_is_not_compressed_as_it_says(tmp_path):
    (tmp_path / "x.jsonl.gz").write_bytes(CONTENT)
    (tmp_path / "y.jsonl.gz").write_bytes(gzip.compress(CONTENT * 1000)[:-20])
    for name in ("x", "y"):
        (cut,) = ranges(find([str(tmp_path / f"{name}.jsonl.gz")], "train"))
        with pytest.raises(ValueError, match=rf"{name}\.jsonl\.gz cannot be decompressed as gzip"):
            read(cut)


def test_a_file_without_line_ends_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(line_files, "_LONGEST_BYTES", 1 << 20)
    (tmp_path / "x.jsonl").write_bytes(b"[" * (3 << 20))
    with pytest.raises(ValueError, match=r"a line of more than 1 MiB at byte 0"):
        read(ranges(find([str(tmp_path / "x.jsonl")], "train"))[0])


def test_a_byte_order_mark_is_no_part_of_a_line(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b"\xef\xbb\xbf" + CONTENT)
    assert read(ranges(find([str(tmp_path / "x.jsonl")], "train"))[0]) == LINES


def test_places_and_fingerprints(tmp_path, file):
    (found,) = find([file], "train")
    assert line_files.place(found, 24) == f"{file}, line 4"
    before = line_files.fingerprint([found])
    moved = tmp_path / "moved" / "a.jsonl"
    moved.parent.mkdir()
    moved.write_bytes(CONTENT)
    assert line_files.fingerprint(find([str(moved)], "train")) == before
    moved.write_bytes(CONTENT.replace(b"2", b"3"))
    assert line_files.fingerprint(find([str(moved)], "train")) != before
    # Of a large file parts are read, its ends among them.
    large = bytearray(b"x" * (3 << 20))
    moved.write_bytes(large)
    before = line_files.fingerprint(find([str(moved)], "train"))
    large[-1:] = b"y"
    moved.write_bytes(large)
    assert line_files.fingerprint(find([str(moved)], "train")) != before
