"""DATA_DIR from the job's configuration to the tasks' files, by way of the caching process."""

import json

import pytest

from mt0_tpu.data import cache, sources
from mt0_tpu.data.dataset_config import DatasetConfig
from mt0_tpu.errors import UserError
from tests.seqio_tasks.conftest import write_lines


@pytest.fixture
def job(tmp_path, monkeypatch):
    from seqio_tasks import vocabularies as seqio_tasks

    monkeypatch.setenv("MT0_VOCABULARY", str(seqio_tasks.MINI_PATH))
    monkeypatch.setenv("MT0_DATA_DIR", str(tmp_path / "not_here"))

    def make(name):
        return DatasetConfig(
            name,
            {"inputs": 32, "targets": 8},
            cache_dir=str(tmp_path / "cache"),
            data_dir=str(tmp_path / "data"),
        )

    return make


def test_a_language_of_files_is_cached_by_its_name(job, tmp_path):
    folder = tmp_path / "data" / "xp3mt" / "sw"
    write_lines(folder / "xp3_GEM_xlsum_swahili_train_tldr.jsonl", 30)
    write_lines(folder / "xp3_GEM_xlsum_swahili_validation_tldr.jsonl", 4)
    write_lines(folder / "xp3_paws-x_sw_train_same.jsonl", 10)
    config = job("xp3mt_sw")
    cache.ensure_cached(config, print, more_splits=["validation"])
    root = tmp_path / "cache"
    mixture = json.loads(sources.mixture_file(root, "xp3mt_sw").read_text())
    entries = {entry["name"]: entry for entry in mixture["tasks"]}
    assert {name: entry["splits"] for name, entry in entries.items()} == {
        "xp3mt_sw_GEM_xlsum_swahili_train_tldr": ["train"],
        "xp3mt_sw_GEM_xlsum_swahili_validation_tldr": ["validation"],
        "xp3mt_sw_paws_x_sw_train_same": ["train"],
    }
    # By size, counted in the cache.
    counts = {
        name: sources.read_info(sources.task_folder(root, name, entry["splits"][0]))["num_examples"]
        for name, entry in entries.items()
    }
    assert {name: entry["rate"] for name, entry in entries.items()} == counts
    assert list(counts.values()) == [30, 4, 10]


def test_data_that_is_not_there_is_one_sentence(job, tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(UserError, match="no folder 'xp3all' in .*mt0 tasks fetch xp3all"):
        cache.ensure_cached(job("xp3all_sw"), print)
