"""Help, usage and numbers, which all launchers share."""

import pathlib

import pytest

from tests.scripts.launch.launchers import LOCAL, SLURM, TPU_POD, run


@pytest.mark.parametrize("script", [LOCAL, SLURM, TPU_POD])
def test_help_is_the_header(script):
  done = run(script, "--help", cwd="/")
  assert done.returncode == 0
  header = pathlib.Path(script).read_text().split("\nset -euo")[0]
  expected = [line[2:] for line in header.splitlines()[1:]]
  assert done.stdout.splitlines() == expected


@pytest.mark.parametrize("script", [LOCAL, SLURM, TPU_POD])
def test_the_old_name_says_where_the_launcher_went(script):
  name = pathlib.Path(script).name
  old = pathlib.Path(script).parents[1] / f"launch_{name}"
  done = run(str(old), "--name=n", cwd="/")
  assert done.returncode == 2
  assert done.stderr == (
    f"error: scripts/launch_{name} is now scripts/launch/{name}\n"
  )


@pytest.mark.parametrize(
  "args",
  [
    (LOCAL, "--bogus", "--", "--x"),
    (LOCAL, "--processes=0", "--", "--x"),
    (LOCAL, "--processes", "2", "--", "--x"),
    (LOCAL,),
    (LOCAL, "--"),
    (SLURM, "--bogus=a b", "--", "--x"),
    (SLURM, "--nodes=two", "--", "--x"),
    (SLURM, "--gpus_per_node=a100:", "--", "--x"),
    (SLURM, "--job_name=a/b", "--", "--x"),
    (SLURM, '--log_dir=a"b', "--", "--x"),
    (SLURM, "--"),
    (TPU_POD, "create"),
    (TPU_POD, "create", "--name=n"),
    (TPU_POD, "--name=n", "--zone=z"),
    (TPU_POD, "create", "delete", "--name=n", "--zone=z"),
    (TPU_POD, "run", "--bogus", "--name=n", "--zone=z"),
    (TPU_POD, "run", "--name=n", "--zone=z", "--", "--x"),
    (TPU_POD, "run", "--name=n", "--zone=z", "--workdir=/tmp/x", "--", "--x"),
    (TPU_POD, "run", "--name=n", "--zone=z", "--workdir=gs://", "--", "--x"),
    (TPU_POD, "run", "--name=n", "--zone=z", "--workdir=gs://b/r"),
    (
      *(TPU_POD, "run", "--name=n", "--zone=z", "--workdir=gs://b/r"),
      *("--", "--workdir=gs://b/other"),
    ),
  ],
)
def test_wrong_usage_is_one_line(args):
  done = run(*args)
  assert done.returncode == 2
  assert done.stdout == ""
  assert done.stderr.startswith("error: ")
  assert done.stderr.count("\n") == 1


def test_a_long_message_is_whole():
  pod = (TPU_POD, "run", "--name=n", "--zone=z")
  done = run(*pod, "--workdir=/tmp/x", "--", "--x")
  assert done.stderr == (
    "error: --workdir=/tmp/x: expected gs://BUCKET/FOLDER, as the workers "
    "share no disk\n"
  )


@pytest.mark.parametrize(
  "args",
  [
    (LOCAL, "--grace_secs={}", "--", "--x"),
    (SLURM, "--max_crashes={}", "--", "--x"),
    (TPU_POD, "stop", "--name=n", "--zone=z", "--poll_secs={}"),
  ],
)
@pytest.mark.parametrize("number", ["x", "", "-1", "1.5", "01"])
def test_what_is_no_number_is_named(args, number):
  done = run(*(arg.format(number) for arg in args))
  assert done.returncode == 2
  shown = number or "''"
  assert done.stderr.startswith(f"error: {shown}: expected a number from 0")
