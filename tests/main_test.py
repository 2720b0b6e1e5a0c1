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

from bit_jax import main, train, weights
from bit_jax.errors import InputError, UsageError
from bit_jax.recipe import load
from bit_jax.run import trained_on

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
    ((f"--config={DOWNSTREAM}", "--workdr=/x"), 2, "mean --workdir?"),
    ((f"--config={DOWNSTREAM}", "--work_dir=/x"), 2, "mean --workdir?"),
    (
      (f"--config={DOWNSTREAM}", "--workdir=/x", "--lr=1"),
      2,
      "config.optim.lr",
    ),
    (
      (f"--config={DOWNSTREAM}", "--workdir=/x", "--config.learning_rate=1"),
      2,
      "key learning_rate; did you mean optim.lr? config.optim has accum_steps",
    ),
    (
      (f"--config={DOWNSTREAM}:model=resnet50", "--workdir=/x"),
      1,
      "did you mean R50x1?",
    ),
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
    ((f"--config={DOWNSTREAM}:preset=x", "--workdir=/x"), 2, "preset=x"),
    ((f"--config={DOWNSTREAM}:model=R5x1", "--workdir=/x"), 1, "'R5x1'"),
    (
      ("--config=configs/vtab.py:task=mnist", "--workdir=/x"),
      2,
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
    train, "train_and_evaluate", lambda *args, **_: calls.append(args)
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
    train, "train_and_evaluate", lambda *args, **_: calls.append(args)
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
  def fails(*_, **__):
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
    (f"{UPSTREAM}:preset=x", [], UsageError, "preset=x"),
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
  # What it was trained on: 4 images of 5 a class.
  known = trained_on.of("", weights.load(tmp_path / "run" / "params.npz"))
  assert len(known.ids) == 12
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


@pytest.mark.parametrize("spelling", ["downstream", "configs/downstream.py"])
@pytest.mark.parametrize("form", ["--config={}", "--config {}", "-config={}"])
def test_configs_are_found_from_any_folder(
  spelling, form, monkeypatch, tmp_path, capsys
):
  calls = []
  monkeypatch.setattr(
    train, "train_and_evaluate", lambda *args, **_: calls.append(args)
  )
  monkeypatch.chdir(tmp_path)
  config = form.format(f"{spelling}:preset=quick,dataset=digits").split(" ")
  args = ("--config.seed=7", *config, "--workdir=w")
  assert run(*args, capsys=capsys) == (0, "")
  assert calls[0][0].data.name == "digits"
  assert calls[0][0].seed == 7


def test_help_lists_the_keys_of_a_config(capsys):
  argv = ["main", "--config=downstream:preset=quick", "--help"]
  with (
    mock.patch.object(sys, "argv", argv),
    pytest.raises(SystemExit) as error,
  ):
    main._parse_flags(argv)
  assert not error.value.code
  said = capsys.readouterr().out
  assert "\n  --config.input.batch_size=32\n" in said
  assert "--config.data.name=cifar10" in said
  assert "resolved" not in said


def console(*args, capsys):
  """Runs `bit_jax ARGS` in this process; returns (code, stdout, stderr)."""
  try:
    with mock.patch.object(sys, "argv", ["/x/bin/bit_jax", *args]):
      code = main.command()
  except SystemExit as e:
    code = e.code or 0
  return (code, *capsys.readouterr())


@pytest.mark.parametrize("flag", ["--help", "-h", "help"])
def test_the_console_command_lists_its_verbs(flag, capsys):
  code, said, error = console(flag, capsys=capsys)
  assert (code, error) == (0, "")
  for verb, (_, line) in main.VERBS.items():
    assert re.search(rf"^  {verb} +{re.escape(line)}$", said, re.MULTILINE)


@pytest.mark.parametrize(
  ("args", "message"),
  [
    (["trian"], "unknown command 'trian' (did you mean train?): expected one"),
    (["eval", "--json"], "(did you mean evaluate?)"),
    (["near-duplicates"], "(did you mean near_duplicates?)"),
    (
      ["--config=downstream"],
      "unknown command '--config=downstream': expected",
    ),
    ([], "a command is missing: expected one of train, study, "),
    (["help", "trian"], "(did you mean train?)"),
  ],
)
def test_an_unknown_verb_is_one_line(args, message, capsys):
  code, said, error = console(*args, capsys=capsys)
  assert (code, said) == (2, "")
  assert message in error
  assert error.startswith("error: ")
  assert error.count("\n") == 1


def test_a_verb_is_the_main_of_its_module(monkeypatch, capsys):
  from bit_jax.tools import report

  seen = []
  monkeypatch.setattr(
    report, "main", lambda argv: seen.append((sys.argv, argv)) or 74
  )
  assert console("report", "a", "--out=b", capsys=capsys)[0] == 74
  assert seen == [(["bit_jax report", "a", "--out=b"], ["a", "--out=b"])]
  code, _, error = console("train", "--workdir=x", capsys=capsys)
  assert (code, error) == (2, "error: --config is missing; see --help\n")


def test_every_command_has_a_verb():
  tools = ROOT / "bit_jax/tools"
  names = {p.stem for p in tools.glob("*.py")} - {"__init__", "command_line"}
  names |= {p.parent.name for p in tools.glob("*/__main__.py")}
  assert names == {*main.VERBS} - {"train"}


@pytest.mark.parametrize("verb", main.VERBS)
def test_help_has_an_example_and_all_defaults(verb, capsys):
  code, said, error = console(verb, "--help", capsys=capsys)
  assert (code, error) == (0, "")
  assert len(re.findall(rf"^  bit_jax {verb} ", said, re.MULTILINE)) >= 1
  # A backslash that is swallowed joins two lines to a longer one.
  assert max(map(len, said.splitlines())) <= 80
  for line in said.splitlines():
    if line.endswith("\\"):
      assert line.endswith(" \\")
  text = said.partition("\noptions:\n" if verb != "train" else "\nflags:\n")[2]
  flags_said = re.split(r"^  (?=-)", text, flags=re.MULTILINE)[1:]
  assert len(flags_said) > 1
  for flag in flags_said:
    words = " ".join(flag.split())
    has_value = re.match(r"--\w+(=| [A-Z{])", words)
    is_told = "(default" in words or "(required)" in words
    assert is_told or not has_value, words
    # More than its name is said.
    assert len(words.split()) > 2, words
