"""SLURM's host lists, and which GPUs a task uses."""

import random

import pytest

from mt0_tpu import slurm
from mt0_tpu.errors import UserError


@pytest.mark.parametrize(
    ("hostlist", "hosts"),
    [
        ("node1",                  ["node1"]),
        ("node[01-03,7]",          ["node01", "node02", "node03", "node7"]),
        ("a,b[9-11],c",            ["a", "b9", "b10", "b11", "c"]),
        ("r[0-1]n[1-2]-ib",        ["r0n1-ib", "r0n2-ib", "r1n1-ib", "r1n2-ib"]),
        ("n[098-101].cluster",     ["n098.cluster", "n099.cluster", "n100.cluster",
                                    "n101.cluster"]),
        ("[1-2]",                  ["1", "2"]),
    ],
)  # fmt: skip
def test_host_lists(hostlist, hosts):
    assert slurm.hosts(hostlist) == hosts


def test_any_list_of_hosts_comes_back():
    """A list is written as SLURM writes it, runs of numbers as ranges; and read again."""
    rng = random.Random(0)
    for _ in range(300):
        pieces, hosts = [], []
        for _ in range(rng.randint(1, 4)):
            prefix = rng.choice(["n", "gpu-", "rack3-node", "a.b", "x-1-y"])
            suffix = rng.choice(["", "", "-ib", ".cluster"])
            width = rng.choice([1, 1, 2, 4])
            ranges = []
            if rng.random() < 0.2:
                pieces.append(prefix + suffix)
                hosts.append(prefix + suffix)
                continue
            for _ in range(rng.randint(1, 3)):
                low = rng.randint(0, 10**width - 1)
                # A width that carries stays as it is in SLURM: 98-101 gains a digit.
                high = low + rng.choice([0, 0, 1, 5, 30])
                text = f"{low:0{width}d}"
                ranges.append(text if low == high else f"{text}-{high:0{width}d}")
                hosts += [f"{prefix}{n:0{width}d}{suffix}" for n in range(low, high + 1)]
            pieces.append(f"{prefix}[{','.join(ranges)}]{suffix}")
        assert slurm.hosts(",".join(pieces)) == hosts, pieces


@pytest.mark.parametrize(
    "hostlist",
    ["", "n[1-2", "n1-2]", "n[[1]]", "a,,b", "n[]", "n[a-b]", "n[3-1]", "n[1-]", "n[1-9999999]",
     "n[0-999999]m[0-9]"],
)  # fmt: skip
def test_what_is_no_host_list(hostlist):
    with pytest.raises(UserError, match="SLURM host list"):
        slurm.hosts(hostlist)


def test_tasks_per_node():
    assert slurm.tasks_per_node("4(x2),3") == [4, 4, 3]
    with pytest.raises(UserError, match="looks like"):
        slurm.tasks_per_node("4(x2,3")


@pytest.mark.parametrize(
    ("environment", "tasks_here", "local", "devices"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3"},  1, 0, None),  # one process per node: all
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3"},  4, 2, [2]),
        ({"CUDA_VISIBLE_DEVICES": "4,5,6,7"},  4, 2, [2]),  # counted among those visible
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3"},  2, 1, [2, 3]),
        ({"SLURM_GPUS_ON_NODE": "8"},          4, 3, [6, 7]),
        ({"SLURM_GPUS_ON_NODE": "a100:4"},     4, 3, [3]),
        ({"CUDA_VISIBLE_DEVICES": "3"},        4, 3, None),  # bound by --gpus-per-task=1
        ({"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_GPUS_PER_TASK": "2"}, 4, 3, None),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3", "SLURM_GPUS_PER_TASK": "a100:2"}, 2, 1, [2, 3]),
        ({"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_GPU_BIND": "closest"}, 2, 1, None),
        ({"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_GPU_BIND": "none"},    2, 1, [1]),
        ({"ROCR_VISIBLE_DEVICES": "0,1"},      2, 0, [0]),
        ({},                                   4, 3, [3]),  # SLURM manages no GPUs: as JAX does
        ({"JAX_LOCAL_DEVICE_IDS": "0"},        4, 3, None),  # JAX reads it itself
    ],
)  # fmt: skip
def test_gpus_of_a_task(environment, tasks_here, local, devices):
    assert slurm.local_devices(environment, tasks_here, local) == devices


def test_two_steps_of_a_job_do_not_meet():
    ports = {slurm.port(4711, step) for step in range(30)}
    assert len(ports) == 30
    assert all(61440 <= port < 65536 for port in ports)
