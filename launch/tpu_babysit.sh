#!/usr/bin/env bash
# From nothing to a finished run: creates the TPUs, sets them up, starts the run, and when they are
# taken away creates them again, where the run goes on from its last checkpoint; until it is done.
#
#   NAME=mt0-xl TYPE=v4-64 ZONE=us-central2-b MOUNT=gs://my-bucket launch/tpu_babysit.sh \
#     train --gin_file=recipes/packed_mt0_xl.gin --gin.MODEL_DIR="'/gcs/my-bucket/mt0-xl'"
#
# The variables of tpu_create.sh, tpu_setup.sh and tpu_run.sh, and:
# POLL_SECONDS    between two looks, default 60
# RETRIES         how many runs in a row may end early with an error, default 3
# EARLY_SECONDS   a run that lasted longer (1800) counts as the first again: it got somewhere
# KEEP            1: the TPUs stay when all is over, and go on costing
#
# Every round looks at two things, the queued resource's state and the run's on worker 0, and does
# one thing about them; nothing is remembered but the errors in a row. So it can be stopped (Ctrl-C:
# the run goes on) and started again. Run it in tmux, on a machine that stays on.
#
#   queued resource          run            what is done
#   there is none                           create
#   waiting, provisioning                   wait
#   SUSPENDED (preempted)                   delete, create
#   FAILED                                  counts as an error; delete, create
#   ACTIVE                   absent         set up, start
#   ACTIVE                   running        wait
#   ACTIVE                   exit 0         done: delete
#   ACTIVE                   exit 1, 2, 130 a defect, a mistake in the command, Ctrl-C: show, delete,
#                                           give up
#   ACTIVE                   other, lost    start again; too often in a row: show, delete, give up
#
# Ends with 0 when the run is done, else with the run's own code, or 1.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/tpu_settings.sh"
needs NAME TYPE ZONE
check_mount
[ $# -gt 0 ] || die "there is nothing to run; write the words after mt0: train --gin_file=…"
export NAME TYPE ZONE SLICES DRY_RUN PYTHON CHECKED=
: "${POLL_SECONDS:=60}" "${RETRIES:=3}" "${EARLY_SECONDS:=1800}"

create() { NO_WAIT=1 bash "$here/tpu_create.sh"; }
delete() { bash "$here/tpu_delete.sh"; }
set_up() { bash "$here/tpu_setup.sh"; }
start() { RESTART=1 bash "$here/tpu_run.sh" "$@"; }

# finish CODE: shows how it ended, deletes the TPUs unless they shall stay.
finish() {
  if [ "$1" != 0 ]; then
    say "giving up; the end of each worker's log:"
    WORKER=all FOLLOW=0 LINES_BACK=20 bash "$here/tpu_logs.sh" || true
  fi
  if [ "$(state)" = NONE ]; then
    exit "$1"
  elif [ -n "${KEEP:-}" ]; then
    say "the TPUs stay (KEEP) and cost; launch/tpu_delete.sh deletes them"
  else
    delete || say "could not delete $NAME: DO IT YOURSELF with launch/tpu_delete.sh, it costs money"
  fi
  exit "$1"
}

errors=0
# count_error SECONDS WHAT CODE: ends all with CODE when there were too many in a row.
count_error() {
  [ "$1" -lt "$EARLY_SECONDS" ] || errors=0
  errors=$((errors + 1))
  say "$2 ($errors of at most $RETRIES errors in a row)"
  [ "$errors" -le "$RETRIES" ] || finish "$3"
}

# look: sets run (running, exit, lost, absent, unreachable), code and seconds.
look() {
  local answer rest
  # shellcheck disable=SC2016 # the worker's shell expands it
  set_ssh 0 bash -c 'if [ -f "$1" ]; then bash "$1" "$2"; else echo absent 0; fi' \
    look "$WORKER_CODE/launch/worker_status.sh" "$NAME"
  if ! answer=$("${ssh[@]}" </dev/null); then
    run=unreachable code=1 seconds=0
    return
  fi
  read -r run rest <<<"$(head -n 1 <<<"$answer")"
  case $run in
    exit) read -r code seconds <<<"$rest" ;;
    *) code=1 seconds=${rest:-0} ;;
  esac
  progress=$(tail -n +2 <<<"$answer")
}

# look_after WORD…: one round at an ACTIVE resource.
look_after() {
  if [ -n "$half_started" ]; then
    start_all "$@"
    return
  fi
  look
  case $run in
    running)
      unreachable=0
      say "running for $((seconds / 60)) min: ${progress:-nothing logged yet}"
      ;;
    absent)
      unreachable=0
      say "setting $NAME up"
      if set_up; then
        start_all "$@"
      else
        count_error 0 "the workers could not be set up" 1
      fi
      ;;
    unreachable)
      # Often the first sign of a preemption; the next rounds will tell.
      unreachable=$((unreachable + 1))
      say "worker 0 does not answer"
      if [ "$unreachable" -ge 10 ]; then
        unreachable=0
        count_error 0 "worker 0 has not answered ten times; creating anew" 1
        delete || true
      fi
      ;;
    exit | lost) ended "$@" ;;
    *) say "worker 0 answers '$run', which is no state of a run" ;;
  esac
}

# ended WORD…: what an ACTIVE resource's ended run means.
ended() {
  case $run$code in
    exit0)
      say "done"
      finish 0
      ;;
    exit1 | exit2 | exit130)
      say "the run ended with $code, which another try would not change: ${progress:-}"
      finish "$code"
      ;;
  esac
  # When machines are taken away, the others' programs die before the state says so.
  sleep "$POLL_SECONDS"
  [ "$(state)" = ACTIVE ] || return 0
  count_error "$seconds" "the run ended ($run $code) after $((seconds / 60)) min: ${progress:-}" "$code"
  start_all "$@"
}

# start_all WORD…: on all workers or, in the next round, on all of them anew: those that were started
# would wait for the others, and end as if the command were at fault.
start_all() {
  half_started=
  start "$@" || {
    half_started=1
    count_error 0 "the run could not be started on all workers" 1
  }
}

if [ -n "$DRY_RUN" ]; then
  create
  say "then, once it is ACTIVE:"
  set_up
  start "$@"
  say "then every $POLL_SECONDS s, until the run is done:"
  run gcloud compute tpus queued-resources describe "$NAME" "${where[@]}" --format='value(state.state)'
  at_worker 0 bash "$WORKER_CODE/launch/worker_status.sh" "$NAME"
  say "at the end, and after a preemption before it is created again:"
  delete
  exit 0
fi

check_gcloud
CHECKED=1
unreachable=0 before='' half_started=''
while :; do
  now=$(state)
  [ "$now" = "$before" ] || say "$NAME is $now"
  before=$now
  case $now in
    NONE)
      half_started=
      create || count_error 0 "the TPUs could not be asked for" 1
      ;;
    ACTIVE) look_after "$@" ;;
    SUSPENDED)
      say "preempted; creating it again"
      errors=0
      delete || say "could not delete it; once more in the next round"
      ;;
    FAILED)
      count_error 0 "the request for TPUs failed" 1
      delete || say "could not delete it; once more in the next round"
      ;;
  esac
  sleep "$POLL_SECONDS"
done
