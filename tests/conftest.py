"""Strictness and shared fixtures for every test."""

import os

# Before jax is imported anywhere: eight simulated devices, no accelerator, quiet logs.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
_flags = os.environ.get("XLA_FLAGS", "")
if "xla_force_host_platform_device_count" not in _flags:
    os.environ["XLA_FLAGS"] = f"{_flags} --xla_force_host_platform_device_count=8".strip()

import importlib.util  # noqa: E402
from pathlib import Path  # noqa: E402

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")

REPOSITORY = Path(__file__).resolve().parent.parent

# The same small programs are compiled by many tests and their child processes: compile each once.
_compiled = str(REPOSITORY / ".pytest_cache" / "compiled")
jax.config.update("jax_compilation_cache_dir", _compiled)
# The commands that tests start, which would use the home folder.
os.environ.setdefault("MT0_COMPILE_CACHE", _compiled)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and golden numbers; its absence skips the test, saying so."""
    folder = Path(os.environ.get("MT0_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"MT0_SHARED: no folder at {folder}; set MT0_SHARED to run this test")
    return folder.resolve()


@pytest.fixture(scope="session")
def golden(shared) -> Path:
    """Numbers that stock T5X, HF, SeqIO and Megatron produced."""
    return shared / "golden"


@pytest.fixture(scope="session")
def gcs():
    """A stand-in for Google Cloud Storage, for this process and those it starts."""
    if importlib.util.find_spec("gcsfs") is None:  # it reads the variables when it is imported
        pytest.skip("gcsfs is not installed: `make bucket-test` has it")
    from tests.fake_gcs import FakeGcs

    with FakeGcs() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture
def bucket(gcs, tmp_path, monkeypatch) -> str:
    """A new bucket's address; copies of what lies in it are the test's own."""
    monkeypatch.setenv("MT0_RUNS_DIR", str(tmp_path / "mirrors"))
    name = f"bucket-{len(gcs.objects)}"
    gcs.objects[name] = {}
    yield f"gs://{name}"
    gcs.watch, gcs.faults = (lambda line: None), []
