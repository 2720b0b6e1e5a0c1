#!/usr/bin/env bash
# Runs bit_jax.main as several processes on this machine that train together: to
# try a cluster job locally, or to give each GPU a process of its own.
#
#   scripts/launch/local.sh [--processes=2] [--devices_per_process=1] [--gpus]
#       [--log_dir=DIR] [--port=PORT] [--grace_secs=10] [--max_faults=3]
#       [--fault_secs=30] [--dry_run] -- ARGUMENTS OF bit_jax.main
#
#   --processes            number of processes
#   --devices_per_process  virtual CPU devices, or GPUs, of each process
#   --gpus                 use GPUs, in the order of CUDA_VISIBLE_DEVICES, else
#                          from 0; without this flag the CPU is used
#   --log_dir              folder of process-1.log, ... (default: a new folder
#                          under /tmp); process 0 writes to the terminal
#   --port                 port of process 0, to which the others connect
#                          (default: a free one)
#   --grace_secs           time from SIGTERM, which the other processes get as
#                          soon as one fails, to SIGKILL
#   --max_faults           faults of the machine, such as a full disk (code 74),
#                          after which all processes are started again
#   --fault_secs           time from such a fault to the new start
#   --dry_run              print the commands without running them
#
# SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 are passed on to all processes: they
# finish the step, save and exit with 75; the same command continues the run.
# After a fault of the machine (code 74) they are started again, a few times.
# Exits with the code of the first process that fails, else with 75 or 0.
# BIT_JAX_PYTHON names another Python than .venv/bin/python.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source scripts/launch/common.sh

# The exit codes of a stopped run and of a fault of the machine, as in
# bit_jax/errors.py.
readonly stopped=75 fault=74
readonly address=127.0.0.1
python=${BIT_JAX_PYTHON:-.venv/bin/python}
processes=2
devices=1
gpus=''
log_dir=''
port=''
grace_secs=10
max_faults=3
fault_secs=30
dry_run=''

is_free() {
  ! (: < "/dev/tcp/$address/$1") 2> /dev/null
}

# Prints a free port below the range that systems use for outgoing connections.
find_port() {
  local candidate
  for _ in {1..50}; do
    candidate=$((20000 + RANDOM % 12000))
    if is_free "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  die 1 'no free port found; name one with --port='
}

# Sets `command` to the command line of one process, with its environment.
make_command() {
  local id=$1
  command=(env)
  if [[ $gpus ]]; then
    command+=("CUDA_VISIBLE_DEVICES=$(devices_of "$id")")
  else
    local count=--xla_force_host_platform_device_count=$devices
    command+=("XLA_FLAGS=${XLA_FLAGS:+$XLA_FLAGS }$count" JAX_PLATFORMS=cpu)
  fi
  command+=("$python" -m bit_jax.main "${arguments[@]}"
    "--coordinator_address=$address:$port" "--num_processes=$processes"
    "--process_id=$id")
}

# Exits if there are too few GPUs. This comes before the first process starts,
# which would have to be killed otherwise.
check_gpus() {
  local all
  IFS=, read -ra all <<< "$CUDA_VISIBLE_DEVICES"
  ((processes * devices <= ${#all[@]})) \
    || die 1 "CUDA_VISIBLE_DEVICES: expected $((processes * devices)) GPUs"
}

# Prints the GPUs of one process, separated by commas.
devices_of() {
  local first=$(($1 * devices)) all
  if [[ ${CUDA_VISIBLE_DEVICES:-} ]]; then
    IFS=, read -ra all <<< "$CUDA_VISIBLE_DEVICES"
    all=("${all[@]:first:devices}")
  else
    read -ra all <<< "$(seq -s ' ' "$first" $((first + devices - 1)))"
  fi
  (IFS=, && echo "${all[*]}")
}

log_of() {
  echo "$log_dir/process-$1.log"
}

# The ids of processes 0, 1, ...; '' for a process that has ended.
pids=()
# Not empty once a signal has come: nothing is started after it.
signalled=''

# Sends a signal to every running process.
forward() {
  local pid
  for pid in "${pids[@]:+${pids[@]}}"; do
    [[ -z $pid ]] || kill -s "$1" "$pid" 2> /dev/null || true
  done
}

# Starts all processes and waits for them; sets `result`.
run_all() {
  local id pid code deadline='' running=$processes
  pids=()
  result=0
  for ((id = 0; id < processes; id++)); do
    make_command "$id"
    if ((id)); then
      "${command[@]}" < /dev/null >> "$(log_of "$id")" 2>&1 &
    else
      "${command[@]}" < /dev/null &
    fi
    pids+=("$!")
  done

  # `wait -n` would be simpler, but before Bash 5.1 it cannot tell which process
  # ended.
  while ((running)); do
    for ((id = 0; id < processes; id++)); do
      pid=${pids[id]}
      if [[ -z $pid ]] || kill -0 "$pid" 2> /dev/null; then
        continue
      fi
      code=0
      wait "$pid" || code=$?
      pids[id]=''
      running=$((running - 1))
      # Processes that stop on request do so together. After a failure,
      # however, the others would wait for the failed process for ever, so they
      # are ended.
      if ((code == 0 || result != 0 && result != stopped)); then
        continue
      fi
      result=$code
      ((code != stopped)) || continue
      deadline=$((SECONDS + grace_secs))
      echo "process $id ended with code $code" >&2
      if ((id)); then
        tail -n 20 "$(log_of "$id")" >&2
      fi
      forward TERM
    done
    if [[ $deadline ]] && ((SECONDS > deadline)); then
      forward KILL
    fi
    if ((running)); then
      # Unlike a plain `sleep`, `wait` returns on a signal, so traps run at
      # once.
      sleep 0.1 &
      wait "$!" || true
    fi
  done
}

while (($#)); do
  case $1 in
    --processes=*) processes=${1#*=} ;;
    --devices_per_process=*) devices=${1#*=} ;;
    --gpus) gpus=yes ;;
    --log_dir=*) log_dir=$(expand_home "${1#*=}") ;;
    --port=*) port=${1#*=} ;;
    --grace_secs=*) grace_secs=${1#*=} ;;
    --max_faults=*) max_faults=${1#*=} ;;
    --fault_secs=*) fault_secs=${1#*=} ;;
    --dry_run) dry_run=yes ;;
    --help | -h)
      usage scripts/launch/local.sh
      exit
      ;;
    --) break ;;
    *) die 2 "unexpected argument $(quote "$1"); see --help" ;;
  esac
  shift
done
check_numbers 1 "$processes" "$devices" "${port:-1}"
check_numbers 0 "$grace_secs" "$max_faults" "$fault_secs"
(($# > 1)) || die 2 'the arguments of bit_jax.main are missing; put them after --'
shift
arguments=("$@")
if [[ $gpus && ${CUDA_VISIBLE_DEVICES:-} ]]; then
  check_gpus
fi
asked_port=$port
port=${asked_port:-$(find_port)}

if [[ $dry_run ]]; then
  log_dir=${log_dir:-/tmp/bit_jax}
  for ((id = 0; id < processes; id++)); do
    make_command "$id"
    if ((id)); then
      echo "$(quote "${command[@]}") > $(quote "$(log_of "$id")") 2>&1 &"
    else
      echo "$(quote "${command[@]}") &"
    fi
  done
  exit
fi

command -v "$python" > /dev/null \
  || die 1 "$(quote "$python") is not there; run scripts/setup_env.sh"
temporary=''
if [[ $log_dir ]]; then
  mkdir -p "$log_dir" || exit 1
else
  temporary=$(mktemp -d "${TMPDIR:-/tmp}/bit_jax.XXXXXX")
  log_dir=$temporary
fi
if ((processes > 1)); then
  echo "process 0 writes here, the others to $(log_of '*')" >&2
fi

# Each process gets a process group of its own. Ctrl-C then reaches it once,
# through this script; a second signal would end it without saving.
set -m
for name in TERM INT USR1; do
  # shellcheck disable=SC2064 # The name of now.
  trap "signalled=yes; forward $name" "$name"
done
trap 'forward KILL' EXIT
for ((id = 1; id < processes; id++)); do
  : > "$(log_of "$id")"
done
run_all
for ((faults = 1; faults <= max_faults; faults++)); do
  ((result == fault)) && [[ ! $signalled ]] || break
  echo "fault of the machine $faults of $max_faults (code $fault); starting" \
    "again in $fault_secs s" >&2
  sleep "$fault_secs" &
  wait "$!" || true
  [[ ! $signalled ]] || break
  port=${asked_port:-$(find_port)}
  run_all
done
# After a failure the logs are kept, as they show its cause.
if [[ $temporary ]] && ((result == 0 || result == stopped)); then
  rm -r "$temporary"
fi
exit "$result"
