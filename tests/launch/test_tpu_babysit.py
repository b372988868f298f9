"""The babysitter, driven through what happens to TPUs and to runs."""

import json
import os
import re
import shutil
import signal
import sys

import pytest

from tests.launch.conftest import REPOSITORY, wait_for
from tests.tiny_run import write_tiny_cache

STEPS = 60  # of the real run; a save every five is what takes its time
WORDS = ["train", "--gin.TASK_FEATURE_LENGTHS={'inputs': 1024}"]


def verbs(cloud):
    """What was done to the resource, in order; looking left out."""
    return [call[3] for call in cloud.calls("create", "delete", "scp")]


def test_waits_runs_survives_a_preemption_and_is_done(cloud):
    cloud.plan(
        lives=[["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"], ["PROVISIONING", "ACTIVE"]],
        exits=["preempted", 0],
    )
    done = cloud.run("tpu_babysit", *WORDS)
    assert done.returncode == 0, done.stderr
    said = re.findall(r"^mt0: mt0-xl is (\w+)", done.stderr, re.M)
    assert said == ["NONE", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE", "SUSPENDED", "NONE",
                    "PROVISIONING", "ACTIVE"]  # fmt: skip
    assert verbs(cloud) == ["create", "scp", "delete", "create", "scp", "delete"]
    # The very same words in both lives, on every worker; of the second, fresh machines.
    for life, worker in ((1, 0), (1, 1), (2, 0), (2, 1)):
        wait_for(lambda life=life, worker=worker: cloud.received(life, worker) == [WORDS])
    assert done.stderr.rstrip().endswith("mt0: done")


def test_an_end_that_may_be_mended_is_tried_a_few_times_and_given_up(cloud):
    cloud.plan(lives=[["ACTIVE"]], exits=[42, 134, 42, 42])
    done = cloud.run("tpu_babysit", *WORDS, RETRIES="2")
    assert done.returncode == 42
    assert len(cloud.received()) == 3
    assert "the run ended (exit 134) after 0 min: mt0 says: step 7 (2 of at most 2" in done.stderr
    assert verbs(cloud) == ["create", "scp", "delete"]
    assert done.stdout.count("mt0 says: step 7") == 6  # three starts of two workers


def test_a_run_that_started_on_some_workers_is_started_on_all_anew(cloud):
    # Worker 0, alone, ends as if its command were wrong: the others did not come.
    cloud.plan(lives=[["ACTIVE"]], exits=[2, 0], start_fails=1)
    done = cloud.run("tpu_babysit", *WORDS)
    assert done.returncode == 0, done.stderr
    assert "could not be started on all workers (1 of at most 3" in done.stderr
    wait_for(lambda: (cloud.received(worker=0), cloud.received(worker=1)) == ([WORDS] * 2, [WORDS]))


def test_every_worker_of_every_slice(cloud):
    cloud.plan(lives=[["ACTIVE"]], slices=2, types=["v6e-64"])
    done = cloud.run("tpu_babysit", *WORDS, SLICES="2", TYPE="v6e-64", ZONE="us-east5-b")
    assert done.returncode == 0, done.stderr
    assert "2 slice(s) of v6e-64: 128 chips on 32 hosts" in done.stderr
    (create,) = cloud.calls("create")
    assert {"--node-count=2", "--node-prefix=mt0-xl"} < set(create)
    for worker in ("0", "1", "1.0", "1.1"):
        wait_for(lambda worker=worker: cloud.received(worker=worker) == [WORDS])


def test_runs_that_lasted_do_not_add_up(cloud):
    cloud.plan(lives=[["ACTIVE"]], exits=[42, 42, -9, 134, 0])
    done = cloud.run("tpu_babysit", *WORDS, RETRIES="1", EARLY_SECONDS="0")
    assert done.returncode == 0, done.stderr
    assert len(cloud.received()) == 5
    assert "(exit 137)" in done.stderr


@pytest.mark.parametrize("code", [1, 2, 130])
def test_a_mistake_is_not_tried_again(cloud, code):
    cloud.plan(lives=[["ACTIVE"]], exits=[code])
    done = cloud.run("tpu_babysit", *WORDS)
    assert done.returncode == code
    assert len(cloud.received()) == 1 and verbs(cloud)[-1] == "delete"


def test_keep_leaves_the_tpus_and_says_so(cloud):
    cloud.plan(lives=[["ACTIVE"]])
    done = cloud.run("tpu_babysit", *WORDS, KEEP="1")
    assert done.returncode == 0 and "delete" not in verbs(cloud)
    assert "the TPUs stay (KEEP) and cost" in done.stderr


def test_a_failed_request_is_made_again_and_given_up(cloud):
    cloud.plan(lives=[["FAILED"]] * 9)
    done = cloud.run("tpu_babysit", *WORDS, RETRIES="1")
    assert done.returncode == 1
    assert verbs(cloud) == ["create", "delete", "create", "delete"]
    assert "the request for TPUs failed (2 of at most 1" in done.stderr


def test_a_request_that_cannot_be_made_is_given_up(cloud):
    cloud.plan(lives=[], create_fails=9)
    done = cloud.run("tpu_babysit", *WORDS, RETRIES="1")
    assert done.returncode == 1
    assert verbs(cloud) == ["create", "create"]  # nothing there, so nothing to delete


def test_deaths_that_come_before_the_news_of_a_preemption_are_no_errors(cloud):
    # The others' programs die with the first machine; the state says so a little later.
    cloud.plan(lives=[["ACTIVE", "ACTIVE", "SUSPENDED"]] * 3 + [["ACTIVE"]], exits=[-9, -9, -9, 0])
    done = cloud.run("tpu_babysit", *WORDS, RETRIES="0")
    assert done.returncode == 0, done.stderr
    assert verbs(cloud).count("create") == 4 and "errors in a row" not in done.stderr


def test_a_gcloud_that_cannot_say_is_asked_again(cloud):
    cloud.plan(lives=[["ACTIVE"]], describe_fails=3)
    done = cloud.run("tpu_babysit", *WORDS)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("gcloud could not say how mt0-xl is: ERROR: describe fails") == 3
    assert verbs(cloud) == ["create", "scp", "delete"]


def test_a_worker_that_never_answers_is_replaced(cloud):
    cloud.plan(lives=[["ACTIVE"], ["ACTIVE"]], ssh_fails=10)
    done = cloud.run("tpu_babysit", *WORDS)
    assert done.returncode == 0, done.stderr
    assert verbs(cloud) == ["create", "delete", "create", "scp", "delete"]


def test_started_again_it_takes_up_the_run_that_is_there(cloud):
    cloud.plan(lives=[["ACTIVE"]], seconds=2)
    for script in ("tpu_create", "tpu_setup"):
        assert cloud.run(script).returncode == 0
    assert cloud.run("tpu_run", *WORDS).returncode == 0
    done = cloud.run("tpu_babysit", *WORDS)
    assert done.returncode == 0, done.stderr
    assert len(cloud.received()) == 1 and verbs(cloud).count("create") == 1


def test_a_reboot_starts_the_run_again(cloud):
    cloud.plan(lives=[["ACTIVE"]], seconds=60)
    for script in ("tpu_create", "tpu_setup"):
        assert cloud.run(script).returncode == 0
    assert cloud.run("tpu_run", *WORDS).returncode == 0
    for worker in (0, 1):
        wait_for(lambda worker=worker: cloud.received(worker=worker))
        session = cloud.folder / f"1/{worker}/mt0-mt0-xl.session"
        os.killpg(int(session.read_text()), signal.SIGKILL)
        session.unlink()
    cloud.plan(lives=[["ACTIVE"]], seconds=0)
    done = cloud.run("tpu_babysit", *WORDS)
    assert done.returncode == 0, done.stderr
    assert "the run ended (lost 1)" in done.stderr
    wait_for(lambda: cloud.received(worker=1) == [WORDS, WORDS])


# Before anything is created.


@pytest.mark.parametrize("script", ["tpu_create", "tpu_babysit"])
@pytest.mark.parametrize(
    ("plan", "variables", "said"),
    [
        ({"account": ""}, {}, "no account that is logged in; write: gcloud auth login"),
        ({"project": "(unset)"}, {}, "gcloud config set project PROJECT"),
        ({"types": ["v2-8", "v3-8"]}, {}, "us-central2-b offers mine no v4-64. Zones that are "
         "known to have it: us-central2-b. In us-central2-b there is: v2-8 v3-8"),
        ({}, {"TYPE": "v4-65"}, "the nearest in size: v4-64 and v4-128"),
        ({}, {"TYPE": "v44-64"}, "Did you mean 'v4-64'?"),
    ],
)  # fmt: skip
def test_what_is_refused(cloud, script, plan, variables, said):
    cloud.plan(lives=[["ACTIVE"]], **plan)
    done = cloud.run(script, "train", **variables)
    assert done.returncode == 2 and said in done.stderr
    assert not cloud.calls("create")


def test_no_gcloud(cloud):
    # Only what the script needs before it looks for gcloud.
    for name in ("bash", "dirname", "basename", "tr"):
        (cloud.folder / "few" / name).parent.mkdir(exist_ok=True)
        (cloud.folder / "few" / name).symlink_to(shutil.which(name))
    done = cloud.run("tpu_create", PATH=str(cloud.folder / "few"))
    assert done.returncode == 2
    assert done.stderr.startswith("mt0: error: gcloud is not installed, or not on PATH")


def test_capacity_is_one_of_three(cloud):
    done = cloud.run("tpu_create", CAPACITY="cheap")
    assert done.returncode == 2 and "spot, on-demand or reserved" in done.stderr
    for capacity, flag in (("spot", "--spot"), ("reserved", "--reserved"), ("on-demand", None)):
        done = cloud.run("tpu_create", CAPACITY=capacity, DRY_RUN="1")
        flags = {word for word in done.stdout.split() if word in ("--spot", "--reserved")}
        assert flags == ({flag} if flag else set())


# The real thing, in small.


@pytest.mark.slow
def test_a_real_run_killed_as_by_a_preemption_goes_on_and_ends(cloud, tmp_path):
    """`mt0 train` itself on one worker: SIGTERM and a lost machine in the middle, then the rest."""
    write_tiny_cache(tmp_path / "cache")
    model_dir = tmp_path / "run's folder"  # what stays, as a mounted bucket does
    words = [
        "train", "--gin_file=models/mt5/small.gin", "--gin_file=runs/finetune.gin",
        f"--gin.MODEL_DIR={str(model_dir)!r}", "--gin.MIXTURE_OR_TASK_NAME='mix'",
        "--gin.INITIAL_CHECKPOINT_PATH=None", "--gin.train.from_scratch=True",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 24, 'targets': 12}", "--gin.BATCH_SIZE=8",
        f"--gin.TRAIN_STEPS={STEPS}", "--gin.USE_CACHED_TASKS=True",
        "--gin.train.train_eval_dataset=None", "--gin.train.log_every_steps=10",
        "--gin.utils.SaveCheckpointConfig.save_every_steps=5",
        f"--gin.utils.DatasetConfig.cache_dir={str(tmp_path / 'cache')!r}",
        *(f"--gin.network.T5Config.{name}={value}" for name, value in {
            "vocab_size": 512, "emb_dim": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 32,
            "num_encoder_layers": 1, "num_decoder_layers": 1, "dtype": "'float32'"}.items()),
    ]  # fmt: skip
    environment = {"PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"}
    cloud.plan(
        lives=[["ACTIVE"], ["PROVISIONING", "ACTIVE"]], workers=1,
        exec=[sys.executable, "-m", "mt0_tpu"], exec_environment=environment,
    )  # fmt: skip
    babysitter = cloud.start("tpu_babysit", *words, POLL_SECONDS="0.5")
    try:
        checkpoints = model_dir / "checkpoints"
        wait_for(lambda: (checkpoints / "5").exists() or babysitter.poll() is not None, 300)
        assert babysitter.poll() is None, babysitter.communicate()
        pid = int((cloud.folder / "1/0/mt0_runs/mt0-xl/pid").read_text())
        os.kill(pid, signal.SIGTERM)
        (cloud.folder / "preempt").touch()
        out, said = babysitter.communicate(timeout=300)
    finally:
        babysitter.kill()
    assert babysitter.returncode == 0, said
    log = (cloud.folder / "2/0/mt0_runs/mt0-xl/log").read_text()
    resumed = re.search(r"training from step (\d+) to", log)
    assert resumed and 5 <= int(resumed[1]) < STEPS, log
    assert (checkpoints / str(STEPS)).exists()
    steps = [
        json.loads(line)["step"] for line in (model_dir / "metrics.jsonl").read_text().splitlines()
    ]
    assert sorted(set(steps)) == list(range(10, STEPS + 1, 10))
    assert "done: step" in said  # the run's own last line, shown by the babysitter
