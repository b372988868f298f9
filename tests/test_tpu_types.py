"""TPU types: names, shapes, near matches."""

import pytest

from mt0_tpu import tpu_types
from mt0_tpu.errors import UserError
from mt0_tpu.tpu_types import TYPES, tpu_type


# As Google's pages list them; the smallest, one in the middle, the ones with a host of their own.
@pytest.mark.parametrize(
    ("name", "api_name", "topology", "chips", "hosts", "chips_per_host", "devices", "machine"),
    [
        ("v2-8",      "v2-8",         "2x2",      4,    1,    4, 8,    None),
        ("v3-8",      "v3-8",         "2x2",      4,    1,    4, 8,    "ct3-hightpu-4t"),
        ("v3-32",     "v3-32",        "4x4",      16,   4,    4, 32,   "ct3p-hightpu-4t"),
        ("v4-8",      "v4-8",         "2x2x1",    4,    1,    4, 4,    "ct4p-hightpu-4t"),
        ("v4-64",     "v4-64",        "2x4x4",    32,   8,    4, 32,   "ct4p-hightpu-4t"),
        ("v4-128",    "v4-128",       "4x4x4",    64,   16,   4, 64,   "ct4p-hightpu-4t"),
        ("v5e-1",     "v5litepod-1",  "1x1",      1,    1,    1, 1,    "ct5lp-hightpu-1t"),
        ("v5e-8",     "v5litepod-8",  "2x4",      8,    1,    8, 8,    "ct5lp-hightpu-8t"),
        ("v5e-16",    "v5litepod-16", "4x4",      16,   4,    4, 16,   "ct5lp-hightpu-4t"),
        ("v5p-128",   "v5p-128",      "4x4x4",    64,   16,   4, 64,   "ct5p-hightpu-4t"),
        ("v5p-12288", "v5p-12288",    "16x16x24", 6144, 1536, 4, 6144, "ct5p-hightpu-4t"),
        ("v6e-8",     "v6e-8",        "2x4",      8,    1,    8, 8,    "ct6e-standard-8t"),
        ("v6e-256",   "v6e-256",      "16x16",    256,  64,   4, 256,  "ct6e-standard-4t"),
    ],
)  # fmt: skip
def test_types(name, api_name, topology, chips, hosts, chips_per_host, devices, machine):
    found = tpu_type(name)
    assert found is tpu_type(api_name)
    assert (found.name, found.api_name, found.topology) == (name, api_name, topology)
    assert (found.chips, found.hosts, found.chips_per_host) == (chips, hosts, chips_per_host)
    assert (found.devices, found.gke_machine) == (devices, machine)


def test_names_are_unique_and_hosts_whole():
    assert len(TYPES) == sum(len(one.topologies) for one in tpu_types.GENERATIONS)
    for one in TYPES.values():
        assert one.hosts * one.chips_per_host == one.chips
        assert (one.gke_accelerator is None) == (one.gke_machine is None)
    for generation in tpu_types.GENERATIONS:
        numbers = [one.number for one in generation.types()]
        assert numbers == sorted(numbers)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v4-100", "(the number counts cores); the nearest in size: v4-64 and v4-128"),
        ("v4-1", "the nearest in size: v4-8"),
        ("v5litepod-100", "(the number counts chips); the nearest in size: v5e-64 and v5e-128"),
        ("v6e-512", "the nearest in size: v6e-256"),
        ("v44-128", "Did you mean 'v4-128'?"),
        ("v5-64", "Did you mean 'v5p-64'?"),
        ("V4-128", "Did you mean 'v4-128'?"),
        ("h100", "a generation (v2, v3, v4, v5e, v5p, v6e) and a size, as v4-128"),
        ("", "there is no TPU type ''"),
    ],
)
def test_unknown_types(name, said):
    with pytest.raises(UserError) as error:
        tpu_type(name)
    assert said in str(error.value)


def test_what_shells_read(capsys):
    assert tpu_types.main(["v5e-16"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "api_name=v5litepod-16", "runtime_version=v2-alpha-tpuv5-lite", "chips=16", "hosts=4",
        "zones='us-central1-a us-south1-a us-west1-c us-west4-a europe-west4-b'",
    ]  # fmt: skip
    assert tpu_types.main(["v5e-17"]) == 2
    assert capsys.readouterr().err.startswith("mt0: error: there is no TPU type 'v5e-17'")
    assert tpu_types.main([]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(TYPES)
