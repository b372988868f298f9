#!/usr/bin/env bash
# Runs `mt0 …` on GPUs that SLURM hands out.
#
#   NAME=mt0-large NODES=2 GPUS=8 launch/slurm_submit.sh train --gin_file=recipes/packed_mt0_large.gin \
#     --gin.MODEL_DIR="'/shared/mt0-large'"
#
# NAME           of the job
# NODES          default 1
# GPUS           of each node, default 8
# PER            gpu (default): a process a GPU; node: a process a node, with all its GPUs
# CPUS           of each process; default: what the cluster gives
# TIME           limit of one turn, 24:00:00 or so; the job is put into the queue again after it
# SAVE_SECONDS   default 300: so long before the limit SIGTERM tells the run to save and end
# SBATCH_FLAGS   further flags of sbatch's, separated by blanks: '--partition=gpu --account=x'
# MAX_TURNS      default 100: how often the job may start in all
# MT0            the program, default mt0 (of the environment that is active now)
# DRY_RUN        1: print the command, run nothing
#
# MODEL_DIR must lie on a disk that all nodes share. The job has your environment (sbatch's own
# default), HF_TOKEN and so on: SLURM keeps it where its administrators can read it. The log is
# NAME-JOB.log in this folder. Processes find each other by what SLURM tells them: docs/pods.md.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
die() {
  echo "mt0: error: $*" >&2
  exit 2
}
[ -n "${NAME:-}" ] || die "NAME is not set; the head of $(basename "$0") explains it"
[[ $NAME =~ ^[A-Za-z0-9][A-Za-z0-9_.-]*$ ]] || die "NAME is '$NAME'; it may hold letters, digits," \
  "dots, dashes and underscores"
[ $# -gt 0 ] || die "there is nothing to run; write the words after mt0: train --gin_file=…"
: "${NODES:=1}" "${GPUS:=8}" "${PER:=gpu}" "${SAVE_SECONDS:=300}"
for one in NODES GPUS SAVE_SECONDS; do
  [[ ${!one} =~ ^[1-9][0-9]*$ ]] || die "$one is '${!one}'; it must be a number from 1"
done

command=(sbatch --job-name="$NAME" --nodes="$NODES" --gpus-per-node="$GPUS")
case $PER in
  gpu) command+=(--ntasks-per-node="$GPUS") ;;
  node) command+=(--ntasks-per-node=1) ;;
  *) die "PER is '$PER'; it must be gpu or node" ;;
esac
[ -z "${CPUS:-}" ] || command+=(--cpus-per-task="$CPUS")
[ -z "${TIME:-}" ] || command+=(--time="$TIME")
# The signal goes to the processes, not to the batch script. --requeue lets SLURM, and the script,
# put the job into the queue again; its log is then appended to.
command+=(--signal="TERM@$SAVE_SECONDS" --requeue --open-mode=append --output="$NAME-%j.log")
# shellcheck disable=SC2206 # words separated by blanks, as its description says
command+=(${SBATCH_FLAGS:-})
command+=("$here/slurm_job.sh" "$@")
[ -z "${DRY_RUN:-}" ] || {
  printf '%q ' "${command[@]}"
  echo
  exit 0
}
command -v sbatch >/dev/null || die "sbatch is not installed, or not on PATH; is this a SLURM cluster?"
exec "${command[@]}"
