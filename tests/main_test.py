"""The command line: what is wrong ends in one line and the right exit code."""

import json
import os
import pathlib
import re
import subprocess
import sys
from unittest import mock

import cv2
import numpy as np
import pytest
from absl import flags

from bit_jax import main, train
from bit_jax.errors import InputError, UsageError
from bit_jax.recipe import load

ROOT = pathlib.Path(__file__).resolve().parent.parent
UPSTREAM, DOWNSTREAM = "configs/upstream.py", "configs/downstream.py"


@pytest.fixture(autouse=True)
def fresh_flags(monkeypatch):
  monkeypatch.chdir(ROOT)
  yield
  for name in [n for n in flags.FLAGS if n.startswith("config.")]:
    delattr(flags.FLAGS, name)  # Overrides of the last command.
  for name in ("config", "workdir"):
    flags.FLAGS[name].unparse()
  flags.FLAGS.unparse_flags()


def run(*args, capsys):
  """Runs the command in this process; returns (exit code, error line)."""
  argv = ["main", *args]
  try:
    # ml_collections looks for overrides there.
    with mock.patch.object(sys, "argv", argv):
      main.main(main._parse_flags(argv))
    code = 0
  except SystemExit as e:
    code = e.code
  return code, capsys.readouterr().err


@pytest.mark.parametrize(
  ("args", "code", "message"),
  [
    ((), 2, "--config is missing"),
    ((f"--config={DOWNSTREAM}",), 2, "--workdir is missing"),
    ((f"--config={DOWNSTREAM}", "--workdr=/x"), 2, "workdr"),
    (("--config=configs/no.py", "--workdir=/x"), 2, "configs/no.py"),
    ((f"--config={DOWNSTREAM}:modle=x", "--workdir=/x"), 2, "modle=x"),
    (
      (f"--config={DOWNSTREAM}", "--workdir=/x", "--config.optm.lr=1"),
      2,
      "optm",
    ),
    (
      (f"--config={DOWNSTREAM}", "--workdir=/x", "--config.optim.lr=high"),
      2,
      "high",
    ),
    (
      (f"--config={DOWNSTREAM}", "--workdir=/x", "--config.data.splits=a=b"),
      2,
      "config key data.splits: split definitions are gone: use slices of sl",
    ),
    ((f"--config={DOWNSTREAM}", "--workdir=/x", "extra"), 2, "'extra'"),
    ((f"--config={DOWNSTREAM}:preset=x", "--workdir=/x"), 1, "preset=x"),
    ((f"--config={DOWNSTREAM}:model=R5x1", "--workdir=/x"), 1, "'R5x1'"),
    (
      ("--config=configs/vtab.py:task=mnist", "--workdir=/x"),
      1,
      "task=mnist: expected one of caltech101, cifar100",
    ),
    (
      (
        f"--config={DOWNSTREAM}:dataset=no_such_set,data_dir=/tmp",
        "--workdir=/x",
      ),
      1,
      "no_such_set",
    ),
    (
      (
        f"--config={DOWNSTREAM}:dataset=cifar10,data_dir=/no/dir",
        "--workdir=/x",
      ),
      1,
      "/no/dir",
    ),
    (
      (f"--config={DOWNSTREAM}:dataset=folder:/no/dir", "--workdir=/x"),
      1,
      "/no/dir",
    ),
    (
      (
        f"--config={DOWNSTREAM}:dataset=digits,examples_per_class=99999",
        "--workdir=/x",
      ),
      1,
      "99999",
    ),
  ],
)
def test_bad_input_is_one_line(args, code, message, capsys):
  got, error = run(*args, capsys=capsys)
  assert "Traceback" not in error
  assert got == code, error
  assert error.startswith("error: ")
  assert error.count("\n") == 1
  assert message in error
  assert not pathlib.Path("/x").exists()


def test_overrides_reach_the_run(monkeypatch, capsys):
  calls = []
  monkeypatch.setattr(
    train, "train_and_evaluate", lambda *args: calls.append(args)
  )
  code, error = run(
    f"--config={UPSTREAM}:preset=bit_m,model=R101x3,dataset=folder:/a=b:c",
    "--workdir=/tmp/w",
    "--config.seed=7",
    "--config.total_steps=20",
    "--config.input.batch_size=64",
    "--config.init.checkpoint=BiT.npz",
    "--config.model.dtype=bfloat16",
    "--config.log_every_steps=3",
    "--config.checkpoint.every_steps=5",
    "--config.checkpoint.keep=2",
    "--config.optim.freeze=('root_block','block1/')",
    "--config.optim.lr=1",
    capsys=capsys,
  )
  assert (code, error) == (0, "")
  ((config, workdir),) = calls
  assert workdir == "/tmp/w"
  assert config.data.name == "folder:/a=b:c"
  assert (config.seed, config.total_steps, config.input.batch_size) == (
    (7, 20, 64)
  )
  assert config.optim.freeze == ("root_block", "block1/")
  assert config.optim.lr == 1.0


def test_overrides_may_stand_before_the_config(monkeypatch, capsys):
  calls = []
  monkeypatch.setattr(
    train, "train_and_evaluate", lambda *args: calls.append(args)
  )
  code, error = run(
    "--config.seed=7",
    "--workdir=/tmp/w",
    f"--config={UPSTREAM}",
    capsys=capsys,
  )
  assert (code, error) == (0, "")
  assert calls[0][0].seed == 7


def test_errors_while_running_are_one_line(monkeypatch, capsys):
  def fails(*_):
    raise InputError("a\nb")

  monkeypatch.setattr(train, "train_and_evaluate", fails)
  assert run(f"--config={UPSTREAM}", "--workdir=/tmp/w", capsys=capsys) == (
    (1, "error: a b\n")
  )


def test_a_config_is_loaded_as_by_the_command():
  config = load.load_config(
    f"{UPSTREAM}:model=R14x0.5",
    ["--config.seed=3", "--config.optim.freeze=('head/',)"],
  )
  assert config.model.variant == "R14x0.5"
  assert config.seed == 3
  assert config.optim.freeze == ("head/",)


@pytest.mark.parametrize(
  ("path", "overrides", "error", "message"),
  [
    ("configs/no.py", [], UsageError, "configs/no.py"),
    (f"{UPSTREAM}:modle=x", [], UsageError, "modle=x"),
    (f"{UPSTREAM}:preset=x", [], InputError, "preset=x"),
    (UPSTREAM, ["--config.sed=1"], UsageError, "sed"),
    (UPSTREAM, ["--config.seed=x"], UsageError, "seed"),
    (UPSTREAM, ["--seed=1"], UsageError, "seed"),
    (UPSTREAM, ["seed"], UsageError, "unexpected argument 'seed'"),
  ],
)
def test_configs_that_cannot_be_loaded(path, overrides, error, message):
  with pytest.raises(error, match=message):
    load.load_config(path, overrides)


def write_folder(path, num_classes=3, per_class=5):
  rng = np.random.default_rng(0)
  for label in range(num_classes):
    (path / f"class {label}").mkdir(parents=True)
    for i in range(per_class):
      image = rng.integers(0, 256, (40, 50, 3), np.uint8)
      cv2.imwrite(str(path / f"class {label}" / f"{i}.PNG"), image)


def test_a_folder_of_images_from_the_shell(tmp_path):
  """As a user would: fine-tune on a folder; again: nothing to do."""
  write_folder(tmp_path / "photos")
  command = [
    sys.executable,
    *("-m", "bit_jax.main", f"--workdir={tmp_path / 'run'}"),
    f"--config={DOWNSTREAM}:preset=quick,model=R14x0.0625,"
    f"dataset=folder:{tmp_path / 'photos'}",
    "--config.total_steps=2",
    "--config.input.batch_size=8",
  ]
  env = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}

  def call():
    return subprocess.run(
      command, cwd=ROOT, env=env, capture_output=True, text=True
    )

  first = call()
  assert first.returncode == 0, first.stderr
  assert "3 classes" in first.stderr
  # The result is alone on stdout.
  result = json.loads((tmp_path / "run" / "result.json").read_text())
  assert json.loads(first.stdout) == result
  log = (tmp_path / "run" / "log.txt").read_text()
  assert log == first.stderr
  assert (tmp_path / "run" / "params.npz").exists()
  assert (tmp_path / "run" / "held_out.json").exists()
  # Nothing of Orbax's or absl's chatter.
  assert not re.search(r"^[IWE]\d{4} ", first.stderr, re.MULTILINE)
  again = call()
  assert again.returncode == 0
  assert "is finished" in again.stderr
  assert json.loads(again.stdout) == result
  assert (tmp_path / "run" / "log.txt").read_text() == log
  (tmp_path / "photos" / "class 0" / "0.PNG").write_bytes(b"broken")
  command[3] = f"--workdir={tmp_path / 'other'}"
  broken = call()
  assert broken.returncode == 1
  assert broken.stderr.count("\n") == 1
  assert "class 0/0.PNG" in broken.stderr
