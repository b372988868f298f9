#!/usr/bin/env bash
# Asks for TPUs (a queued resource) and waits until they are there.
#
#   NAME=mt0-xl TYPE=v4-64 ZONE=us-central2-b CAPACITY=spot launch/tpu_create.sh
#
# NAME TYPE ZONE PROJECT SLICES DRY_RUN   see tpu_settings.sh
# CAPACITY          spot (default; may be taken away at any time), on-demand or reserved
# VALID_UNTIL       give up waiting for capacity after this long: 6h. Default: wait for ever
# RUNTIME_VERSION   default: the type's own image
# CREATE_FLAGS      further flags of gcloud's, separated by blanks: '--network=n --internal-ips'
# POLL_SECONDS      between two looks at its state, default 30
# NO_WAIT           1: return once it is asked for
# CHECKED           1: do not ask gcloud again whether the zone has the type
#
# This costs money from the moment it is ACTIVE until launch/tpu_delete.sh. The command is printed
# before it is run. Ends with 0 when the TPUs are ACTIVE, 1 when they cannot be had.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/tpu_settings.sh"
needs NAME TYPE ZONE
if [ -n "${CHECKED:-}" ]; then look_up_type; else check_gcloud; fi

case ${CAPACITY:=spot} in
  spot) capacity=(--spot) ;;
  reserved) capacity=(--reserved) ;;
  on-demand) capacity=() ;;
  *) die "CAPACITY is '$CAPACITY'; it must be spot, on-demand or reserved" ;;
esac
if [ "$SLICES" = 1 ]; then
  nodes=(--node-id="$NAME")
else
  nodes=(--node-count="$SLICES" --node-prefix="$NAME")
fi
[ -z "${VALID_UNTIL:-}" ] || capacity+=(--valid-until-duration="$VALID_UNTIL")
# shellcheck disable=SC2206 # words separated by blanks, as its description says
flags=(${CREATE_FLAGS:-})

# shellcheck disable=SC2154 # look_up_type sets hosts and so on
say "asking for $SLICES slice(s) of $TYPE: $((SLICES * chips)) chips on $((SLICES * hosts)) hosts," \
  "$CAPACITY, in $ZONE"
# shellcheck disable=SC2154
run gcloud compute tpus queued-resources create "$NAME" "${where[@]}" "${nodes[@]}" \
  --accelerator-type="$api_name" --runtime-version="${RUNTIME_VERSION:-$runtime_version}" \
  ${capacity[@]+"${capacity[@]}"} ${flags[@]+"${flags[@]}"}
[ -z "$DRY_RUN" ] && [ -z "${NO_WAIT:-}" ] || exit 0

before=
while :; do
  now=$(state)
  [ "$now" = "$before" ] || say "$NAME is $now"
  before=$now
  case $now in
    ACTIVE) exit 0 ;;
    FAILED | SUSPENDED | SUSPENDING | NONE)
      say "these TPUs will not come; launch/tpu_delete.sh removes the request"
      exit 1
      ;;
  esac
  sleep "${POLL_SECONDS:-30}"
done
