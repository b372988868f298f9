#!/usr/bin/env bash
# Starts `mt0 …` on every worker, in tmux, and returns; the run goes on without this machine.
#
#   NAME=mt0-xl ZONE=us-central2-b launch/tpu_run.sh train --gin_file=recipes/packed_mt0_xl.gin \
#     --gin.MODEL_DIR="'/gcs/my-bucket/mt0-xl'" --gin.TASK_FEATURE_LENGTHS="{'inputs': 1024, 'targets': 256}"
#
# NAME ZONE PROJECT DRY_RUN   see tpu_settings.sh
# PASS_ENV   names of variables of yours that the run shall have, separated by blanks:
#            'HF_TOKEN MT0_CACHE_DIR'. Their values travel in a file that you and the workers' user
#            alone can read: no command line, log or metadata holds them. The file stays on the
#            workers until the TPUs are deleted.
# RESTART    1: a run of this name that is still there is ended first (else that is an error)
#
# The arguments arrive as they are here: quotes, braces, $, blanks, line breaks. Follow the run with
# launch/tpu_logs.sh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/tpu_settings.sh"
needs NAME ZONE
[ $# -gt 0 ] || die "there is nothing to run; write the words after mt0: train --gin_file=…"

for name in ${PASS_ENV:-}; do
  [[ $name =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] || die "PASS_ENV has '$name', which is no name of a" \
    "variable; values do not belong there"
  [ -n "${!name+set}" ] || die "PASS_ENV names $name, which is not set"
done
if [ -n "${PASS_ENV:-}" ]; then
  secrets=$(mktemp -d) # mktemp's folders and files are their owner's alone
  trap 'rm -rf "$secrets"' EXIT
  file=$secrets/environment
  (umask 077 && for name in $PASS_ENV; do echo "export $name=$(quoted "${!name}")"; done >"$file")
  [ -z "$DRY_RUN" ] || file=environment # the same text every time; its content is never printed
  persist to_workers "$file" "mt0_environment" || die "the variables could not be copied"
fi
# No second try: of a start that failed half way, launch/tpu_babysit.sh starts all anew.
at_worker all env RESTART="${RESTART:-}" bash "$WORKER_CODE/launch/worker_start.sh" "$NAME" "$@"
