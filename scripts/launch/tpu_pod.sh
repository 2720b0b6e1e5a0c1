#!/usr/bin/env bash
# Creates a Cloud TPU pod, installs HEAD of this checkout on all its workers,
# and runs bit_jax.main there until it is done; a pod that is taken away is
# created again, and the run goes on from its last checkpoint.
#
#   scripts/launch/tpu_pod.sh run --name=POD --zone=ZONE [--type=v3-512]
#       [--version=IMAGE] [--project=NAME] [--spot] [--setup=COMMAND]
#       [--create_flag=FLAG]... [--ssh_flag=FLAG]... [--max_crashes=3]
#       [--capacity_tries=1000] [--poll_secs=30] [--dry_run]
#       --workdir=gs://BUCKET/RUN -- ARGUMENTS OF bit_jax.main
#   scripts/launch/tpu_pod.sh create|install|status|stop|delete
#       --name=POD --zone=ZONE ...
#
# `run` includes `create` and `install` if they are needed. It shows the log of
# worker 0. It may be interrupted: the run continues in the pod, and the same
# command watches it again.
#
#   status  prints the state of the pod and of the run on every worker
#   stop    lets the run finish its step, save and end; `run` continues it
#   delete  deletes the pod
#
#   --version         image of the workers (default: by --type)
#   --setup           command for every worker after the installation, e.g. to
#                     mount the bucket with the data
#   --create_flag     further flag of `tpu-vm create`, e.g.
#                     --create_flag=--network=NET
#   --ssh_flag        further flag of `tpu-vm ssh` and `scp`, e.g.
#                     --ssh_flag=--internal-ip
#   --max_crashes     crashes and faults of the workers (code 74, such as a full
#                     disk) after which the run is still restarted
#   --capacity_tries  requests for a pod while there is no capacity
#   --poll_secs       time between two checks of the run or the pod
#   --dry_run         print the commands without running them
#
# Exits with 0 when the run is done, 1 or 2 for bad input, 75 after `stop`, else
# with the code of the last crash. Needs gcloud, logged in, and for several
# workers: ssh-add ~/.ssh/google_compute_engine
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source scripts/launch/common.sh
source scripts/launch/tpu_pod_gcloud.sh
source scripts/launch/tpu_pod_workers.sh

# The exit code of a stopped run, as in bit_jax/errors.py.
readonly stopped=75
# The consecutive failures of gcloud that are tolerated while the pod is ready.
readonly max_failures=20
verb=''
name=''
zone=''
type=v3-512
version=''
project=''
spot=''
setup=''
create_flags=()
ssh_flags=()
workdir=''
max_crashes=3
capacity_tries=1000
poll_secs=30
dry_run=''
arguments=()

# Prints a line to the terminal, even from within a redirected command.
exec 3>&2
log() {
  echo "== $(date '+%F %T') $*" >&3
}

# --- The run.

install_pod() {
  local archive=$tmp/bit_jax.tar.gz
  do_or_show git archive --format=tar.gz -o "$archive" "$commit" \
    && tpu_vm scp "$archive" "$name:bit_jax.tar.gz" --worker=all \
      ${ssh_flags[@]+"${ssh_flags[@]}"} \
    && on_workers all "$(install_script)"
}

# Prints the states of all workers; fails if a worker cannot be reached.
all_states() {
  local result=0
  rm -rf "$tmp/states"
  mkdir "$tmp/states"
  on_workers all "$(state_script 0)" "--output-directory=$tmp/states" \
    > "$tmp/ssh" 2>&1 || result=$?
  sed -n 's/^bit_jax-state \([^ ]*\).*/\1/p' "$tmp"/states/*.log || return
  return "$result"
}

# Sets state, size and id from worker 0 and prints its log from a position on:
# `tail -c $1`.
poll() {
  on_workers 0 "$(state_script "$1")" > "$tmp/poll" 2> "$tmp/ssh" || return
  read -r state size id < <(sed -n 's/^bit_jax-state //p' "$tmp/poll") || return
  sed -n '/^bit_jax-state /,$p' "$tmp/poll" | tail -n +2
}

# Succeeds if gcloud should be tried again after a failure: the pod is there, or
# its state is unknown. Exits after too many failures.
is_pod_there() {
  local pod
  pod=$(pod_state)
  if [[ $pod != READY && $pod != UNKNOWN ]]; then
    log "$name is $pod"
    return 1
  fi
  failures=$((failures + 1))
  if ((failures >= max_failures)); then
    cat "$tmp/ssh" >&2
    die 1 "$name is $pod, but cannot be reached; the run may go on there"
  fi
}

# Waits for the end of the run and prints its log from a position on: `tail -c
# $1`. Sets outcome to finished, asked (stopped by `stop`), again (stopped
# otherwise), crash, lost (the pod is gone), or the exit code for bad input.
watch_run() {
  local part=$1 states=''
  outcome=lost
  while :; do
    if poll "$part"; then
      failures=0
      part=+$((size + 1))
      [[ $state == running ]] || break
    else
      is_pod_there || return 0
    fi
    sleep "$poll_secs"
  done
  # The other workers end soon after worker 0 or hang for ever, so a few checks
  # are enough.
  for _ in 1 2 3 4; do
    if states=$(all_states); then
      [[ $states == *running* ]] || break
    else
      is_pod_there || return 0
    fi
    sleep "$poll_secs"
  done
  judge "$(sort -u <<< "$states")"
}

# Sets outcome from the states of the workers. Codes 1 and 2 mean bad input only
# if no worker failed in another way, as a crash of one may end others with 1.
judge() {
  local failed
  log "ended; states of the workers: ${1//$'\n'/ }"
  failed=$(grep -vxE "0|$stopped|asked" <<< "$1") || true
  if [[ $failed ]]; then
    outcome=crash
    crash_code=$(grep -vxEm 1 '1|2' <<< "$failed") || outcome=${failed::1}
    [[ ${crash_code:-} =~ ^[0-9]+$ ]] || crash_code=70
  elif [[ $1 == 0 ]]; then
    outcome=finished
  elif [[ $1 == *asked* ]]; then
    outcome=asked
  else
    outcome=again
  fi
}

run() {
  local crashes=0 failures=0 outcome crash_code state size id
  trap 'log "the run goes on in $name; the same command watches it"; exit 130' \
    INT
  while :; do
    ensure_pod
    if poll 0 && [[ $state == running ]]; then
      [[ $id == "$(cksum <<< "$command")" ]] \
        || die 1 "$name runs something else; stop it first"
      log "watching the run in $name"
      watch_run 4000
    elif log "installing ${commit:0:8} on $name" \
      && install_pod > "$tmp/ssh" 2>&1 \
      && log "starting $command" \
      && on_workers all "$(start_script)" > "$tmp/ssh" 2>&1; then
      failures=0
      watch_run +1
    else
      cat "$tmp/ssh" >&2
      outcome=lost
      if is_pod_there && ((failures >= 3)); then
        die 1 "bit_jax cannot be installed or started on $name (see above)"
      fi
    fi
    case $outcome in
      finished) exit 0 ;;
      asked) exit "$stopped" ;;
      1 | 2) exit "$outcome" ;;
      crash)
        # A run on a pod that is being taken away fails in many ways, none of
        # which counts as a crash.
        if [[ $(pod_state) == READY ]]; then
          crashes=$((crashes + 1))
          log "crash $crashes: code $crash_code"
          ((crashes <= max_crashes)) || exit "$crash_code"
        fi
        ;;
    esac
    sleep "$poll_secs"
  done
}

show_status() {
  local pod worker
  pod=$(pod_state)
  echo "$name: $pod"
  [[ $pod == READY ]] || return 0
  all_states > /dev/null || cat "$tmp/ssh" >&2
  for ((worker = 0; ; worker++)); do
    [[ -e $tmp/states/$worker.log ]] || break
    sed -n "s/^bit_jax-state \([^ ]*\).*/worker $worker: \1/p" \
      "$tmp/states/$worker.log"
  done
  poll 2000
}

# --- The command line.

while (($#)); do
  case $1 in
    create | install | run | status | stop | delete)
      [[ -z $verb ]] || die 2 "$1 after $verb; see --help"
      verb=$1
      ;;
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --version=*) version=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --spot) spot=yes ;;
    --setup=*) setup=${1#*=} ;;
    --create_flag=*) create_flags+=("${1#*=}") ;;
    --ssh_flag=*) ssh_flags+=("${1#*=}") ;;
    --workdir=*) workdir=${1#*=} ;;
    --max_crashes=*) max_crashes=${1#*=} ;;
    --capacity_tries=*) capacity_tries=${1#*=} ;;
    --poll_secs=*) poll_secs=${1#*=} ;;
    --dry_run) dry_run=yes ;;
    --help | -h)
      usage scripts/launch/tpu_pod.sh
      exit
      ;;
    --)
      shift
      arguments=("$@")
      break
      ;;
    *) die 2 "unexpected argument $(quote "$1"); see --help" ;;
  esac
  shift
done
[[ $verb ]] || die 2 \
  'expected create, install, run, status, stop or delete; see --help'
[[ $name ]] || die 2 '--name is missing; see --help'
[[ $zone ]] || die 2 '--zone is missing; see --help'
check_numbers 0 "$max_crashes" "$capacity_tries" "$poll_secs"
version=${version:-$(default_version)}

if [[ $verb == run ]]; then
  for argument in ${arguments[@]+"${arguments[@]}"}; do
    [[ $argument != --workdir* ]] || die 2 'put --workdir=gs://... before --'
  done
  [[ $workdir == gs://?* ]] || die 2 "--workdir=$(quote "$workdir"): expected" \
    'gs://BUCKET/FOLDER, as the workers share no disk'
  ((${#arguments[@]})) \
    || die 2 'the arguments of bit_jax.main are missing; put them after --'
  command=$(quote .venv/bin/python -m bit_jax.main "${arguments[@]}" \
    "--workdir=$workdir")
fi
if [[ $verb == run || $verb == install ]]; then
  commit=$(git rev-parse HEAD) || die 1 'this is no git checkout'
  [[ -z $(git status --porcelain) ]] \
    || log 'uncommitted changes are not installed, only HEAD is'
fi
if [[ $dry_run ]]; then
  tmp=${TMPDIR:-/tmp}
else
  command -v gcloud > /dev/null || die 1 'gcloud is not installed'
  tmp=$(mktemp -d "${TMPDIR:-/tmp}/bit_jax.XXXXXX")
  trap 'rm -rf "$tmp"' EXIT
fi

if [[ $dry_run && ($verb == run || $verb == create) ]]; then
  echo '# The state of the pod; nothing is created if it is READY.'
  tpu_vm describe "$name" '--format=value(state)'
  echo '# If it is PREEMPTED or TERMINATED:'
  delete_pod
  echo '# If it is not there:'
  create_pod
  [[ $verb == run ]] || exit 0
  echo '# Unless the same run is already there:'
  install_pod
  on_workers all "$(start_script)"
  echo "# Every $poll_secs s; if the pod is gone, again from the top:"
  on_workers 0 "$(state_script +1)"
  echo '# At the end, the exit codes; again from the top after 75 or a crash:'
  on_workers all "$(state_script 0)" "--output-directory=$tmp/states"
  exit
fi
case $verb in
  create)
    ensure_pod
    log "$name is ready"
    ;;
  install) install_pod ;;
  run) run ;;
  status)
    if [[ $dry_run ]]; then
      tpu_vm describe "$name" '--format=value(state)'
      on_workers all "$(state_script 2000)"
    else
      show_status
    fi
    ;;
  stop) on_workers all "$(stop_script)" ;;
  delete) delete_pod ;;
esac
