#!/usr/bin/env bash
# Copies this code to every worker and installs it there; mounts a bucket or a file server.
#
#   NAME=mt0-xl ZONE=us-central2-b MOUNT=gs://my-bucket launch/tpu_setup.sh
#
# NAME ZONE PROJECT DRY_RUN   see tpu_settings.sh
# SOURCE   a checkout of mt0_tpu, default the one this script is in. What git tracks and what it
#          does not ignore goes along, so modules of your own tasks do.
# MOUNT    gs://BUCKET appears as /gcs/BUCKET (Cloud Storage FUSE), SERVER:/SHARE as /nfs/SHARE.
#          MODEL_DIR must lie there: every worker writes its part of a checkpoint.
#
# Can be run again at any time. On a worker it is worker_setup.sh that does the work.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/tpu_settings.sh"
needs NAME ZONE
check_mount
SOURCE=${SOURCE:-$(cd "$here/.." && pwd)}
[ -f "$SOURCE/setup.py" ] && [ -f "$SOURCE/requirements.lock" ] || die "SOURCE is '$SOURCE'," \
  "which is no checkout of mt0_tpu (no setup.py or requirements.lock); name one"

archive=mt0_tpu.tar.gz
if [ -z "$DRY_RUN" ]; then
  temporary=$(mktemp -d)
  trap 'rm -rf "$temporary"' EXIT
  archive=$temporary/mt0_tpu.tar.gz
  if git -C "$SOURCE" rev-parse --is-inside-work-tree >/dev/null 2>&1; then
    # Deleted files are still in git's list: only those that are there.
    (cd "$SOURCE" && git ls-files -z --cached --others --exclude-standard |
      while IFS= read -r -d '' file; do [ ! -f "$file" ] || printf '%s\0' "$file"; done |
      tar --null -T - -czf "$archive")
  else
    tar -C "$SOURCE" --exclude=.venv --exclude=runs -czf "$archive" .
  fi
fi
persist to_workers "$archive" mt0_tpu.tar.gz || die "the code could not be copied to the workers"
# shellcheck disable=SC2016 # the worker's shell expands it
persist at_worker all bash -c \
  'mkdir -p "$1" && tar -xzf mt0_tpu.tar.gz -C "$1" && bash "$1/launch/worker_setup.sh" "$2"' \
  setup "$WORKER_CODE" "${MOUNT:-}" || die "a worker could not be set up; its words are above"
