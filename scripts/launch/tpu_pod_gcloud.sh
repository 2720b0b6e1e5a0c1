# shellcheck shell=bash disable=SC2154
# The calls of gcloud by tpu_pod.sh, which manage the pod and run scripts on its
# workers; with --dry_run they are printed. The variables are the launcher's.

# Prints a command like `quote`, but keeps the lines of multi-line scripts.
show() {
  local word line=''
  for word in "$@"; do
    if [[ $word == *$'\n'* ]]; then
      line+=" '${word//\'/\'\\\'\'}'"
    else
      line+=" $(quote "$word")"
    fi
  done
  echo "${line# }"
}

# Runs a command, or prints it.
do_or_show() {
  if [[ $dry_run ]]; then
    show "$@"
  else
    "$@" 3>&-
  fi
}

tpu_vm() {
  do_or_show gcloud compute tpus tpu-vm "$@" "--zone=$zone" \
    ${project:+"--project=$project"} --quiet
}

# Runs a script on the given workers.
on_workers() {
  local workers=$1 script=$2
  shift 2
  tpu_vm ssh "$name" "--worker=$workers" "--command=$script" "$@" \
    ${ssh_flags[@]+"${ssh_flags[@]}"}
}

default_version() {
  case $type in
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    *) echo tpu-ubuntu2204-base ;;
  esac
}

# Prints the state of the pod: READY, PREEMPTED, ..., or NOT_FOUND; UNKNOWN if
# gcloud fails; REFUSED if gcloud fails in a way that no retry can mend.
pod_state() {
  local state
  if state=$(tpu_vm describe "$name" '--format=value(state)' \
    2> "$tmp/describe"); then
    echo "$state"
  elif grep -qi 'not.found' "$tmp/describe"; then
    echo NOT_FOUND
  else
    cat "$tmp/describe" >&2
    if grep -qE 'required property|gcloud auth login|INVALID_ARGUMENT' \
      "$tmp/describe"; then
      echo REFUSED
    else
      echo UNKNOWN
    fi
  fi
}

create_pod() {
  tpu_vm create "$name" "--accelerator-type=$type" "--version=$version" \
    ${spot:+--spot} ${create_flags[@]+"${create_flags[@]}"}
}

delete_pod() {
  tpu_vm delete "$name"
}

# Waits until the pod is ready; creates it if it is missing or was taken away.
ensure_pod() {
  local state tries=0 failures=0
  while :; do
    state=$(pod_state)
    case $state in
      READY) return ;;
      NOT_FOUND)
        log "creating $name ($type)"
        if create_pod 2> "$tmp/create"; then
          continue
        fi
        cat "$tmp/create" >&2
        if grep -qi capacity "$tmp/create"; then
          tries=$((tries + 1))
          ((tries < capacity_tries)) || die 1 "no capacity for $type in $zone"
        else
          failures=$((failures + 1))
          ((failures < 3)) || die 1 "$name cannot be created (see above)"
        fi
        ;;
      PREEMPTED | TERMINATED)
        log "$name is $state: deleting it"
        delete_pod || failures=$((failures + 1))
        ;;
      STOPPED | STOPPING | HIDDEN | HIDING)
        die 1 "$name is $state: start it, or delete it, first"
        ;;
      REFUSED)
        die 1 'gcloud cannot be used like this (see above);' \
          '--project=... or gcloud auth login may help'
        ;;
      UNKNOWN) failures=$((failures + 1)) ;;
      *) log "$name is $state: waiting" ;;
    esac
    ((failures < max_failures)) || die 1 'gcloud fails (see above)'
    sleep "$poll_secs"
  done
}
