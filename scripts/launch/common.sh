# shellcheck shell=bash
# What the launchers share. They source it in the root of the checkout.

# Ends with a code and a message.
die() {
  local code=$1
  shift
  echo "error: $*" >&2
  exit "$code"
}

# Prints the header of a launcher.
usage() {
  awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$1"
}

# Prints a command as one line that a shell reads back as it is.
quote() {
  local line
  line=$(printf '%q ' "$@")
  echo "${line% }"
}

# Ends unless all but the first are whole numbers, at least the first.
check_numbers() {
  local least=$1 number
  shift
  for number in "$@"; do
    if ! [[ $number =~ ^(0|[1-9][0-9]{0,5})$ ]] || ((number < least)); then
      die 2 "$(quote "$number"): expected a number from $least; see --help"
    fi
  done
}
