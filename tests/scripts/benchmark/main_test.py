import json
import os
import pickle
import time
from unittest import mock

import jax
import pytest

from bit_jax.preflight import aot
from scripts.benchmark import __main__ as benchmark
from scripts.benchmark import aot as benchmark_aot
from scripts.benchmark import cases, flags, mfu, peers, steps

TINY = ("--variant=R14x0.0625", "--px=32", "--batch=4", "--classes=10")


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
  monkeypatch.chdir(flags.ROOT)
  with mock.patch.dict(os.environ):  # Topologies leave traces there.
    yield


@pytest.fixture(autouse=True)
def peak(monkeypatch):
  """Replaces the measured peak, so that no matmul is timed."""
  known = mfu.Peak(1e9, "fake", measured=True)
  monkeypatch.setattr(mfu, "find_peak", lambda *_, **__: known)


def test_training_beside_a_peer(monkeypatch, capsys, tmp_path):
  class Peer:
    name, compile_secs = "timm", 0.0

    def run(self, steps):
      pass

    def memory(self):
      return {}

  def make(names, case, config, **kwargs):
    assert names == ["timm", "timm_compiled"]
    assert kwargs == {"platform": "cpu", "num_devices": 1, "tf32": True}
    return [Peer()], ["a note"]

  def interleave(*args, clock, **kwargs):
    clocks.add(clock)
    return timed(*args, clock=clock, **kwargs)

  clocks, timed = set(), steps.interleave
  monkeypatch.setattr(steps, "interleave", interleave)
  monkeypatch.setattr(peers, "make", make)
  path = tmp_path / "new" / "found.json"
  argv = [*TINY, "--devices=1", "--rounds=3", "--round_secs=0", "--clock=cpu"]
  code = benchmark.main([*argv, f"--json={path}"])
  out = capsys.readouterr().out
  assert code == 0
  for part in (
    *("--devices=1", "train R14x0.0625 float32 32 px batch 4", "jaxlib "),
    *("on 1 x cpu", "* a device's peak: fake", "a note", "(RSS)"),
    "seconds of CPU time",
  ):
    assert part in out
  found = json.loads(path.read_text())
  assert found["versions"]["jax"] == jax.__version__
  (case,) = found["cases"]
  assert case["case"]["variant"] == "R14x0.0625"
  ours, theirs = case["subjects"]
  assert len(ours["step_secs"]["rounds"]) == 3
  assert len(theirs["first_is_faster"]["rounds"]) == 3
  assert case["needs"]["flops"] > 0
  assert clocks == {time.process_time}


@pytest.mark.parametrize(
  ("args", "code", "message"),
  [
    (("foo",), 2, "unexpected argument 'foo'"),
    (("--config.optm.lr=1",), 2, "optm"),
    (("--variant=R7x1",), 1, "R7x1"),
    (("--devices=9",), 1, "--devices=9: there are 4"),
    (("--batch=3",), 1, "number of devices, 4"),
    (("--check=/no/file",), 1, "/no/file: No such file"),
    (("--mode=max_batch", "--memory_gib=1", "--batch=3"), 1, "devices, 4"),
  ],
)
def test_bad_input_ends_in_one_line(args, code, message, capsys):
  assert benchmark.main([*TINY, *args]) == code
  error = capsys.readouterr().err
  assert message in error
  assert error.count("\n") == 1


def test_several_cases_have_processes_of_their_own(
  monkeypatch, capsys, tmp_path
):
  path, measured, stored = tmp_path / "found.json", [], []

  def apart(function, case, args):
    assert function is cases.run_case
    # What a process takes and returns is pickled.
    case, args = pickle.loads(pickle.dumps((case, args)))
    measured.append(case)
    if path.exists():  # Already before this case.
      stored.append(len(json.loads(path.read_text())["cases"]))
    if case.dtype == "bfloat16":
      raise RuntimeError("no\nmemory")
    row = steps.report([FakeSubject()], {"x": [0.5]}, batch=8)[0]
    return {
      "case": benchmark.dataclasses.asdict(case),
      "subjects": [row],
      "notes": [],
    }

  monkeypatch.setattr(benchmark, "apart", apart)
  argv = ["--variant=R50x1,R101x1", "--dtype=float32,bfloat16"]
  code = benchmark.main([*argv, "--batch=8", f"--json={path}"])
  captured = capsys.readouterr()
  assert code == 1
  assert captured.err == "error: 2 of 4 failed: no memory\n"
  assert "4 of 4: train R101x1 bfloat16 224 px batch 8" in captured.out
  assert captured.out.count("16.0") == 2
  assert captured.out.count("failed  no memory") == 2
  assert len(measured) == 4
  found = json.loads(path.read_text())["cases"]
  assert ["error" in case for case in found] == [False, True] * 2
  assert stored == [1, 2, 3]


class FakeSubject:
  name, compile_secs = "x", 0.0

  def memory(self):
    return {}


def test_largest_batch_by_the_compiler(monkeypatch, capsys):
  def compile_case(case, mesh):
    return aot.StepCost(0, temp_bytes=case.batch * 2**20)

  monkeypatch.setattr(benchmark_aot, "compile_case", compile_case)
  argv = [*TINY, "--mode=max_batch", "--memory_gib=0.125,1"]
  assert benchmark.main(argv) == 0
  out = capsys.readouterr().out
  assert "largest batch" in out
  assert " 128\n" in out
  assert " 1024\n" in out
  assert "not run" in out


def test_largest_batch_by_trials(monkeypatch, capsys):
  def apart(function, name, case, args):
    assert function is cases.run_trial
    return case.batch <= {"bit_jax": 96, "timm": 48}[name]

  monkeypatch.setattr(cases, "apart", apart)
  argv = ["--mode=max_batch", "--peers=timm,tf.data", "--batch=16"]
  assert benchmark.main(argv) == 0
  out = capsys.readouterr().out
  assert "bit_jax             96" in out
  assert "timm                48                 2.00" in out


# --check, the guard against regressions.


@pytest.fixture
def figures(monkeypatch, tmp_path, mesh):
  """A file of two compiled cases, and the cost that the compiler returns."""
  cost = {"temp_bytes": 1000}

  def compile_case(case, mesh):
    return aot.StepCost(
      100, flops=1.0, bytes_accessed=1.0, estimated_secs=1.0, **cost
    )

  def apart(function, case, args):
    assert args.aot == "v3:1x1"
    return pickle.loads(pickle.dumps(function(case, args)))

  monkeypatch.setattr(benchmark_aot, "compile_case", compile_case)
  monkeypatch.setattr(benchmark_aot, "make_mesh", lambda topology: mesh)
  monkeypatch.setattr(benchmark, "apart", apart)
  path = tmp_path / "figures.json"
  argv = [*TINY, "--aot=v3:1x1", "--dtype=float32,bfloat16"]
  assert benchmark.main([*argv, f"--json={path}"]) == 0
  return path, cost


def test_same_figures_pass(figures, capsys):
  path, cost = figures
  assert benchmark.main([f"--check={path}"]) == 0
  out = capsys.readouterr().out
  assert "1 of 2: train R14x0.0625 float32" in out
  assert "no figure is over 1 % worse" in out
  cost["temp_bytes"] = 900
  assert benchmark.main([f"--check={path}"]) == 0
  assert capsys.readouterr().out.count("better, store it") == 2


def test_worse_figures_fail(figures, capsys):
  path, cost = figures
  cost["temp_bytes"] = 1020
  assert benchmark.main([f"--check={path}"]) == 1
  error = capsys.readouterr().err
  assert "R14x0.0625 float32 train v3:1x1: temporaries 1000 -> 1020" in error
  assert "R14x0.0625 bfloat16 train v3:1x1: temporaries" in error
  assert error.count("\n") == 1


def test_figures_of_another_compiler_are_not_compared(figures, capsys):
  path, cost = figures
  cost["temp_bytes"] = 2000
  stored = json.loads(path.read_text())
  for case in stored["cases"]:
    case["compiler"] = "libtpu 9"
  path.write_text(json.dumps(stored))
  assert benchmark.main([f"--check={path}"]) == 0
  out = capsys.readouterr().out
  assert "nothing is compared" in out
  assert "libtpu 9, here is jaxlib" in out


def test_highest_precision_is_told_to_all(monkeypatch):
  told = []
  monkeypatch.setattr(
    benchmark,
    "run_case",
    lambda case, args: (
      told.append(jax.config.jax_default_matmul_precision)
      or {"case": benchmark.dataclasses.asdict(case), "error": "none"}
    ),
  )
  before = jax.config.jax_default_matmul_precision
  try:
    benchmark.main(["--precision=highest"])
  finally:
    jax.config.update("jax_default_matmul_precision", before)
  assert told == ["highest"]
