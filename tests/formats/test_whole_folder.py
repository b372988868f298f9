"""A folder appears whole, and only what a conversion wrote is replaced."""

import os

import pytest

from mt0_tpu.convert import convert
from mt0_tpu.errors import UserError
from mt0_tpu.formats import own_run, whole_folder

LEGACY = "t5_tiny/ckpt_legacy_float32/checkpoint_1000003"
KINDS = [("orbax", None), ("t5x", None), ("t5x", "orbax"), ("hf", None)]
OWN = whole_folder.entry_beside("mine", "part-*")


def test_it_appears_whole_and_replaces_only_when_told(tmp_path):
    there = tmp_path / "parent" / "there"
    for content in "ab":
        with whole_folder.appearing(there, content == "b", OWN) as folder:
            (folder / "mine").write_text(content)
            assert there.exists() == (content == "b")
    assert (there / "mine").read_text() == "b" and os.listdir(tmp_path / "parent") == ["there"]
    with pytest.raises(UserError, match="there exists; name another folder, or write --overwrite"):
        with whole_folder.appearing(there, False, OWN):
            raise AssertionError
    assert os.listdir(tmp_path / "parent") == ["there"]


def test_a_failure_keeps_the_old(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").write_text("old")
    with pytest.raises(KeyError):
        with whole_folder.appearing(tmp_path / "there", True, OWN) as folder:
            (folder / "mine").write_text("new")
            raise KeyError
    assert (tmp_path / "there" / "mine").read_text() == "old"
    assert os.listdir(tmp_path) == ["there"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_appears_there_meanwhile_is_not_replaced(tmp_path, overwrite):
    there = tmp_path / "there"
    if overwrite:
        there.mkdir()
    with pytest.raises(UserError, match="there exists|there holds thesis.txt"):
        with whole_folder.appearing(there, overwrite, OWN) as folder:
            (folder / "mine").write_text("new")
            there.mkdir(exist_ok=True)
            (there / "thesis.txt").write_text("years of work")
    assert os.listdir(tmp_path) == ["there"] and os.listdir(there) == ["thesis.txt"]


def test_what_is_not_ours_is_never_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "part-1").mkdir()
    (tmp_path / "there" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "there")
    for name, said in (
        ("there", "holds thesis.txt, which `mt0 convert` does not write there"),
        ("file", "is no folder that `mt0 convert` wrote"),
        ("link", "is no folder that `mt0 convert` wrote"),
    ):
        with pytest.raises(UserError, match=said):
            with whole_folder.appearing(tmp_path / name, True, OWN):
                raise AssertionError
    assert (tmp_path / "there" / "thesis.txt").read_text() == "years of work"
    assert sorted(os.listdir(tmp_path)) == ["file", "link", "there"]


def test_no_room_is_said_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match="GiB free and the checkpoint needs 1048576.0 GiB"):
        with whole_folder.appearing(tmp_path / "there", False, OWN, num_bytes=2**50):
            raise AssertionError
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("to, layout", KINDS)
def test_each_kind_replaces_its_own_and_nothing_else(golden, tmp_path, to, layout):
    def write():
        convert(
            str(golden / LEGACY), str(tmp_path / "there"), to, t5x_layout=layout, overwrite=True,
            say=lambda text: None,
        )  # fmt: skip

    write()
    write()
    written = sorted(os.listdir(tmp_path / "there"))
    (tmp_path / "there" / "notes").mkdir()
    with pytest.raises(UserError, match="there holds notes, which `mt0 convert` does not write"):
        write()
    assert sorted(os.listdir(tmp_path / "there")) == sorted([*written, "notes"])


@pytest.mark.parametrize("file", ["config.gin", "metrics.jsonl", "train/events"])
def test_a_run_is_not_overwritten(golden, tmp_path, file):
    there = tmp_path / "run"
    convert(str(golden / LEGACY), str(there), "orbax", say=lambda text: None)
    (there / file).parent.mkdir(exist_ok=True)
    (there / file).write_text("x")
    with pytest.raises(UserError, match=f"run holds {file.split('/')[0]}, which `mt0 convert`"):
        convert(str(golden / LEGACY), str(there), "orbax", overwrite=True)
    assert (there / file).read_text() == "x"


def test_checkpoints_of_a_run_are_not_overwritten(golden, tmp_path):
    there = tmp_path / "run"
    convert(str(golden / LEGACY), str(there), "orbax", say=lambda text: None)
    step = own_run.find(there)
    (step / "position" / "metadata").write_text('{"loader": {}}')
    with pytest.raises(UserError, match="run holds a run's place in its data"):
        convert(str(golden / LEGACY), str(there), "orbax", overwrite=True)
    (step.parent / "7").mkdir()
    with pytest.raises(UserError, match="run holds 2 checkpoints"):
        convert(str(golden / LEGACY), str(there), "orbax", overwrite=True)
    assert own_run.find(there) == step
