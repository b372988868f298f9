"""Checkpoints in a bucket: whole by their mark, kept by policy, read from every job."""

import jax
import numpy as np
import pytest

from mt0_tpu import checkpoints, convert, eval_follow, run_folder, start_rule
from mt0_tpu.checkpoints import CheckpointConfig
from mt0_tpu.errors import UserError
from mt0_tpu.formats import own_run
from mt0_tpu.run_folder import MARK
from tests import tiny_run


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("cache")
    tiny_run.write_tiny_cache(root)
    return root


@pytest.fixture
def run(cache_dir, bucket):
    """Four steps, each saved; the last two and the third are kept."""
    keep = CheckpointConfig(save_every_steps=1, keep_last=1, keep_every_steps=3)
    tiny_run.run(f"{bucket}/run", cache_dir, 4, checkpoint=keep)
    return f"{bucket}/run"


def test_all_jobs_read_a_run_where_it_is(run, gcs, tmp_path, capsys):
    name = run.removeprefix("gs://").removesuffix("/run")
    # Kept: the latest, and what divides by three; the first never counts as such.
    assert run_folder.steps_of(run) == [3, 4]
    assert {one.split("/")[2] for one in gcs.names(name, "run/checkpoints/")} == {"3", "4"}
    of_two = [one for one in gcs.requests if "run/checkpoints/2/" in one]
    written = max(at for at, one in enumerate(of_two) if one.startswith("POST"))
    deleted = [one for one in of_two[written:] if one.startswith("DELETE")]
    assert len(deleted) > 1 and deleted[0].endswith(f"/checkpoints/2/{MARK}")

    assert start_rule.checkpoint_step(run) == 4
    assert start_rule.locate(f"{run}/checkpoints/3")[1] == 3
    assert eval_follow.found_in(run) == {s: f"{run}/checkpoints/{s}" for s in (3, 4)}
    assert eval_follow.final_step(run) == 4
    params = checkpoints.restore_params(run, tiny_run.ONE_LAYER)
    convert.convert(run, str(tmp_path / "copy"), "orbax", say=lambda text: None)
    copied = checkpoints.restore_params(str(tmp_path / "copy"), tiny_run.ONE_LAYER)
    jax.tree.map(np.testing.assert_array_equal, params, copied)
    started = start_rule.find_start(str(tmp_path / "new"), run, False)
    assert (started.kind, started.path, started.step) == ("initial", run, 4)
    start_rule.check_network(started, tiny_run.ONE_LAYER)

    # Without its mark it is none, for any of them.
    gcs.remove(name, f"run/checkpoints/4/{MARK}")
    assert run_folder.steps_of(run) == [3] and start_rule.checkpoint_step(run) == 3
    assert own_run.find(run).name == "3" and list(eval_follow.found_in(run)) == [3]
    with pytest.raises(UserError, match=f"checkpoints/4 is not whole: it has no {MARK}"):
        checkpoints.restore_params(f"{run}/checkpoints/4", tiny_run.ONE_LAYER)
    with pytest.raises(UserError, match="checkpoints/4 is half-written"):
        own_run.open_weights(f"{run}/checkpoints/4")

    # One that lost a part is put aside.
    said = []
    gcs.remove(name, "run/checkpoints/3/state/manifest.ocdbt")
    run_folder.set_aside_damaged(run, said.append)
    assert not run_folder.steps_of(run) and "lacks state/manifest.ocdbt" in said[0]
    assert any("/3.damaged-" in one for one in gcs.names(name, "run/checkpoints/"))


def put_checkpoint(gcs, bucket, run, step):
    for file in ("state/_METADATA", "state/manifest.ocdbt", MARK):
        gcs.put(bucket.removeprefix("gs://"), f"{run}/checkpoints/{step}/{file}", b"x")


def test_a_listing_that_is_refused_is_no_empty_run(gcs, bucket):
    put_checkpoint(gcs, bucket, "run", 6)
    assert start_rule.find_start(f"{bucket}/run", None, True).step == 6
    gcs.fail("GET .*prefix=run/checkpoints/", 1, 403)
    with pytest.raises(UserError, match="run/checkpoints cannot be seen .*Forbidden"):
        start_rule.find_start(f"{bucket}/run", None, True)
    gcs.fail("GET .*prefix=run/checkpoints/", 1, 403)
    with pytest.raises(UserError, match="cannot be written"):
        run_folder.check_bucket(f"{bucket}/run")
    gcs.fail("GET .*prefix=run/checkpoints/", 1, 403)
    with pytest.raises(UserError, match="cannot be seen"):
        eval_follow.found_in(f"{bucket}/run")
    assert start_rule.find_start(f"{bucket}/run", None, True).step == 6


@pytest.mark.parametrize("name", ["run[1]", "run*", "ru?", "a/../run"])
def test_names_that_could_be_other_runs_are_refused(name):
    with pytest.raises(UserError, match="could lead to another run's files"):
        run_folder.check_bucket(f"gs://bucket/{name}")


def test_following_waits_an_outage_out(gcs, bucket, cache_dir):
    """Refused a while and then seen: said once, nothing passed over."""
    tiny_run.run(f"{bucket}/run", cache_dir, 1)
    refused = gcs.fail("GET .*prefix=run/checkpoints/&", 3, 403)
    said = []
    patience = eval_follow.Patience(poll_seconds=0.01, timeout_minutes=1)
    given = list(eval_follow.follow(f"{bucket}/run", lambda step: False, patience, said.append))
    assert [step for step, _ in given] == [1] and refused.left == 0
    assert len([one for one in said if "can be seen again" in one]) == 1
    step, checkpoint = given[0]
    gcs.fail("GET .*prefix=run/checkpoints/&", 1, 403)
    kind, why = eval_follow._verdict(checkpoint, ValueError("half a file"))
    assert kind == "unreadable" and "cannot be seen" in why
    assert eval_follow._verdict(f"{bucket}/run/checkpoints/9", ValueError("gone"))[0] == "gone"


@pytest.mark.parametrize("steps", [3, 4])
def test_a_save_is_whole_though_an_older_one_cannot_be_deleted(
    steps, gcs, bucket, cache_dir, capfd
):
    """Refused at step 3: that save counts, and closing the folder or the next save deletes both."""
    refused = []

    def watch(line):
        if line.startswith("POST") and f"name=run/checkpoints/3/{MARK}" in line:
            refused.append(gcs.fail(f"DELETE .*run/checkpoints/2/{MARK}", 1, 403))
            gcs.watch = lambda line: None

    gcs.watch = watch
    keep = CheckpointConfig(save_every_steps=1, keep_last=1)
    tiny_run.run(f"{bucket}/run", cache_dir, steps, checkpoint=keep)
    assert refused[0].left == 0 and "could not be saved" not in capfd.readouterr().err
    assert run_folder.steps_of(f"{bucket}/run") == [steps]
