"""What arrives on a worker: the code, the arguments, the variables; and nothing else."""

import json
import os
import shutil
import stat
import subprocess

import pytest

from tests.launch.conftest import wait_for

# What a shell, gcloud or ssh could spoil.
HARD = [
    "train",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 1024, 'targets': 256}",
    "--gin.MODEL_DIR='/gcs/my bucket/it's \"here\"'",
    "$HOME `whoami` $(whoami) ${HOME}",
    "two\nlines\n",
    "back\\slash \\n \\\\",
    "",
    "*",
    "~",
    "a;b&c|d>e<f(g)!h#i",
    "--",
    "ümlaut 文字",
    "%s%%",
    "\ttab",
    "=x",
]


@pytest.fixture
def ready(cloud):
    """A cloud whose TPUs are there and set up."""
    assert cloud.run("tpu_create").returncode == 0
    done = cloud.run("tpu_setup")
    assert done.returncode == 0, done.stderr
    return cloud


def test_arguments_arrive_unchanged_on_every_worker(ready):
    done = ready.run("tpu_run", *HARD)
    assert done.returncode == 0, done.stderr
    for worker in (0, 1):
        wait_for(lambda worker=worker: ready.received(worker=worker))
        assert ready.received(worker=worker) == [HARD]


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
def test_arguments_arrive_unchanged_through_the_real_tmux(ready):
    (ready.folder / "worker_bin/tmux").unlink()
    homes = [ready.folder / "1" / str(worker) for worker in (0, 1)]
    try:
        ready.plan(lives=[["ACTIVE"]], worker_environment={"TMUX_TMPDIR": str(ready.folder)})
        done = ready.run("tpu_run", *HARD)
        assert done.returncode == 0 or "running on" in done.stderr, done.stderr
        wait_for(lambda: (homes[0] / "mt0_runs/mt0-xl/exit_code").exists())
        assert ready.received() == [HARD]
    finally:
        environment = os.environ | {"TMUX_TMPDIR": str(ready.folder)}
        subprocess.run(["tmux", "kill-server"], env=environment, capture_output=True, check=False)


def test_setup_installs_the_lock_file_and_then_the_extra(ready):
    def words(*start):
        return [one for one in ready.received(what="python3") if one[: len(start)] == list(start)]

    assert words("-m", "uv", "venv") == [
        ["-m", "uv", "venv", "--quiet", "--python", "3.11", ".venv"]
    ]
    locked, extra = words("-m", "uv", "pip", "install")
    assert locked[-3:] == ["--require-hashes", "-r", "requirements.lock"]
    assert extra[-4:] == ["-c", ".venv/constraints.txt", "-e", ".[tpu]"]
    code = ready.folder / "1/0/mt0_tpu"
    pins = (code / ".venv/constraints.txt").read_text().split()
    lock = (ready.source / "requirements.lock").read_text()
    assert "jax==0.10.2" in pins
    assert pins == [
        line.split()[0] for line in lock.splitlines() if "==" in line[:80] and line[0] != "#"
    ]
    before = len(ready.received(what="python3"))
    assert ready.run("tpu_setup").returncode == 0
    assert len(ready.received(what="python3")) == before  # nothing to do a second time


@pytest.mark.parametrize(
    ("mount", "expected"),
    [
        (
            "gs://my-bucket",
            ["sudo mkdir -p /gcs/my-bucket", "sudo chown {me} /gcs/my-bucket",
             "mountpoint -q /gcs/my-bucket", "gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 "
             "--rename-dir-limit=200000 my-bucket /gcs/my-bucket"],
        ),
        (
            "10.0.0.2:/share",
            ["sudo mkdir -p /nfs/share", "mountpoint -q /nfs/share",
             "sudo mount -t nfs 10.0.0.2:/share /nfs/share"],
        ),
    ],
)  # fmt: skip
def test_setup_mounts(cloud, mount, expected):
    for name in ("sudo", "gcsfuse", "mountpoint", "mount.nfs"):
        file = cloud.folder / "worker_bin" / name
        code = 1 if name == "mountpoint" else 0
        file.write_text(f'#!/bin/sh\necho {name} "$@" >>"$HOME/mounting"\nexit {code}\n')
        file.chmod(0o755)
    assert cloud.run("tpu_create").returncode == 0
    done = cloud.run("tpu_setup", MOUNT=mount)
    assert done.returncode == 0, done.stderr
    me = subprocess.run(["id", "-un"], capture_output=True, text=True).stdout.strip()
    said = (cloud.folder / "1/1/mounting").read_text().splitlines()
    assert said == [line.replace("{me}", me) for line in expected]


@pytest.mark.parametrize("script", ["tpu_setup", "tpu_babysit"])
@pytest.mark.parametrize("mount", ["s3://b", "gs://", "/folder", "a b:/c"])
def test_another_kind_of_mount_is_refused_before_anything_is_done(cloud, script, mount):
    done = cloud.run(script, *(["train"] if script == "tpu_babysit" else []), MOUNT=mount)
    assert done.returncode == 2 and "it must be gs://BUCKET or SERVER:/SHARE" in done.stderr
    assert not cloud.calls()


def test_setup_takes_what_git_would(cloud, tmp_path):
    shutil.copytree(cloud.source, tmp_path / "checkout")
    checkout = tmp_path / "checkout"
    (checkout / ".gitignore").write_text("runs/\n")
    for name in ("my_tasks.py", "a name with blanks.py", "runs/big", "gone.py"):
        (checkout / name).parent.mkdir(exist_ok=True)
        (checkout / name).write_text(name)
    git = ["git", "-C", str(checkout), "-c", "user.name=x", "-c", "user.email=x"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "gone.py"], check=True)
    (checkout / "gone.py").unlink()
    assert cloud.run("tpu_create").returncode == 0
    done = cloud.run("tpu_setup", SOURCE=str(checkout))
    assert done.returncode == 0, done.stderr
    there = cloud.folder / "1/1/mt0_tpu"
    assert (there / "my_tasks.py").exists() and (there / "a name with blanks.py").exists()
    assert not (there / "runs").exists() and not (there / ".git").exists()


def test_first_connections_that_fail_are_tried_again(cloud):
    cloud.plan(lives=[["ACTIVE"]], ssh_fails=2, scp_fails=1)
    assert cloud.run("tpu_create").returncode == 0
    done = cloud.run("tpu_setup")
    assert done.returncode == 0 and done.stderr.count("once more") == 3
    cloud.plan(lives=[["ACTIVE"]], ssh_fails=99)
    assert "could not be set up" in cloud.run("tpu_setup").stderr


def test_secrets_travel_in_a_file_and_are_never_printed(ready):
    secret = "hf_s3cr3t 'quoted' $HOME"
    done = ready.run("tpu_run", "train", PASS_ENV="HF_TOKEN EMPTY", HF_TOKEN=secret, EMPTY="")
    assert done.returncode == 0, done.stderr
    wait_for(lambda: ready.received(what="environment"))
    (environment,) = ready.received(what="environment")
    assert environment["HF_TOKEN"] == secret and environment["EMPTY"] == ""
    file = ready.folder / "1/0/mt0_runs/mt0-xl/environment"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    dry = ready.run("tpu_run", "train", PASS_ENV="HF_TOKEN", HF_TOKEN=secret, DRY_RUN="1")
    for text in (done.stdout, done.stderr, dry.stdout, dry.stderr, json.dumps(ready.calls())):
        assert "s3cr3t" not in text
    assert not list((ready.folder / "tmp").iterdir())


def test_what_is_not_passed_does_not_arrive(ready):
    assert ready.run("tpu_run", "train", HF_TOKEN="x").returncode == 0
    wait_for(lambda: ready.received(what="environment"))
    assert "HF_TOKEN" not in ready.received(what="environment")[0]


def test_a_run_that_is_there_is_not_started_twice(ready):
    ready.plan(lives=[["ACTIVE"]], seconds=60)
    assert ready.run("tpu_run", "train").returncode == 0
    wait_for(lambda: ready.received())
    again = ready.run("tpu_run", "train", "--other")
    assert again.returncode == 2 and "RESTART=1 ends it first" in again.stderr
    ready.plan(lives=[["ACTIVE"]], seconds=0)
    assert ready.run("tpu_run", "train", "--other", RESTART="1").returncode == 0
    wait_for(lambda: (ready.folder / "1/0/mt0_runs/mt0-xl/exit_code").exists())
    assert ready.received() == [["train"], ["train", "--other"]]


def test_stop_and_logs(ready):
    ready.plan(lives=[["ACTIVE"]], seconds=60)
    assert ready.run("tpu_run", "train").returncode == 0
    log = ready.folder / "1/0/mt0_runs/mt0-xl/log"
    wait_for(lambda: log.exists() and "step 7" in log.read_text())
    assert ready.run("tpu_stop").returncode == 0
    wait_for(lambda: (ready.folder / "1/0/mt0_runs/mt0-xl/exit_code").exists())
    assert (ready.folder / "1/0/mt0_runs/mt0-xl/exit_code").read_text() == "143\n"
    shown = ready.run("tpu_logs", FOLLOW="0", LINES_BACK="2")
    assert shown.returncode == 0
    assert "mt0 says: step 7\n" in shown.stdout and "ended with 143" in shown.stdout


@pytest.mark.parametrize(
    ("variables", "words", "said"),
    [
        ({}, [], "there is nothing to run"),
        ({"PASS_ENV": "HF_TOKEN=abc"}, ["train"], "values do not belong there"),
        ({"PASS_ENV": "NONE_SUCH"}, ["train"], "PASS_ENV names NONE_SUCH, which is not set"),
        ({"NAME": "Mt0"}, ["train"], "NAME is 'Mt0'"),
        ({"NAME": "a b; rm -rf"}, ["train"], "NAME is 'a b; rm -rf'"),
        ({"SLICES": "two"}, ["train"], "SLICES is 'two'"),
        ({"ZONE": ""}, ["train"], "ZONE is not set; tpu_run.sh needs: NAME ZONE"),
    ],
)
def test_what_is_refused(cloud, variables, words, said):
    done = cloud.run("tpu_run", *words, **variables)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
    assert not cloud.calls()
