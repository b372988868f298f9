"""Lines that wait for a disk are written when it is there again, whole and once."""

import json

import pytest

from mt0_tpu import progress
from mt0_tpu.line_file import LineFile
from tests.small_disk import fill, small_disk  # noqa: F401


def test_lines_are_added_to_what_is_there(tmp_path):
    path = tmp_path / "deep" / "lines"
    for line in ("one", "two"):
        file = LineFile(path)
        file.add(line)
        file.add("…")
        file.close()
    assert path.read_text() == "one\n…\ntwo\n…\n"


def test_a_file_that_was_deleted_is_made_anew(tmp_path):
    file = LineFile(tmp_path / "lines")
    file.add("one")
    (tmp_path / "lines").unlink()
    file.add("two")
    assert (tmp_path / "lines").read_text() == "two\n"


def test_a_full_disk_holds_whole_lines_and_lacks_none_afterwards(small_disk):  # noqa: F811
    path = small_disk / "lines"
    file = LineFile(path)
    file.add("before")
    filler = fill(small_disk, leave=4096)
    with pytest.raises(OSError, match="No space"):
        for number in range(10):
            file.add(f"{number} " + "x" * 3000)
    assert file.waiting
    with pytest.raises(OSError, match="No space"):
        file.add("later")
    # A crash now would leave whole lines, but for the one that was cut off last.
    filler.unlink()
    file.add("last")
    lines = path.read_text().splitlines()
    assert lines[0] == "before" and lines[-2:] == ["later", "last"]
    assert [line.split()[0] for line in lines[1:-2]] == [str(n) for n in range(len(lines) - 3)]


def test_metrics_of_a_full_disk_are_all_there_afterwards(small_disk):  # noqa: F811
    said = []
    writer = progress.MetricWriter(str(small_disk), 0, said.append)
    writer.write(1, "train", {"loss": 1.0}, "train")
    filler = fill(small_disk, leave=0)
    for step in range(2, 40):
        writer.write(step, "train", {"loss": 1.0 / step, "x" * 2000: 0.0}, "train")
    assert len(said) == 2 and all("cannot be written" in text for text in said)
    filler.unlink()
    writer.write(40, "train", {"loss": 0.0}, "train")
    writer.close()
    lines = (small_disk / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 41))
    assert len(said) == 4 and all("can be written again" in text for text in said[2:])
    assert sorted(set(scalar_steps(small_disk / "train"))) == list(range(1, 41))


def scalar_steps(folder) -> list[int]:
    """The steps of whole records with a scalar, in all event files of a folder."""
    import struct

    from tensorboardX.proto.event_pb2 import Event

    steps = []
    for file in sorted(folder.iterdir()):
        content, at = file.read_bytes(), 0
        while at + 12 <= len(content):
            (size,) = struct.unpack("<Q", content[at : at + 8])
            if at + 16 + size > len(content):
                break
            event = Event.FromString(content[at + 12 : at + 12 + size])
            steps += [event.step] if event.summary.value else []
            at += 16 + size
    return steps


def test_what_stays_lost_is_said(small_disk):  # noqa: F811
    said = []
    writer = progress.MetricWriter(str(small_disk), 0, said.append)
    fill(small_disk, leave=0)
    writer.write(1, "train", {"x" * 5000: 1.0}, "train")
    writer.close()
    assert said[-1].endswith("metrics.jsonl lacks its last 1 lines")
