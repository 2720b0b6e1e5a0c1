"""Studies: tables from results, and the driver from the command line."""

import json

import pytest

from bit_jax.data import source
from bit_jax.errors import InputError, UsageError
from bit_jax.recipe import network, resolve
from bit_jax.report import study
from bit_jax.tools.study import __main__ as driver
from configs import ablation, common, kshot, upstream


def run(name, **factors):
  return study.Run(name, common.get_config(), factors)


RUNS = [
  run("a0", net="A", data="x", seed="0"),
  run("a1", net="A", data="x", seed="1"),
  run("a2", net="A", data="x", seed="2"),
  run("b0", net="B", data="x", seed="0"),
  run("by", net="B", data="y", seed="0"),
  run("up", net="A"),
]
RESULTS = {
  "a0": {"step": 1, "eval/test/accuracy": 0.5},
  "a1": {"step": 1, "eval/test/accuracy": 0.25},
  "a2": {"step": 1, "eval/test/accuracy": 0.375, "eval/val/accuracy": 0.0},
  "by": {"step": 1, "eval/val/accuracy": 0.125},
}


def test_cells_hold_the_runs_that_share_their_factors():
  table = study.Table("t", ["data"], ["net"])
  assert study.cells(table, RUNS, RESULTS) == {
    "x": {"A": [0.5, 0.25, 0.375], "B": [None]},
    "y": {"A": [], "B": [0.125]},
  }
  only_y = study.Table("t", ["data", "net"], ["seed"], where={"data": "y"})
  assert study.cells(only_y, RUNS, RESULTS) == {"y, B": {"0": [0.125]}}
  top5 = study.Table("t", ["data"], ["net"], metric="eval/*/top5_accuracy")
  assert study.cells(top5, RUNS[:1], RESULTS) == {"x": {"A": [None]}}


def test_a_table_gives_medians_with_ranges_or_means_with_counts():
  table = study.Table("Accuracy", ["data"], ["net"])
  rows = study.cells(table, RUNS, RESULTS)
  assert study.markdown(table, rows) == (
    "Accuracy (%)\n\n"
    "| data | A | B |\n|:---|---:|---:|\n"
    "| x | 37.5 (25.0 to 50.0) | not run |\n"
    "| y | not run | 12.5 |\n"
  )
  assert study.text(table, [None, 0.5, 0.25]) == "37.5 (25.0 to 50.0)"
  mean = study.Table("", [], [], statistic="mean")
  assert study.text(mean, [0.5, 0.1, 0.15]) == "25.0 (of 3)"
  assert study.text(mean, [0.5, None, 0.15]) == "32.5 (partial, 2 of 3)"
  assert study.text(mean, [None]) == study.text(mean, []) == "not run"


def test_a_total_is_over_all_runs_of_a_table():
  table = study.Table(
    "t",
    ["data"],
    ["net"],
    where={"net": "B"},
    statistic="mean",
    total="all",
    decimals=2,
  )
  results = RESULTS | {"b0": {"eval/val/accuracy": 0.3}}
  assert study.markdown(table, study.cells(table, RUNS, results)) == (
    "t (%)\n\n| data | B |\n|:---|---:|\n"
    "| x | 30.00 (of 1) |\n| y | 12.50 (of 1) |\n| all | 21.25 (of 2) |\n"
  )
  assert study.cells(table, RUNS[:3], RESULTS) == {}


SMALL = "model=R14x0.0625,dataset=digits"
# A study of two runs, the second from the weights of the first.
STUDY = f"""
from bit_jax.report.study import Chart, Run, Study, Table
from configs import downstream

def get_study(arg):
  up = downstream.get_config("preset=quick,{SMALL}")
  down = downstream.get_config("preset=quick,examples_per_class=1,{SMALL}")
  down.data.subset_file = "subsets/1.json"
  absent = downstream.get_config("dataset=cifar10,data_dir=/no/such")
  for config in (up, down):
    config.total_steps = 1
    config.data.eval_splits = "test[:8]"
    config.input.train, config.input.eval = "none", "square"
  return Study(
    title="two runs <of a test>",
    notes=["It is small."],
    runs=[
      Run("up", up, {{"what": "up", "data": "digits"}}),
      Run("down", down, {{"what": "down", "data": "digits"}}, init="up"),
      Run("absent", absent, {{"what": "absent", "data": "cifar10"}}),
      Run("child", down, {{"what": "child", "data": "cifar10"}}, init="absent"),
    ],
    tables=[Table("Accuracy", ["data"], ["what"])],
    charts=[Chart("Loss", "train/loss", ["what"])],
  )
"""


@pytest.fixture(scope="module")
def study_file(tmp_path_factory):
  path = tmp_path_factory.mktemp("study") / "two.py"
  path.write_text(STUDY)
  return path


@pytest.fixture(scope="module")
def finished(study_file, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("finished")
  args = [f"--study={study_file}", f"--workdir={workdir}"]
  assert driver.main([*args, "--config.input.batch_size=8"]) == 0
  return args, workdir


def test_the_driver_makes_all_runs_whose_data_is_there(finished, capsys):
  args, workdir = finished
  stored = json.loads((workdir / "study.json").read_text())
  assert stored["title"] == "two runs <of a test>"
  assert list(stored["runs"]) == ["up", "down"]
  config = json.loads((workdir / "down" / "config.json").read_text())
  assert config["init"]["checkpoint"] == str(workdir / "up")
  assert config["input"]["batch_size"] == 8
  assert (workdir / "subsets" / "1.json").exists()
  accuracy = stored["runs"]["down"]["result"]["eval/test[:8]/accuracy"]
  text = (workdir / "study.md").read_text()
  assert f"{100 * accuracy:.1f} | not run | not run |" in text
  page = (workdir / "study.html").read_text()
  assert "two runs &lt;of a test&gt;" in page
  assert "<svg" in page
  # Again: nothing is made anew, the times stay those of the first time.
  assert driver.main([*args, "--config.input.batch_size=8"]) == 0
  out, printed = capsys.readouterr()
  assert out.startswith("Accuracy (%)\n\n| data | up | down |")
  assert "run 2 of 2" not in out
  assert "skipped absent: dataset 'cifar10' is not in data_dir" in printed
  assert "skipped child: absent is skipped" in printed
  assert "down (run 2 of 2)\nis finished" in printed
  again = json.loads((workdir / "study.json").read_text())
  assert again["runs"]["up"]["result"] == stored["runs"]["up"]["result"]
  assert again["runs"]["down"]["secs"] == stored["runs"]["down"]["secs"]


def test_the_driver_makes_no_run_for_an_empty_pattern(finished, capsys):
  args, workdir = finished
  (workdir / "study.md").unlink()
  assert driver.main([*args, "--runs="]) == 0
  assert (workdir / "study.md").exists()
  assert "1 of" not in capsys.readouterr().err


@pytest.mark.parametrize(
  ("extra", "status", "message"),
  [
    (["--study=/no/such.py"], 2, "no such Python file"),
    (["--study=tests/tools/study_test.py"], 2, "has no get_study"),
    (["--runs=other*"], 1, "--runs=other* matches none of up, down, absent"),
    (["--runs=up,dwon"], 1, "--runs=dwon matches none of up, down, absent"),
    (["--runs=absent"], 1, "data set prepared; dataset 'cifar10' is not in"),
    (["--runs=down"], 1, "down starts from up, which is not there"),
    (["--config.no_such=1"], 2, "no_such"),
    (["up"], 2, "unexpected argument 'up'"),
    (["--config.data.train_split=a"], 1, "up: digits: split 'a': there is no"),
    (["--study=configs/kshot.py:shots=a"], 1, "shots=a: expected positive"),
    (["--study=configs/ablation.py:study=a"], 2, "study=a: expected one of"),
  ],
)
def test_bad_input(study_file, tmp_path, capsys, extra, status, message):
  args = [f"--study={study_file}", f"--workdir={tmp_path / 'new'}", *extra]
  assert driver.main(args) == status
  lines = capsys.readouterr().err.splitlines()
  (error,) = (line for line in lines if line.startswith("error: "))
  assert error == lines[-1]
  assert message in error


@pytest.mark.parametrize("damage", ["{", "{}", '{"runs": 1}'])
def test_a_damaged_study_json(study_file, tmp_path, capsys, damage):
  (tmp_path / "study.json").write_text(damage)
  args = [f"--study={study_file}", f"--workdir={tmp_path}"]
  assert driver.main(args) == 1
  assert "study.json is damaged" in capsys.readouterr().err
  assert not (tmp_path / "up").exists()


@pytest.mark.parametrize("text", ["from configs import no_such", "def f(:"])
def test_a_file_that_python_cannot_run(tmp_path, capsys, text):
  path = tmp_path / "mine.py"
  path.write_text(text)
  assert driver.main([f"--study={path}", f"--workdir={tmp_path}"]) == 2
  error = capsys.readouterr().err
  assert error.startswith(f"error: --study={path} is no usable Python file: ")
  assert error.count("\n") == 1


def test_the_older_name_is_the_same_command():
  from scripts import study as older

  assert older.main is driver.main


def test_a_study_is_found_by_its_name(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  named = driver.load_study("kshot:dataset=digits,shots=1,samples=1")
  assert [run.name for run in named.runs] == ["1-shot-0-from-scratch"]


def test_kshot_draws_are_shared_by_all_weights():
  spec = kshot.get_study("init=w.npz,scratch=1,shots=1+5,samples=2")
  assert len(spec.runs) == 2 * 2 * 2
  files = {}
  for r in spec.runs:
    files.setdefault(r.config.data.subset_file, []).append(
      r.config.init.checkpoint
    )
    assert r.config.data.examples_per_class == int(r.factors["per class"])
  assert len(files) == 4
  assert all(inits == ["w.npz", ""] for inits in files.values())
  assert {r.factors["weights"] for r in kshot.get_study("scratch=0").runs} == {
    "from scratch"
  }


def test_ablations_differ_in_one_thing():
  def spec(name, **kw):
    text = ",".join(f"{k}={v}" for k, v in kw.items())
    return ablation.get_study(f"study={name},{text}".rstrip(","))

  norms = spec("norm", batch_group=8, tasks="dtd+svhn")
  assert [r.name for r in norms.runs[:4]] == ["bn", "bn_ws", "gn", "gn_ws"]
  assert [
    (m.norm, m.weight_standardization, m.batch_group)
    for m in (r.config.model for r in norms.runs[:4])
  ] == [("bn", False, 8), ("bn", True, 8), ("gn", False, 0), ("gn", True, 0)]
  assert [(r.name, r.init) for r in norms.runs[4:6]] == [
    ("bn-dtd", "bn"),
    ("bn-svhn", "bn"),
  ]
  assert len(norms.runs) == 4 + 4 * 2
  # The full network is the plain recipe.
  plain = network.resolve(upstream.get_config(""))
  full = network.resolve(norms.runs[3].config)
  assert full.to_json() == plain.to_json()

  budgets = spec("budget").runs
  info = source.DatasetInfo(14_197_122, 21_843, (375, 500))
  found = [resolve.resolve(run.config, info).resolved for run in budgets]
  assert [r.total_steps for r in found] == [28_151, 28_151, 84_453, 281_510]
  assert [r.warmup_steps for r in found] == [5000] * 4
  assert found[3].decay_steps == (93_743, 187_767, 250_262)
  assert [run.config.data.name for run in budgets] == [
    "imagenet2012",
    *["imagenet21k"] * 3,
  ]
  short = spec("budget", steps=2815).runs[1]
  assert resolve.resolve(short.config, info).resolved.warmup_steps == 500
  usual, early = (r.config for r in spec("early_decay").runs)
  assert early.schedule.decay_at == "9 epochs,18 epochs,24 epochs"
  early.schedule.decay_at = usual.schedule.decay_at
  assert early.to_json() == usual.to_json()
  assert [r.config.optim.weight_decay for r in spec("weight_decay").runs] == [
    1e-4,
    1e-5,
  ]


def test_a_run_of_an_ablation_alone():
  config = ablation.get_config("study=norm,run=bn,dataset=digits")
  assert (config.model.norm, config.data.name) == ("bn", "digits")
  with pytest.raises(UsageError, match="run=x: expected one of ilsvrc2012, 1x"):
    ablation.get_config("study=budget,run=x")
  with pytest.raises(InputError, match="starts from the weights of gn_ws: exp"):
    ablation.get_config("study=norm,run=gn_ws-dtd")
  config = ablation.get_config("study=norm,run=gn_ws-dtd,init=w.npz")
  assert config.init.checkpoint == "w.npz"
