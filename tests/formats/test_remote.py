"""Checkpoints copied from a bucket or the Hub before they are read."""

import os
import subprocess
import sys

import fsspec
import huggingface_hub
import pytest

from mt0_tpu import cli
from mt0_tpu.errors import UserError
from mt0_tpu.formats import detect, remote
from tests.conftest import REPOSITORY

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
    said = r"could not be fetched \(OSError: the line is dead\); run the same command again"
    with pytest.raises(UserError, match=said):
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


@pytest.mark.parametrize("command", ["convert", "train"])
def test_a_bucket_without_its_library_names_the_extra(tmp_path, monkeypatch, capsys, command):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    address = "gs://t5-data/pretrained_models/t5x/mt5_small/checkpoint_1000000"
    arguments = [address, str(tmp_path / "out"), "--to=hf"]
    if command == "train":
        model_dir = f"--gin.MODEL_DIR='{tmp_path / 'out'}'"
        arguments = ["--gin_file=recipes/mt0_small.gin", model_dir]
    assert cli.main([command, *arguments]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith(f"mt0: error: {address} needs gcsfs, which is not")
    assert "`pip install mt0_tpu[gcs]`, or name a local folder" in said[-1]
    assert os.listdir(tmp_path) == []


def test_a_dry_run_shows_where_a_recipe_starts_and_fetches_nothing(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    recipe = ["--gin_file=recipes/mt0_xxl.gin", "--gin.MODEL_DIR='x'"]
    assert cli.main(["train", "--dry_run", *recipe]) == 0
    start = "gs://t5-data/pretrained_models/t5x/mt5_xxl/checkpoint_1000000"
    assert f"INITIAL_CHECKPOINT_PATH = '{start}'  # recipes/mt0_xxl" in capsys.readouterr().out


@pytest.mark.parametrize(
    "error, says",
    [
        ("RepositoryNotFoundError", "the Hub has no such name, or shows it only after `hf auth"),
        ("RevisionNotFoundError", "the Hub has no such revision of it; leave @REVISION out"),
        (None, r"the Hub cannot be asked \(OSError: the line is dead\); give a local folder"),
    ],
)
def test_what_the_hub_does_not_give(monkeypatch, error, says):
    def fails(*arguments, **more):
        if error is None:
            raise OSError("the line is dead\nand more")
        kind = getattr(huggingface_hub.errors, error)
        raise kind.__new__(kind)  # Made properly it wants the answer of a server.

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", fails)
    with pytest.raises(UserError, match=f"no checkpoint at google/mt5: .*{says}"):
        remote.bring("google/mt5")


def test_the_hub_offline(tmp_path):
    """In a process of its own: the library reads the variable when it is imported."""
    command = [sys.executable, "-m", "mt0_tpu", "convert", "google/mt5-small", "out", "--to=t5x"]
    paths = {"HF_HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    environment = os.environ | {"HF_HUB_OFFLINE": "1"} | paths
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "google/mt5-small: no such local folder, and HF_HUB_OFFLINE is set" in done.stderr


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
    assert {"config.json", "spiece.model", "tokenizer.json"} < set(asked["patterns"])


def test_the_hub_without_weights_is_said(monkeypatch):
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *a, **k: ["README.md"])
    with pytest.raises(UserError, match="google/mt5 on the Hub holds no weights"):
        remote.bring("google/mt5")


def test_what_would_be_written_elsewhere_is_not_fetched(monkeypatch, tmp_path):
    bucket = fsspec.filesystem("memory")
    listed = {"/bad/ck/../../evil": {"size": 3}}
    monkeypatch.setattr(type(bucket), "find", lambda self, root, **options: listed)
    with pytest.raises(UserError, match="evil would be copied to another folder"):
        remote.bring("memory://bad/ck")
    listed.clear()
    listed["/bad/ck/page.html"] = {"size": None}
    with pytest.raises(UserError, match="is a page of links and no bucket; write NAME/NAME"):
        remote.bring("memory://bad/ck")
