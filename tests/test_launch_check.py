"""What is told of a command before machines are paid for."""

import pytest

from mt0_tpu import cli, launch_check
from mt0_tpu.errors import UserError
from mt0_tpu.tpu_types import tpu_type


def text(**axes):
    """As `mt0 train --dry_run` prints a mesh."""
    axes = {"replica": 1, "data": -1, "fsdp": 1, "tensor": 1, "num_partitions": None,
            "model_parallel_submesh": None} | axes  # fmt: skip
    lines = [f"partitioning.PjitPartitioner.{name} = {value!r}" for name, value in axes.items()]
    return "train.mesh = @partitioning.PjitPartitioner()\n" + "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("kind", "slices", "axes"),
    [
        ("v4-64",  "1", {"fsdp": 32}),
        ("v4-64",  "1", {"fsdp": 8, "num_partitions": 2}),
        ("v4-64",  "1", {"data": 2, "fsdp": 4, "tensor": 4}),
        ("v4-64",  "1", {"model_parallel_submesh": (2, 2, 1, 1)}),
        ("v4-64",  "2", {"replica": 2, "fsdp": 32}),
        ("v4-64",  "2", {"replica": 4, "fsdp": 16}),
        ("v3-8",   "1", {"fsdp": 8}),  # two devices a chip
        ("v6e-64", "1", {"fsdp": 64}),
    ],
)  # fmt: skip
def test_meshes_that_fit(kind, slices, axes):
    launch_check.check_mesh(text(**axes), tpu_type(kind), slices)


@pytest.mark.parametrize(
    ("kind", "slices", "axes", "said"),
    [
        ("v4-64", "1", {"fsdp": 32, "num_partitions": 2}, "fsdp=32 x tensor=2 does not divide "
         "the 32 devices of 1 x v4-64; add for example --gin.partitioning.PjitPartitioner.fsdp"),
        ("v4-64", "1", {"data": 2, "fsdp": 4}, "data=2 x fsdp=4 x tensor=1 does not divide"),
        ("v4-64", "1", {"model_parallel_submesh": (3, 1, 1, 1)}, "tensor=3 does not divide"),
        ("v4-64", "2", {"fsdp": 32}, "add --gin.partitioning.PjitPartitioner.replica=2"),
        ("v4-64", "two", {}, "--slices is 'two'"),
    ],
)  # fmt: skip
def test_meshes_that_do_not(kind, slices, axes, said):
    with pytest.raises(UserError) as error:
        launch_check.check_mesh(text(**axes), tpu_type(kind), slices)
    assert said in str(error.value)


def test_the_mesh_is_read_off_what_mt0_prints(capsys):
    """Should the configuration be printed otherwise one day, this says so."""
    words = ["train", "--gin_file=recipes/packed_mt0_xl.gin", "--gin.MODEL_DIR='x'"]
    for axis, size in (("fsdp", 5), ("num_partitions", 7), ("replica", 3)):
        words.append(f"--gin.partitioning.PjitPartitioner.{axis}={size}")
    assert cli.main([*words, "--dry_run"]) == 0
    with pytest.raises(UserError, match="replica=3 x data=-1 x fsdp=5 x tensor=7 does not divide"):
        launch_check.check_mesh(capsys.readouterr().out, tpu_type("v4-64"), "1")


@pytest.mark.slow
def test_a_command_that_would_fail_there_fails_here(capsys):
    launch = ["launch", "tpu", "--name=mt0-xl", "--type=v4-64", "--zone=us-central2-b", "--dry_run"]
    train = ["train", "--gin_file=recipes/packed_mt0_xl.gin"]
    mesh = "--gin.partitioning.PjitPartitioner.fsdp=64"
    for word, said in (
        ("--gin.MODEL_DIRR='x'", "the command fails here already: the command line: nothing reads"),
        ("--gin.MODEL_DIR='x'", "does not divide the 32 devices of 1 x v4-64"),
    ):
        assert cli.main([*launch, "--", *train, mesh, word]) == 2
        assert said in capsys.readouterr().err
