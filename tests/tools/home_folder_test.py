"""Every command takes `~` in every path, as in --flag=~/path."""

import numpy as np
import pytest

from bit_jax import weights
from bit_jax.models import paths
from bit_jax.tools import convert, evaluate, fewshot, prepare, report
from bit_jax.tools.near_duplicates import __main__ as near_duplicates
from bit_jax.tools.pack import __main__ as pack
from bit_jax.tools.study import __main__ as study
from bit_jax.weights import param_shapes
from scripts.benchmark import flags
from tests.tools.pack.sets import numbered, write


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.setenv("XDG_CACHE_HOME", "~/cache")
  monkeypatch.chdir(tmp_path)
  yield tmp_path
  assert not (tmp_path / "~").exists()


@pytest.fixture
def params_npz(home):
  rng = np.random.default_rng(0)
  shapes = param_shapes.abstract_params("R14x0.0625", 2)
  params = {k: rng.normal(size=x.shape).astype("f") for k, x in shapes.items()}
  made = weights.Weights(
    paths.unflatten(params), {}, "R14x0.0625", ("cat", "dog")
  )
  weights.save_npz("~/params.npz", made)
  return "~/params.npz"


def test_convert(home, params_npz):
  (home / "names.txt").write_text("a\nb\n")
  named = ["--layout=bit_jax", "--labels=~/names.txt"]
  assert convert.main([params_npz, "~/new.npz", *named]) == 0
  assert weights.load("~/new.npz").class_names == ("a", "b")


def test_pack_and_prepare(home, capsys):
  write(home / "src", *numbered("cat", "dog"))
  (home / "names.txt").write_text("dog\ncat\n")
  flags = ["--data_dir=~/sets", "--name=mine", "--class_list=~/names.txt"]
  assert pack.main(["~/src", *flags]) == 0
  assert (home / "sets" / "mine" / "1.0.0").is_dir()
  command = ["mnist", "--data_dir=~/sets", "--venv=~/env", "--dry_run"]
  assert prepare.main(command) == 0
  shown = capsys.readouterr().out
  assert f"{home}/env/bin/tfds" in shown
  assert f"{home}/sets" in shown


def test_report(home):
  (home / "run").mkdir()
  (home / "run" / "metrics.jsonl").write_text('{"step": 1, "train/loss": 2}\n')
  assert report.main(["~/run", "--out=~/pages/report.html"]) == 0
  assert (home / "pages" / "report.html").exists()


@pytest.mark.parametrize(
  ("command", "args"),
  [
    (evaluate, ["--dataset=folder:~/gone"]),
    (evaluate, ["--benchmark=folder:~/gone"]),
    (evaluate, ["--benchmark=objectnet:~/gone", "--label_map=~/x.json"]),
    (evaluate, ["--dataset=mnist", "--data_dir=~/gone"]),
    (fewshot, ["--dataset=folder:~/gone"]),
    (near_duplicates, ["--query=folder:~/gone", "--index=digits", "--out=~/o"]),
  ],
)
def test_what_is_read(home, params_npz, command, args, capsys):
  assert command.main([params_npz, *args]) == 1
  error = capsys.readouterr().err
  assert "gone" in error
  assert "does not exist" in error
  (home / "gone").mkdir()
  assert command.main([params_npz, *args]) == 1
  assert "does not exist" not in capsys.readouterr().err


def test_scripts(home):
  parser = flags.make_parser("")
  args = parser.parse_args(["--json=~/x.json", "--check=~/y.json"])
  assert (args.json, args.check) == (home / "x.json", home / "y.json")
  (home / "s.py").write_text("def get_study(arg):\n  return arg\n")
  assert study.load_study("~/s.py:a=b") == "a=b"


def test_main_finds_its_config(home):
  from bit_jax import main

  (home / "x.py").touch()
  argv = ["main", "--config.seed=1", "--config=~/x.py:a=~/b", "--workdir=~/w"]
  assert main._config_first(argv) == [
    *("main", f"--config={home}/x.py:a=~/b"),
    *("--config.seed=1", "--workdir=~/w"),
  ]
