# shellcheck shell=bash disable=SC2154
# Prints the scripts that tpu_pod.sh runs on the workers. The state of a run is
# in a folder in memory, which a reboot clears as it ends the run. The variables
# are the launcher's.

# Prints the script that installs the checkout. Ubuntu 22.04 has Python 3.10, so
# uv installs a newer one. pip takes jax[tpu] in the version that
# requirements.txt pins; the extra gcs is for gs:// paths.
install_script() {
  echo "# install"
  echo "installed=$commit-$(cksum <<< "$setup" | tr ' ' -)"
  cat << 'END'
set -eu
cd ~
if [ "$(cat bit_jax/.installed 2> /dev/null)" = "$installed" ]; then
  exit
fi
mkdir -p bit_jax
find bit_jax -mindepth 1 -maxdepth 1 ! -name .venv -exec rm -rf {} +
tar -xzf bit_jax.tar.gz -C bit_jax
cd bit_jax
is_new='import ensurepip, sys; sys.exit(sys.version_info < (3, 11))'
if ! [ -x .venv/bin/python ] && ! python3 -c "$is_new"; then
  python3 -m pip install --quiet --user uv
  python3 -m uv venv --quiet --seed --python 3.12 .venv
fi
scripts/setup_env.sh
.venv/bin/python -m pip install --quiet --requirement requirements.txt \
  'jax[tpu]' --editable '.[gcs]'
END
  echo "${setup:-:}"
  cat << 'END'
echo "$installed" > .installed
END
}

# Prints the script that kills the remains of an earlier run and starts the
# command in a session of its own, which outlives the connection.
start_script() {
  cat << 'END'
# start
set -eu
run=/dev/shm/bit_jax$HOME
if [ -e "$run/pid" ] && ! [ -e "$run/code" ]; then
  for _ in $(seq 100); do
    kill -KILL -- "-$(cat "$run/pid")" 2> /dev/null || break
    sleep 0.1
  done
fi
rm -rf "$run"
mkdir -p "$run"
cat > "$run/command" << 'BIT_JAX_END'
END
  echo "$command"
  cat << 'END'
BIT_JAX_END
cd ~/bit_jax
# Both the new session and this script write the process id, which is the same:
# the session so that it is known even if this script is cut off, the script so
# that it is known when the script ends.
nohup setsid bash -c 'echo $$ > "$1/pid"; trap : TERM; . "$1/command"
  echo $? > "$1/new_code"
  mv "$1/new_code" "$1/code"' bash "$run" > ~/bit_jax.log 2>&1 < /dev/null &
echo $! > "$run/pid"
END
}

# Prints the script that prints "bit_jax-state STATE LOG_SIZE ID", where STATE
# is running, absent, asked (stopped by `stop`) or an exit code, and then the
# log through `tail -c $1`.
state_script() {
  echo "# state"
  echo "part=$1 stopped=$stopped"
  cat << 'END'
run=/dev/shm/bit_jax$HOME
if ! [ -e "$run/code" ] && [ -e "$run/pid" ] \
  && kill -0 "$(cat "$run/pid")" 2> /dev/null; then
  state=running
elif [ -e "$run/code" ]; then
  state=$(cat "$run/code")
  if [ "$state" = "$stopped" ] && [ -e "$run/asked" ]; then state=asked; fi
else
  state=absent
fi
size=$(cat ~/bit_jax.log 2> /dev/null | wc -c)
echo bit_jax-state $state $size $(cksum 2> /dev/null < "$run/command")
head -c "$size" ~/bit_jax.log 2> /dev/null | tail -c "$part"
END
}

# Prints the script that asks the run to save and end.
stop_script() {
  cat << 'END'
# stop
run=/dev/shm/bit_jax$HOME
touch "$run/asked"
kill -TERM -- "-$(cat "$run/pid")"
END
}
