"""Saves on disks that are full, slow, read-only or swept clean: nothing good is lost."""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mt0_tpu import checkpoint_saving, checkpoints, partitioning, run_folder
from mt0_tpu.checkpoint_saving import Saver, storage_fault
from mt0_tpu.checkpoints import CheckpointConfig, Checkpointer
from mt0_tpu.errors import UserError
from mt0_tpu.train_state import TrainState
from tests import tiny_run
from tests.conftest import REPOSITORY
from tests.small_disk import fill, mount, small_disk  # noqa: F401


def state_at(step: int) -> TrainState:
    """About 1 MiB that does not compress."""
    drawn = jax.random.normal(jax.random.key(step), (2, 64, 1024), jnp.float32)
    return TrainState(jnp.int32(step), {"w": drawn[0]}, {"m": drawn[1]})


def saved(folder, step: int) -> bool:
    """Whether the checkpoint of a step is there, whole and right to the bit."""
    wanted = state_at(step)
    reader = Checkpointer(str(folder), CheckpointConfig(keep_last=None), read_only=True)
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), wanted
    )
    state, position = reader.restore(step, abstract)
    reader.close()
    jax.tree.map(np.testing.assert_array_equal, state, wanted)
    return position == {"at": step}


class Run:
    """Steps of a run that does nothing but save."""

    def __init__(self, folder, **config):
        self.folder, self.said = folder, []
        self.checkpointer = Checkpointer(str(folder), CheckpointConfig(**config), say=self.hear)

    def hear(self, text):
        self.said.append(text)

    def save(self, step, last=False):
        """Saves, and waits until it is known how that went."""
        self.checkpointer.save(state_at(step), {"at": step}, last=last)
        running = self.checkpointer._saver._running
        if running is not None:
            running.join()
        self.checkpointer.poll()
        return run_folder.steps_of(self.folder)


@pytest.mark.parametrize("keep_last", [1, 2])
def test_a_full_disk_costs_a_save_and_no_checkpoint(small_disk, keep_last):  # noqa: F811
    run = Run(small_disk / "run", keep_last=keep_last)
    run.save(1)
    good = run.save(2)
    assert good == [1, 2][-keep_last:]
    filler = fill(small_disk, leave=400 << 10)
    for step in (3, 4):
        assert run.save(step) == good
        assert f"step {step} could not be saved" in run.said[-1]
        assert "the last good one is step 2" in run.said[-1]
        assert saved(small_disk / "run", 2)
    filler.unlink()
    assert run.save(5) == [2, 5][-keep_last:]
    assert run.said[-1].startswith("step 5 is saved") and len(run.said) == 3
    run.checkpointer.close()
    assert saved(small_disk / "run", 5)
    # What the failed saves had begun is gone.
    assert not [p for p in (small_disk / "run" / "checkpoints").iterdir() if "tmp" in p.name]


def test_too_many_failed_saves_in_a_row_end_the_run(small_disk):  # noqa: F811
    run = Run(small_disk / "run", max_failed_saves=1)
    run.save(1)
    fill(small_disk, leave=400 << 10)
    run.save(2)
    run.save(3)
    with pytest.raises(UserError, match="2 saves in a row failed.*the last good one is step 1"):
        run.save(4)
    assert saved(small_disk / "run", 1)


def test_the_last_save_is_tried_again_and_must_not_fail(small_disk, monkeypatch):  # noqa: F811
    run = Run(small_disk / "run")
    run.save(1)
    filler = fill(small_disk, leave=400 << 10)
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            filler.unlink()

    monkeypatch.setattr(checkpoint_saving.time, "sleep", sleep)
    assert run.save(2, last=True) == [1, 2]
    assert waits == [0.0, 1.0, 5.0] and saved(small_disk / "run", 2)
    fill(small_disk, leave=400 << 10)
    with pytest.raises(UserError, match="could not be written.*the last good one is step 2"):
        run.save(3, last=True)
    with pytest.raises(UserError, match="could not be written"):
        run.checkpointer.close()
    assert saved(small_disk / "run", 2)


def test_a_read_only_disk(small_disk):  # noqa: F811
    run = Run(small_disk / "run", keep_last=1)
    run.save(1)
    mount(small_disk, "remount,ro")
    assert run.save(2) == [1]
    assert "Read-only file system" in run.said[-1]
    assert run.save(3) == [1]
    mount(small_disk, "remount,rw")
    assert run.save(4) == [4] and saved(small_disk / "run", 4)


def test_the_folder_is_deleted_under_us(tmp_path):
    run = Run(tmp_path / "run", keep_last=2)
    run.save(1)
    run.save(2)
    shutil.rmtree(tmp_path / "run")
    run.save(3)
    run.save(4)
    # At the latest the save after next finds a folder again.
    assert run_folder.steps_of(tmp_path / "run")[-1] == 4 and saved(tmp_path / "run", 4)
    assert len(run.said) <= 2


@pytest.mark.parametrize("deleted", [[1], [2], [1, 2]], ids=str)
def test_checkpoints_are_deleted_under_us(tmp_path, deleted):
    run = Run(tmp_path / "run", keep_last=2)
    run.save(1)
    run.save(2)
    for step in deleted:
        shutil.rmtree(tmp_path / "run" / "checkpoints" / str(step))
    for step in (3, 4, 5):
        assert run.save(step)[-1] == step
        assert saved(tmp_path / "run", step)
    run.checkpointer.close()
    assert run_folder.steps_of(tmp_path / "run") == [4, 5]


@pytest.mark.parametrize("lost", ["state/_METADATA", "state"])
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(tmp_path, lost):
    run = Run(tmp_path / "run", keep_last=3)
    for step in (1, 2, 3):
        run.save(step)
    run.checkpointer.close()
    folder = tmp_path / "run" / "checkpoints" / "3"
    shutil.rmtree(folder / lost) if (folder / lost).is_dir() else (folder / lost).unlink()
    said = []
    run_folder.set_aside_damaged(str(tmp_path / "run"), said.append)
    assert run_folder.steps_of(tmp_path / "run") == [1, 2] and len(said) == 1
    assert "lacks state/_METADATA" in said[0]
    # What is left of it stays, and is not in the way of the same step.
    assert list(folder.parent.glob("3.damaged-*"))
    again = Run(tmp_path / "run", keep_last=3)
    assert again.save(3) == [1, 2, 3] and saved(tmp_path / "run", 3)
    run_folder.set_aside_damaged(str(tmp_path / "run"), said.append)
    assert len(said) == 1


def test_a_kill_while_an_old_checkpoint_is_deleted_leaves_no_half_one(tmp_path, monkeypatch):
    run = Run(tmp_path / "run", keep_last=1)
    run.save(1)
    monkeypatch.setattr(checkpoint_saving.shutil, "rmtree", lambda *path, **how: None)
    assert run.save(2) == [2]
    # Before its first file goes, it has lost its name.
    given_up = tmp_path / "run" / "checkpoints" / checkpoint_saving.DELETING / "1"
    assert (given_up / "state" / "manifest.ocdbt").exists()
    monkeypatch.undo()
    again = Run(tmp_path / "run", keep_last=1)
    assert not given_up.exists() and run_folder.steps_of(tmp_path / "run") == [2]
    assert again.save(3) == [3] and saved(tmp_path / "run", 3)
    assert not list(given_up.parent.iterdir())


def test_a_save_is_whole_though_an_old_checkpoint_cannot_be_deleted(tmp_path, monkeypatch):
    run = Run(tmp_path / "run", keep_last=1)
    run.save(1)

    def refused(folder):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(checkpoint_saving, "delete_given_up", refused)
    assert run.save(2) == [2] and saved(tmp_path / "run", 2)
    assert run.said == []
    run.checkpointer.close()


def test_permission_that_is_lost(small_disk):  # noqa: F811
    """Root ignores permissions, so a process without its rights saves."""
    if os.getuid() != 0:
        pytest.skip("run as root: permission is taken away from another user")
    for place in (REPOSITORY, Path(sys.prefix), Path(sys.base_prefix)):
        if any(one.stat().st_mode & 0o5 != 0o5 for one in (place, *place.parents)):
            pytest.skip(f"only root may read {place}: no other user can save")
    code = (
        "import os, pathlib, sys; from tests.test_checkpoint_saving import Run\n"
        "folder = pathlib.Path(sys.argv[1]); os.setuid(65534)\n"
        "run = Run(folder / 'run'); print(run.save(1))\n"
        "(folder / 'run' / 'checkpoints').chmod(0o500); print(run.save(2), run.said)\n"
        "(folder / 'run' / 'checkpoints').chmod(0o700); print(run.save(3), run.said[-1])\n"
    )
    small_disk.chmod(0o777)
    for parent in small_disk.parents:
        if "pytest-of-" in str(parent):  # pytest's own are closed to others
            parent.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", code, str(small_disk)], cwd=REPOSITORY, capture_output=True,
        text=True, env=os.environ | {"JAX_COMPILATION_CACHE_DIR": "", "HOME": str(small_disk)},
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stderr[-2000:]
    assert lines[0] == "[1]"
    assert (
        lines[1].startswith("[1] ['step 2 could not be saved") and "Permission denied" in lines[1]
    )
    assert lines[2].startswith("[1, 3] step 3 is saved")


def test_an_error_of_ours_is_no_fault_of_storage(tmp_path):
    run = Run(tmp_path / "run")
    with pytest.raises(TypeError):
        run.checkpointer._saver._note(1, TypeError("no"))
    assert storage_fault(ValueError("a bad argument")) is None
    assert storage_fault(OSError(errno.ENOSPC, "No space left on device")).startswith("No space")
    spelt = "RESOURCE_EXHAUSTED: Error writing x [tensorstore_spec='{}']"
    assert storage_fault(ValueError(spelt)) == "RESOURCE_EXHAUSTED: Error writing x"


class SlowManager:
    """Takes a save at once and ends it when told to."""

    def __init__(self):
        self.saved, self.gate = [], threading.Event()

    def save(self, step, **unused):
        self.saved.append(step)

    def wait_until_finished(self):
        assert self.gate.wait(60)

    def close(self):
        pass


def test_slow_storage_holds_training_up_at_the_next_save_only_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_saving, "PATIENCE_S", 0.05)
    said, manager = [], SlowManager()
    saver = Saver(lambda: manager, tmp_path, 0, lambda: None, said.append)
    saver.save(1, None, None)
    for _ in range(5):  # steps of training
        saver.poll()
    assert manager.saved == [1] and not said
    # The next save waits for the first: here, until the gate is opened.
    held = threading.Thread(target=saver.save, args=(2, None, None))
    held.start()
    held.join(0.5)
    assert held.is_alive() and manager.saved == [1]
    assert "step 2: training waits for the save of step 1" in said[0]
    manager.gate.set()
    held.join(60)
    assert manager.saved == [1, 2] and len(said) == 1
    saver.close()


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("cache")
    tiny_run.write_tiny_cache(root)
    return root


def test_a_run_over_a_disk_that_fills_ends_as_if_it_never_had(
    cache_dir, tmp_path, small_disk, monkeypatch, capfd  # noqa: F811
):  # fmt: skip
    """Saves at 3, 6, 9 and 12; from step 4 to step 10 nothing can be written."""
    tiny_run.run(tmp_path / "undisturbed", cache_dir, 12)
    steps, filler = [], []
    to_devices = partitioning.to_devices

    def over(name):
        for thread in threading.enumerate():
            if thread.name == name:
                thread.join()

    def disturbed(batch, where):
        steps.append(1)
        if len(steps) == 4:
            over("save 3")
            filler.append(fill(small_disk, leave=0))
        if len(steps) == 11:
            over("save 9")
            filler[0].unlink()
        return to_devices(batch, where)

    monkeypatch.setattr(partitioning, "to_devices", disturbed)
    tiny_run.run(small_disk / "run", cache_dir, 12)
    said = capfd.readouterr().err
    for step in (6, 9):
        assert f"step {step} could not be saved" in said
    assert "the last good one is step 3" in said and "step 12 is saved" in said
    runs = (tmp_path / "undisturbed", small_disk / "run")
    one, other = (checkpoints.restore_params(str(run), tiny_run.ONE_LAYER) for run in runs)
    jax.tree.map(np.testing.assert_array_equal, one, other)
    positions = [
        json.loads((run / "checkpoints" / "12" / "position" / "metadata").read_text())
        for run in runs
    ]
    assert positions[0] == positions[1]
    records = [
        [
            (line["step"], {k: v for k, v in line["metrics"].items() if "timing" not in k})
            for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        ]
        for run in runs
    ]
    assert records[0] == records[1]
