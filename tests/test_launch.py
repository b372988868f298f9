"""`mt0 launch`: flags into variables, and what is refused before a script is run."""

import subprocess

import pytest

from mt0_tpu import cli, launch


@pytest.fixture
def ran(monkeypatch):
    """Commands and environments that would have been run; each ends with code 0."""
    calls = []

    def run(command, env, **_):
        calls.append((command, env))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(launch.subprocess, "run", run)
    return calls


TPU = ["launch", "tpu", "--name=mt0-xl", "--type=v4-64", "--zone=us-central2-b"]
WORDS = ["train", "--gin_file=recipes/mt0_xl.gin", "--gin.MODEL_DIR='/gcs/b/x'", "--dry_run", "--"]


def test_flags_become_variables_and_words_stay(ran, monkeypatch):
    monkeypatch.setenv("CAPACITY", "reserved")  # no flag of this name was given
    monkeypatch.setenv("POLL_SECONDS", "7")  # there is no such flag
    more = ["--mount=gs://b", "--pass_env=A B", "--keep", "--no_check"]
    assert cli.main([*TPU, *more, "--", *WORDS]) == 0
    ((command, environment),) = ran
    assert command[0] == "bash" and command[1].endswith("launch/tpu_babysit.sh")
    assert command[2:] == WORDS
    found = {name: environment.get(name) for name in ("NAME", "TYPE", "ZONE", "MOUNT", "PASS_ENV",
             "KEEP", "DRY_RUN", "CAPACITY", "POLL_SECONDS")}  # fmt: skip
    assert found == {"NAME": "mt0-xl", "TYPE": "v4-64", "ZONE": "us-central2-b", "MOUNT": "gs://b",
                     "PASS_ENV": "A B", "KEEP": "1", "DRY_RUN": "", "CAPACITY": None,
                     "POLL_SECONDS": "7"}  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "script"),
    [
        (["tpu", "--name=x", "--zone=z", "--step=logs"], "tpu_logs.sh"),
        (["tpu", "--name=x", "--zone=z", "--step=delete", "--dry_run"], "tpu_delete.sh"),
        (["gke", "--name=x", "--type=v6e-64", "--image=i", "--spot"], "gke_jobset.py"),
        (["xpk", "--name=x", "--type=v4-8", "--image=i", "--zone=z", "--cluster=c"], "xpk_run.sh"),
        (["slurm", "--name=x", "--nodes=2"], "slurm_submit.sh"),
    ],
)  # fmt: skip
def test_each_platform_has_its_script(ran, arguments, script):
    words = [] if "tpu" in arguments else ["--no_check", "--", "train"]
    assert cli.main(["launch", *arguments, *words]) == 0
    assert ran[0][0][1].endswith(f"launch/{script}")
    assert ran[0][1]["DRY_RUN"] == ("1" if "--dry_run" in arguments else "")


def test_every_flag_is_explained_in_a_script():
    for platform in launch.PLATFORMS.values():
        texts = [(launch.launch_folder() / name).read_text() for name in platform.scripts.values()]
        texts.append((launch.launch_folder() / "tpu_settings.sh").read_text())
        for variable, _ in platform.flags.values():
            assert any(f"{variable} " in text for text in texts), variable


def test_the_scripts_code_is_mt0s(ran, monkeypatch):
    monkeypatch.setattr(
        launch.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 42)
    )
    assert cli.main([*TPU, "--step=logs"]) == 42


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["launch"], "required: WHERE"),
        (["launch", "tpus"], "choose from 'tpu', 'gke', 'xpk', 'slurm'"),
        (["launch", "tpu", "--name=x"], "needs --zone and --type"),
        (["launch", "tpu", "--nam=x"], "Did you mean '--name'?"),
        ([*TPU, "train"], "The command to launch stands after --."),
        ([*TPU], "write -- and the words after mt0: -- train"),
        ([*TPU, "--", "trian"], "Did you mean 'train'?"),
        ([*TPU, "--", "report", "x"], "There are: train, eval, infer."),
        ([*TPU, "--step=log", "--", "train"], "Did you mean 'logs'?"),
        ([*TPU, "--step=logs", "--", "train"], "the step logs takes no command"),
        ([*TPU[:3], "--type=v4-46", "--zone=z", "--", "train"], "v4-32 and v4-64"),
        ([*TPU, "--", "train", "--gin.INFER_OUTPUT_DIR='gs://b/x'"], "--mount=gs://BUCKET"),
        ([*TPU, "--", "eval", "--gin.EVAL_OUTPUT_DIR='s3://b/x'"], "--mount=gs://BUCKET"),
        (["launch", "slurm", "--", "train"], "needs --name"),
    ],
)
def test_what_is_refused(ran, capsys, arguments, said):
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("mt0: error: ") and said in error and error.count("\n") == 1
    assert ran == []
