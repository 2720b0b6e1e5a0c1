"""Tests of slurm.sh with stubs in place of Python and Slurm's commands."""

import os

import pytest

from tests.scripts.launch.launchers import (
  ARGUMENTS,
  SLURM,
  lines,
  run,
  write_program,
)

SRUN = r"""#!/usr/bin/env bash
printf '%s\0' "$@" > "$OUT/srun"
exit "$CODE"
"""
SQUEUE = """#!/usr/bin/env bash
echo "$STATE"
"""
SCONTROL = """#!/usr/bin/env bash
echo "$*" >> "$OUT/scontrol"
"""
SBATCH = """#!/usr/bin/env bash
cat > "$OUT/submitted"
echo "$*" > "$OUT/sbatch"
[[ $CODE == 0 ]] || exit "$CODE"
echo '123;cluster'
"""


@pytest.fixture(autouse=True)
def slurm(tmp_path, monkeypatch):
  for name, text in (
    ("srun", SRUN),
    ("squeue", SQUEUE),
    ("scontrol", SCONTROL),
    ("sbatch", SBATCH),
  ):
    write_program(tmp_path, name, text)
  monkeypatch.setenv("CODE", "0")
  monkeypatch.setenv("STATE", "RUNNING")
  for key, value in (
    ("JOB_ID", "123"),
    ("JOB_NAME", "bit_jax"),
    ("JOB_NODELIST", "node[1-2]"),
  ):
    monkeypatch.setenv(f"SLURM_{key}", value)


def batch_script(*flags):
  done = run(SLURM, *flags, "--dry_run", "--", *ARGUMENTS)
  assert done.returncode == 0
  return done.stdout


def test_options(tmp_path):
  script = batch_script(
    "--nodes=2",
    "--gpus_per_node=a100:4",
    "--cpus_per_task=6",
    "--time=1-00:00:00",
    "--account=me",
    "--sbatch=--qos=long",
    f"--log_dir={tmp_path}/my logs",
  )
  options = [line for line in script.splitlines() if "#SBATCH" in line]
  assert options == [
    f"#SBATCH {option}"
    for option in (
      "--job-name=bit_jax",
      "--nodes=2",
      "--ntasks-per-node=4",
      "--gres=gpu:a100:4",
      "--cpus-per-task=6",
      f'--output="{tmp_path}/my logs/%x-%j.log"',
      "--open-mode=append",
      "--requeue",
      "--signal=USR1@120",
      "--time=1-00:00:00",
      "--account=me",
      "--qos=long",
    )
  ]
  assert script.startswith("#!/usr/bin/env bash\n#SBATCH")
  assert not (tmp_path / "submitted").exists()


def test_logs_in_the_home_folder(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  run(SLURM, "--log_dir=~/logs", "--", *ARGUMENTS, cwd=tmp_path)
  assert (tmp_path / "logs").is_dir()


def test_submits_what_the_dry_run_prints(tmp_path):
  done = run(SLURM, "--log_dir=my logs", "--", *ARGUMENTS, cwd=tmp_path)
  assert done.returncode == 0
  logs = tmp_path / "my logs"
  assert logs.is_dir()
  assert f"job 123: log in {logs}/bit_jax-123.log" in done.stdout
  assert (tmp_path / "sbatch").read_text() == "--parsable\n"
  expected = batch_script(f"--log_dir={logs}")
  assert (tmp_path / "submitted").read_text() == expected


def test_refused(monkeypatch):
  monkeypatch.setenv("CODE", "1")
  done = run(SLURM, "--", *ARGUMENTS)
  assert done.returncode == 1
  assert done.stderr == "error: sbatch refused the job\n"
  monkeypatch.setenv("BIT_JAX_PYTHON", "/no/python")
  done = run(SLURM, "--", *ARGUMENTS)
  assert done.stderr == "error: /no/python is not there\n"


def test_arguments_arrive(tmp_path):
  done = run("bash", "-c", batch_script("--cpus_per_task=6"), cwd=tmp_path)
  assert done.returncode == 0
  arguments = (tmp_path / "srun").read_text().split("\0")[:-1]
  program = [os.environ["BIT_JAX_PYTHON"], "-m", "bit_jax.main"]
  assert arguments == [
    "--kill-on-bad-exit=0",
    "--wait=300",
    "--cpus-per-task=6",
    *program,
    *ARGUMENTS,
  ]


@pytest.mark.parametrize(
  ("code", "state", "requeued"),
  [
    (0, "RUNNING", False),
    (1, "RUNNING", False),
    (2, "RUNNING", False),
    (74, "RUNNING", True),
    (75, "RUNNING", True),
    (75, "COMPLETING", False),
    (75, "", False),
    (139, "RUNNING", True),
    (139, "COMPLETING", False),
  ],
)
def test_requeued_or_not(tmp_path, monkeypatch, code, state, requeued):
  monkeypatch.setenv("CODE", str(code))
  monkeypatch.setenv("STATE", state)
  done = run("bash", "-c", batch_script(f"--log_dir={tmp_path}"))
  if requeued:
    assert lines(tmp_path / "scontrol") == ["requeue 123"]
  else:
    assert done.returncode == code
    assert not (tmp_path / "scontrol").exists()


def test_gives_up_after_some_crashes_however_often_it_stopped(
  tmp_path, monkeypatch
):
  script = batch_script(f"--log_dir={tmp_path}", "--max_crashes=2")
  codes = [75, 139, 75, 75, 74, 75, 75, 139]
  for restart, code in enumerate(codes):
    monkeypatch.setenv("CODE", str(code))
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
    done = run("bash", "-c", script)
  assert done.returncode == 139
  assert "crash 3: code 139" in done.stdout
  assert "given up" in done.stdout
  assert len(lines(tmp_path / "scontrol")) == len(codes) - 1
