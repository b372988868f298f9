"""mt0_tpu/reporting/config.py: settings as config.gin writes them."""

from __future__ import annotations

from mt0_tpu.reporting.config import RunConfig, differences, read_config


def test_macros_parameters_comments_and_long_values(tmp_path):
    path = tmp_path / "config.gin"
    path.write_text(
        "# mt0 train: the resolved config.\n"
        "BATCH_SIZE = 16  # recipes/mini.gin line 14\n"
        "NAME = 'a # b'  # the command line\n"
        "LENGTHS = {'inputs': 128,\n    'targets': 48}\n"
        "LONG = \\\n    'x'\n\n"
        "# Parameters of train.\n"
        "train/utils.DatasetConfig.split = 'train'\n"
        "train.model = %MODEL\n"
    )
    config = read_config(path)
    assert config.macros == {
        "BATCH_SIZE": "16",
        "NAME": "'a # b'",
        "LENGTHS": "{'inputs': 128, 'targets': 48}",
        "LONG": "'x'",
    }
    assert config.parameters == {
        "train/utils.DatasetConfig.split": "'train'",
        "train.model": "%MODEL",
    }


def test_no_file_and_no_settings(tmp_path):
    assert not read_config(tmp_path / "config.gin")
    (tmp_path / "config.gin").write_bytes(b"\xff\x00 nonsense = \n= 3\n\n")
    assert not read_config(tmp_path / "config.gin")


def test_differences_leave_folders_and_seeds_out():
    one = RunConfig(
        {"BATCH_SIZE": "16", "MODEL_DIR": "'a'"}, {"train.random_seed": "0", "x.y": "1"}
    )
    two = RunConfig({"BATCH_SIZE": "32", "MODEL_DIR": "'b'"}, {"train.random_seed": "1"})
    assert differences({"one": one, "two": two}) == {
        "BATCH_SIZE": {"one": "16", "two": "32"},
        "x.y": {"one": "1", "two": ""},
    }
    assert differences({"one": one, "again": one}) == {}
