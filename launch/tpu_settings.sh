# shellcheck shell=bash
# What the tpu_*.sh scripts share; each reads it first and none is run without it.
#
#   NAME      of the queued resource, its TPUs and the run: a letter, then letters, digits, dashes
#   TYPE      v4-64, v5e-16, v5p-128, v6e-64, … (python3 -m mt0_tpu.tpu_types lists them)
#   ZONE      us-central2-b, …
#   PROJECT   default: gcloud's own (gcloud config set project …)
#   SLICES    default 1; more make a multislice job, one slice of TYPE each
#   DRY_RUN   1: print each command, quoted as a shell wants it, and run none
#   PYTHON    default python3; reads the table of types, needs no libraries
#   MOUNT     see tpu_setup.sh
#   RETRY_SECONDS   between two tries of a connection that failed, default 20
#
# Needs bash 3.2 or later (macOS has that) and gcloud. Nothing secret is ever part of a command.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
SLICES=${SLICES:-1}
DRY_RUN=${DRY_RUN:-}
PYTHON=${PYTHON:-python3}
# shellcheck disable=SC2034 # for those that read this: the code's folder in the workers' home
WORKER_CODE=mt0_tpu

die() {
  echo "mt0: error: $*" >&2
  exit 2
}

say() {
  echo "mt0: $*" >&2
}

# run COMMAND…: prints it on stdout, then runs it unless this is a dry run.
run() {
  quoted "$@"
  echo
  [ -n "$DRY_RUN" ] || "$@"
}

# quoted WORD…: the words as any POSIX shell reads them back, whatever they hold.
quoted() {
  local word quote="'\\''" between=
  for word in "$@"; do
    case $word in
      '' | *[!A-Za-z0-9_@%+=:,./-]*) word="'${word//\'/$quote}'" ;;
    esac
    printf '%s%s' "$between" "$word"
    between=' '
  done
}

# needs NAME…: ends with a sentence unless these variables are set.
needs() {
  local one
  for one in "$@"; do
    [ -n "${!one:-}" ] || die "$one is not set; $(basename "$0") needs: $*. Its head explains them."
  done
  [[ $NAME =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] || die "NAME is '$NAME'; it must be a lower" \
    "case letter, then letters, digits or dashes, 40 at most, and not end in a dash"
  [[ $SLICES =~ ^[1-9][0-9]*$ ]] || die "SLICES is '$SLICES'; it must be a number from 1"
  where=(--zone="$ZONE")
  [ -z "${PROJECT:-}" ] || where+=(--project="$PROJECT")
}

# check_mount: ends unless MOUNT is empty, a bucket, or a folder of a file server.
check_mount() {
  case ${MOUNT:-} in
    '' | gs://?*) ;;
    *://* | *\ *) die "MOUNT is '$MOUNT'; it must be gs://BUCKET or SERVER:/SHARE" ;;
    ?*:/?*) ;;
    *) die "MOUNT is '$MOUNT'; it must be gs://BUCKET or SERVER:/SHARE" ;;
  esac
}

# Sets api_name, runtime_version, hosts and zones from the table of TPU types, or ends.
look_up_type() {
  local facts path=${PYTHONPATH:-}
  [ ! -d "$here/../mt0_tpu" ] || path=$here/..${path:+:$path} # a checkout, installed or not
  facts=$(PYTHONPATH=$path "$PYTHON" -m mt0_tpu.tpu_types "$TYPE") || exit 2
  # Only what our own table prints: api_name='…' and so on, quoted for a shell.
  eval "$facts"
}

# Refuses, before anything is created: gcloud absent, nobody logged in, no project, a zone without
# the type. A dry run asks nobody, and says what the table of types thinks of the zone.
check_gcloud() {
  look_up_type
  if [ -n "$DRY_RUN" ]; then
    # shellcheck disable=SC2154 # look_up_type sets zones
    case " $zones " in
      *" $ZONE "*) ;;
      *) say "$TYPE is not known to be in $ZONE, but in: $zones (a list that ages; without" \
        "DRY_RUN gcloud is asked)" ;;
    esac
    return
  fi
  command -v gcloud >/dev/null || die "gcloud is not installed, or not on PATH; see" \
    "https://cloud.google.com/sdk/docs/install"
  local account offered
  account=$(gcloud auth list --filter=status:ACTIVE --format='value(account)' 2>/dev/null) || true
  [ -n "$account" ] || die "gcloud has no account that is logged in; write: gcloud auth login"
  if [ -z "${PROJECT:-}" ]; then
    PROJECT=$(gcloud config get-value project 2>/dev/null) || true
    [ -n "$PROJECT" ] && [ "$PROJECT" != "(unset)" ] || die "gcloud has no project; set PROJECT," \
      "or write: gcloud config set project PROJECT"
    where+=(--project="$PROJECT")
  fi
  offered=$(gcloud compute tpus accelerator-types list "${where[@]}" --format='value(type)') ||
    die "gcloud cannot list the TPU types of $ZONE in $PROJECT (its own words are above); is the" \
      "TPU API on (gcloud services enable tpu.googleapis.com) and the zone spelt right? $TYPE is" \
      "known in: $zones"
  # shellcheck disable=SC2154 # look_up_type sets api_name
  grep -qixF "$api_name" <<<"$offered" || die "$ZONE offers $PROJECT no $api_name. Zones that are" \
    "known to have it: $zones. In $ZONE there is: $(tr '\n' ' ' <<<"$offered")"
}

# state: of the queued resource, ACTIVE and so on; NONE where there is none.
state() {
  local found complaint
  complaint=$(mktemp)
  if found=$(gcloud compute tpus queued-resources describe "$NAME" "${where[@]}" \
    --format='value(state.state)' 2>"$complaint"); then
    echo "${found:-UNKNOWN}"
  elif grep -qiE 'NOT_FOUND|not found' "$complaint"; then
    echo NONE
  else
    say "gcloud could not say how $NAME is: $(head -n 3 "$complaint")"
    echo UNKNOWN
  fi
  rm -f "$complaint"
}

# A connection that hangs is given up: the machine may be vanishing.
ssh_flags=(--ssh-flag='-o ConnectTimeout=30' --ssh-flag='-o ServerAliveInterval=15' --quiet)

# on_worker WORD: sets targets to all workers of all slices, or to the first of the first slice.
on_worker() {
  if [ "$1" = all ]; then
    targets=(--node=all --worker=all)
  else
    targets=(--node=0 --worker="$1")
  fi
}

# at_worker all|0 WORD…: a command on the workers; its words arrive there as they are here.
at_worker() {
  set_ssh "$@"
  run "${ssh[@]}"
}

# set_ssh all|0 WORD…: sets ssh to that command of gcloud's.
set_ssh() {
  on_worker "$1"
  shift
  ssh=(gcloud compute tpus queued-resources ssh "$NAME" "${where[@]}" "${targets[@]}"
    "${ssh_flags[@]}" --command="$(quoted "$@")")
}

# to_workers FILE PATH: copies a file to every worker; FILE's mode goes with it.
to_workers() {
  on_worker all
  run gcloud compute tpus queued-resources scp "$1" "$NAME:$2" "${where[@]}" "${targets[@]}" --quiet
}

# persist COMMAND…: tries five times; the first connections to a fresh pod often fail.
persist() {
  local try
  for try in 1 2 3 4 5; do
    "$@" && return
    [ "$try" = 5 ] || {
      say "that failed; once more in ${RETRY_SECONDS:-20} s"
      sleep "${RETRY_SECONDS:-20}"
    }
  done
  return 1
}
