"""What tests of exported folders share: the other environment, where transformers and torch are."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import REPOSITORY

SIDE = Path(__file__).with_name("transformers_side.py")


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    """ask(what, folder, question) runs transformers_side.py and returns its answer."""
    environment = Path(os.environ.get("TORCH_VENV", ".venv-torch"))
    python = REPOSITORY / environment / "bin" / "python"
    if not (REPOSITORY / environment / ".installed").exists():
        pytest.skip(f"no environment with torch at {environment}; `make torch-test` makes it")
    room = tmp_path_factory.mktemp("asked")

    def run(what, folder, question):
        end = "json" if what == "tokenize" else "npz"
        files = [room / f"{name}.{end}" for name in ("question", "answer")]
        if end == "json":
            files[0].write_text(json.dumps(question), encoding="utf-8")
        else:
            np.savez(files[0], **question)
        files[1].unlink(missing_ok=True)
        done = subprocess.run(
            [python, SIDE, what, folder, *files],
            env=dict(os.environ, HF_HUB_OFFLINE="1"), capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        if end == "json":
            return json.loads(files[1].read_text(encoding="utf-8"))
        with np.load(files[1]) as archive:
            return dict(archive)

    return run
