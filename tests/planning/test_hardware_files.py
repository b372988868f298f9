"""Every hardware file goes with its recipe, fills its slice, and is in the benchmark's list."""

import math

import pytest

from benchmarks import hardware_table
from mt0_tpu.gin_config import gin_folder
from mt0_tpu.planning import plan_command
from mt0_tpu.planning.topologies import topology

FILES = sorted((gin_folder() / "hardware").glob("*/*.gin"))


def test_the_list_is_the_folder():
    found = {(path.stem, path.parent.name) for path in FILES}
    assert found == set(hardware_table.wanted())


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_it_fills_its_slice(path):
    size, name = path.stem, path.parent.name
    files = [hardware_table.recipe(size), hardware_table.hardware_file(size, name)]
    run = plan_command.arguments_of("train", (files, [], []))
    mesh, top = run["mesh"], topology(name)
    sizes = (mesh.replica, mesh.data, mesh.fsdp, mesh.tensor_ways)
    assert math.prod(sizes) == top.devices
    ways = math.prod(sizes[:3]) * (run["num_microbatches"] or 1)
    assert run["train_dataset"].batch_size % ways == 0
    assert run["model"].num_heads % mesh.tensor_ways == 0
