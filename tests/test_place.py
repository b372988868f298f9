"""Paths of disks and of buckets."""

import importlib.util
import os
from pathlib import Path

import pytest

from mt0_tpu.errors import UserError
from mt0_tpu.place import absolute, is_address, is_bucket, place


def test_local_paths_are_pathlibs_and_addresses_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert place("run") == tmp_path / "run" and isinstance(place("run"), Path)
    assert absolute("run") == str(tmp_path / "run")
    assert absolute("gs://b/run") == "gs://b/run"
    assert [is_address(one) for one in ("run", "gs://b/run", "s3://b/run")] == [False, True, True]
    assert [is_bucket(one) for one in ("run", "gs://b/run", "s3://b/run")] == [False, True, False]


def test_a_bucket_has_pathlibs_methods(bucket):
    folder = place(f"{bucket}/team/run/")
    assert os.fspath(folder) == f"{bucket}/team/run" and not folder.exists()
    (folder / "a" / "b.txt").write_text("text")
    assert folder.is_dir() and [one.name for one in folder.iterdir()] == ["a"]
    # Seen at once, whoever wrote it.
    (folder / "a" / "c.txt").write_text("text")
    assert {one.name for one in (folder / "a").iterdir()} == {"b.txt", "c.txt"}


def test_a_library_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"gs://bucket/run needs gcsfs, .*mt0_tpu\[gcs\]"):
        place("gs://bucket/run")
