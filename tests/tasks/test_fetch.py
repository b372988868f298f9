import pytest

from mt0_tpu import cli
from mt0_tpu.errors import UserError
from mt0_tpu.tasks import fetch
from tests.seqio_tasks.conftest import FakeHub, fake_hub, family  # noqa: F401

MIB = 1 << 20


def said(capsys):
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def _hub(fake_hub):  # noqa: F811
    pass


def downloads(fake_hub):  # noqa: F811
    return [call[1] for call in fake_hub.calls if call[0] == "download"]


def test_a_language_lands_where_its_tasks_look(fake_hub, family, capsys):  # noqa: F811
    assert cli.main(["tasks", "fetch", "xp3_sw"]) == 0
    content = fake_hub.repositories["bigscience/xP3"]["sw/merged_sw.jsonl"]
    assert (family / "xp3" / "sw" / "merged_sw.jsonl").read_bytes() == content
    assert downloads(fake_hub) == ["sw/merged_sw.jsonl"]
    assert "1 files, 0 MiB; 1 files, 0 MiB are not yet" in said(capsys)
    assert cli.main(["tasks", "fetch", "xp3_sw"]) == 0
    assert downloads(fake_hub) == ["sw/merged_sw.jsonl"]  # nothing twice


def test_the_parts_of_collections(fake_hub, family):  # noqa: F811
    fetch.fetch(["xp3mt_yo", "xp3mt_sw_GEM_xlsum_swahili_train_tldr", "p3"])
    assert downloads(fake_hub) == [
        "yo/xp3_GEM_xlsum_yoruba_train_tldr.jsonl",
        "sw/xp3_GEM_xlsum_swahili_train_tldr.jsonl",
        "p31t0_train.zip",
        "p31t0_validation.jsonl",
    ]
    assert (family / "p3" / "p31t0_train.zip").is_file()
    fake_hub.calls.clear()
    fetch.fetch(["xp3mt_cluster_extractive_qa"])
    assert downloads(fake_hub) == ["sw/xp3_xquad_xquad.sw_train_ask.jsonl"]
    fetch.fetch(["xp3"])
    assert len(downloads(fake_hub)) == 1 + 46  # neither the card nor the loader script


def test_it_goes_on_where_it_broke_off(fake_hub, tmp_path, capsys):  # noqa: F811
    fake_hub.breaks_after = 2048
    with pytest.raises(UserError, match="run it again, what has arrived is kept"):
        fetch.fetch(["xp3_sw"], str(tmp_path / "new"))
    fake_hub.breaks_after = None
    fetch.fetch(["xp3_sw"], str(tmp_path / "new"))
    content = fake_hub.repositories["bigscience/xP3"]["sw/merged_sw.jsonl"]
    assert (tmp_path / "new" / "xp3" / "sw" / "merged_sw.jsonl").read_bytes() == content
    assert f"set MT0_DATA_DIR={tmp_path / 'new'}" in said(capsys)


def test_a_dry_run_fetches_nothing(fake_hub, family, capsys):  # noqa: F811
    assert cli.main(["tasks", "fetch", "xp3mt_sw", "--dry_run"]) == 0
    assert "2 files" in said(capsys) and not downloads(fake_hub)
    assert not list(family.iterdir())


def test_an_existing_folder_is_gone_on_with(fake_hub, family):  # noqa: F811
    (family / "xP3mt").mkdir()
    fetch.fetch(["xp3mt_yo"])
    assert (family / "xP3mt" / "yo").is_dir() and not (family / "xp3mt").exists()


def test_the_hubs_own_cache(fake_hub):  # noqa: F811
    fetch.fetch(["xp3_sw"], "hf://")
    assert (fake_hub.cache / "bigscience/xP3/sw/merged_sw.jsonl").is_file()


def test_refresh_lists_anew(fake_hub):  # noqa: F811
    fetch.fetch(["xp3mt_yo"])
    fake_hub.repositories["bigscience/xP3mt"]["yo/xp3_trec_None_train_x.jsonl"] = b"{}\n"
    fetch.fetch(["xp3mt_yo"])
    assert len(downloads(fake_hub)) == 1
    fetch.fetch(["xp3mt_yo"], refresh=True)
    assert downloads(fake_hub)[1:] == ["yo/xp3_trec_None_train_x.jsonl"]


def test_a_revision(fake_hub):  # noqa: F811
    fetch.fetch(["xp3_sw"], revision="v1")
    assert ("info", "bigscience/xP3", "v1") in fake_hub.calls
    with pytest.raises(UserError, match="each collection by itself"):
        fetch.fetch(["xp3_sw", "p3"], revision="v1")


@pytest.mark.parametrize(
    "names, match",
    [
        (["xp4"], "'xp4' is of no released collection.*Did you mean 'xp3'"),
        (["xp3_swa"], "no language of it begins so. Did you mean 'sw'"),
        (["xp3mt_zu"], "no folder of language 'zu'"),
        (["xp3mt_cluster_sentimental"], "Did you mean 'sentiment'"),
    ],
)
def test_names_that_are_wrong(names, match):
    with pytest.raises(UserError, match=match):
        fetch.fetch(names)


def test_a_remote_folder_and_a_small_disk(fake_hub, monkeypatch):  # noqa: F811
    with pytest.raises(UserError, match="gs://bucket/x, and files are fetched to a local disk"):
        fetch.fetch(["xp3_sw"], "gs://bucket/x")
    usage = type("Usage", (), {"free": 3 * MIB})
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="has 3 MiB left and 64 MiB are needed"):
        fetch.fetch(["xp3_sw"])
    assert not downloads(fake_hub)
