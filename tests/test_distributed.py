"""How processes find each other, as a pure function of the environment."""

import pytest

from mt0_tpu.distributed import Settings, settings
from mt0_tpu.errors import UserError


def test_a_plain_machine_joins_nobody():
    assert settings({}) is None
    assert settings({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}) is None
    assert settings({"TPU_WORKER_HOSTNAMES": "localhost"}) is None


def test_explicit_settings_win():
    explicit = {"MT0_COORDINATOR": "h:1", "MT0_NUM_PROCESSES": "2", "MT0_PROCESS_ID": "1"}
    assert settings(explicit | {"SLURM_NTASKS": "4", "SLURM_PROCID": "3"}) == Settings("h:1", 2, 1)


@pytest.mark.parametrize(
    "environment",
    [{"SLURM_NTASKS": "4", "SLURM_PROCID": "3"}, {"TPU_WORKER_HOSTNAMES": "a,b"}],
)
def test_slurm_and_pods_are_left_to_jax(environment):
    assert settings(environment) == Settings(None, None, None)


def test_half_of_the_explicit_settings_is_an_error():
    with pytest.raises(UserError, match="go together"):
        settings({"MT0_COORDINATOR": "h:1"})
    with pytest.raises(UserError, match="must be numbers"):
        settings({"MT0_COORDINATOR": "h:1", "MT0_NUM_PROCESSES": "two", "MT0_PROCESS_ID": "0"})
