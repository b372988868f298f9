#!/usr/bin/env bash
# The batch script of launch/slurm_submit.sh: starts the processes and, when they were told to end
# before they were done, puts the job into the queue again.
#
#   sbatch [FLAGS] launch/slurm_job.sh train --gin_file=…
#
# MT0, MAX_TURNS   see slurm_submit.sh
# DRY_RUN          1: print the commands, run none
set -uo pipefail
requeue_code=42 # mt0's for "start me again": mt0_tpu/exit_codes.py

# One process that dies takes the others along, instead of letting them wait for it.
command=(srun --kill-on-bad-exit=1 "${MT0:-mt0}" "$@")
if [ -n "${DRY_RUN:-}" ]; then
  printf '%q ' "${command[@]}"
  echo
  exit 0
fi
"${command[@]}"
code=$?
if [ "$code" = "$requeue_code" ]; then
  # SLURM counts the starts after the first one.
  turn=$((${SLURM_RESTART_COUNT:-0} + 1))
  if [ "$turn" -lt "${MAX_TURNS:-100}" ]; then
    echo "mt0: turn $turn ended early; the job goes into the queue again"
    scontrol requeue "$SLURM_JOB_ID" && exit 0
  else
    echo "mt0: error: turn $turn is the last (MAX_TURNS), and the run is not done" >&2
  fi
fi
exit "$code"
