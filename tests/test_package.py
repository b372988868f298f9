"""What is installed: the command, both packages, and the gin files where they are looked for."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mt0_tpu import gin_config

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of a copy of the sources, so that no build folder is left in the checkout."""
    import shutil

    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    copy.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md"):
        if (REPOSITORY / name).exists():
            shutil.copy(REPOSITORY / name, copy)
    for name in ("mt0_tpu", "seqio_tasks", "gin", "launch"):
        shutil.copytree(
            REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         "--no-index", "--wheel-dir", str(folder), str(copy)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    (path,) = folder.glob("mt0_tpu-*.whl")
    return path


def shipped_gin_files():
    folder = REPOSITORY / "gin"
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.gin")}


@pytest.mark.slow
def test_the_wheel_holds_code_gin_files_and_the_command(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    packed = {n.removeprefix("mt0_tpu/gin_files/") for n in names if n.endswith(".gin")}
    assert packed == shipped_gin_files()
    data = {
        path.relative_to(REPOSITORY).as_posix()
        for folder in ("mt0_tpu", "seqio_tasks")
        for path in (REPOSITORY / folder).rglob("*.*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert data <= names
    scripts = {path.name for path in (REPOSITORY / "launch").glob("[!._]*.*")}
    packed = {n.removeprefix("mt0_tpu/launch_files/") for n in names if "launch_files/" in n}
    assert packed == scripts | {"Dockerfile"}
    # Nothing else at the top: a `gin` there would hide gin-config for everybody.
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"mt0_tpu", "seqio_tasks"}
    (entry_points,) = [name for name in names if name.endswith("entry_points.txt")]
    assert b"mt0 = mt0_tpu.cli:main" in zipfile.ZipFile(wheel).read(entry_points)


@pytest.mark.slow
def test_an_installed_copy_finds_its_scripts(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    command = ["launch", "tpu", "--name=x", "--type=v4-64", "--zone=us-central2-b", "--dry_run"]
    for more, said in (
        (["--step=create"], "gcloud compute tpus queued-resources create x"),
        (["--step=setup"], "--source=DIR"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "mt0_tpu", *command, *more],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert said in done.stdout + done.stderr


@pytest.mark.slow
def test_an_installed_copy_finds_its_gin_files(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    command = ["train", "--gin_file=recipes/mt0_small.gin", "--gin.MODEL_DIR='x'", "--dry_run"]
    done = subprocess.run(
        [sys.executable, "-m", "mt0_tpu", *command],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "network.T5Config.emb_dim = 512" in done.stdout


def test_the_checkout_uses_its_own_gin_files():
    assert gin_config.gin_folder() == REPOSITORY / "gin"


def test_lock_names_no_index_and_one_tensorflow():
    lock = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8")
    pins = [line.split("==")[0] for line in lock.splitlines() if "==" in line and line[0] != "#"]
    assert "://" not in lock and "--index" not in lock and "--find-links" not in lock
    assert [name for name in pins if name in ("tensorflow", "tensorflow-cpu")] == ["tensorflow"]
    for name in ("jax", "flax", "optax", "orbax-checkpoint", "gin-config", "seqio", "pytest"):
        assert name in pins
