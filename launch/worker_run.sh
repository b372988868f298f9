#!/usr/bin/env bash
# Runs on each worker, inside tmux, from worker_start.sh: the program, its log and its exit code.
#
#   bash mt0_tpu/launch/worker_run.sh NAME
set -uo pipefail
folder=$HOME/mt0_runs/$1
code=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mapfile -d '' -t arguments <"$folder/arguments"
# shellcheck disable=SC1091 # written by tpu_run.sh
[ ! -f "$folder/environment" ] || source "$folder/environment"
cd "$code" || exit 1

echo "== $(date -u +%FT%TZ) start on $(hostname)" >>"$folder/log"
.venv/bin/mt0 "${arguments[@]}" >>"$folder/log" 2>&1 </dev/null &
pid=$!
echo "$pid" >"$folder/pid"
# At a shutdown the system sends SIGTERM to the program and to this shell alike; the shell stays
# until the program has saved and ended, so that its code is known.
trap : TERM
while kill -0 "$pid" 2>/dev/null; do
  wait "$pid"
done
wait "$pid"
echo $? >"$folder/exit_code.part"
echo "== $(date -u +%FT%TZ) ended with $(cat "$folder/exit_code.part")" >>"$folder/log"
mv "$folder/exit_code.part" "$folder/exit_code"
