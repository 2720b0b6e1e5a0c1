"""Runs the launchers with stubs in place of the programs that they start."""

import contextlib
import pathlib
import subprocess
import time

SCRIPTS = pathlib.Path(__file__).resolve().parents[3] / "scripts"
LOCAL = str(SCRIPTS / "launch/local.sh")
SLURM = str(SCRIPTS / "launch/slurm.sh")
TPU_POD = str(SCRIPTS / "launch/tpu_pod.sh")
# Arguments that a shell would split or expand if they were not quoted.
ARGUMENTS = ["--config=a b.py:x=$HOME", "--config.k=('it\"s','*')", "--empty="]
DEADLINE_SECS = 20

# A stub for Python: process 0 runs the commands in $DO_0, and so on.
PROGRAM = r"""#!/usr/bin/env bash
id=${*: -1}
id=${id#--process_id=}
printf '%s\0' "$@" > "$OUT/arguments-$id"
env > "$OUT/environment-$id"
for name in TERM INT USR1; do
  trap "echo $name >> $OUT/got-$id" "$name"
done
echo yes > "$OUT/started-$id"
wait_for() { until [[ -s $1 ]]; do sleep 0.02; done; }
do=DO_$id
eval "${!do}"
"""


def write_program(tmp_path, name, text):
  path = tmp_path / "bin" / name
  path.write_text(text)
  path.chmod(0o755)
  return str(path)


def command(*args):
  # A shell in the background ignores SIGINT and then cannot trap it.
  return ["env", "--default-signal=INT", *args]


@contextlib.contextmanager
def started(*args, **kwargs):
  with subprocess.Popen(command(*args), text=True, **kwargs) as process:
    try:
      yield process
    finally:
      process.terminate()


def run(*args, **kwargs):
  return subprocess.run(
    command(*args),
    capture_output=True,
    text=True,
    timeout=DEADLINE_SECS,
    **kwargs,
  )


def wait_for(*paths):
  deadline = time.monotonic() + DEADLINE_SECS
  while not all(path.exists() for path in paths):
    assert time.monotonic() < deadline, f"none of {paths}"
    time.sleep(0.02)


def lines(path):
  return path.read_text().splitlines()
