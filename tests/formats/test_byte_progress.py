"""Lines of progress: every five seconds, never more often, with the time that is left."""

from mt0_tpu.formats import byte_progress


def test_a_line_every_five_seconds(monkeypatch):
    now, said = [100.0], []
    monkeypatch.setattr(byte_progress.time, "monotonic", lambda: now[0])
    progress = byte_progress.ByteProgress(8 * 2**30, said.append)
    for at in (102.0, 104.0, 106.0, 108.0, 112.0):
        now[0] = at
        progress.add(2**30)
    assert said == ["convert: 3.0 of 8.0 GiB, 10 s left", "convert: 5.0 of 8.0 GiB, 7 s left"]
