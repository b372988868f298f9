"""Plans for TPU slices by the real compiler, of networks small enough for CI.

`make tpu-test` runs these with libtpu in a folder of its own; elsewhere they are skipped.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LIBTPU = os.environ.get("LIBTPU", "")
pytestmark = pytest.mark.skipif(
    not (Path(LIBTPU) / "libtpu").is_dir(),
    reason="LIBTPU names no folder with libtpu: `make tpu-test` runs the tests of the TPU compiler",
)
SMALL = [
    "--gin_file=models/mt5/tiny.gin", "--gin_file=runs/finetune.gin",
    "--gin.MIXTURE_OR_TASK_NAME='unread'", "--gin.INITIAL_CHECKPOINT_PATH='/nowhere/checkpoint_7'",
    "--gin.TRAIN_STEPS=107", "--gin.TASK_FEATURE_LENGTHS={'inputs': 64, 'targets': 32}",
    "--gin.BATCH_SIZE=16", "--gin.DROPOUT_RATE=0.0", "--gin.network.T5Config.vocab_size=1024",
]  # fmt: skip


def mt0_plan(*flags):
    path = os.pathsep.join(
        filter(None, [str(Path(LIBTPU).resolve()), os.environ.get("PYTHONPATH")])
    )
    return subprocess.run(
        [sys.executable, "-m", "mt0_tpu", "plan", *SMALL, *flags],
        env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip


def plan_of_v4_8(*flags):
    """What `mt0 plan --json` says of that slice."""
    done = mt0_plan("--topology=v4-8", "--json", *flags)
    assert done.returncode == 0, done.stderr
    # libtpu greets with a page about the TPU it does not find: none of it may be seen.
    assert done.stderr == "compiling for v4-8 (2x2x1): 4 chips ...\n"
    return json.loads(done.stdout)


def test_a_slice_of_v4():
    plan = plan_of_v4_8(
        "--gin.partitioning.PjitPartitioner.fsdp=2",
        "--gin.partitioning.PjitPartitioner.num_partitions=2",
    )
    assert plan["fits"] and plan["mesh"] == {"replica": 1, "data": 1, "fsdp": 2, "tensor": 2}
    # Loops counted in full, convolutions without their padding: the formula's number.
    assert plan["flops"] * 4 == pytest.approx(plan["model_flops"], rel=0.03)
    assert plan["collective_bytes"] > 0 and plan["estimate"]["step_s"] > 0
    assert plan["steps"] == 100 and plan["hours"] > 0
    assert plan["memory"]["reserved"] < plan["limit_bytes"]


def test_what_is_kept_on_the_host_is_counted_apart():
    plan = plan_of_v4_8(
        "--gin.partitioning.PjitPartitioner.fsdp=4",
        "--gin.network.T5Config.remat_policy='minimal_offload'",
    )
    # Rows 4, two towers of two layers, width 32, bfloat16: the layers' inputs alone, out and back.
    inputs_bytes = 4 * (64 + 32) * 32 * 2 * 2
    assert plan["memory"]["host"] >= inputs_bytes and plan["host_bytes"] >= 2 * inputs_bytes
    assert plan["memory"]["peak"] == 0 and plan["estimate"]["host_s"] > 0


def test_what_does_not_fit_says_by_how_much():
    done = mt0_plan(
        "--topology=v5e-1", "--gin.BATCH_SIZE=4096",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 1024, 'targets': 32}",
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "DOES NOT FIT by " in done.stdout and " of 15.75 GiB" in done.stdout
    assert "--search looks for" in done.stdout
