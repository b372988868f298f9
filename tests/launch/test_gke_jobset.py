"""The JobSet: what Kubernetes, GKE and JobSet want of it, read off the structure."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
BASE = {"NAME": "mt0-xl", "TYPE": "v6e-64", "IMAGE": "i"}


def run(*words, **variables):
    environment = {"PATH": "/usr/bin:/bin", "DRY_RUN": "1"} | variables
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "launch/gke_jobset.py"), *words],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def made(*words, **variables):
    done = run(*(words or ("train",)), **(BASE | variables))
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


def job(jobset):
    return jobset["spec"]["replicatedJobs"][0]["template"]["spec"]


def pod(jobset):
    return job(jobset)["template"]["spec"]


@pytest.mark.parametrize(
    ("kind", "slices", "hosts", "chips", "accelerator", "topology"),
    [
        ("v4-64",   "1", 8,  4, "tpu-v4-podslice",      "2x4x4"),
        ("v5e-8",   "1", 1,  8, "tpu-v5-lite-podslice", "2x4"),
        ("v5p-128", "3", 16, 4, "tpu-v5p-slice",        "4x4x4"),
        ("v6e-64",  "2", 16, 4, "tpu-v6e-slice",        "8x8"),
    ],
)  # fmt: skip
def test_a_pod_a_host_a_job_a_slice(kind, slices, hosts, chips, accelerator, topology):
    jobset = made(TYPE=kind, SLICES=slices)
    assert jobset["spec"]["replicatedJobs"][0]["replicas"] == int(slices)
    assert job(jobset)["parallelism"] == job(jobset)["completions"] == hosts
    assert pod(jobset)["containers"][0]["resources"] == {"limits": {"google.com/tpu": chips}}
    assert pod(jobset)["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": accelerator,
        "cloud.google.com/gke-tpu-topology": topology,
    }


def test_failures_start_all_again_but_for_a_users_mistake():
    jobset = made(MAX_RESTARTS="7")
    assert jobset["spec"]["failurePolicy"] == {
        "maxRestarts": 7,
        "rules": [{"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
    }
    # One pod that fails is a failed job; which policies apply wants restartPolicy Never.
    assert job(jobset)["backoffLimit"] == 0 and pod(jobset)["restartPolicy"] == "Never"
    (rule,) = job(jobset)["podFailurePolicy"]["rules"]
    assert rule == {
        "action": "FailJob",
        "onExitCodes": {"containerName": "mt0", "operator": "In", "values": [1, 2]},
    }
    assert pod(jobset)["containers"][0]["name"] == "mt0"


def test_there_is_time_to_save():
    assert pod(made())["terminationGracePeriodSeconds"] == 600
    assert pod(made(GRACE_SECONDS="60"))["terminationGracePeriodSeconds"] == 60


def test_spot_bucket_secret():
    jobset = made(SPOT="1", BUCKET="gs://b/", SECRET="tokens", SERVICE_ACCOUNT="trainer")
    (container,) = pod(jobset)["containers"]
    assert pod(jobset)["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert {one["key"] for one in pod(jobset)["tolerations"]} == {
        "google.com/tpu", "cloud.google.com/gke-spot"}  # fmt: skip
    assert container["envFrom"] == [{"secretRef": {"name": "tokens"}}] and "env" not in container
    assert job(jobset)["template"]["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    names = {volume["name"] for volume in pod(jobset)["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == names == {"shm", "bucket"}
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/dev/shm", "/gcs/b"}
    assert pod(jobset)["serviceAccountName"] == "trainer"


def expanded(argument, environment):
    """As Kubernetes' kubelet reads an argument: $$ is $, $(NAME) a variable if there is one."""
    return re.sub(
        r"\$(\$|\(([^)]*)\))",
        lambda m: "$" if m[1] == "$" else environment.get(m[2], m[0]),
        argument,
    )


def test_arguments_arrive_unchanged():
    words = ["train", "--gin.X={'a': 1}", "$(HOME) $$(HOME) $$ $HOME $", "two\nlines", "it's", ""]
    arguments = pod(made(*words))["containers"][0]["args"]
    assert [expanded(one, {"HOME": "/root"}) for one in arguments] == words


@pytest.mark.parametrize(
    ("words", "variables", "said"),
    [
        (["train"], {"IMAGE": ""}, "IMAGE is not set"),
        ([], {}, "there is nothing to run"),
        (["train"], {"NAME": "A"}, "NAME is 'A'"),
        (["train"], {"TYPE": "v6-64"}, "Did you mean 'v6e-64'?"),
        (["train"], {"TYPE": "v2-8"}, "GKE has no v2-8"),
        (["train"], {"SLICES": "0"}, "SLICES is '0'; it must be a number from 1"),
        (["train"], {"TYPE": "v5e-8", "SLICES": "2"}, "v5e-8 has one host"),
        (["train"], {"GRACE_SECONDS": "5m"}, "GRACE_SECONDS is '5m'"),
        (["train"], {"DRY_RUN": "", "PATH": "/nowhere"}, "kubectl is not installed"),
    ],
)
def test_what_is_refused(words, variables, said):
    done = run(*words, **(BASE | variables))
    assert done.returncode == 2
    assert done.stderr.startswith("mt0: error: ") and said in done.stderr
    assert "Traceback" not in done.stderr


def test_it_is_handed_to_kubectl(tmp_path):
    fake = tmp_path / "kubectl"
    fake.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/argv\ncat >{tmp_path}/stdin\n')
    fake.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = run("train", **BASE, DRY_RUN="", PATH=path, NAMESPACE="team")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "argv").read_text() == "create -f - --namespace=team\n"
    assert yaml.safe_load((tmp_path / "stdin").read_text()) == made(NAMESPACE="team")
