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
# run includes create and install where they are needed. It shows the log of
# worker 0 and may be interrupted: the run goes on in the pod, and the same
# command watches it again.
#
#   status  prints the state of the pod and of the run on every worker
#   stop    lets the run finish its step, save and end; run goes on from there
#   delete  deletes the pod
#
#   --version         image of the workers (default: by --type)
#   --setup           run on every worker after the installation, e.g. to mount
#                     the bucket with the data
#   --create_flag     more for `tpu-vm create`, e.g. --create_flag=--network=NET
#   --ssh_flag        more for `tpu-vm ssh` and `scp`, e.g. --internal-ip
#   --max_crashes     how often a crash is followed by another try
#   --capacity_tries  how often to ask for a pod while there is no capacity
#   --poll_secs       time between two looks at the run or the pod
#   --dry_run         prints the commands instead
#
# Exits with 0 when the run is done, 1 or 2 for bad input, 75 after `stop`, else
# with the code of the last crash. Needs an installed gcloud that is logged in,
# and for several workers: ssh-add ~/.ssh/google_compute_engine
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source scripts/launch/common.sh
source scripts/launch/tpu_pod_gcloud.sh
source scripts/launch/tpu_pod_workers.sh

readonly stopped=75   # bit_jax/errors.py
readonly max_failures=20  # Of gcloud, one after the other, while all seems well.
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

# To the terminal, also while what is running is redirected.
exec 3>&2
say() {
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

# Prints the states of all workers; fails if one cannot be reached.
all_states() {
  local result=0
  rm -rf "$tmp/states"
  mkdir "$tmp/states"
  on_workers all "$(state_script 0)" "--output-directory=$tmp/states" \
    > "$tmp/ssh" 2>&1 || result=$?
  sed -n 's/^bit_jax-state \([^ ]*\).*/\1/p' "$tmp"/states/*.log || return
  return "$result"
}

# Sets state, size and id from worker 0 and shows a part of its log.
poll() {
  on_workers 0 "$(state_script "$1")" > "$tmp/poll" 2> "$tmp/ssh" || return
  read -r state size id < <(sed -n 's/^bit_jax-state //p' "$tmp/poll") || return
  sed -n '/^bit_jax-state /,$p' "$tmp/poll" | tail -n +2
}

# After a failure of gcloud, tells whether to try again: not if the pod is gone.
is_pod_there() {
  local pod
  pod=$(pod_state)
  if [[ $pod != READY && $pod != UNKNOWN ]]; then
    say "$name is $pod"
    return 1
  fi
  failures=$((failures + 1))
  if ((failures >= max_failures)); then
    cat "$tmp/ssh" >&2
    die 1 "$name is $pod, but cannot be reached; the run may go on there"
  fi
}

# Waits for the end of the run, showing the log from a part on. Sets outcome:
# finished, asked, again, crash, lost, or the exit code for bad input.
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
  # The others end with worker 0, or never.
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

# Sets outcome from the states of the workers. Bad input counts as such only if
# no worker failed in another way: a crash of one may end the others with 1.
judge() {
  local failed
  say "ended; states of the workers: ${1//$'\n'/ }"
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
  trap 'say "the run goes on in $name; the same command watches it"; exit 130' \
    INT
  while :; do
    ensure_pod
    if poll 0 && [[ $state == running ]]; then
      [[ $id == "$(cksum <<< "$command")" ]] \
        || die 1 "$name runs something else; stop it first"
      say "watching the run in $name"
      watch_run 4000
    elif say "installing ${commit:0:8} on $name" \
      && install_pod > "$tmp/ssh" 2>&1 \
      && say "starting $command" \
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
        # A pod that is being taken away makes the run fail in many ways.
        if [[ $(pod_state) == READY ]]; then
          crashes=$((crashes + 1))
          say "crash $crashes: code $crash_code"
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
    || say 'uncommitted changes are not installed, only HEAD is'
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
    say "$name is ready"
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
