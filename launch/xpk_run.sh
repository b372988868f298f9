#!/usr/bin/env bash
# Runs `mt0 …` on a GKE cluster made by xpk.
#
#   NAME=mt0-xl TYPE=v6e-64 CLUSTER=my-cluster ZONE=us-east5-b PROJECT=p IMAGE=REGISTRY/mt0:1 \
#     launch/xpk_run.sh train --gin_file=recipes/packed_mt0_xl.gin --gin.MODEL_DIR="'/data/mt0-xl'"
#
# NAME TYPE ZONE PROJECT SLICES DRY_RUN PYTHON   see tpu_settings.sh
# CLUSTER        of xpk cluster create, or adapt
# IMAGE          made with launch/Dockerfile
# STORAGE        name of a storage that was attached with xpk storage attach: MODEL_DIR lies there
# MAX_RESTARTS   default 100; xpk's own is 0
# GRACE_SECONDS  default 600; xpk's own 30 is too short to save a large model in
# MANIFEST       with DRY_RUN=1: runs xpk's own dry run, which writes its manifest to this file
#
# xpk pins its libraries hard: give it an environment of its own (python3 -m venv; pip install xpk).
# It sends usage statistics unless TELEMETRY_ENABLED=false, which this script sets. It starts a job
# again on exit codes 42 and 127 to 255, and 42 is mt0's for "start me again". What --env holds is
# in the manifest in clear: launch/gke_jobset.py takes secrets from a Kubernetes Secret instead.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/tpu_settings.sh"
needs NAME TYPE ZONE CLUSTER IMAGE
[ $# -gt 0 ] || die "there is nothing to run; write the words after mt0: train --gin_file=…"
look_up_type
export TELEMETRY_ENABLED=${TELEMETRY_ENABLED:-false}

# xpk puts the command into a bash script in its manifest, lines indented: %q leaves no line breaks.
# exec: SIGTERM reaches mt0 and not a shell around it.
command="exec mt0 $(printf '%q ' "$@")"
flags=()
[ -z "${STORAGE:-}" ] || flags+=(--storage="$STORAGE")
if [ -n "$DRY_RUN" ] && [ -n "${MANIFEST:-}" ]; then
  flags+=(--dry-run --output-manifest-file="$MANIFEST")
  DRY_RUN=
fi
[ -n "$DRY_RUN" ] || command -v xpk >/dev/null || die "xpk is not installed, or not on PATH"
# shellcheck disable=SC2154 # look_up_type sets api_name, needs sets where
run xpk workload create --workload="$NAME" --cluster="$CLUSTER" "${where[@]}" \
  --tpu-type="$api_name" --num-slices="$SLICES" --docker-image="$IMAGE" \
  --max-restarts="${MAX_RESTARTS:-100}" --termination-grace-period-seconds="${GRACE_SECONDS:-600}" \
  ${flags[@]+"${flags[@]}"} --command="$command"
