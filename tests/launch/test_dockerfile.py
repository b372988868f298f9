"""The Dockerfile, as far as it can be read without docker."""

import fnmatch
import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TEXT = (REPOSITORY / "launch/Dockerfile").read_text()
IGNORE = (REPOSITORY / "launch/Dockerfile.dockerignore").read_text().split()


def sources():
    for line in re.findall(r"^COPY (.+)$", TEXT, re.M):
        yield from line.split()[:-1]


def test_what_it_copies_is_there_and_not_ignored():
    assert list(sources())
    for source in sources():
        assert (REPOSITORY / source).exists(), source
        assert f"!{source}" in IGNORE, source
    # All else stays out of the build: virtual environments, runs, git.
    assert IGNORE[0] == "*"
    assert {word[1:] for word in IGNORE if word[0] == "!"} == set(sources())


def test_what_the_package_needs_is_copied():
    setup = (REPOSITORY / "setup.py").read_text()
    for name in ("mt0_tpu", "seqio_tasks", "gin", "launch", "README.md"):
        assert name in setup and name in sources()


@pytest.mark.parametrize("accelerator", ["tpu", "gpu", "cpu", "tqu"])
def test_the_step_that_depends_on_the_accelerator(accelerator, tmp_path):
    """Run as docker's /bin/sh would, with a pip that says what it is told."""
    step = re.search(r"^RUN (sed .+?)\n\n", TEXT, re.M | re.S)[1].replace("\\\n", "")
    (tmp_path / "pip").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "pip").chmod(0o755)
    (tmp_path / "requirements.lock").write_text((REPOSITORY / "requirements.lock").read_text())
    done = subprocess.run(
        ["sh", "-c", step], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "ACCELERATOR": accelerator},
    )  # fmt: skip
    if accelerator == "tqu":
        assert done.returncode == 2 and "it must be tpu, gpu or cpu" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    (extras,) = re.findall(r" -e \.\[(.+)\]", done.stdout)
    defined = re.findall(r'^        "(\w+)": \[', (REPOSITORY / "setup.py").read_text(), re.M)
    assert set(extras.split(",")) <= set(defined)
    assert accelerator == "cpu" or accelerator in extras.split(",")
    assert "jax==0.10.2" in (tmp_path / "constraints.txt").read_text().splitlines()


def test_nothing_secret_is_built_in():
    assert not re.search(r"TOKEN|KEY|SECRET", re.sub(r"^#.*$", "", TEXT, flags=re.M))
    assert not fnmatch.filter(sources(), "*.env")
