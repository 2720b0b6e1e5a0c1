"""Tests of local.sh with a stub in place of Python."""

import os
import re
import shlex
import signal
import subprocess
import sys

import pytest

from tests.scripts.launch.launchers import (
  ARGUMENTS,
  DEADLINE_SECS,
  LOCAL,
  lines,
  run,
  started,
  wait_for,
)

# Commands of a stub that wait for a signal, and then long enough for a second
# one to be noticed.
STOP = 'wait_for "$OUT/got-$id"; sleep 0.1; exit 75'


def test_dry_run_prints_commands_that_a_shell_reads_back(tmp_path):
  done = run(LOCAL, "--processes=3", "--dry_run", "--", *ARGUMENTS)
  assert done.returncode == 0
  commands = [shlex.split(line) for line in done.stdout.splitlines()]
  assert len(commands) == 3
  for i, words in enumerate(commands):
    assert words[:2] == [
      "env",
      "XLA_FLAGS=--xla_force_host_platform_device_count=1",
    ]
    assert words[2:6] == [
      "JAX_PLATFORMS=cpu",
      os.environ["BIT_JAX_PYTHON"],
      "-m",
      "bit_jax.main",
    ]
    assert words[6:9] == ARGUMENTS
    assert f"--process_id={i}" in words
  assert not (tmp_path / "started-0").exists()


def test_arguments_and_environment_arrive(tmp_path, monkeypatch):
  monkeypatch.setenv("XLA_FLAGS", "--a --b")
  done = run(LOCAL, "--devices_per_process=3", "--", *ARGUMENTS)
  assert done.returncode == 0
  addresses = set()
  for i in range(2):
    text = (tmp_path / f"arguments-{i}").read_text()
    arguments = text.split("\0")[:-1]
    assert arguments[:5] == ["-m", "bit_jax.main", *ARGUMENTS]
    addresses.add(arguments[5])
    assert arguments[6:] == ["--num_processes=2", f"--process_id={i}"]
    environment = lines(tmp_path / f"environment-{i}")
    flag = "--xla_force_host_platform_device_count=3"
    assert f"XLA_FLAGS=--a --b {flag}" in environment
    assert "JAX_PLATFORMS=cpu" in environment
  [address] = addresses
  assert re.fullmatch(r"--coordinator_address=127\.0\.0\.1:[23]\d{4}", address)


@pytest.mark.parametrize(
  ("visible", "expected"), [("", ["0,1", "2,3"]), ("7,5,1,0", ["7,5", "1,0"])]
)
def test_gpus_are_shared_out(tmp_path, monkeypatch, visible, expected):
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
  done = run(LOCAL, "--gpus", "--devices_per_process=2", "--", "--x")
  assert done.returncode == 0
  for i, devices in enumerate(expected):
    environment = lines(tmp_path / f"environment-{i}")
    assert f"CUDA_VISIBLE_DEVICES={devices}" in environment


def test_too_few_gpus_start_nothing(tmp_path, monkeypatch):
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
  done = run(LOCAL, "--gpus", "--", "--x")
  assert done.returncode == 1
  assert done.stderr.splitlines() == [
    "error: CUDA_VISIBLE_DEVICES: expected 2 GPUs"
  ]
  assert not (tmp_path / "started-0").exists()


@pytest.mark.parametrize(("do_1", "kept"), [("exit 0", 0), ("exit 1", 1)])
def test_logs_that_nobody_named_stay_after_a_failure_only(
  tmp_path, monkeypatch, do_1, kept
):
  monkeypatch.setenv("DO_0", "exit 0")
  monkeypatch.setenv("DO_1", do_1)
  run(LOCAL, "--", "--x")
  assert len(list(tmp_path.glob("bit_jax.*"))) == kept


def test_process_0_writes_to_the_terminal_the_others_to_logs(
  tmp_path, monkeypatch
):
  for i in range(2):
    monkeypatch.setenv(f"DO_{i}", f"echo out {i}; echo err {i} >&2")
  monkeypatch.setenv("HOME", str(tmp_path))
  done = run(LOCAL, "--log_dir=~/my logs", "--", "--x")
  assert done.stdout == "out 0\n"
  assert "err 0\n" in done.stderr
  log = tmp_path / "my logs" / "process-1.log"
  assert lines(log) == ["out 1", "err 1"]


@pytest.mark.parametrize(
  ("do_0", "do_1", "code"),
  [
    ("exit 0", "exit 0", 0),
    ("exit 75", "sleep 0.1; exit 75", 75),
    ("exit 0", "sleep 0.1; exit 75", 75),
    ("exit 75", "sleep 0.1; exit 9", 9),
    (STOP, "echo oops; exit 3", 3),
    ("exit 1", STOP, 1),
    (STOP, "kill -KILL $$", 137),
  ],
)
def test_exit_code_is_that_of_the_first_failure(monkeypatch, do_0, do_1, code):
  monkeypatch.setenv("DO_0", do_0)
  monkeypatch.setenv("DO_1", do_1)
  done = run(LOCAL, "--", "--x")
  assert done.returncode == code
  assert ("oops" in done.stderr) == ("oops" in do_1)


@pytest.mark.parametrize(
  ("code", "times", "flags"),
  [(74, 3, ["--max_faults=2"]), (74, 1, ["--max_faults=0"]), (70, 1, [])],
)
def test_faults_of_the_machine_are_tried_again_a_few_times(
  tmp_path, monkeypatch, code, times, flags
):
  monkeypatch.setenv("DO_0", STOP)
  monkeypatch.setenv("DO_1", f"echo oops; exit {code}")
  logs = f"--log_dir={tmp_path}/logs"
  done = run(LOCAL, "--fault_secs=0", logs, *flags, "--", "--x")
  assert done.returncode == code
  assert lines(tmp_path / "logs" / "process-1.log") == times * ["oops"]
  again = done.stderr.count("fault of the machine")
  assert again == times - 1


def test_a_fault_that_passes(tmp_path, monkeypatch):
  monkeypatch.setenv("DO_1", f"rmdir {tmp_path}/full && exit 74; exit 0")
  monkeypatch.setenv("DO_0", "exit 0")
  (tmp_path / "full").mkdir()
  assert run(LOCAL, "--fault_secs=0", "--", "--x").returncode == 0


def test_nothing_is_started_again_after_a_signal(tmp_path, monkeypatch):
  monkeypatch.setenv("DO_0", 'wait_for "$OUT/got-$id"; exit 74')
  with started(LOCAL, "--processes=1", "--", "--x") as launcher:
    wait_for(tmp_path / "started-0")
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(DEADLINE_SECS) == 74


def test_others_are_not_disturbed_when_one_has_stopped(tmp_path, monkeypatch):
  monkeypatch.setenv("DO_0", "exit 75")
  monkeypatch.setenv("DO_1", f"sleep 0.1; sleep 0.1; touch {tmp_path}/saved")
  assert run(LOCAL, "--", "--x").returncode == 75
  assert (tmp_path / "saved").exists()
  assert not (tmp_path / "got-1").exists()


def test_who_does_not_end_is_killed(tmp_path, monkeypatch):
  monkeypatch.setenv("DO_0", "wait_for /never")
  monkeypatch.setenv("DO_1", f'wait_for "{tmp_path}/started-0"; exit 4')
  assert run(LOCAL, "--grace_secs=0", "--", "--x").returncode == 4
  assert lines(tmp_path / "got-0") == ["TERM"]


@pytest.mark.parametrize("name", ["TERM", "INT", "USR1"])
def test_signals_reach_each_process_once(tmp_path, monkeypatch, name):
  for i in range(3):
    monkeypatch.setenv(f"DO_{i}", STOP)
  with started(LOCAL, "--processes=3", "--", "--x") as launcher:
    wait_for(*(tmp_path / f"started-{i}" for i in range(3)))
    launcher.send_signal(signal.Signals[f"SIG{name}"])
    assert launcher.wait(DEADLINE_SECS) == 75
  for i in range(3):
    assert lines(tmp_path / f"got-{i}") == [name]


def test_ctrl_c_on_a_terminal_reaches_each_process_once(tmp_path, monkeypatch):
  for i in range(2):
    monkeypatch.setenv(f"DO_{i}", STOP)
  spawn = (
    "import os, pty, sys;"
    "sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
  )
  with started(
    *(sys.executable, "-c", spawn, LOCAL, "--", "--x"),
    stdin=subprocess.PIPE,
    stdout=subprocess.DEVNULL,
  ) as launcher:
    wait_for(*(tmp_path / f"started-{i}" for i in range(2)))
    assert launcher.stdin
    launcher.stdin.write("\x03")
    launcher.stdin.flush()
    assert launcher.wait(DEADLINE_SECS) == 75
  for i in range(2):
    assert lines(tmp_path / f"got-{i}") == ["INT"]
