#!/usr/bin/env bash
# Deletes the TPUs and the request for them, and waits until they are gone.
#
#   NAME=mt0-xl ZONE=us-central2-b launch/tpu_delete.sh
#
# NAME ZONE PROJECT DRY_RUN   see tpu_settings.sh
#
# What is on the TPU VMs' own disks is lost; checkpoints in a bucket or on a file server are not.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/tpu_settings.sh"
needs NAME ZONE
# --force: the TPUs with the request; without --async: gcloud waits until they are gone.
run gcloud compute tpus queued-resources delete "$NAME" "${where[@]}" --force --quiet
