# shellcheck shell=bash
# Functions of all launchers, which source this in the root of the checkout.

# Exits with a code and an error message.
die() {
  local code=$1
  shift
  echo "error: $*" >&2
  exit "$code"
}

# Prints the header comment of a launcher.
usage() {
  awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$1"
}

# Prints a command as one line, quoted so that a shell reads the same words.
quote() {
  local line
  line=$(printf '%q ' "$@")
  echo "${line% }"
}

# Exits with 2 unless all arguments after the first are whole numbers that are
# at least the first.
check_numbers() {
  local least=$1 number
  shift
  for number in "$@"; do
    if ! [[ $number =~ ^(0|[1-9][0-9]{0,5})$ ]] || ((number < least)); then
      die 2 "$(quote "$number"): expected a number from $least; see --help"
    fi
  done
}

# Prints a path with the home folder in place of ~ at its start, which the shell
# leaves as it is in --flag=~/path.
expand_home() {
  case $1 in
    \~ | \~/*) echo "$HOME${1#\~}" ;;
    *) echo "$1" ;;
  esac
}
