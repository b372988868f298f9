#!/usr/bin/env bash
# Tells the run to save a checkpoint and end (SIGTERM on every worker); the TPUs stay.
#
#   NAME=mt0-xl ZONE=us-central2-b launch/tpu_stop.sh
#
# NAME ZONE PROJECT DRY_RUN   see tpu_settings.sh
#
# Stop launch/tpu_babysit.sh first: it takes this for a preemption, and starts the run again.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/tpu_settings.sh"
needs NAME ZONE
# shellcheck disable=SC2016 # the worker's shell expands it
at_worker all bash -c 'kill -TERM "$(cat "mt0_runs/$1/pid")"' stop "$NAME"
