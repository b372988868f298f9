#!/usr/bin/env bash
# Runs on each worker, from launch/tpu_run.sh: puts the run into a tmux session of its own.
#
#   [RESTART=1] bash mt0_tpu/launch/worker_start.sh NAME WORD…
#
# Files in ~/mt0_runs/NAME: log (of all starts), arguments, environment, pid, exit_code.
set -euo pipefail
name=$1
shift
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$HOME/mt0_runs/$name
mkdir -p "$folder"

if tmux has-session -t "=mt0-$name" 2>/dev/null; then
  if [ -z "${RESTART:-}" ]; then
    echo "mt0: error: $name is running on $(hostname) already; RESTART=1 ends it first" >&2
    exit 2
  fi
  pid=$(cat "$folder/pid" 2>/dev/null || true)
  # Two programs cannot hold the chips: the old one is gone before the new one begins.
  tmux kill-session -t "=mt0-$name" 2>/dev/null || true
  if [ -n "$pid" ]; then
    kill -KILL "$pid" 2>/dev/null || true
    while kill -0 "$pid" 2>/dev/null; do sleep 1; done
  fi
fi
rm -f "$folder/exit_code" "$folder/pid"
[ ! -f "$HOME/mt0_environment" ] || mv "$HOME/mt0_environment" "$folder/environment"
printf '%s\0' "$@" >"$folder/arguments"
# tmux hands several words over as they are; the run's own words come by the file.
tmux new-session -d -s "mt0-$name" bash "$here/worker_run.sh" "$name"
