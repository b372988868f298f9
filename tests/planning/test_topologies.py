"""Names of slices, and what is said of wrong ones."""

import pytest

from mt0_tpu.errors import UserError
from mt0_tpu.planning.chips import CHIPS
from mt0_tpu.planning.topologies import of_same_generation, topology
from mt0_tpu.tpu_types import GENERATIONS


@pytest.mark.parametrize(
    "name, compiler_name, chips, devices",
    [
        ("v4-128", "v4:4x4x4", 64, 64),  # counts cores
        ("v5p-128", "v5p:4x4x4", 64, 64),
        ("v3-32", "v3:4x4", 16, 32),  # shows its cores as devices
        ("v5e-16", "v5e:4x4", 16, 16),  # counts chips
        ("v5litepod-16", "v5e:4x4", 16, 16),
        ("v6e-256", "v6e:16x16", 256, 256),
    ],
)
def test_names(name, compiler_name, chips, devices):
    found = topology(name)
    assert (found.compiler_name, found.chips, found.devices) == (compiler_name, chips, devices)


def test_slices_and_simulated_devices():
    two = topology("v4-128", 2)
    assert (two.devices_per_slice, two.devices, two.chips) == (64, 128, 128)
    assert str(two) == "2 slices of v4-128 (4x4x4): 128 chips"
    cpu = topology("cpu-8")
    assert (cpu.devices, cpu.usable_hbm_gib, cpu.tpu) == (8, None, None)


def test_every_generation_has_its_constants():
    assert {generation.name for generation in GENERATIONS} == set(CHIPS)


@pytest.mark.parametrize(
    "name, message",
    [
        ("v4-100", "v4-64 and v4-128"),
        ("v5-128", "Did you mean 'v5"),
        ("cpu8", "Did you mean 'cpu-8'"),
        ("tpu", "a TPU type, as v4-128"),
        ("cpu-0", "cpu-1 to cpu-512"),
    ],
)
def test_wrong_names(name, message):
    with pytest.raises(UserError, match=message):
        topology(name)
    with pytest.raises(UserError, match="--slices is 0"):
        topology("v4-8", 0)


def test_sizes_of_a_generation():
    assert of_same_generation("v5e-16")[:3] == ["v5e-1", "v5e-4", "v5e-8"]
    assert of_same_generation("cpu-8") == []
