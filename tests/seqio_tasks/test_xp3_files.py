import zipfile

import fsspec
import pytest
import seqio
from huggingface_hub import errors

from seqio_tasks import xp3_files, xp3_tables, xp3_tasks
from seqio_tasks.xp3_files import Store


def collection(name="xp3"):
    return xp3_tables.collections()[name]


def examples(name):
    return list(seqio.TaskRegistry.get(name).source.python_examples("train"))


def tree_calls(fake_hub):
    return [call for call in fake_hub.calls if call[0] == "tree"]


def test_the_folder_may_be_named_as_the_repository(xp3_folder):
    assert xp3_files.find_store(collection()) == Store(str(xp3_folder))
    assert xp3_files.find_store(collection("xp3mt")) is None


def test_the_default_folder(monkeypatch):
    monkeypatch.delenv("MT0_DATA_DIR", raising=False)
    assert xp3_files.data_dir().endswith("/.cache/mt0_tpu/data")
    monkeypatch.setenv("MT0_DATA_DIR", "gs://bucket/family")
    assert xp3_files.data_dir() == "gs://bucket/family"


def test_a_near_miss_of_a_folder(family):
    (family / "xp3mtt").mkdir()
    with pytest.raises(ValueError, match="Did you mean 'xp3mtt'"):
        xp3_files.store(collection("xp3mt"))


def test_hidden_files_are_no_data_and_dead_links_are_an_error(xp3_folder):
    (xp3_folder / ".cache").mkdir()
    (xp3_folder / "sw" / ".gitattributes").touch()
    store = Store(str(xp3_folder))
    assert store.list().folders == ("code", "sw", "yo")
    assert list(store.list("sw").files) == ["merged_sw.jsonl"]
    assert store.list("zu").files == {}
    (xp3_folder / "sw" / "gone.jsonl").symlink_to(xp3_folder / "nowhere")
    with pytest.raises(ValueError, match="gone.jsonl is a link to nothing"):
        store.list("sw")


def test_a_remote_folder_is_listed_once(xp3mt_folder, monkeypatch):
    remote = fsspec.filesystem("memory")
    remote.put(str(xp3mt_folder), "/family/xp3mt", recursive=True)
    monkeypatch.setenv("MT0_DATA_DIR", "memory://family")
    try:
        xp3_tasks.ensure("xp3mt_yo")
        name = "xp3mt_yo_GEM_xlsum_yoruba_train_tldr_yomt"
        assert len(examples(name)) == 3
        asked = []
        listing = type(remote).ls
        monkeypatch.setattr(type(remote), "ls", lambda *a, **k: asked.append(a) or listing(*a, **k))
        store = Store("memory://family/xp3mt")
        assert name.removeprefix("xp3mt_yo_") + ".jsonl" in {
            file.removeprefix("xp3_") for file in store.list("yo").files
        }
        assert not asked  # it was kept
        remote.pipe("/family/xp3mt/yo/xp3_new_None_train_x.jsonl", b"{}")
        assert "xp3_new_None_train_x.jsonl" not in store.list("yo").files
        assert "xp3_new_None_train_x.jsonl" in store.list("yo", refresh=True).files
        assert asked and "xp3_new_None_train_x.jsonl" in store.list("yo").files
    finally:
        remote.rm("/family", recursive=True)


def test_a_folder_that_came_after_the_listing_is_found(xp3mt_folder, monkeypatch):
    remote = fsspec.filesystem("memory")
    remote.pipe("/late/other/file", b"x")
    monkeypatch.setenv("MT0_DATA_DIR", "memory://late")
    try:
        with pytest.raises(ValueError, match="no folder 'xp3mt' in memory://late"):
            xp3_tasks.ensure("xp3mt")
        remote.put(str(xp3mt_folder), "/late/xp3mt", recursive=True)
        xp3_tasks.ensure("xp3mt_yo")
    finally:
        remote.rm("/late", recursive=True)


def test_an_address_that_cannot_be_read(family, monkeypatch):
    monkeypatch.setenv("MT0_DATA_DIR", "nosuchprotocol://x")
    with pytest.raises(ValueError, match="MT0_DATA_DIR is nosuchprotocol://x"):
        xp3_tasks.ensure("xp3mt")


def test_the_hub_itself(fake_hub, monkeypatch):
    monkeypatch.setenv("MT0_DATA_DIR", "hf://")
    xp3_tasks.ensure("xp3_sw")
    assert not fake_hub.calls  # nothing is asked until it is read
    assert len(examples("xp3_sw")) in range(98, 101)
    assert ("download", "sw/merged_sw.jsonl", fake_hub.commit) in fake_hub.calls
    xp3_tasks.ensure("xp3mt_sw")
    assert len(seqio.MixtureRegistry.get("xp3mt_sw").tasks) == 2
    with pytest.raises(ValueError, match="the Hub's bigscience/xP3mt lacks the folders of 44"):
        xp3_tasks.ensure("xp3mt")


def test_the_hub_offline_after_it_was_read(fake_hub, monkeypatch):
    monkeypatch.setenv("MT0_DATA_DIR", "hf://")
    xp3_tasks.ensure("xp3mt_yo")
    name = "xp3mt_yo_GEM_xlsum_yoruba_train_tldr"
    before = examples(name)
    fake_hub.raises = errors.OfflineModeIsEnabled("offline")
    seqio.TaskRegistry.remove(name)
    monkeypatch.setattr(xp3_tasks, "_added", {})
    xp3_tasks.ensure(name)
    assert examples(name) == before
    with pytest.raises(ValueError, match="xP3mt/sw .*is not on this machine"):
        xp3_tasks.ensure("xp3mt_sw")


def test_a_pinned_revision(fake_hub, monkeypatch):
    monkeypatch.setenv("MT0_HUB_REVISIONS", "xp3=v1, xp3mt=v2")
    assert xp3_files.hub_store(collection()).revision == "v1"
    xp3_files.hub_store(collection("xp3mt")).list("sw")
    assert ("info", "bigscience/xP3mt", "v2") in fake_hub.calls
    assert xp3_files.hub_store(collection("p3")).revision is None
    # Another revision is another listing.
    xp3_files.hub_store(collection("xp3mt"), "v3").list("sw")
    assert len(tree_calls(fake_hub)) == 2
    monkeypatch.setenv("MT0_HUB_REVISIONS", "xp3")
    with pytest.raises(ValueError, match="COLLECTION=COMMIT"):
        xp3_files.hub_store(collection())


def test_members_of_a_remote_archive(p3_folder):
    remote = fsspec.filesystem("memory")
    remote.pipe("/p/p31t0_train.zip", (p3_folder / "p31t0_train.zip").read_bytes())
    try:
        assert xp3_files.zip_members("memory://p/p31t0_train.zip") == [
            "zip://p31t0/p31t0_train.jsonl::memory://p/p31t0_train.zip"
        ]
    finally:
        remote.rm("/p", recursive=True)


def test_archives_that_are_none(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match="a.zip is no whole zip archive"):
        xp3_files.zip_members(str(tmp_path / "a.zip"))
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("x.parquet", "")
    with pytest.raises(ValueError, match="holds no .jsonl file, but 1 others .x.parquet."):
        xp3_files.zip_members(str(tmp_path / "b.zip"))
