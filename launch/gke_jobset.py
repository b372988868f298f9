#!/usr/bin/env python3
r"""Runs `mt0 …` on TPUs of a GKE cluster, as a JobSet.

    NAME=mt0-xl TYPE=v6e-64 IMAGE=REGISTRY/mt0:1 BUCKET=my-bucket \
      launch/gke_jobset.py train --gin_file=recipes/packed_mt0_xl.gin \
      --gin.MODEL_DIR="'/gcs/my-bucket/mt0-xl'"

NAME       of the JobSet: a lower case letter, then letters, digits, dashes; 40 at most
TYPE       v4-64, v5e-16, v5p-128, v6e-64, …; the cluster has node pools of it
IMAGE      made with launch/Dockerfile, pushed where the cluster can read it
SLICES     default 1; more make a multislice job, each slice on a node pool of its own
SPOT       1: on spot nodes
BUCKET     appears as /gcs/BUCKET (the cluster's Cloud Storage FUSE driver must be on)
SERVICE_ACCOUNT    Kubernetes service account of the pods, with access to the bucket
SECRET     name of a Kubernetes Secret whose entries become variables: HF_TOKEN and so on. Make it
           with `kubectl create secret generic NAME --from-env-file=FILE`; no value is in a manifest
MAX_RESTARTS       default 100: preemptions count too
GRACE_SECONDS      default 600: from SIGTERM until the pod is killed, time to save in. Spot nodes
           give less, whatever is written here
NAMESPACE  default: kubectl's own
DRY_RUN    1: prints the manifest and the command, and runs nothing

Ends as soon as the JobSet is there: `kubectl logs -f -l jobset.sigs.k8s.io/jobset-name=NAME`
follows, `kubectl delete jobset NAME` deletes. A pod that ends with code 1 or 2 (a defect, a
mistake in the command) ends the JobSet; any other failure, preemption included, starts all of it
again, and the run goes on from its last checkpoint. Needs kubectl, and JobSet in the cluster.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if (Path(__file__).resolve().parent.parent / "mt0_tpu").is_dir():  # a checkout, installed or not
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import yaml

from mt0_tpu.errors import UserError
from mt0_tpu.tpu_types import TpuType, tpu_type

# A defect and a mistake in the command (docs/pods.md): mt0 would say the same again.
FINAL_CODES = [1, 2]
CONTAINER = "mt0"


def manifest(words: Sequence[str], settings: Mapping[str, str]) -> dict[str, Any]:
    """Returns the JobSet as Kubernetes wants it.

    Args:
      words: what stands after mt0; each arrives as it is, no shell reads them.
      settings: the variables of this file's head.

    Raises:
      UserError: a variable that is missing or wrong.
    """
    for name in ("NAME", "TYPE", "IMAGE"):
        if not settings.get(name):
            raise UserError(f"{name} is not set; the head of launch/gke_jobset.py explains it")
    if not words:
        raise UserError("there is nothing to run; write the words after mt0: train --gin_file=…")
    name = settings["NAME"]
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", name):
        raise UserError(
            f"NAME is '{name}'; it must be a lower case letter, then letters, digits or dashes, "
            "40 at most, and not end in a dash"
        )
    kind = tpu_type(settings["TYPE"])
    if kind.gke_accelerator is None:
        raise UserError(f"GKE has no {kind.name}; launch/tpu_babysit.sh runs it without GKE")
    slices = _number(settings, "SLICES", 1, least=1)
    if slices > 1 and kind.hosts == 1:
        raise UserError(
            f"SLICES is {slices}, but {kind.name} has one host, and GKE joins slices of several "
            "hosts alone; take a larger TYPE"
        )
    job = {
        # One pod a host; a slice is whole or nothing.
        "parallelism": kind.hosts,
        "completions": kind.hosts,
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": [
            {"action": "FailJob", "onExitCodes": {
                "containerName": CONTAINER, "operator": "In", "values": FINAL_CODES}},
        ]},
        "template": _pod(words, settings, kind),
    }  # fmt: skip
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": name,
            # Each slice on one node pool, which is what a slice of TPUs is in GKE.
            "annotations": {
                "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
            },
        },
        "spec": {
            "failurePolicy": {
                "maxRestarts": _number(settings, "MAX_RESTARTS", 100, least=0),
                "rules": [{"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
            },
            "replicatedJobs": [
                {"name": "slice", "replicas": slices, "template": {"spec": job}},
            ],
        },
    }


def _pod(words: Sequence[str], settings: Mapping[str, str], kind: TpuType) -> dict[str, Any]:
    selector = {
        "cloud.google.com/gke-tpu-accelerator": kind.gke_accelerator,
        "cloud.google.com/gke-tpu-topology": kind.topology,
    }
    tolerations = [{"key": "google.com/tpu", "operator": "Exists"}]
    if settings.get("SPOT"):
        selector["cloud.google.com/gke-spot"] = "true"
        tolerations.append({"key": "cloud.google.com/gke-spot", "operator": "Exists"})
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": settings["IMAGE"],
        # Kubernetes replaces $(NAME) in arguments, and $$ by $.
        "args": [word.replace("$", "$$") for word in words],
        "resources": {"limits": {"google.com/tpu": kind.chips_per_host}},
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
    }
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _number(settings, "GRACE_SECONDS", 600, least=1),
        "nodeSelector": selector,
        "tolerations": tolerations,
        # Between hosts and slices the network of the nodes is the fast one.
        "hostNetwork": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        "containers": [container],
        "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}],
    }
    template: dict[str, Any] = {"spec": pod}
    if settings.get("SERVICE_ACCOUNT"):
        pod["serviceAccountName"] = settings["SERVICE_ACCOUNT"]
    if settings.get("SECRET"):
        container["envFrom"] = [{"secretRef": {"name": settings["SECRET"]}}]
    if settings.get("BUCKET"):
        bucket = settings["BUCKET"].removeprefix("gs://").rstrip("/")
        template["metadata"] = {"annotations": {"gke-gcsfuse/volumes": "true"}}
        container["volumeMounts"].append({"name": "bucket", "mountPath": f"/gcs/{bucket}"})
        # Nothing cached: what one host writes, the others must see.
        options = "implicit-dirs,metadata-cache:ttl-secs:0"
        pod["volumes"].append({"name": "bucket", "csi": {
            "driver": "gcsfuse.csi.storage.gke.io",
            "volumeAttributes": {"bucketName": bucket, "mountOptions": options}}})  # fmt: skip
    return template


def _number(settings: Mapping[str, str], name: str, otherwise: int, least: int) -> int:
    text = settings.get(name) or str(otherwise)
    if not text.isdecimal() or int(text) < least:
        raise UserError(f"{name} is '{text}'; it must be a number from {least}")
    return int(text)


def main(words: Sequence[str], settings: Mapping[str, str]) -> int:
    text = yaml.safe_dump(
        manifest(words, settings), sort_keys=False, allow_unicode=True, width=10**6
    )
    command = ["kubectl", "create", "-f", "-"]
    if settings.get("NAMESPACE"):
        command.append(f"--namespace={settings['NAMESPACE']}")
    print(f"{text}# {shlex.join(command)}", flush=True)
    if settings.get("DRY_RUN"):
        return 0
    if shutil.which("kubectl") is None:
        raise UserError("kubectl is not installed, or not on PATH; see https://kubernetes.io/docs")
    # create, not apply: a JobSet of this name that is there is an error, not changed.
    return subprocess.run(command, input=text, text=True, check=False).returncode


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:], os.environ))
    except UserError as error:
        print(f"mt0: error: {error}", file=sys.stderr)
        sys.exit(2)
