#!/usr/bin/env bash
# Shows the run's log and follows it until you press Ctrl-C; the run does not mind.
#
#   NAME=mt0-xl ZONE=us-central2-b launch/tpu_logs.sh
#   NAME=mt0-xl ZONE=us-central2-b WORKER=all LINES_BACK=20 FOLLOW=0 launch/tpu_logs.sh
#
# NAME ZONE PROJECT DRY_RUN   see tpu_settings.sh
# WORKER       which worker of the first slice, default 0; all: every worker of every slice
# LINES_BACK   lines from before, default 100
# FOLLOW       0: show and return
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/tpu_settings.sh"
needs NAME ZONE
follow=(-F)
[ "${FOLLOW:-1}" != 0 ] || follow=()
at_worker "${WORKER:-0}" tail -n "${LINES_BACK:-100}" ${follow[@]+"${follow[@]}"} \
  "mt0_runs/$NAME/log"
