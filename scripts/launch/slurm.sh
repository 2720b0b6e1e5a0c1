#!/usr/bin/env bash
# Submits bit_jax.main to Slurm with one process per GPU. The job is requeued
# until the run is done: at the time limit, on preemption, when a node fails
# and, a few times, after a crash or a fault of the machine such as a full disk.
#
#   scripts/launch/slurm.sh [--nodes=1] [--gpus_per_node=1]
#       [--cpus_per_task=8] [--time=LIMIT] [--partition=NAME] [--account=NAME]
#       [--job_name=bit_jax] [--sbatch=OPTION]... [--log_dir=.]
#       [--max_crashes=3] [--dry_run] -- ARGUMENTS OF bit_jax.main
#
#   --gpus_per_node  number of GPUs, possibly with their type: a100:4
#   --cpus_per_task  CPU cores per GPU, mostly for decoding images
#   --sbatch         further option of sbatch, e.g. --sbatch=--qos=long
#   --log_dir        folder of NAME-JOB.log, with all processes and restarts
#   --max_crashes    crashes and faults (code 74) after which the job is still
#                    requeued
#   --dry_run        print the batch script without submitting it
#
# The checkout, its .venv, --log_dir and --workdir must be on a disk that all
# nodes share. 120 s before the time limit the processes get SIGUSR1: they
# finish the step, save and exit with 75, and the job is requeued. Bad input
# (codes 1 and 2) ends the job, and so does `scancel JOB`.
# BIT_JAX_PYTHON names another Python than .venv/bin/python.
set -euo pipefail
readonly called_from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source scripts/launch/common.sh

python=${BIT_JAX_PYTHON:-$PWD/.venv/bin/python}
nodes=1
gpus_per_node=1
cpus_per_task=8
job_name=bit_jax
log_dir=$called_from
max_crashes=3
dry_run=''
options=()

# Prints options as #SBATCH lines. sbatch understands double quotes around a
# value, but no backslashes.
print_options() {
  local option
  for option in "$@"; do
    if [[ $option == *=*' '* ]]; then
      option="${option%%=*}=\"${option#*=}\""
    fi
    echo "#SBATCH $option"
  done
}

# Prints the batch script.
#
# It starts one task per GPU and lets each task see all GPUs of its node, as
# jax.distributed gives the task with SLURM_LOCALID=i the i-th GPU that it sees.
# --gpus-per-task would hide the others, and that would fail.
# --signal without "B:" sends the signal to the processes, not the batch shell.
# --kill-on-bad-exit=0: a process that exits with 75 must not end those that
# still save.
# --wait ends processes that hang after another one has crashed. Without a crash
# all processes end together.
print_script() {
  echo '#!/usr/bin/env bash'
  print_options "--job-name=$job_name" "--nodes=$nodes" \
    "--ntasks-per-node=${gpus_per_node##*:}" "--gres=gpu:$gpus_per_node" \
    "--cpus-per-task=$cpus_per_task" "--output=$log_dir/%x-%j.log" \
    --open-mode=append --requeue --signal=USR1@120 \
    ${options[@]+"${options[@]}"}
  cat << END
# Written by scripts/launch/slurm.sh.
set -euo pipefail
cd $(quote "$PWD")

crashes_file=$(quote "$log_dir")/\$SLURM_JOB_NAME-\$SLURM_JOB_ID.crashes
max_crashes=$max_crashes
command=($(quote "$python" -m bit_jax.main "${arguments[@]}"))

echo "== job \$SLURM_JOB_ID on \$SLURM_JOB_NODELIST, requeued" \\
  "\${SLURM_RESTART_COUNT:-0} times, \$(date)"
code=0
srun --kill-on-bad-exit=0 --wait=300 \\
  --cpus-per-task=$cpus_per_task "\${command[@]}" || code=\$?
END
  cat << 'END'

case $code in
  0 | 1 | 2)
    echo "== ended with code $code, $(date)"
    exit "$code"
    ;;
  75) echo "== stopped, $(date)" ;;
  *)
    # 74, a fault of the machine (see bit_jax/errors.py), is tried again like a
    # crash. SLURM_RESTART_COUNT also counts time limits and preemptions, so
    # crashes are counted in a file.
    crashes=$(($(cat "$crashes_file" 2> /dev/null || echo 0) + 1))
    echo "$crashes" > "$crashes_file"
    echo "== crash $crashes: code $code, $(date)"
    if ((crashes > max_crashes)); then
      echo "== given up"
      exit "$code"
    fi
    ;;
esac
# Requeueing a cancelled job would bring it back.
state=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T) || state=''
if [[ $state != RUNNING ]]; then
  echo "== not requeued: the job is ${state:-gone}"
  exit "$code"
fi
scontrol requeue "$SLURM_JOB_ID"
END
}

while (($#)); do
  case $1 in
    --nodes=*) nodes=${1#*=} ;;
    --gpus_per_node=*) gpus_per_node=${1#*=} ;;
    --cpus_per_task=*) cpus_per_task=${1#*=} ;;
    --time=* | --partition=* | --account=*) options+=("$1") ;;
    --job_name=*) job_name=${1#*=} ;;
    --sbatch=-*) options+=("${1#*=}") ;;
    --log_dir=*) log_dir=$(expand_home "${1#*=}") ;;
    --max_crashes=*) max_crashes=${1#*=} ;;
    --dry_run) dry_run=yes ;;
    --help | -h)
      usage scripts/launch/slurm.sh
      exit
      ;;
    --) break ;;
    *) die 2 "unexpected argument $(quote "$1"); see --help" ;;
  esac
  shift
done
check_numbers 1 "$nodes" "${gpus_per_node##*:}" "$cpus_per_task"
check_numbers 0 "$max_crashes"
for option in "$job_name" "$gpus_per_node" "$log_dir" \
  ${options[@]+"${options[@]}"}; do
  [[ $option && $option != *[[:cntrl:]\"\\]* ]] \
    || die 2 "$(quote "$option"): expected one line without quotes; see --help"
done
[[ $job_name$log_dir != *%* && $job_name != */* ]] \
  || die 2 '--job_name and --log_dir: expected no %, and no / in the name'
(($# > 1)) \
  || die 2 'the arguments of bit_jax.main are missing; put them after --'
shift
arguments=("$@")
[[ $log_dir == /* ]] || log_dir=$called_from/$log_dir

if [[ $dry_run ]]; then
  print_script
  exit
fi

for program in "$python" sbatch; do
  command -v "$program" > /dev/null || die 1 "$(quote "$program") is not there"
done
mkdir -p "$log_dir"
job=$(print_script | sbatch --parsable) || die 1 'sbatch refused the job'
job=${job%%;*}
echo "job $job: log in $log_dir/$job_name-$job.log; scancel $job ends it"
