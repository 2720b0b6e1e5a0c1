# shellcheck shell=bash
# What the launchers share. They source it in the root of the checkout.

# Ends with a code and a message.
die() {
  echo "error: $2" >&2
  exit "$1"
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

# Ends unless all are whole numbers above 0; "1$number" lets 0 pass as well.
check_positive() {
  local number
  for number in "$@"; do
    [[ $number =~ ^[1-9][0-9]{0,5}$ ]] \
      || die 2 "$(quote "$number"): expected a positive number; see --help"
  done
}
