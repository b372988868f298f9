from pathlib import Path

import pytest

from mt0_tpu.data.dataset_config import DatasetConfig, remote_url
from mt0_tpu.errors import UserError

LENGTHS = {"inputs": 16, "targets": 8}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"task_feature_lengths": {"input": 16, "targets": 8}}, "Did you mean 'inputs'"),
        ({"task_feature_lengths": {"inputs": 16}}, "lacks 'targets'"),
        ({"task_feature_lengths": {"inputs": 1.5, "targets": 8}}, "is 1.5; it must be at least 2"),
        ({"task_feature_lengths": 512}, "task_feature_lengths is 512; write"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": True}, "batch_size is True"),
        ({"window_examples": -1}, "window_examples is -1"),
        ({"seed": "one"}, "seed is 'one'"),
        ({"overlong": "trimm"}, "write 'trim' or 'drop'. Did you mean 'trim'"),
        ({"mixture_or_task_name": ""}, "name a SeqIO task"),
        ({"data_dir": ""}, "data_dir is ''; name a folder"),
    ],
)
def test_bad_values_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        DatasetConfig(**{"mixture_or_task_name": "mix", "task_feature_lengths": LENGTHS} | changes)


def test_cache_folder(monkeypatch):
    assert DatasetConfig("mix", LENGTHS, cache_dir="~/x").cache_path == Path.home() / "x"
    monkeypatch.setenv("MT0_CACHE_DIR", "/somewhere")
    assert DatasetConfig("mix", LENGTHS).cache_path == Path("/somewhere")
    monkeypatch.delenv("MT0_CACHE_DIR")
    assert DatasetConfig("mix", LENGTHS).cache_path == Path.home() / ".cache" / "mt0_tpu"


def test_of_a_remote_folder_it_is_the_local_copy(monkeypatch):
    monkeypatch.setenv("MT0_LOCAL_CACHE_DIR", "/copies")
    config = DatasetConfig("mix", LENGTHS, cache_dir="gs://bucket/x/")
    assert config.cache_path.parent == Path("/copies")
    assert config.cache_path.name.startswith("x-")
    assert remote_url(config.cache_dir) == "gs://bucket/x"
    assert remote_url("/bucket/x") is None
    other = DatasetConfig("mix", LENGTHS, cache_dir="gs://other/x")
    assert other.cache_path != config.cache_path
    monkeypatch.setenv("MT0_CACHE_DIR", "gs://bucket/x")
    assert DatasetConfig("mix", LENGTHS).cache_path == config.cache_path
