"""Runs in a bucket: the same to the bit as in a folder, killed, resumed, on another machine."""

import json
import os
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from mt0_tpu import checkpoints, remote_run, run_folder
from mt0_tpu.errors import UserError
from mt0_tpu.run_folder import MARK
from tests import tiny_run
from tests.conftest import REPOSITORY
from tests.test_pods import ends, start


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("cache")
    tiny_run.write_tiny_cache(root)
    return root


@pytest.fixture(scope="module")
def local(cache_dir, tmp_path_factory):
    """The run of a folder that those of buckets must repeat."""
    folder = tmp_path_factory.mktemp("local") / "run"
    tiny_run.run(folder, cache_dir, 12)
    return folder


def alone(address, cache_dir):
    """The same run as a process that can be killed; it compiles what this one has compiled."""
    command = [sys.executable, "-m", "tests.tiny_run", address, str(cache_dir), "12"]
    return subprocess.Popen(
        command, cwd=REPOSITORY, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def lines(text):
    """metrics.jsonl without what depends on the clock."""
    found = [json.loads(line) for line in text.splitlines()]
    return [
        (one["step"], one["split"], {k: v for k, v in one["metrics"].items() if "timing" not in k})
        for one in found
    ]


def is_as(local, gcs, address):
    """The run at an address has a local one's metrics, parameters and place in the data."""
    name, _, folder = address.removeprefix("gs://").partition("/")
    text = gcs.read(name, f"{folder}/metrics.jsonl").decode()
    assert lines(text) == lines((local / "metrics.jsonl").read_text())
    assert run_folder.steps_of(address) == run_folder.steps_of(local)
    step = run_folder.steps_of(local)[-1]
    position = f"checkpoints/{step}/position/metadata"
    assert json.loads(gcs.read(name, f"{folder}/{position}")) == json.loads(
        (local / position).read_text()
    )
    one, other = (
        checkpoints.restore_params(str(run), tiny_run.ONE_LAYER) for run in (address, local)
    )
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_run_in_a_bucket_stops_and_goes_on_elsewhere(
    cache_dir, local, gcs, bucket, tmp_path, capfd
):
    address = f"{bucket}/team/run"
    name = bucket.removeprefix("gs://")
    # What passes is tried again: by Orbax's storage, and for the small files.
    slow = [
        gcs.fail("POST .*uploadType=media&name=team/run/checkpoints/3/state", 2),
        gcs.fail("POST .*uploadType=multipart", 2),
        gcs.fail("GET .*team/run/checkpoints", 1),
    ]
    tiny_run.run(address, cache_dir, 6)
    assert not any(fault.left for fault in slow)
    assert {"config.gin", "metrics.jsonl", "model-info.txt", "run.json"} <= {
        one.removeprefix("team/run/") for one in gcs.names(name)
    }
    # Another machine, and what a save and a deletion that were cut off have left.
    shutil.rmtree(tmp_path / "mirrors")
    for half in ("team/run/checkpoints/8/state/_METADATA", "team/run/checkpoints/2/state/d/x"):
        gcs.put(name, half, b"half")
    assert run_folder.steps_of(address) == [3, 6]
    capfd.readouterr()
    tiny_run.run(address, cache_dir, 12)
    assert f"resuming step 6 of {address}" in capfd.readouterr().err
    is_as(local, gcs, address)
    assert not gcs.names(name, "team/run/checkpoints/2/")
    assert not gcs.names(name, "team/run/checkpoints/8/")
    # Nothing of it was taken for a local path.
    assert not (tmp_path / "gs:").exists() and not os.path.exists("gs:")


def test_metrics_are_there_before_the_checkpoint_is(cache_dir, gcs, bucket):
    name = bucket.removeprefix("gs://")
    known = {}

    def look(line):
        if line.startswith("POST") and f"=run/checkpoints/4/{MARK}" in line:
            known[4] = [step for step, _, _ in lines(gcs.read(name, "run/metrics.jsonl").decode())]

    gcs.watch = look
    tiny_run.run(
        f"{bucket}/run", cache_dir, 4,
        checkpoint=checkpoints.CheckpointConfig(save_every_steps=4),
    )  # fmt: skip
    assert known == {4: [2, 4]}


@pytest.mark.parametrize("at", [f"=run/checkpoints/6/{MARK}", "=run/checkpoints/6/state/ocdbt"])
def test_killed_in_a_save_it_goes_on_from_the_one_before(at, cache_dir, local, gcs, bucket):
    address = f"{bucket}/run"
    gone = []

    def kill(line):
        if not gone and line.startswith("POST") and at in line:
            gone.append(line)
            os.kill(processes[0].pid, signal.SIGKILL)

    processes = []
    gcs.watch = kill
    processes.append(alone(address, cache_dir))
    ((code, err),) = ends(processes)
    assert code == -signal.SIGKILL and gone, err
    gcs.remove(bucket.removeprefix("gs://"), f"run/checkpoints/6/{MARK}")  # it may have got through
    assert run_folder.steps_of(address) == [3]
    tiny_run.run(address, cache_dir, 12)
    is_as(local, gcs, address)


@pytest.mark.slow
def test_two_processes_write_one_run(cache_dir, gcs, bucket, tmp_path):
    for steps in (6, 12):
        for code, err in ends(
            start("tests.tiny_run", [f"{bucket}/run", cache_dir, steps], 2, cache_dir)
        ):
            assert code == 0, err
        shutil.rmtree(tmp_path / "mirrors")
    for code, err in ends(start("tests.tiny_run", [tmp_path / "run", cache_dir, 12], 2, cache_dir)):
        assert code == 0, err
    is_as(tmp_path / "run", gcs, f"{bucket}/run")


def test_a_save_that_is_refused_costs_a_save(cache_dir, local, gcs, bucket, capfd):
    """Forbidden for the time of one save: training goes on, and nothing is missing at the end."""
    name = bucket.removeprefix("gs://")

    def forbid(line):
        if "checkpoints/6/" in line:
            gcs.fail("POST .*checkpoints/6/", 1000, 403)
            gcs.watch = lambda line: None

    gcs.watch = forbid
    tiny_run.run(f"{bucket}/run", cache_dir, 12)
    err = capfd.readouterr().err
    assert f"step 6 could not be saved to {bucket}/run/checkpoints" in err
    assert "the last good one is step 3" in err and "can be written again" in err
    is_as(local, gcs, f"{bucket}/run")
    assert not gcs.names(name, "run/checkpoints/6/")


def test_small_files_that_cannot_be_sent_are_kept(cache_dir, gcs, bucket, tmp_path, capfd):
    gcs.fail("uploadType=multipart", 1000, 403)
    tiny_run.run(f"{bucket}/run", cache_dir, 4)
    err = capfd.readouterr().err
    assert err.count(f"files of {bucket}/run cannot be sent (OSError: Forbidden") == 1
    assert f"{bucket}/run lacks files that are in {tmp_path / 'mirrors'}" in err
    assert run_folder.steps_of(f"{bucket}/run") == [3, 4]
    gcs.faults = []
    tiny_run.run(f"{bucket}/run", cache_dir, 6)  # the same machine has them still
    text = gcs.read(bucket.removeprefix("gs://"), "run/metrics.jsonl").decode()
    assert [step for step, _, _ in lines(text)] == [2, 4, 6]


@pytest.mark.parametrize(
    "address, said",
    [
        ("gs://no-such-bucket/run", "cannot be written .there is no such bucket"),
        ("{bucket}", "a whole bucket; name a folder in it"),
        ("s3://bucket/run", "of addresses only gs://BUCKET/… can be written to"),
    ],
)
def test_what_cannot_be_written_is_refused_before_data_is_touched(address, said, gcs, bucket):
    with pytest.raises(UserError, match=said):
        tiny_run.run(address.format(bucket=bucket), "/no/such/cache", 4)


def test_a_bucket_that_may_only_be_read_is_refused(gcs, bucket):
    gcs.read_only.add(bucket.removeprefix("gs://"))
    with pytest.raises(UserError, match="cannot be written .OSError.* log in"):
        tiny_run.run(f"{bucket}/run", "/no/such/cache", 4)


def test_what_an_error_leaves_is_sent(gcs, bucket):
    run = remote_run.open_run(f"{bucket}/run", print)
    with open(f"{run.folder}/sick.json", "w") as file:
        file.write("{}")
    remote_run.close_all()
    assert gcs.read(bucket.removeprefix("gs://"), "run/sick.json") == b"{}"
    run.close()  # once more is nothing
