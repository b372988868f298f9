"""Which checkpoints of a run folder count, and which folders can be one."""

import pytest

from mt0_tpu import run_folder
from mt0_tpu.errors import UserError


def test_half_a_checkpoint_is_none(tmp_path):
    (tmp_path / "run/checkpoints/5/state").mkdir(parents=True)
    (tmp_path / "run/checkpoints/10.orbax-checkpoint-tmp").mkdir()
    assert run_folder.steps_of(tmp_path / "run") == [5]


def test_an_address_that_no_run_can_be_written_to_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="of addresses only gs://BUCKET/… can be written to"):
        run_folder.check_model_dir("s3://bucket/run", 1)
    assert not list(tmp_path.iterdir())  # pathlib would make a folder called s3:
