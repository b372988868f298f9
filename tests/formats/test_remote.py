"""Checkpoints copied from a bucket or the Hub before they are read."""

import fsspec
import huggingface_hub
import pytest

from mt0_tpu.errors import UserError
from mt0_tpu.formats import detect, remote

LEGACY = "t5_tiny/ckpt_legacy_float32/checkpoint_1000003"


@pytest.fixture(autouse=True)
def copies(tmp_path, monkeypatch):
    monkeypatch.setenv("MT0_CHECKPOINTS_DIR", str(tmp_path / "copies"))
    return tmp_path / "copies"


def test_what_is_local_stays(tmp_path):
    assert remote.bring(str(tmp_path)) == str(tmp_path)


def test_a_bucket_is_copied_once(golden, monkeypatch):
    bucket = fsspec.filesystem("memory")
    bucket.put(str(golden / LEGACY), "/bucket/mt5/checkpoint_1000003", recursive=True)
    said = []
    there = remote.bring("memory://bucket/mt5/checkpoint_1000003", said.append)
    weights = detect.open_any(there)
    assert (weights.kind, weights.step, len(weights.tensors())) == ("T5X", 1000003, 52)
    assert said[-1].startswith("fetching checkpoint_1000003: ")
    bucket.rm("/bucket", recursive=True)
    assert remote.bring("memory://bucket/mt5/checkpoint_1000003") == there


def test_half_a_copy_goes_on(golden, copies, monkeypatch):
    bucket = fsspec.filesystem("memory")
    bucket.put(str(golden / LEGACY), "/half/checkpoint_1000003", recursive=True)
    fetched, real = [], type(bucket).get_file

    def breaks(self, name, *arguments, **more):
        fetched.append(name)
        if len(fetched) == 10:
            raise OSError("the line is dead")
        return real(self, name, *arguments, **more)

    monkeypatch.setattr(type(bucket), "get_file", breaks)
    with pytest.raises(OSError):
        remote.bring("memory://half/checkpoint_1000003")
    assert not list(copies.glob("*/checkpoint_1000003"))
    there = remote.bring("memory://half/checkpoint_1000003")
    assert len(fetched) == 1 + len(bucket.find("/half"))
    assert len(detect.open_any(there).tensors()) == 52
    bucket.rm("/half", recursive=True)


@pytest.mark.parametrize("address", ["memory://nothing/here", "nosuch://bucket/x"])
def test_what_cannot_be_reached_is_said(address):
    with pytest.raises(UserError, match=address):
        remote.bring(address)


def test_the_hub_gives_one_form_of_the_weights(golden, monkeypatch, tmp_path):
    asked = {}
    files = ["config.json", "model.safetensors", "pytorch_model.bin", "tf_model.h5"]

    def snapshot(repository, revision=None, allow_patterns=None):
        asked.update(repository=repository, revision=revision, patterns=allow_patterns)
        return str(golden / "t5_tiny/hf")

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *a, **k: files)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    there = remote.bring("google/mt5-small@abc")
    assert detect.open_any(there).kind == "Hugging Face"
    assert (asked["repository"], asked["revision"]) == ("google/mt5-small", "abc")
    assert "*.safetensors" in asked["patterns"] and "pytorch_model*.bin" not in asked["patterns"]


def test_the_hub_without_weights_is_said(monkeypatch):
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *a, **k: ["README.md"])
    with pytest.raises(UserError, match="google/mt5 on the Hub holds no weights"):
        remote.bring("google/mt5")
