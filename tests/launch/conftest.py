"""A cloud of one queued resource, played by fake_gcloud.py."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent


def program(path, source):
    """An executable that runs a Python file under its own name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # -S: no site-packages, which take longer to find than the fakes to run.
    path.write_text(f"#!{sys.executable} -ES\n{source.read_text()}")
    path.chmod(0o755)


def wait_for(condition, seconds=120):
    for _ in range(seconds * 20):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s")


@dataclasses.dataclass
class Cloud:
    folder: Path
    source: Path

    def plan(self, **plan):
        (self.folder / "plan.json").write_text(json.dumps(plan))

    def start(self, script, *words, **variables):
        """Starts launch/<script>.sh; its environment is the variables and little else."""
        environment = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "HOME": str(self.folder), "FAKE_CLOUD": str(self.folder),
            "TMPDIR": str(self.folder / "tmp"),
            "PYTHON": sys.executable, "NAME": "mt0-xl", "TYPE": "v4-64", "ZONE": "us-central2-b",
            "POLL_SECONDS": "0.05", "RETRY_SECONDS": "0", "SOURCE": str(self.source),
        }  # fmt: skip
        return subprocess.Popen(
            [shutil.which("bash"), str(REPOSITORY / "launch" / f"{script}.sh"), *words],
            env=environment | variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, script, *words, **variables):
        """Runs it to its end."""
        process = self.start(script, *words, **variables)
        try:
            out, said = process.communicate(timeout=300)
        finally:
            process.kill()
        return subprocess.CompletedProcess(process.args, process.returncode, out, said)

    def calls(self, *verbs):
        """What gcloud was called with, those calls alone that have one of these words."""
        log = self.folder / "log.jsonl"
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return [line for line in lines if not verbs or set(verbs) & set(line)]

    def received(self, life=1, worker=0, what="mt0"):
        """What the program on a worker was given, a list a start."""
        file = self.folder / str(life) / str(worker) / f"{what}.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """A checkout with nothing in it but what is run on a worker."""
    folder = tmp_path_factory.mktemp("source")
    shutil.copytree(REPOSITORY / "launch", folder / "launch")
    for name in ("setup.py", "requirements.lock"):
        shutil.copy(REPOSITORY / name, folder)
    return folder


@pytest.fixture
def cloud(source):
    # Not tmp_path: tmux's socket, in a worker's home, must have a path of at most 107 letters.
    folder = Path(tempfile.mkdtemp(prefix="mt0cloud"))
    program(folder / "bin/gcloud", HERE / "fake_gcloud.py")
    for name in ("tmux", "python3", "python", "mt0"):
        program(folder / "worker_bin" / name, HERE / "fake_worker.py")
    (folder / "tmp").mkdir()
    made = Cloud(folder, source)
    made.plan(lives=[["ACTIVE"]])
    yield made
    for session in folder.glob("*/*/*.session"):
        try:
            os.killpg(int(session.read_text()), signal.SIGKILL)
        except ProcessLookupError:
            pass
    shutil.rmtree(folder)
