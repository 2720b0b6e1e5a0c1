# shellcheck shell=bash disable=SC2154
# What tpu_pod.sh runs on the workers, as scripts. The run's folder is in
# memory: gone after a reboot, as the run is. The variables are the launcher's.

# Ubuntu 22.04 has Python 3.10; uv brings a newer one. jax[tpu] gets the version
# that requirements.txt asks for; gcs is for gs:// paths.
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

# Ends what an earlier run left behind, then starts the command in a session of
# its own, which outlives the connection.
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
# Both write the same: nothing runs unseen if this script is cut off, and there
# is a process once it has ended.
nohup setsid bash -c 'echo $$ > "$1/pid"; trap : TERM; . "$1/command"
  echo $? > "$1/new_code"
  mv "$1/new_code" "$1/code"' bash "$run" > ~/bit_jax.log 2>&1 < /dev/null &
echo $! > "$run/pid"
END
}

# Prints "bit_jax-state STATE LOG_SIZE ID", where STATE is running, absent,
# asked (stopped by `stop`) or an exit code; then what `tail -c $1` leaves of the
# log.
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

stop_script() {
  cat << 'END'
# stop
run=/dev/shm/bit_jax$HOME
touch "$run/asked"
kill -TERM -- "-$(cat "$run/pid")"
END
}
