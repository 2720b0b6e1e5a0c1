"""Tests of tpu_pod.sh with stubs in place of gcloud, git and the workers."""

import contextlib
import os
import pathlib
import shlex
import shutil
import signal
import subprocess

import pytest

from tests.scripts.launch.launchers import (
  ARGUMENTS,
  DEADLINE_SECS,
  TPU_POD,
  lines,
  run,
  started,
  wait_for,
  write_program,
)

# A stub for gcloud with a pod of two workers on this machine: $OUT/state is the
# pod's state, and $OUT/worker-N is the home of worker N.
GCLOUD = r"""#!/usr/bin/env bash
set -u
[[ "$1 $2 $3" == 'compute tpus tpu-vm' ]] || exit 2
verb=$4 what='' command='' worker=none output='' state=''
[[ " $* " == *' --zone=z --project=q --quiet '* ]] || exit 2
for flag in "$@"; do
  case $flag in
    --command=*) command=${flag#*=} ;;
    --worker=*) worker=${flag#*=} ;;
    --output-directory=*) output=${flag#*=} ;;
  esac
done
read -r what <<< "$command"
case $verb$what in
  'ssh# state') echo >> "$OUT/polls" ;;
  describe) ;;
  *) echo "$verb${what/\#/}" >> "$OUT/calls" ;;
esac
[[ ! -e $OUT/state ]] || state=$(cat "$OUT/state")
case $verb in
  describe)
    if [[ -e $OUT/states ]]; then
      state=$(sed -n 1p "$OUT/states")
      sed -i 1d "$OUT/states"
      [[ -s $OUT/states ]] || rm "$OUT/states"
    fi
    [[ $state != broken ]] || { echo 'no network' >&2; exit 1; }
    [[ $state ]] || { echo "NOT_FOUND: 'n' was not found" >&2; exit 1; }
    echo "$state"
    ;;
  create)
    printf '%s\n' "$@" > "$OUT/create"
    if [[ -s $OUT/refusals ]]; then
      sed -n 1p "$OUT/refusals" >&2
      sed -i 1d "$OUT/refusals"
      exit 1
    fi
    for n in 0 1; do
      mkdir -p "$OUT/worker-$n/bit_jax/.venv/bin"
      cp "$OUT/worker" "$OUT/worker-$n/bit_jax/.venv/bin/python"
    done
    echo READY > "$OUT/state"
    ;;
  delete) rm -rf "$OUT"/worker-* "$OUT/state" ;;
  *)
    [[ $state == READY ]] || { echo "in state $state" >&2; exit 255; }
    result=0
    for n in 0 1; do
      [[ $worker == all || $worker == "$n" ]] || continue
      if [[ $verb == scp ]]; then
        cp "$5" "$OUT/worker-$n/${6#n:}" || result=$?
      else
        log=/dev/stdout
        [[ ! $output ]] || log=$output/$n.log
        HOME=$OUT/worker-$n WORKER=$n bash -c "$command" > "$log" 2>&1 \
          || result=$?
      fi
    done
    exit "$result"
    ;;
esac
"""
GIT = """#!/usr/bin/env bash
case $1 in
  rev-parse) echo abcdef0123456789 ;;
  archive) tar -czf "$4" -C "$OUT/checkout" . ;;
esac
"""
# A stub for Python on the workers: run number R of worker N runs the commands
# in line R of $OUT/do-N.
WORKER = r"""#!/usr/bin/env bash
[[ $2 == bit_jax.main ]] || { echo "$*" >> "$OUT/other-$WORKER"; exit; }
printf '%s\n' "$@" > "$OUT/arguments-$WORKER"
echo "$PWD" >> "$OUT/runs-$WORKER"
eval "$(sed -n "$(wc -l < "$OUT/runs-$WORKER")p" "$OUT/do-$WORKER")"
"""
INSTALL_AND_START = ["scp", "ssh install", "ssh start"]
# Commands of a worker whose reboot clears the run's folder in memory.
REBOOT = (
  "run=/dev/shm/bit_jax$HOME; until [[ -s $run/pid ]]; do sleep 0.02; done;"
  'rm -r "$run"; exit 0'
)
WAIT = 'until [[ -e $OUT/go ]]; do sleep 0.02; done; exit "$(cat "$OUT/go")"'


class TestTpuPod:
  @pytest.fixture(autouse=True)
  def cloud(self, tmp_path):
    write_program(tmp_path, "gcloud", GCLOUD)
    write_program(tmp_path, "git", GIT)
    (tmp_path / "worker").write_text(WORKER)
    (tmp_path / "worker").chmod(0o755)
    (tmp_path / "calls").touch()
    scripts = tmp_path / "checkout" / "scripts"
    scripts.mkdir(parents=True)
    (scripts / "setup_env.sh").write_text('pwd >> "$OUT/set_up"\n')
    (scripts / "setup_env.sh").chmod(0o755)
    self.out = tmp_path
    yield
    folder = pathlib.Path(f"/dev/shm/bit_jax{tmp_path}")
    for pid in folder.glob("*/pid"):
      with contextlib.suppress(ProcessLookupError):
        os.killpg(int(pid.read_text()), signal.SIGKILL)
    for run_folder in folder.glob("*"):
      shutil.rmtree(run_folder)
    with contextlib.suppress(FileNotFoundError):
      os.removedirs(folder)

  def args(self, verb, *flags):
    flags = [TPU_POD, verb, "--name=n", "--zone=z", "--project=q", *flags]
    if verb == "run":
      flags += ["--workdir=gs://b/r", "--poll_secs=0", "--", *ARGUMENTS]
    return flags

  def launch(self, verb, *flags):
    return run(*self.args(verb, *flags))

  def do(self, worker_0, worker_1=None):
    (self.out / "do-0").write_text("\n".join(worker_0))
    (self.out / "do-1").write_text("\n".join(worker_1 or worker_0))

  def calls(self):
    return lines(self.out / "calls")

  def test_what_gcloud_will_never_do_is_not_tried_again(self):
    write_program(
      self.out,
      "gcloud",
      "#!/bin/sh\necho 'required property [project] is not set' >&2\nexit 1",
    )
    done = self.launch("run")
    assert done.returncode == 1
    assert done.stderr.count("required property") == 1
    assert "gcloud cannot be used like this" in done.stderr

  def test_dry_run_prints_commands_that_a_shell_reads_back(self):
    done = self.launch(
      "run", "--dry_run", "--spot", "--setup=mount 'a b'", "--ssh_flag=-x"
    )
    assert done.returncode == 0
    assert self.calls() == []
    words = shlex.split(done.stdout, comments=True)
    starts = [i for i, word in enumerate(words) if word == "gcloud"]
    verbs = [words[i + 4] for i in starts]
    assert verbs == [
      *("describe", "delete", "create", "scp"),
      *("ssh", "ssh", "ssh", "ssh"),
    ]
    create = words[starts[2] : starts[3]]
    assert create[4:9] == [
      *("create", "n", "--accelerator-type=v3-512"),
      *("--version=tpu-ubuntu2204-base", "--spot"),
    ]
    install, start = [word for word in words if "--command=" in word][:2]
    assert "\nmount 'a b'\n" in install
    [line] = [line for line in start.splitlines() if "bit_jax.main" in line]
    assert shlex.split(line)[3:] == [*ARGUMENTS, "--workdir=gs://b/r"]
    assert words.count("-x") == 5

  @pytest.mark.parametrize("verb", ["create", "install", "stop", "delete"])
  def test_dry_run_does_nothing(self, verb):
    done = self.launch(verb, "--dry_run")
    assert done.returncode == 0
    assert "gcloud compute tpus tpu-vm" in done.stdout
    assert self.calls() == []

  def test_from_nothing_to_the_end(self):
    two_polls = 'until (($(wc -l < "$OUT/polls") > 3)); do sleep 0.02; done'
    self.do([f'echo first; {two_polls}; echo "second line"; exit 0'])
    done = self.launch("run", "--spot", "--type=v5p-16", "--setup=pwd>$OUT/own")
    assert done.returncode == 0
    assert self.calls() == ["create", *INSTALL_AND_START]
    assert lines(self.out / "create")[4:8] == [
      *("n", "--accelerator-type=v5p-16", "--version=v2-alpha-tpuv5", "--spot")
    ]
    assert done.stdout == "first\nsecond line\n"
    for i in range(2):
      assert lines(self.out / f"arguments-{i}") == [
        *("-m", "bit_jax.main", *ARGUMENTS, "--workdir=gs://b/r")
      ]
      folder = f"{self.out}/worker-{i}/bit_jax"
      assert lines(self.out / f"runs-{i}") == [folder]
      assert folder in lines(self.out / "set_up")
      [pip] = lines(self.out / f"other-{i}")
      assert pip.endswith(
        "--requirement requirements.txt jax[tpu] --editable .[gcs]"
      )
    assert lines(self.out / "own") == [folder]

  def test_preempted_pod_is_created_again(self):
    preempt = 'echo PREEMPTED > "$OUT/state"; exit 143'
    self.do([preempt, preempt, "exit 0"], ["exit 143", "exit 75", "exit 0"])
    done = self.launch("run", "--max_crashes=0")
    assert done.returncode == 0
    again = ["delete", "create", *INSTALL_AND_START]
    assert self.calls() == ["create", *INSTALL_AND_START, *again, *again]
    assert len(lines(self.out / "runs-0")) == 3

  def test_crash_of_a_pod_that_is_being_taken_does_not_count(self):
    states = ["", "READY", "PREEMPTED", "PREEMPTED"]
    (self.out / "states").write_text("\n".join(states) + "\n")
    self.do(["exit 143", "exit 0"])
    assert self.launch("run", "--max_crashes=0").returncode == 0
    once = ["create", *INSTALL_AND_START]
    assert self.calls() == [*once, "delete", *once]

  def test_worker_that_hangs_is_ended_before_the_next_start(self):
    self.do(
      ["exit 7", "exit 0"],
      [
        'trap "" TERM; echo $$ > "$OUT/hung"; while :; do sleep 0.02; done',
        'kill -0 "$(cat "$OUT/hung")" && touch "$OUT/both"; exit 0',
      ],
    )
    assert self.launch("run").returncode == 0
    assert (self.out / "hung").exists()
    assert not (self.out / "both").exists()

  def test_pod_that_vanishes_is_created_again(self):
    self.do(['rm "$OUT/state"; exit 0', "exit 0"])
    assert self.launch("run").returncode == 0
    assert self.calls() == ["create", *INSTALL_AND_START] * 2

  @pytest.mark.parametrize(
    ("worker_0", "worker_1", "code", "runs"),
    [
      (["exit 1"], ["exit 1"], 1, 1),
      (["exit 2"], ["exit 0"], 2, 1),
      (["exit 75", "exit 0"], ["exit 0", "exit 0"], 0, 2),
      (["exit 7"] * 2, ["exit 0"] * 2, 7, 2),
      (["exit 1"] * 2, ["exit 74"] * 2, 74, 2),
      # A worker that lost another one exits with 1, which is not bad input.
      (["exit 1"] * 2, ["exit 134"] * 2, 134, 2),
      (["exit 75", "exit 9", "exit 0"], None, 0, 3),
      ([REBOOT, "exit 0"], ["exit 0"] * 2, 0, 2),
    ],
  )
  def test_exit_codes(self, worker_0, worker_1, code, runs):
    self.do(worker_0, worker_1)
    assert self.launch("run", "--max_crashes=1").returncode == code
    assert self.calls() == ["create", *(INSTALL_AND_START * runs)]
    # However often the run starts, a pod is set up once, on both workers.
    assert len(lines(self.out / "set_up")) == 2

  def test_is_watched_again_after_ctrl_c(self):
    self.do([WAIT])
    with started(*self.args("run"), stderr=subprocess.PIPE) as launcher:
      wait_for(self.out / "runs-0", self.out / "runs-1")
      launcher.send_signal(signal.SIGINT)
      assert "the run goes on in n" in launcher.communicate()[1]
      assert launcher.returncode == 130
    with started(*self.args("run"), stderr=subprocess.PIPE) as launcher:
      assert launcher.stderr
      assert "watching" in launcher.stderr.readline()
      (self.out / "go").write_text("0")
      launcher.communicate(timeout=DEADLINE_SECS)
      assert launcher.returncode == 0
    assert self.calls() == ["create", *INSTALL_AND_START]

  def test_something_else_running_is_left_alone(self):
    self.do([WAIT])
    with started(*self.args("run"), stderr=subprocess.DEVNULL) as launcher:
      wait_for(self.out / "runs-0", self.out / "runs-1")
      done = run(*self.args("run"), "--config.seed=2")
      assert done.returncode == 1
      assert "runs something else" in done.stderr
      (self.out / "go").write_text("0")
      assert launcher.wait(DEADLINE_SECS) == 0
    assert self.calls() == ["create", *INSTALL_AND_START]

  def test_stop_lets_it_save_and_does_not_start_it_again(self):
    stop = (
      'trap "sleep 0.1; exit 75" TERM; touch "$OUT/ready-$WORKER";'
      "while :; do sleep 0.02; done"
    )
    self.do([stop])
    with started(*self.args("run"), stderr=subprocess.DEVNULL) as launcher:
      wait_for(self.out / "ready-0", self.out / "ready-1")
      status = self.launch("status").stdout
      assert status == "n: READY\nworker 0: running\nworker 1: running\n"
      assert self.launch("stop").returncode == 0
      assert launcher.wait(DEADLINE_SECS) == 75
    assert self.calls()[-2:] == ["ssh start", "ssh stop"]
    assert "worker 0: asked\n" in self.launch("status").stdout

  @pytest.mark.parametrize(
    ("states", "expected"),
    [
      (["READY"], []),
      (["CREATING", "broken", "REPAIRING", "READY"], []),
      (["PREEMPTED"], ["delete", "create"]),
      (["TERMINATED"], ["delete", "create"]),
      (["DELETING", ""], ["create"]),
    ],
  )
  def test_create_does_what_the_state_asks_for(self, states, expected):
    (self.out / "states").write_text("\n".join(states) + "\n")
    assert self.launch("create", "--poll_secs=0").returncode == 0
    assert self.calls() == expected

  def test_create_asks_again_while_there_is_no_capacity(self):
    refusals = self.out / "refusals"
    full = "There is no more capacity in the zone\n"
    refusals.write_text(full * 3)
    done = self.launch("create", "--poll_secs=0", "--capacity_tries=3")
    assert done.returncode == 1
    assert "no capacity for v3-512 in z" in done.stderr
    assert self.calls() == ["create"] * 3
    refusals.write_text(full * 2)
    done = self.launch("create", "--poll_secs=0", "--capacity_tries=3")
    assert done.returncode == 0
    assert self.calls() == ["create"] * 6

  def test_create_gives_up_on_other_errors(self):
    (self.out / "refusals").write_text("Permission denied\n" * 9)
    done = self.launch("create", "--poll_secs=0")
    assert done.returncode == 1
    assert "Permission denied" in done.stderr
    assert self.calls() == ["create"] * 3

  def test_pod_that_was_stopped_is_left_alone(self):
    (self.out / "state").write_text("STOPPED\n")
    done = self.launch("create", "--poll_secs=0")
    assert done.returncode == 1
    assert "n is STOPPED" in done.stderr
    assert self.calls() == []

  def test_installation_that_fails_says_why(self):
    self.do(["exit 0"])
    done = self.launch("run", "--setup=echo no such bucket; false")
    assert done.returncode == 1
    assert "no such bucket" in done.stderr
    assert self.calls() == ["create", *(["scp", "ssh install"] * 3)]
    assert not (self.out / "runs-0").exists()
