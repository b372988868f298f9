#!/usr/bin/env bash
# Runs on a worker, from launch/tpu_babysit.sh: how the run is. Prints two lines:
#
#   running 3600           for so many seconds; or: exit 0 3600 | lost 3600 | absent 0
#   the last line of its log
#
# lost: it is neither there nor ended, as after a reboot.
set -uo pipefail
folder=$HOME/mt0_runs/$1
if [ ! -f "$folder/arguments" ]; then
  echo absent 0
  exit
fi
began=$(stat -c %Y "$folder/arguments")
# The session first: a run that ends between the two looks has left its code.
tmux has-session -t "=mt0-$1" 2>/dev/null && there=1 || there=
if [ -f "$folder/exit_code" ]; then
  echo "exit $(cat "$folder/exit_code") $(($(stat -c %Y "$folder/exit_code") - began))"
elif [ -n "$there" ]; then
  echo "running $(($(date +%s) - began))"
else
  echo "lost $(($(date +%s) - began))"
fi
# Progress lines may end in carriage returns.
tail -c 4000 "$folder/log" 2>/dev/null | tr '\r' '\n' | grep -v '^ *$' | grep -v '^== ' | tail -n 1
