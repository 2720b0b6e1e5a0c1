"""Ctrl-C while a command imports: no traceback, exit code 130."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from bit_jax import errors, interrupts, main

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Stands for what a command imports first: it sends the signal of Ctrl-C.
INTERRUPTING = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"
# Where tests run in the background, the signal is ignored.
HEEDING = """if True:
  import os, signal, sys
  signal.signal(signal.SIGINT, signal.SIG_DFL)
  os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
ARGUMENTS = {"train": ["--config=downstream", "--workdir=/nowhere"]}
# They import nothing heavy before their work begins.
LIGHT = ("prepare", "report", "pack")


@pytest.fixture
def interrupted(tmp_path):
  """A function that runs Python with heavy imports that press Ctrl-C."""
  stubs = tmp_path / "stubs"
  stubs.mkdir()
  for name in ("jax", "numpy", "etils", "tqdm"):
    (stubs / f"{name}.py").write_text(INTERRUPTING)

  def run(*args, cwd=ROOT):
    return subprocess.run(
      [sys.executable, "-c", HEEDING, *args],
      cwd=cwd,
      env={**os.environ, "PYTHONPATH": f"{stubs}:{ROOT}"},
      capture_output=True,
      text=True,
      timeout=60,
    )

  return run


@pytest.mark.parametrize("verb", [v for v in main.VERBS if v not in LIGHT])
def test_a_module_that_is_run(verb, interrupted):
  module = main.VERBS[verb][0].removesuffix(".__main__")
  done = interrupted("-m", module, *ARGUMENTS.get(verb, []))
  assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize(
  "script", ["study", "quickstart", "benchmark", "faults"]
)
def test_a_script_that_is_run(script, interrupted):
  done = interrupted("-m", f"scripts.{script}")
  assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_the_console_command(tmp_path, interrupted):
  path = tmp_path / "bit_jax"  # As pip writes it.
  path.write_text(
    "import sys\nfrom bit_jax.main import command\nsys.exit(command())\n"
  )
  for verb in ("train", "fewshot"):
    args = (str(path), verb, *ARGUMENTS.get(verb, []))
    done = interrupted(*args, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_programs_of_others_keep_their_signals(tmp_path, interrupted):
  program = "import bit_jax, jax"
  assert "KeyboardInterrupt" in interrupted("-c", program).stderr
  (tmp_path / "scripts").mkdir()
  (tmp_path / "scripts/mine.py").write_text(program)
  done = interrupted("-m", "scripts.mine", cwd=tmp_path)
  assert "KeyboardInterrupt" in done.stderr


@pytest.mark.parametrize(
  ("argv", "expected"),
  [
    (["python", "-u", "-m", "bit_jax.main", "--workdir=-m"], True),
    (["python", "-m", "coverage", "run", "-m", "bit_jax.main"], False),
    (["python", "-m", "pytest", "-m", "slow"], False),
    (["python", "-c", "x", "--multiprocessing-fork"], False),
    (["python", "bit_jax"], False),  # A folder.
    (["python"], False),
    (["python", "-m"], False),
  ],
)
def test_which_programs_are_commands(argv, expected, monkeypatch):
  monkeypatch.chdir(ROOT)
  assert interrupts._is_command(argv) == expected


def test_work_can_be_interrupted_as_ever():
  before = signal.getsignal(signal.SIGINT)
  try:
    signal.signal(signal.SIGINT, interrupts._end)
    handlers = []
    work = lambda: handlers.append(signal.getsignal(signal.SIGINT))  # noqa: E731
    assert errors.exit_status(work) == 0
    assert handlers == [signal.default_int_handler]
  finally:
    signal.signal(signal.SIGINT, before)
