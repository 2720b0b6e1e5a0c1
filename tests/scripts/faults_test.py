"""Tests of the fault driver's comparison; .ci/run runs the driver itself."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bit_jax.errors import InputError
from bit_jax.parallel import sharding
from bit_jax.storage import checkpoint
from scripts import faults


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A folder with the files of a finished run that the comparison reads."""
  workdir = tmp_path_factory.mktemp("run")
  write_run(workdir)
  return workdir


def write_run(workdir, params=2.0, momentum=1.0):
  mesh = sharding.make_mesh(jax.devices()[:1])
  state = {
    "params": {"x": jnp.full((4,), params)},
    "opt_state": ({"trace": jnp.full((4,), momentum)},),
  }
  state = jax.device_put(state, sharding.replicated(mesh))
  with checkpoint.Checkpointer(workdir / "checkpoints", keep=1) as manager:
    manager.save(2, state, {})
  lines = [
    {"step": 1, "train/loss": 0.5, "train/input_wait": 0.1},
    {"step": 2, "train/loss": 0.25},
    {"step": 2, "checkpoint/stall_secs": 0.1},
  ]
  text = "".join(json.dumps(line) + "\n" for line in lines)
  (workdir / "metrics.jsonl").write_text(text)
  (workdir / "result.json").write_text('{"step": 2}')
  np.savez(workdir / "params.npz", x=np.full(4, params))


@pytest.fixture
def other(run, tmp_path):
  shutil.copytree(run, tmp_path / "other")
  return tmp_path / "other"


def test_copies_do_not_differ_and_times_do_not_count(run, other):
  assert faults.differences(run, other) == []
  path = other / "metrics.jsonl"
  path.write_text(path.read_text().replace("0.1", "0.7"))
  assert faults.differences(run, other) == []
  assert faults.stalls(other) == [0.7]


@pytest.mark.parametrize(
  ("old", "new", "expected"),
  [
    (
      "0.25",
      "0.25000001",
      "metrics.jsonl: {'step': 2, 'train/loss': 0.25} and",
    ),
    ('{"step": 2, "train/loss": 0.25}\n', "", "metrics.jsonl: 2 and 1 lines"),
    (
      '{"step": 1',
      '{"step": 1, "train/loss": 0.5}\n{"step": 1',
      "2 and 3 lines",
    ),
  ],
)
def test_metrics_that_differ(run, other, old, new, expected):
  path = other / "metrics.jsonl"
  path.write_text(path.read_text().replace(old, new))
  assert expected in "\n".join(faults.differences(run, other))


def test_states_that_differ(run, tmp_path):
  write_run(tmp_path, momentum=np.nextafter(np.float32(1), 2))
  assert faults.differences(run, tmp_path) == ["state opt_state/0/trace"]


def test_results_that_differ(run, other):
  (other / "result.json").write_text('{"step": 3}')
  np.savez(other / "params.npz", x=np.full(4, 2.5))
  found = faults.differences(run, other)
  assert found == ["result.json: {'step': 2} and {'step': 3}", "params.npz: x"]


def fake_kill(*, saving, secs=None):
  """Returns a `kill_at` without a process; `secs` are its resume times."""
  secs = iter(secs or ())

  def kill_at(moment, workdir, seed, rng):
    return {
      "moment": moment,
      "after_step": 1,
      "while_saving": saving,
      "secs_to_first_step": next(secs, 14.0),
    }

  return kill_at


def fake_driver(monkeypatch, kill_at):
  """Makes the driver start and kill no process and find no difference."""
  monkeypatch.setattr(faults, "kill_at", kill_at)
  monkeypatch.setattr(faults, "finish", lambda *_: 1.0)
  monkeypatch.setattr(faults, "stalls", lambda _: [0.25])
  monkeypatch.setattr(faults, "differences", lambda *_: [])


def test_the_figures_stand_beside_their_aims(monkeypatch, tmp_path, capsys):
  secs = [99.0, *[3.0] * 3, 16.5]  # The first one resumes nothing.
  fake_driver(monkeypatch, fake_kill(saving=True, secs=secs))
  assert faults.main([f"--workdir={tmp_path}", "--seeds=1", "--kills=5"]) == 0
  assert capsys.readouterr().out.splitlines()[-1] == (
    "5 kills, 5 of them while saving, over 1 seeds: no difference; from start "
    "to the next step: median 3.0 s, slowest 16.5 s (aim: under 15 s); until a "
    "save lets the loop go on: median 0.25 s; 0 s in all (aim: under 360 s)"
  )
  report = json.loads((tmp_path / "faults.json").read_text())
  assert report["slowest_resume_secs"] == 16.5


def at_its_end_after(kills):
  """Returns a `kill_at` whose runs have all finished but for some."""
  kill, left = fake_kill(saving=True), iter(range(kills))
  return lambda *args: None if next(left, None) is None else kill(*args)


@pytest.mark.parametrize(
  ("kill_at", "message"),
  [
    (at_its_end_after(20), ""),
    (at_its_end_after(19), "only 19 kills happened, expected 20 or more"),
    (fake_kill(saving=False), "no kill fell into a save"),
    (fake_kill(saving=True, secs=[15.0] * 21), ""),
    (
      fake_kill(saving=True, secs=[15.1] * 21),
      "it takes 15.1 s (median) from start to the next step, expected at most",
    ),
  ],
)
def test_the_driver_with_its_default_flags_refuses(
  monkeypatch, tmp_path, capsys, kill_at, message
):
  fake_driver(monkeypatch, kill_at)
  assert faults.main([f"--workdir={tmp_path}"]) == (1 if message else 0)
  error = capsys.readouterr().err
  assert error.startswith(f"error: {message}" if message else "")
  assert error.count("\n") == bool(message)


def test_fewer_kills_are_enough_where_fewer_were_asked_for():
  report = {
    "kills": [{"while_saving": True}] * 3,
    "median_resume_secs": 1.0,
  }
  faults.check_figures(report, 1, 3)
  with pytest.raises(InputError, match="only 3 kills"):
    faults.check_figures(report, 4, 5)


@pytest.mark.parametrize("arguments", [["--seeds=0"], ["--kills=0"], ["x"]])
def test_wrong_flags(arguments):
  with pytest.raises(SystemExit, match="2"):
    faults.main(arguments)
